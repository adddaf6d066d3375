"""Operators of opsets 3 to 6 in numpy, against onnxruntime where opset 7 means the same."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphs import answers, build, noise
from quantize.conversion.old_operators import OPERATORS, evaluate
from quantize.errors import ModelError

SIMILAR = [
    ("Abs(x)", {}),
    ("Add(x, x)", {}),
    ("Clip<min=-0.5>(x)", {}),
    ("Concat<axis=2>(x, x)", {}),
    ("Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, w, b)",
     {"w": (6, 4, 3, 2), "b": (6,)}),
    ("Conv<group=2, kernel_shape=[3,3]>(x, w)", {"w": (6, 2, 3, 3)}),
    ('Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', {"w": (6, 4, 3, 2)}),
    ('Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)', {"w": (6, 4, 2, 3)}),
    ('Conv<auto_pad="VALID">(x, w)', {"w": (6, 4, 2, 3)}),
    ("BatchNormalization<epsilon=0.1>(x, g, c, m, v)",
     {"g": (4,), "c": (4,), "m": (4,), "v": np.float32([1, 2, 3, 4])}),
    ("MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,0,1]>(x)", {}),
    ('MaxPool<kernel_shape=[3,3], auto_pad="SAME_LOWER", strides=[2,2]>(x)', {}),
    ("AveragePool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,0,1]>(x)", {}),
    ('AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER", strides=[2,2]>(x)', {}),
    ("GlobalAveragePool(x)", {}),
    ("GlobalMaxPool(x)", {}),
    ("LRN<size=3, alpha=0.3, beta=0.6, bias=1.5>(x)", {}),
    ("Flatten<axis=2>(x)", {}),
    ("Flatten<axis=0>(x)", {}),
    ("Softmax<axis=2>(x)", {}),
    ("LogSoftmax(x)", {}),
    ("Elu<alpha=0.5>(x)", {}),
    ("Exp(x)", {}),
    ("Identity(x)", {}),
    ("LeakyRelu<alpha=0.2>(x)", {}),
    ("Log(a) a = Abs(x)", {}),
    ("MatMul(x, k)", {"k": (7, 3)}),
    ("Max(x, r) r = Neg(x)", {}),
    ("Min(x, r) r = Neg(x)", {}),
    ("Mean(x, r) r = Abs(x)", {}),
    ("Sum(x, r, x) r = Abs(x)", {}),
    ("Pow(x, x)", {}),
    ("Pad<pads=[0,0,1,2,0,0,2,1], value=3.0>(x)", {}),
    ("ReduceMean<axes=[1,3], keepdims=0>(x)", {}),
    ("ReduceMean(x)", {}),
    ("Relu(x)", {}),
    ("Reshape(x, s)", {"s": np.array([0, -1, 3])}),
    ("Sigmoid(x)", {}),
    ("Sqrt(a) a = Abs(x)", {}),
    ("Tanh(x)", {}),
    ("Transpose<perm=[0,2,3,1]>(x)", {}),
    ("Transpose(x)", {}),
    ("Unsqueeze<axes=[0,3]>(x)", {}),
    ("Squeeze(p) p = GlobalAveragePool(x)", {}),
    ("Div(x, c) c = Exp(x)", {}),
    ("Gemm<alpha=0.5, transA=1>(f, k, c) f = Flatten(x)", {"k": (2, 3), "c": (168, 3)}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "constants"), SIMILAR)
def test_equal_to_onnxruntime(text, constants):
    first, _, before = text.partition(") ")
    model = build(
        f"(float[2,4,6,7] x) => (float y) {{ {before} y = {first.rstrip(')')}) }}",
        opset=7,
        **constants,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    values["x"] = noise(2, 4, 6, 7)
    for node in model.graph.node:
        values[node.output[0]] = evaluate(node, [values[name] for name in node.input])
    expected = answers(model, values["x"])[0]
    assert values["y"].dtype == expected.dtype
    np.testing.assert_allclose(values["y"], expected, rtol=1e-4, atol=1e-5)


def test_every_operator_is_held_against_something():
    tried = {word.split("(")[0].split("<")[0] for text, _ in SIMILAR for word in text.split("= ")}
    tried |= {text.split("(")[0].split("<")[0] for text, _ in SIMILAR}
    elsewhere = {"Cast", "Constant", "Dropout", "Mul", "PRelu", "Shape", "Sub", "Upsample"}
    assert OPERATORS.keys() - tried - elsewhere == set()


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
)
@settings(max_examples=40, deadline=None)
def test_padding_to_the_same_size(height, width, kernel, stride, mode):
    node = helper.make_node(
        "AveragePool",
        ["x"],
        ["y"],
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        auto_pad=mode,
    )
    found = evaluate(node, [noise(1, 1, height, width)])
    assert found.shape == (1, 1, -(-height // stride), -(-width // stride))
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NoSuchOperator(x)", "operator NoSuchOperator 'y' of an opset below 7 is not known"),
        ("Conv<pads=[0,0,1000000,1000000]>(x, w)", "Conv 'y' cannot be computed: a tensor of"),
        ("Pad<pads=[0,0,0,0,0,0,1000000,1000000]>(x)", "Pad 'y' cannot be computed: a tensor of"),
        ("MaxPool<kernel_shape=[2,2], pads=[-1,0,0,0]>(x)", "its pads are negative"),
        ("MaxPool<kernel_shape=[0,2]>(x)", r"kernel_shape is \[0, 2\]"),
        ("MaxPool<kernel_shape=[9,9]>(x)", "MaxPool 'y' cannot be computed"),
        ("Add(x, w)", "shapes .* differ"),
        ("Sum(x, w)", "its inputs differ in shape"),
        ("Add<broadcast=1>(w, x)", "Add 'y' cannot be computed"),
        ("Reshape<shape=[7, 7]>(x)", "Reshape 'y' cannot be computed"),
        ("Flatten(x, x, x)", ""),
        ("Unsqueeze(x)", "Unsqueeze 'y' cannot be computed"),
        ("Constant()", "Constant 'y' cannot be computed"),
        ("Relu()", "Relu 'y' cannot be computed"),
        ('Upsample<mode="linear", width_scale=2.0, height_scale=2.0>(x)', "the nearest pixel"),
        ("Upsample<width_scale=1e9, height_scale=1e9>(x)", "is too large"),
        ("LRN(x)", "LRN 'y' cannot be computed"),
    ],
)
def test_what_cannot_be_computed_is_one_line(text, said):
    model = build(f"(float[1,2,5,5] x) => (float y) {{ y = {text} }}", opset=6, w=(2, 2, 3, 3))
    node = model.graph.node[0]
    values = {"x": noise(1, 2, 5, 5), "w": noise(2, 2, 3, 3)}
    if not said:
        evaluate(node, [values[name] for name in node.input])
        return
    with pytest.raises(ModelError, match=said) as caught:
        evaluate(node, [values[name] for name in node.input])
    assert "\n" not in str(caught.value)
