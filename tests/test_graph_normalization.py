import numpy as np
import onnx
import pytest

from graphs import answers, build, noise, norm, ops
from quantize.calibrate import calibrate
from quantize.engines.ort import quantize
from quantize.graph.normalization import as_convolutions
from quantize.graph.prepare import prepare
from quantize.plan import Plan
from quantize.probe import run_once

BN = "BatchNormalization"

# As in a pre-activation block: what is added up is normalised, and read by the next sum too.
BLOCK = """(float[N,4,6,6] x) => (float[N,4] y) {
    a = Conv(x, w1)
    b = BatchNormalization(a, gamma, beta, mean, var)
    c = Relu(b)
    d = Conv<pads = [1, 1, 1, 1]>(c, w2)
    e = Add(d, a)
    f = BatchNormalization(e, gamma, beta, mean, var)
    g = Relu(f)
    h = GlobalAveragePool(g)
    y = Flatten(h) }"""


def block(**changed):
    parameters = {**norm(4), "w1": (4, 4, 1, 1), "w2": (4, 4, 3, 3), **changed}
    return build(BLOCK, **parameters)


def inferred(model):
    return onnx.shape_inference.infer_shapes(model)


def turned(model):
    model = inferred(model)
    return as_convolutions(model), model


def test_a_norm_behind_a_sum_becomes_a_convolution_that_computes_the_same():
    count, model = turned(block())
    assert count == 2
    assert ops(model)[:-2] == ["Conv", "Conv", "Relu", "Conv", "Add", "Conv", "Relu"]
    onnx.checker.check_model(model, full_check=True)
    images = noise(3, 4, 6, 6)
    expected, seen = answers(block(), images)[0], answers(model, images)[0]
    assert np.abs(seen - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_convolution_has_one_weight_for_each_channel():
    _, model = turned(block())
    conv = next(node for node in model.graph.node if node.output[0] == "b")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in conv.attribute}
    assert attributes == {"group": 4, "kernel_shape": [1, 1]}
    assert conv.input[1:] == ["b.slope", "b.offset"]


def test_names_that_are_taken_are_avoided():
    model = block()
    for name in ("b.slope", "f.offset"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, "f"), name))
    _, model = turned(model)
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(set(names)) == len(names)
    onnx.checker.check_model(model, full_check=True)


def test_the_image_is_not_rounded_twice():
    count, model = turned(
        build(
            """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
            y = BatchNormalization(x, gamma, beta, mean, var) }""",
            **norm(4),
        )
    )
    assert (count, ops(model)) == (0, [BN])


@pytest.mark.parametrize(
    "text",
    [
        # over features, not over images
        """(float[N,4] x) => (float[N,4] y) {
        a = Relu(x) y = BatchNormalization(a, gamma, beta, mean, var) }""",
        # by the batch's own statistics
        """(float[N,4,6,6] x) => (float[N,4,6,6] y) { a = Relu(x)
        y, m, v = BatchNormalization<training_mode = 1>(a, gamma, beta, mean, var) }""",
        # what is computed is no constant
        """(float[N,4,6,6] x) => (float[N,4,6,6] y) { a = Relu(x) g = Relu(gamma)
        y = BatchNormalization(a, g, beta, mean, var) }""",
    ],
)
def test_what_a_convolution_cannot_do_stays(text):
    opset = 14 if "training_mode" in text else 13
    count, model = turned(build(text, opset=opset, **norm(4)))
    assert (count, BN in ops(model)) == (0, True)


def test_preparing_leaves_no_norm_behind():
    ready = prepare(block(), run_once, (4, 6, 6))
    assert BN not in ops(ready.model)
    assert "turned 2 BatchNormalization into Conv of 1x1" in ready.steps
    assert not {"gamma", "mean"} & {tensor.name for tensor in ready.model.graph.initializer}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_no_relu_is_left_in_int8_and_rounding_the_weights_costs_nothing(form):
    # A channel that training has switched off: its slope is next to nothing, its offset is not.
    gamma = np.array([1, -0.7, 1e-9, 0.01], np.float32)
    ready = prepare(block(gamma=gamma), run_once, (4, 6, 6))
    images = noise(16, 4, 6, 6)
    made = quantize(
        ready.model, calibrate(ready.model, [images], threads=1), Plan("onnxruntime", form)
    )
    assert not {"Relu", BN} & set(ops(made))
    expected, seen = answers(block(gamma=gamma), images)[0], answers(made, images)[0]
    assert np.abs(seen - expected).max() <= 0.03 * np.abs(expected).max()
