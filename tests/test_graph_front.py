"""Nodes in front of the first convolution."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise, ops
from quantize.graph.front import (
    Front,
    first_convolution,
    front_of,
    needs_padding,
    pixels_of,
    with_front,
)
from quantize.graph.layers import with_constants

IMAGES = noise(2, 3, 7, 7)
FACTOR = np.asarray([2.0, 4.0, 0.5], np.float32).reshape(1, 3, 1, 1)
SHIFT = np.asarray([1.0, -20.0, 3.0], np.float32).reshape(1, 3, 1, 1)


def net(pads="[1,0,2,1]", body="", reads="x"):
    return build(
        f"""(float[N,3,7,7] x) => (float[N,4] y) {{
            {body}
            [c] h = Conv<pads={pads}>({reads}, w, b)
            [p] q = GlobalAveragePool(h)
            [f] y = Flatten(q)
        }}""",
        w=(4, 3, 3, 3),
        b=(4,),
        v=(3, 3, 1, 1),
    )


def compensated(model, front):
    """Weight and bias for what comes through a factor and a shift."""
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weight = values["w"] / (1 if front.factor is None else front.factor)
    shift = np.zeros(3, np.float32) if front.shift is None else front.shift.reshape(-1)
    bias = values["b"] - np.tensordot(weight.sum(axis=(2, 3)), shift, 1)
    return with_constants(model, {"w": weight.astype(np.float32)}, {"c": bias.astype(np.float32)})


@pytest.mark.parametrize(
    ("factor", "shift", "pad", "expected"),
    [
        (FACTOR, SHIFT, True, ["Pad", "Mul", "Add"]),
        (FACTOR, None, False, ["Mul"]),
        (None, SHIFT, True, ["Pad", "Add"]),
    ],
)
def test_the_model_computes_the_same_at_its_borders_too(factor, shift, pad, expected):
    model, front = net(), Front(factor, shift, pad)
    made, added = with_front(compensated(model, front), front)
    onnx.checker.check_model(made)
    assert ops(made) == [*expected, *ops(model)]
    assert list(added) == [node.name for node in made.graph.node[: len(expected)]]
    conv = next(node for node in made.graph.node if node.op_type == "Conv")
    assert conv.input[0] == pixels_of("x")
    np.testing.assert_allclose(answers(made, IMAGES)[0], answers(model, IMAGES)[0], atol=1e-5)


def test_the_model_itself_is_not_changed():
    model = net()
    before = model.SerializeToString()
    with_front(model, Front(FACTOR, SHIFT, pad=True))
    assert model.SerializeToString() == before


@pytest.mark.parametrize("front", [Front(FACTOR, SHIFT, pad=True), Front(None, SHIFT, pad=True)])
def test_the_constants_are_enough_to_build_it_again(front):
    model = net()
    again = front_of(model, {"w": SHIFT, **front.constants("x")}, np.float32(0.1))
    assert with_front(model, again)[0] == with_front(model, front)[0]


def test_without_constants_there_is_no_front():
    assert front_of(net(), {"w": SHIFT}, np.float32(1)) is None
    assert front_of(net(), {"x.shift": SHIFT}, None) is None


def test_padding_with_zero_may_be_off_by_half_a_step():
    conv = first_convolution(net())
    assert not needs_padding(conv, np.float32([0.5, -0.5]), 1.0)
    assert needs_padding(conv, np.float32([0.2, -0.6]), 1.0)
    assert not needs_padding(conv, None, 1.0)
    assert not needs_padding(first_convolution(net(pads="[0,0,0,0]")), SHIFT, 1.0)


@pytest.mark.parametrize(
    "model",
    [
        net(body="[r] r = Relu(x)", reads="r"),
        net(body="[e] e = Conv(x, v)"),
        build("(float[N,3,7,7] x) => (float[N,4] y) { [g] y = Gemm(x, k) }", k=(147, 4)),
        build(
            "(float[N,3,7,7] x) => (float y) { [c] y = Conv(x, w) }", w=(4, 3, 3, 3), x__shift=(1,)
        ),
        build("(float[N,3,7,7] x) => (float y) { [c] y = Conv<group=3>(x, w) }", w=(3, 1, 3, 3)),
    ],
    ids=["relu", "two readers", "gemm", "taken", "grouped"],
)
def test_only_a_convolution_that_alone_reads_the_image_has_a_front(model):
    assert first_convolution(model) is None
