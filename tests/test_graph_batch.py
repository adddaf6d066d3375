"""The batch axis that a file fixes, by its declaration or by a Reshape."""

import numpy as np
import pytest

from graphs import build, noise
from quantize.graph.batch import distance, fixed_batch, free_batch
from quantize.graph.view import View
from quantize.probe import run_once

TEXT = """(float[{batch},3,8,8] x) => (float[{batch},5] y) {{
r = Reshape(w, one) c = Conv(x, r) p = GlobalAveragePool(c)
f = Reshape(p, flat) y = MatMul(f, v) }}"""


def net(batch, flat):
    return build(
        TEXT.format(batch=batch),
        w=(36, 3),
        v=(4, 5),
        one=np.array([4, 3, 3, 3]),
        flat=np.array(flat),
    )


@pytest.mark.parametrize(
    ("batch", "flat", "expected"),
    [
        (1, [1, -1], 1),
        (3, [0, -1], 3),
        ("N", [1, -1], 1),
        ("N", [2, 4], 2),
        ("N", [0, -1], None),
        ("N", [-1, 4], None),
    ],
)
def test_what_fixes_the_batch(batch, flat, expected):
    assert fixed_batch(net(batch, flat)) == expected


@pytest.mark.parametrize(("batch", "flat"), [(1, [1, -1]), ("N", [1, 4]), (2, [2, 4])])
def test_it_is_freed_and_weights_are_not_reshaped_otherwise(batch, flat):
    model = net(batch, flat)
    size = fixed_batch(model)
    freed, steps = free_batch(model, size, run_once, (3, 8, 8))
    assert steps == [f"freed the batch axis, fixed to {size} before"]
    assert fixed_batch(freed) is None
    assert list(View(freed.graph).constant("one")) == [4, 3, 3, 3]
    images = noise(2 * size, 3, 8, 8)
    apart = [run_once(model, images[:size]), run_once(model, images[size:])]
    np.testing.assert_allclose(run_once(freed, images), np.concatenate(apart), rtol=1e-5)


def test_two_nodes_that_share_a_shape_and_have_no_names():
    model = build(
        """(float[1,3,4,4] x) => (float[1,48] y) {
        a = Reshape(x, flat) b = Relu(x) c = Reshape(b, flat) y = Add(a, c) }""",
        flat=np.array([1, 48]),
    )
    freed, steps = free_batch(model, 1, run_once, (3, 4, 4))
    assert steps == ["freed the batch axis, fixed to 1 before"]
    assert len({tensor.name for tensor in freed.graph.initializer}) == 3


def test_a_batch_of_too_many_pixels_is_kept():
    model = net(1024, [1024, -1])
    same, steps = free_batch(model, 1024, run_once, (3, 600, 600))
    assert same is model
    assert steps == ["kept the fixed batch of 1024"]


def test_distance():
    one = np.array([[1.0, -2.0]], np.float32)
    assert distance(one, one) == 0
    assert distance(one, one * 1.5) == 0.5
    assert distance(one, one[:, :1]) == np.inf
    assert distance(one, one * np.nan) == np.inf
    assert distance(0 * one, one) == 2
