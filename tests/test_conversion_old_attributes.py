"""Opsets 3 to 6 as opset 7: each old attribute against what its text says."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphs import answers, build, noise, ops
from quantize.conversion.old_attributes import to_seven
from quantize.conversion.old_operators import OPERATORS
from quantize.conversion.old_reference import reference
from quantize.errors import ModelError
from quantize.graph.view import opset


def rewritten(model):
    """Opset 7, valid, and what came in as onnx's own rules for its opset have it."""
    newer = onnx.ModelProto.FromString(model.SerializeToString())
    to_seven(newer)
    onnx.checker.check_model(newer, full_check=True)
    assert opset(newer) == 7
    left = {a.name for n in newer.graph.node for a in n.attribute}
    assert not left & {"consumed_inputs", "broadcast", "is_test"}
    return newer


def same(model, images):
    newer = rewritten(model)
    name = model.graph.output[0].name
    np.testing.assert_allclose(
        answers(newer, images)[0], reference(model, None)(images)[name], atol=1e-5
    )
    return newer


def graph(body, *, version=6, shape="N,3,4,5", **constants):
    return build(
        f"(float[{shape}] x) => (float[{shape}] y) {{ {body} }}", opset=version, **constants
    )


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_operands_are_laid_along_the_axes_from_axis_on(data):
    """First operand of 2 to 4 axes, second a stretch of its axes; constant or computed."""
    shape = data.draw(st.lists(st.integers(2, 4), min_size=2, max_size=4))
    start = data.draw(st.integers(0, len(shape) - 1))
    stop = data.draw(st.integers(start + 1, len(shape)))
    negative = data.draw(st.booleans())
    constant = data.draw(st.booleans())
    op = data.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    a = noise(*shape, seed=1)
    b = noise(*shape[start:stop], seed=2) + np.float32(4)
    axis = start - len(shape) if negative else start
    nodes = [helper.make_node(op, ["a", "b"], ["y"], broadcast=1, axis=axis)]
    inputs = [("a", a), *([] if constant else [("b", b)])]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in inputs],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(b, "b")] if constant else [],
        ),
        opset_imports=[helper.make_opsetid("", 6)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    newer = rewritten(model)
    spread = b.reshape([n if start <= i < stop else 1 for i, n in enumerate(shape)])
    work = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op]
    found = onnx.reference.ReferenceEvaluator(newer).run(None, dict(inputs))[0]
    np.testing.assert_allclose(found, work(a, spread), rtol=1e-6)
    np.testing.assert_allclose(OPERATORS[op](nodes[0], [a, b]), work(a, spread), rtol=1e-6)


def test_without_an_axis_operands_are_aligned_at_the_last():
    newer = same(graph("y = Add<broadcast=1>(x, k)", k=(4, 5)), noise(2, 3, 4, 5))
    assert ops(newer) == ["Add"]


def test_a_computed_operand_gets_its_axes_by_a_node():
    model = graph("m = ReduceMean<axes=[2,3], keepdims=0>(x) y = Mul<broadcast=1, axis=0>(x, m)")
    assert ops(same(model, noise(2, 3, 4, 5))) == ["ReduceMean", "Unsqueeze", "Mul"]


def test_an_operand_whose_rank_nobody_knows_is_refused():
    model = graph("s = Shape(x) r = Reshape(x, s) y = Add<broadcast=1, axis=1>(r, k)", k=(3,))
    with pytest.raises(ModelError, match=r"Add 'y' is broadcast along axis 1, .* not known"):
        to_seven(model)


def test_an_operand_that_does_not_fit_is_refused():
    model = graph("y = Add<broadcast=1, axis=3>(x, k)", k=(4, 5))
    with pytest.raises(ModelError, match="2 axes do not fit into 4"):
        to_seven(model)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_inputs_consumed_in_place(version):
    body = "a = Relu<consumed_inputs=[0]>(x) y = Sigmoid<consumed_inputs=[0]>(a)"
    same(graph(body, version=version), noise(2, 3, 4, 5))


@pytest.mark.parametrize("version", [3, 4])
def test_the_shape_was_an_attribute(version):
    body = "r = Reshape<shape=[0, -1]>(x) f = Flatten(r) y = Reshape<shape=[-1, 3, 4, 5]>(f)"
    newer = same(graph(body, version=version), noise(2, 3, 4, 5))
    assert {len(n.input) for n in newer.graph.node if n.op_type == "Reshape"} == {2}


def test_the_axis_of_a_concat_could_be_left_out():
    model = build("(float[N,3,4,5] x) => (float[N,6,4,5] y) { y = Concat(x, x) }", opset=3)
    same(model, noise(2, 3, 4, 5))


def test_a_type_was_a_word():
    same(graph('i = Cast<to="INT32">(x) y = Cast<to="FLOAT">(i)', version=5), noise(2, 3, 4, 5))
    with pytest.raises(ModelError, match="Cast 'y' casts to 'FLAOT', which is no type"):
        to_seven(graph('y = Cast<to="FLAOT">(x)', version=5))


def test_gemm_broadcasts_what_it_adds():
    model = build(
        """(float[N,3,4,5] x) => (float[N,7] y) {
        f = Flatten(x) y = Gemm<broadcast=1, transB=1, alpha=0.5, beta=2.0>(f, w, c) }""",
        opset=6,
        w=(7, 60),
        c=(7,),
    )
    same(model, noise(2, 3, 4, 5))


def test_slopes_of_prelu_go_by_channel():
    same(graph("y = PRelu(x, s)", s=np.float32([0.5, -1, 2])), noise(2, 3, 4, 5))
    same(graph("y = PRelu(x, s)", s=np.float32([0.5])), noise(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y, mask = Dropout(x) z = Relu(mask)", "Dropout 'y' trains: its mask is read"),
        (
            "y, a, b, c, d = BatchNormalization(x, k, k, k, k)",
            "BatchNormalization 'y' trains: it gives running statistics",
        ),
        ("y = ImageScaler<scale=2.0>(x)", "operator ImageScaler 'y' of an opset below 7 cannot"),
        ("y = Tile(x, k, k)", "operator Tile 'y' of an opset below 7 cannot be converted"),
    ],
)
def test_what_has_no_newer_form_is_refused(body, said):
    with pytest.raises(ModelError, match=said):
        to_seven(graph(body, version=4, k=(3,)))


def test_an_unread_mask_is_dropped():
    newer = same(graph("y, mask = Dropout<is_test=1>(x)"), noise(2, 3, 4, 5))
    assert list(newer.graph.node[0].output) == ["y"]
