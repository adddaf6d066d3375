"""What a graph takes, gives and links, and which graphs are no image classifiers."""

import numpy as np
import onnx
import pytest

from graphs import build, ops
from models import tiny_resnet
from quantize.errors import ModelError
from quantize.graph.order import sort_nodes
from quantize.graph.view import (
    MOST_BATCH,
    QUANTIZED_OPS,
    View,
    dims,
    opset,
    refuse_quantized,
    signature,
)

CLASSIFIER = "(float[N,3,8,6] image) => (float[N,5] scores) { scores = Anything(image) }"
BRANCH = """(float[N,3,8,6] image) => (float[N,3,8,6] y) {
    c = Conv(image, w)
    y = If <then_branch = then () => (float t) { t = Neg(c) },
            else_branch = other () => (float e) { e = Neg(v) }> (yes) }"""


# -------------------------------------------------------------------------- signature


def test_a_classifier_has_a_signature():
    seen = signature(build(CLASSIFIER))
    assert (seen.input, seen.channels, seen.height, seen.width) == ("image", 3, 8, 6)
    assert (seen.output, seen.classes, seen.batch) == ("scores", 5, None)


def test_open_sizes_are_none():
    seen = signature(build("(float[7,C,?,W] x) => (float[7,K] y) { y = Anything(x) }"))
    assert (seen.batch, seen.channels, seen.height, seen.width) == (7, None, None, None)
    assert seen.classes is None


def test_an_undeclared_output_shape_is_left_open():
    model = build(CLASSIFIER)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert signature(model).classes is None


def test_pooled_scores_are_scores():
    model = build("(float[1,3,8,8] x) => (float[1,5,1,1] y) { y = GlobalAveragePool(x) }")
    assert (signature(model).output, signature(model).classes) == ("y", 5)


def test_initializers_among_the_inputs_are_no_inputs():
    assert signature(tiny_resnet(initializers_as_inputs=True)).input == "data"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[1,3,8,8] x, float[1] z) => (float[1,5] y) { y = A(x) }", "2 inputs ('x', 'z')"),
        ("() => (float[1,5] y) { y = A() }", "0 inputs (none)"),
        ("(float[1,3,8,8] x) => (float[1,5] y, float[1] z) { y, z = A(x) }", "2 outputs ('y', 'z'"),
        ("(float[1,3,8] x) => (float[1,5] y) { y = A(x) }", "input 'x' is not [N,C,H,W]"),
        ("(float x) => (float[1,5] y) { y = A(x) }", "input 'x' is not [N,C,H,W]"),
        ("(float[1,3,8,8] x) => (float[1,5,1,2] y) { y = A(x) }", "output 'y' is not [N,K]"),
        ("(float[1,3,8,8] x) => (float[1,5,h,1] y) { y = A(x) }", "output 'y' is not [N,K]"),
        ("(float[1,3,8,8] x) => (float[5] y) { y = A(x) }", "output 'y' is not [N,K]"),
        ("(uint8[1,3,8,8] x) => (float[1,5] y) { y = A(x) }", "'x' is not float32"),
        ("(float[1,3,8,8] x) => (float16[1,5] y) { y = A(x) }", "'y' is not float32"),
        (f"(float[{MOST_BATCH + 1},3,8,8] x) => (float[N,5] y) {{ y = A(x) }}", "1025 images"),
    ],
)
def test_what_is_no_image_classifier_is_refused_by_name(text, words):
    with pytest.raises(ModelError) as caught:
        signature(build(text), "model m.onnx")
    assert str(caught.value).startswith("model m.onnx")
    assert words in str(caught.value)


def test_an_input_without_a_shape_is_refused():
    model = build(CLASSIFIER)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"'image' is not \[N,C,H,W\]"):
        signature(model)


def test_a_sequence_is_no_scores():
    model = build(CLASSIFIER)
    model.graph.output[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    with pytest.raises(ModelError, match="'scores' is not float32"):
        signature(model)


def test_dims_tell_open_from_undeclared():
    value = build("(float[N,3,?,0] x) => (float y) { y = A(x) }").graph.input[0]
    assert dims(value) == [None, 3, None, None]
    value.type.tensor_type.ClearField("shape")
    assert dims(value) is None


# ------------------------------------------------------------------ opset, quantized


def test_opset_is_that_of_the_default_domain():
    model = build(CLASSIFIER, opset=11)
    model.opset_import.insert(0, onnx.helper.make_opsetid("com.microsoft", 1))
    assert opset(model) == 11
    model.opset_import[1].domain = "ai.onnx"
    assert opset(model) == 11
    del model.opset_import[1]
    assert opset(model) == 0


@pytest.mark.parametrize("op", sorted(QUANTIZED_OPS))
def test_each_quantized_operator_is_found(op):
    model = build(CLASSIFIER)
    model.graph.node[0].op_type = op
    with pytest.raises(ModelError, match=f"m is already quantized .it has {op}.; give the float"):
        refuse_quantized(model, "m")


def test_a_float_model_is_not_quantized():
    refuse_quantized(tiny_resnet())


def test_onnxruntimes_quantized_operators_are_known():
    names = {s.name for s in onnx.defs.get_all_schemas() if "Quantize" in s.name}
    names |= {s.name for s in onnx.defs.get_all_schemas() if s.name.startswith("QLinear")}
    kinds = "Add AveragePool Concat Conv GlobalAveragePool LeakyRelu MatMul Mul Sigmoid Softmax"
    names |= {f"QLinear{kind}" for kind in kinds.split()} | {"QGemm", "MatMulNBits"}
    assert names <= QUANTIZED_OPS


# ------------------------------------------------------------------------------ links


def test_makers_and_readers_of_tensors():
    model = build("(float[N,3] x) => (float[N,3] y) { a = Relu(x) b = Mul(a, a) y = Add(b, a) }")
    view = View(model.graph)
    relu, mul, add = model.graph.node
    assert view.producers == {"a": relu, "b": mul, "y": add}
    assert view.consumers == {"x": [relu], "a": [mul, add], "b": [add]}
    assert view.outputs == {"y"}
    assert view.only_reader("b") == add
    assert view.only_reader("x") == relu
    assert view.only_reader("a") is None
    assert view.only_reader("y") is None
    assert view.only_reader("none") is None


def test_an_output_of_the_graph_has_no_only_reader():
    model = build("(float[N] x) => (float[N] a, float[N] y) { a = Relu(x) y = Neg(a) }")
    assert View(model.graph).only_reader("a") is None


def test_empty_names_link_nothing():
    model = build('(float[N] x) => (float[N] y) { y, "" = Clip(x, "", "") }')
    view = View(model.graph)
    assert set(view.consumers) == {"x"}
    assert set(view.producers) == {"y"}


def test_what_subgraphs_read_is_captured():
    model = build(BRANCH, w=(3, 3, 1, 1), v=(2,), yes=np.array(True))
    view = View(model.graph)
    assert {"c", "v"} <= view.captured
    assert "image" not in view.captured
    model.graph.node.add(op_type="Neg", input=["c"], output=["n"])
    assert View(model.graph).only_reader("c") is None
    outer = onnx.helper.make_node("If", ["yes"], ["o"], then_branch=model.graph)
    holder = onnx.helper.make_graph([outer], "holder", [], [])
    assert {"c", "v", "image"} <= View(holder).captured


def test_constants_are_the_initializers():
    view = View(build(CLASSIFIER, w=np.arange(3)).graph)
    np.testing.assert_array_equal(view.constant("w"), [0, 1, 2])
    assert view.constant("image") is None
    assert list(view.initializers) == ["w"]


# ------------------------------------------------------------------------------ order


def test_nodes_are_sorted_by_what_they_read():
    model = build("(float[N] x) => (float[N] y) { y = Add(a, b) b = Neg(a) a = Relu(x) }")
    sort_nodes(model.graph)
    assert ops(model) == ["Relu", "Neg", "Add"]


def test_an_ordered_graph_stays_as_it_is():
    for model in (
        tiny_resnet(),
        build("(float[N] x) => (float[N] y) { a = Relu(x) b = Neg(a) c = Abs(x) y = Add(b, c) }"),
    ):
        before = model.SerializeToString()
        sort_nodes(model.graph)
        assert model.SerializeToString() == before


def test_a_subgraphs_reads_count():
    model = build(BRANCH, w=(3, 3, 1, 1), v=(2,), yes=np.array(True))
    model.graph.node.insert(0, model.graph.node.pop())
    assert ops(model) == ["If", "Conv"]
    sort_nodes(model.graph)
    assert ops(model) == ["Conv", "If"]


def test_a_cycle_is_left_alone():
    model = build("(float[N] x) => (float[N] y) { a = Add(x, b) b = Neg(a) y = Abs(b) }")
    before = model.SerializeToString()
    sort_nodes(model.graph)
    assert model.SerializeToString() == before
