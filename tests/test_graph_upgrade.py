"""Newer operators for older graphs: what onnx's own converter refuses or gets wrong."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise, norm, ops
from quantize.errors import ModelError
from quantize.graph.upgrade import inferred_shapes, settle_spatial, to_opset
from quantize.graph.view import opset

SPATIAL = """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
y = BatchNormalization<spatial=0>(x, gamma, beta, mean, var) }"""


def per_element():
    return {name: value.reshape(3, 4, 4) for name, value in norm(48).items()}


@pytest.mark.parametrize("version", [7, 8])
def test_parameters_for_each_element_become_product_and_sum(version):
    model = build(SPATIAL, opset=version, **per_element())
    images = noise(2, 3, 4, 4)
    expected = answers(model, images)[0]  # onnxruntime still runs this form
    newer = to_opset(model, 13)
    onnx.checker.check_model(newer, full_check=True)
    assert (ops(newer), opset(newer)) == (["Mul", "Add"], 13)
    np.testing.assert_allclose(answers(newer, images)[0], expected, atol=1e-5)


def test_parameters_for_each_channel_are_ordinary():
    model = build(SPATIAL, opset=8, **norm(3))
    ordinary = build(SPATIAL.replace("<spatial=0>", ""), opset=8, **norm(3))
    images = noise(2, 3, 4, 4)
    newer = to_opset(model, 13)
    assert ops(newer) == ["BatchNormalization"]
    np.testing.assert_allclose(answers(newer, images)[0], answers(ordinary, images)[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(48,), (3, 16), (1,)])
def test_other_parameters_are_refused(shape):
    size = int(np.prod(shape))
    model = build(SPATIAL, opset=8, **{k: v.reshape(shape) for k, v in norm(size).items()})
    with pytest.raises(ModelError, match=r"BatchNormalization 'y' has spatial=0 .* nor \[C,H,W\]"):
        settle_spatial(model)


def test_nothing_to_settle():
    model = build(SPATIAL.replace("=0", "=1"), opset=8, **norm(3))
    before = model.SerializeToString()
    assert settle_spatial(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("version", "node"),
    [
        (7, 'Upsample<mode="linear", scales=[1.0, 1.0, 2.0, 2.0]>(x)'),
        (9, 'Upsample<mode="linear">(x, s)'),
        (9, 'Upsample<mode="nearest">(x, s)'),
        (10, 'Resize<mode="linear">(x, s)'),
        (10, 'Resize<mode="nearest">(x, s)'),
    ],
)
def test_resizing_keeps_where_its_pixels_lie(version, node):
    scales = np.array([1, 1, 2.5, 1.5], np.float32)
    model = build(f"(float[N,3,4,4] x) => (float[N,3,h,w] y) {{ y = {node} }}", opset=version)
    if "(x, s)" in node:
        model.graph.initializer.append(onnx.numpy_helper.from_array(scales, "s"))
    images = noise(2, 3, 4, 4)
    expected = answers(model, images)[0]
    np.testing.assert_allclose(answers(to_opset(model, 13), images)[0], expected, atol=1e-6)


def test_a_younger_resize_keeps_its_own_rule():
    model = build(
        '(float[N,3,4,4] x) => (float[N,3,8,8] y) { y = Resize<mode="linear">(x, "", s) }',
        opset=11,
        s=np.array([1, 1, 2, 2], np.float32),
    )
    model.graph.node[0].input[1] = "roi"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(0, np.float32), "roi"))
    images = noise(2, 3, 4, 4)
    expected = answers(model, images)[0]
    np.testing.assert_allclose(answers(to_opset(model, 13), images)[0], expected, atol=1e-6)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_of_pooled_scores_is_one_node(op):
    model = build(
        f"(float[N,5,4,4] x) => (float[N,5,1,1] y) {{ p = GlobalAveragePool(x) y = {op}(p) }}",
        opset=9,
    )
    images = noise(2, 5, 4, 4)
    expected = answers(model, images)[0]
    newer = to_opset(model, 13)
    onnx.checker.check_model(newer, full_check=True)
    assert ops(newer) == ["GlobalAveragePool", op]
    np.testing.assert_allclose(answers(newer, images)[0], expected, atol=1e-6)


def test_softmax_over_several_axes_stays_flattened():
    model = build("(float[N,5,4,4] x) => (float[N,5,4,4] y) { y = Softmax(x) }", opset=9)
    images = noise(2, 5, 4, 4)
    expected = answers(model, images)[0]
    newer = to_opset(model, 13)
    assert "Flatten" in ops(newer)
    np.testing.assert_allclose(answers(newer, images)[0], expected, atol=1e-6)


def test_both_kinds_of_softmax_in_one_graph():
    model = build(
        """(float[N,5,4,4] x) => (float[N,5,1,1] y, float[N,5,4,4] z, int64[4] s) {
        p = GlobalAveragePool(x) y = Softmax(p) z = Softmax(x) s = Shape(p) }""",
        opset=9,
    )
    images = noise(2, 5, 4, 4)
    expected = answers(model, images)
    newer = to_opset(model, 13)
    onnx.checker.check_model(newer, full_check=True)
    for one, other in zip(answers(newer, images), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_sum_of_two_is_an_add():
    model = build(
        """(float[N,3] x) => (float[N,3] y) {
        a = Relu(x) b = Sum(x, a) c = Sum(b, a, x) y = Sum(c) }""",
        opset=9,
    )
    images = noise(2, 3)
    expected = answers(model, images)[0]
    newer = to_opset(model, 13)
    assert ops(newer) == ["Relu", "Add", "Sum", "Sum"]
    np.testing.assert_allclose(answers(newer, images)[0], expected, atol=1e-6)


def test_an_operator_that_its_opset_lacks_is_named():
    model = build("(float[N,3,4,4] x) => (float[N,3,4,4] y) { y = HardSwish(x) }", opset=9)
    with pytest.raises(ModelError, match=r"opset 9 cannot be converted to 13.* HardSwish 'y'"):
        to_opset(model, 13)


def test_a_graph_that_inference_refuses_is_an_error():
    model = build("(float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }")
    model.graph.node[0].domain = "com.example"
    with pytest.raises(ModelError, match="shapes cannot be inferred"):
        inferred_shapes(model)
