"""Layers as matrices, copies with other constants, single nodes as models."""

import math

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise
from quantize.graph.layers import (
    absorbed,
    absorbed_limits,
    alone,
    constants_of,
    layers,
    with_constants,
)
from quantize.runtime import Session

CONV = """
(float[N,4,6,6] x) => (float[N,6,3,3] y) {
  [c] y = Conv<strides=[2,2], pads=[0,1,1,0], dilations=[1,1], group=GROUP>(x, w, b)
}"""


def conv(group=1):
    return build(CONV.replace("GROUP", str(group)), w=(6, 4 // group, 2, 2), b=(6,))


def gemm(trans_b):
    return build(
        f"(float[N,5] x) => (float[N,3] y) {{ [g] y = Gemm<transB={trans_b}>(x, w, b) }}",
        w=(3, 5) if trans_b else (5, 3),
        b=(3,),
    )


def matmul():
    return build("(float[N,5] x) => (float[N,3] y) { [m] y = MatMul(x, w) }", w=(5, 3))


def only(model):
    [layer] = layers(model)
    return layer


# ------------------------------------------------------------------------------ layers


def test_a_convolution_says_all_that_its_columns_need():
    layer = only(conv(2))
    assert (layer.name, layer.op_type, layer.input, layer.output) == ("c", "Conv", "x", "y")
    assert (layer.weight, layer.bias, layer.axis, layer.group) == ("w", "b", 0, 2)
    assert (layer.kernel, layer.strides, layer.dilations) == ((2, 2), (2, 2), (1, 1))
    assert layer.pads == (0, 1, 1, 0)


def test_what_a_convolution_leaves_out_has_its_default():
    layer = only(
        build("(float[N,2,4,4] x) => (float[N,3,2,2] y) { y = Conv(x, w) }", w=(3, 2, 3, 3))
    )
    assert (layer.bias, layer.group, layer.kernel) == (None, 1, (3, 3))
    assert (layer.strides, layer.dilations, layer.pads) == ((1, 1), (1, 1), (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("model", "shape", "axis"),
    [
        (conv(), (6, 16), 0),
        (conv(2), (6, 8), 0),
        (gemm(0), (3, 5), 1),
        (gemm(1), (3, 5), 0),
        (matmul(), (3, 5), 1),
    ],
    ids=["conv", "grouped", "gemm", "gemm transB", "matmul"],
)
def test_a_weight_is_a_matrix_and_back(model, shape, axis):
    layer = only(model)
    weight = constants_of(model)[layer.weight]
    matrix = layer.matrix(weight)
    assert (matrix.shape, matrix.dtype, layer.axis) == (shape, np.float32, axis)
    back = layer.tensor(matrix, weight.shape)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, weight)
    rows = np.stack([np.take(weight, i, axis).reshape(-1) for i in range(shape[0])])
    np.testing.assert_array_equal(matrix, rows)


@pytest.mark.parametrize("model", [gemm(0), gemm(1), matmul()])
def test_rows_are_output_channels(model):
    layer, x = only(model), noise(4, 5)
    values = constants_of(model)
    bias = values[layer.bias] if layer.bias else 0
    expected = x @ layer.matrix(values[layer.weight]).T + bias
    np.testing.assert_allclose(answers(model, x)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        "[a] h = MatMul(x, w) [b] y = MatMul(h, w)",  # one weight, two readers
        "[a] y = Gemm<alpha=0.5>(x, w)",
        "[a] y = Gemm<beta=2.0>(x, w, v)",
        "[a] y = Gemm<transA=1>(x, w)",
        "[a] h = Gemm(x, w, v) y = Add(h, v)",  # one bias, two readers
        "[a] h = Relu(x) y = MatMul(w, h)",  # the weight comes first
        "[a] h = Relu(x) y = MatMul(x, h)",  # no weight
    ],
)
def test_what_cannot_be_changed_alone_is_no_layer(nodes):
    model = build(f"(float[5,5] x) => (float[5,5] y) {{ {nodes} }}", w=(5, 5), v=(5,))
    assert layers(model) == ()


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("(float[N,2,9] x) => (float[N,3,7] y) { y = Conv(x, w) }", (3, 2, 3)),
        (
            '(float[N,2,9,9] x) => (float[N,3,9,9] y) { y = Conv<auto_pad="SAME_UPPER">(x, w) }',
            (3, 2, 3, 3),
        ),
        ("(float[N,4,5] x) => (float[N,4,2] y) { y = MatMul(x, w) }", (4, 5, 2)),
    ],
    ids=["one dimension", "auto_pad", "a batch of weights"],
)
def test_forms_that_the_repairs_do_not_know_are_no_layers(text, shape):
    assert layers(build(text, w=shape)) == ()


def test_layers_come_in_graph_order():
    model = build(
        "(float[N,5] x) => (float[N,5] y) { [z] h = MatMul(x, w) [a] y = MatMul(h, v) }",
        w=(5, 5),
        v=(5, 5),
    )
    assert [layer.name for layer in layers(model)] == ["z", "a"]


# ----------------------------------------------------------------------- with_constants


def test_constants_and_biases_are_replaced_in_a_copy():
    model, x = conv(), noise(2, 4, 6, 6)
    before = model.SerializeToString()
    layer, values = only(model), constants_of(model)
    other = with_constants(model, {"w": 2 * values["w"]}, {"c": 3 * values["b"]})
    assert model.SerializeToString() == before
    channel = values["b"].reshape(1, -1, 1, 1)
    expected = 2 * (answers(model, x)[0] - channel) + 3 * channel
    np.testing.assert_allclose(answers(other, x)[0], expected, atol=1e-5)
    assert only(other) == layer


@pytest.mark.parametrize(
    ("text", "shape", "size"),
    [
        (
            "(float[N,2,4,4] x) => (float[N,3,2,2] y) { [c] y = Conv(x, w) }",
            (3, 2, 3, 3),
            (2, 4, 4),
        ),
        ("(float[N,2] x) => (float[N,3] y) { [c] y = Gemm<transB=1>(x, w) }", (3, 2), (2,)),
    ],
)
def test_a_layer_without_a_bias_gets_one(text, shape, size):
    model, x = build(text, w=shape), noise(2, *size)
    bias = np.arange(3, dtype=np.float32)
    other = with_constants(model, {}, {"c": bias})
    onnx.checker.check_model(other)
    assert only(other).bias == "c.bias"
    shaped = bias.reshape(1, -1, *[1] * (len(size) - 1))
    np.testing.assert_allclose(answers(other, x)[0], answers(model, x)[0] + shaped, atol=1e-5)


def test_a_new_bias_takes_no_name_that_is_in_use():
    model = build(
        "(float[N,3] x) => (float[N,3] y) { [c] h = Gemm(x, w) y = Add(h, v) }", w=(3, 3), v=(3,)
    )
    model.graph.initializer[1].name = model.graph.node[1].input[1] = "c.bias"
    x, ten = noise(2, 3), np.full(3, 10, np.float32)
    other = with_constants(model, {}, {"c": ten})
    np.testing.assert_allclose(answers(other, x)[0], answers(model, x)[0] + 10, atol=1e-5)


# ----------------------------------------------------------------------------- absorbed


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("h = MatMul(x, w) y = Relu(h)", {"h": "y"}),
        ("h = MatMul(x, w) y = Clip(h, zero, six)", {"h": "y"}),
        ("h = MatMul(x, w) y = Sigmoid(h)", {}),
        ("y = Relu(x)", {}),
        ("h = MatMul(x, w) r = Relu(h) y = Add(h, r)", {}),
        ("h = MatMul(x, w) r = Relu(h) y = Relu(r)", {"h": "r", "r": "y"}),
    ],
)
def test_only_what_nothing_else_reads_is_absorbed(nodes, expected):
    model = build(
        f"(float[N,5] x) => (float[N,5] y) {{ {nodes} }}",
        w=(5, 5),
        zero=np.float32(0),
        six=np.float32(6),
    )
    assert absorbed(model) == expected


def test_one_of_several_outputs_is_not_absorbed():
    model = build(
        "(float[N,4] x) => (float[N,4] y)"
        " { a, b = Split<axis=1>(x) c = Relu(a) y = Concat<axis=1>(c, b) }"
    )
    assert absorbed(model) == {}


def test_a_layer_of_doubles_is_none():
    model = build(
        "(double[N,5] x) => (double[N,3] y) { y = MatMul(x, w) }", w=np.ones((5, 3), np.float64)
    )
    assert layers(model) == ()


def test_an_output_of_the_model_is_not_absorbed():
    model = build(
        "(float[N,5] x) => (float[N,5] h, float[N,5] y) { h = MatMul(x, w) y = Relu(h) }", w=(5, 5)
    )
    assert absorbed(model) == {}


# -------------------------------------------------------------------------------- alone


def test_a_node_alone_gives_what_it_gives_in_the_model():
    model, x = conv(2), noise(3, 4, 6, 6)
    values = constants_of(model)
    session = Session(alone(model, model.graph.node[0], {"x", "w"}).SerializeToString())
    assert session.inputs == ["x", "w"]
    [made] = session.run_feeds({"x": x, "w": values["w"]})
    np.testing.assert_array_equal(made, answers(model, x)[0])
    [doubled] = session.run_feeds({"x": x, "w": 2 * values["w"]})
    assert np.abs(doubled - made).max() > 0.1


def test_a_node_alone_keeps_its_constants_and_reads_an_input_twice():
    model = build(
        "(float[N,5] x) => (float[N,5] y) { h = Clip(x, zero, six) y = Mul(h, h) }",
        zero=np.float32(0),
        six=np.float32(6),
    )
    x = 9 * noise(3, 5)
    clip, square = model.graph.node
    [clipped] = Session(alone(model, clip, {"x"}).SerializeToString()).run_feeds({"x": x})
    np.testing.assert_array_equal(clipped, np.clip(x, 0, 6))
    session = Session(alone(model, square, {"h"}).SerializeToString())
    assert session.inputs == ["h"]
    np.testing.assert_array_equal(session.run_feeds({"h": clipped})[0], clipped**2)


def test_what_a_relu_or_clip_cuts_off():
    model = build(
        """(float[N,3,7,7] x) => (float[N,3,7,7] y) {
            [c] a = Conv(x, w)
            [r] b = Relu(a)
            [d] c = Conv(b, w2)
            [k] d = Clip(c, low, high)
            [e] e = Conv(d, w3)
            [m] f = Clip(e, , high)
            [g] g = Conv(f, w4)
            [n] y = Clip(g, low, none)
        }""",
        **dict.fromkeys(("w", "w2", "w3", "w4"), (3, 3, 1, 1)),
        low=np.float32(-1),
        high=np.float32(6),
    )
    model.graph.node[-1].input[2] = "x"
    assert absorbed_limits(model) == {
        "a": (0.0, math.inf),
        "c": (-1.0, 6.0),
        "e": (-math.inf, 6.0),
    }
