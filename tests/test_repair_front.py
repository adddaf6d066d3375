"""A float model whose pixels fall on integers computes what it did."""

import numpy as np
import pytest

from graphs import answers, build, noise, ops
from models import prepared, tiny_dataset
from quantize.graph.expose import with_outputs
from quantize.repair.front import faced
from quantize.repair.pixels import grid_of

NONE = frozenset()
ZOO = prepared(tiny_dataset(per_class=8))
PIXELS = np.stack([image for image, _ in tiny_dataset(per_class=8)]).transpose(0, 3, 1, 2)
HALF = (PIXELS / 127.5 - 1).astype(np.float32)
UNIT = (PIXELS / 255).astype(np.float32)


def faced_by(model, images, floats):
    return faced(model, grid_of(images), floats)


def net(pads="[1,1,1,1]"):
    return build(
        f"""(float[N,3,16,16] x) => (float[N,4] y) {{
            [c] h = Conv<pads={pads}>(x, w, b)
            [r] r = Relu(h)
            [p] q = GlobalAveragePool(r)
            [f] y = Flatten(q)
        }}""",
        w=(4, 3, 3, 3),
        b=(4,),
    )


@pytest.mark.parametrize("pads", ["[1,1,1,1]", "[0,0,0,0]"])
def test_each_channel_with_a_step_of_its_own(pads):
    model = net(pads)
    found = faced_by(model, ZOO, NONE)
    padding = ["Pad"] if "1" in pads else []
    assert ops(found.model) == [*padding, "Mul", "Add", *ops(model)]
    assert sorted(found.constants) == ["x.factor", "x.shift"]
    assert (found.layer, found.image, found.tensor) == ("c", "x", "x.pixels")
    assert found.encoding.scale == 1
    np.testing.assert_allclose(answers(found.model, ZOO)[0], answers(model, ZOO)[0], atol=1e-5)


def test_one_step_for_all_needs_a_shift_only():
    """Padding is then off by half a step, and the image's border with it."""
    model = net()
    found = faced_by(model, HALF, NONE)
    assert ops(found.model) == ["Add", *ops(model)]
    assert list(found.constants) == ["x.shift"]
    seen, exact = answers(found.model, HALF)[0], answers(model, HALF)[0]
    np.testing.assert_allclose(seen, exact, atol=4 / 255)
    inside = faced_by(net("[0,0,0,0]"), HALF, NONE).model
    np.testing.assert_allclose(
        answers(inside, HALF)[0], answers(net("[0,0,0,0]"), HALF)[0], atol=1e-5
    )


def test_integers_need_only_their_encoding():
    model = net()
    found = faced_by(model, UNIT, NONE)
    assert found.model is model
    assert (found.tensor, found.constants) == ("x", {})
    assert float(found.encoding.scale) == pytest.approx(1 / 255)


def test_no_grid_no_convolution_or_a_float_one_give_no_front():
    assert grid_of(noise(2, 3, 16, 16)) is None
    assert faced_by(net(), ZOO, frozenset({"c"})) is None
    flat = build(
        "(float[N,3,16,16] x) => (float[N,4] y) { [f] z = Flatten(x) [g] y = Gemm(z, k, b) }",
        k=(768, 4),
        b=(4,),
    )
    assert faced_by(flat, ZOO, NONE) is None


@pytest.mark.parametrize("images", [ZOO, HALF, UNIT])
def test_the_means_of_what_the_convolution_reads(images):
    found = faced_by(net("[0,0,0,0]"), images, NONE)
    of_image = images.mean(axis=(0, 2, 3), dtype=np.float64)
    read = images
    if found.tensor != found.image:
        read = answers(with_outputs(found.model, [found.tensor]), images)[-1]
    exact = read.mean(axis=(0, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(found.mean(of_image), exact, rtol=1e-4, atol=1e-4)
