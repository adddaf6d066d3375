"""Fragments compute what the nodes do, on integers at the borders that are rounded."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise
from quantize.graph.fragment import Fragments
from quantize.plan import Encoding
from quantize.repair.grids import integers_of
from quantize.runtime import Operator

IN, OUT = Encoding(np.float32(0.05), 100), Encoding(np.float32(0.1), 3)


@pytest.fixture(scope="module")
def model():
    return build(
        """(float[N,3,8,8] x) => (float[N,4] y) {
            [c] h = Conv<pads=[1,1,1,1]>(x, w, b)
            [r] r = Relu(h)
            [p] q = GlobalAveragePool(r)
            [f] y = Flatten(q)
        }""",
        w=(4, 3, 3, 3),
        b=(4,),
    )


def run(model, names, inputs, outputs, values, constants=None):
    nodes = [node for node in model.graph.node if node.name in names]
    fragment = Fragments(model).cut(nodes, inputs, outputs, constants)
    return Operator(fragment, threads=1, name="fragment").once(values)


def inner(model, images):
    """(h, r) of the float model."""
    names = ["h", "r"]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return answers(copy, images)[1:]


def test_float_borders_give_what_the_model_gives(model):
    x = noise(2, 3, 8, 8)
    h, r = inner(model, x)
    [seen] = run(model, ("c",), {"x": None}, {"h": None}, [x])
    np.testing.assert_allclose(seen, h, atol=1e-5)
    seen = run(model, ("c", "r"), {"x": None}, {"r": None}, [x])[0]
    np.testing.assert_allclose(seen, r, atol=1e-5)


def test_integer_borders_are_dequantized_and_quantized(model):
    x = noise(2, 3, 8, 8)
    q = integers_of(x, IN)
    rough = (q.astype(np.float32) - 100) * np.float32(0.05)
    _, r = inner(model, rough)
    [seen] = run(model, ("c", "r"), {"x": IN}, {"r": OUT}, [q])
    assert seen.dtype == np.uint8
    difference = seen.astype(int) - integers_of(r, OUT).astype(int)
    assert np.abs(difference).max() <= 1  # another order of sums
    assert (difference == 0).mean() > 0.99


def test_given_constants_replace_the_models(model):
    x = noise(2, 3, 8, 8)
    zero = np.zeros((4, 3, 3, 3), np.float32)
    bias = np.arange(4, dtype=np.float32)
    [seen] = run(model, ("c",), {"x": None}, {"h": None}, [x], {"w": zero, "b": bias})
    np.testing.assert_array_equal(seen, np.broadcast_to(bias.reshape(4, 1, 1), seen.shape))


def test_the_model_is_not_changed_and_the_bytes_are_the_same_each_time(model):
    before = model.SerializeToString(deterministic=True)
    nodes = list(model.graph.node[:2])
    one, two = (Fragments(model).cut(nodes, {"x": IN}, {"r": OUT}) for _ in range(2))
    assert one == two
    assert model.SerializeToString(deterministic=True) == before
