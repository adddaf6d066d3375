"""The ends of a graph: logits before Softmax, the declared signature, tensors laid open."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise
from models import tiny_resnet
from quantize.errors import ModelError
from quantize.graph.expose import (
    float_tensors,
    with_outputs,
)
from quantize.graph.head import expose_logits, restore_signature
from quantize.probe import image_size, noise_image, shapes_of

IMAGES = noise(3, 3, 16, 16)


# ----------------------------------------------------------------------------- logits


def test_a_final_softmax_is_cut_off():
    plain, model = tiny_resnet(), tiny_resnet(softmax=True)
    before = model.SerializeToString()
    exposed = expose_logits(model)
    onnx.checker.check_model(exposed)
    np.testing.assert_array_equal(answers(exposed, IMAGES)[0], answers(plain, IMAGES)[0])
    probabilities = answers(model, IMAGES)[0]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (answers(exposed, IMAGES)[0].argmax(1) == probabilities.argmax(1)).all()
    assert model.SerializeToString() == before


def test_a_model_without_softmax_stays():
    model = tiny_resnet()
    exposed = expose_logits(model)
    assert exposed == model
    assert exposed is not model


def test_softmax_is_found_behind_what_only_passes_on():
    model = build(
        """(float[N,4] x) => (float[N,4] y) {
        a = Relu(x) b = Softmax(a) q = QuantizeLinear(b, s, z) d = DequantizeLinear(q, s, z)
        y = Identity(d) }""",
        s=np.array(0.01, np.float32),
        z=np.array(0, np.uint8),
    )
    assert expose_logits(model).graph.output[0].name == "a"


@pytest.mark.parametrize("nodes", ["a = Softmax(x) y = Relu(a)", "y = Relu(x)", "y = Identity(x)"])
def test_another_end_is_left_alone(nodes):
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ {nodes} }}")
    assert expose_logits(model) == model


# -------------------------------------------------------------------------- signature


def test_the_declared_signature_comes_back():
    original = tiny_resnet(batch=1, initializers_as_inputs=True)
    made = tiny_resnet(batch="free")
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    restore_signature(made, original)
    assert list(made.graph.input) == list(original.graph.input[:1])
    assert list(made.graph.output) == list(original.graph.output)
    original.graph.input[0].name = "changed"
    assert made.graph.input[0].name == "data"


@pytest.mark.parametrize("end", ["input", "output"])
def test_a_lost_name_is_an_error(end):
    made = tiny_resnet()
    getattr(made.graph, end)[0].name = "other"
    with pytest.raises(ModelError, match=r"has other where the float one has (data|logits)"):
        restore_signature(made, tiny_resnet())


# ----------------------------------------------------------------------------- opened


def test_named_tensors_become_outputs_once():
    model = tiny_resnet()
    opened = with_outputs(model, ["relu0", "logits", "pool", "relu0"])
    assert [value.name for value in opened.graph.output] == ["logits", "relu0", "pool"]
    logits, relu, pool = answers(opened, IMAGES)
    np.testing.assert_array_equal(logits, answers(model, IMAGES)[0])
    assert (relu.shape, pool.shape) == ((3, 8, 16, 16), (3, 8, 1, 1))
    assert len(model.graph.output) == 1


def test_float_tensors_are_the_input_and_what_nodes_make():
    model = build(
        """(float[N,3] x) => (float[N,3] y) {
        a = Relu(x) s = Shape(a) b = Reshape(a, s) c = Cast<to=7>(b) y = Neg(b) }"""
    )
    inferred = onnx.shape_inference.infer_shapes(model)
    assert float_tensors(inferred) == ["x", "a", "b", "y"]


# ------------------------------------------------------------------------------ probe


def test_shapes_are_those_of_one_image():
    for batch in ("N", 1, 4):
        seen = shapes_of(tiny_resnet(batch=batch), ["relu0", "pool", "logits"])
        assert seen == {"relu0": (1, 8, 16, 16), "pool": (1, 8, 1, 1), "logits": (1, 4)}


def test_open_sizes_are_taken_as_usual():
    model = build("(float[N,?,?,?] x) => (float[N,?,?,?] y) { y = Relu(x) }")
    assert image_size(model) == (3, 224, 224)
    assert shapes_of(model, ["y"]) == {"y": (1, 3, 224, 224)}
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert image_size(model) == (3, 224, 224)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[N,10] x) => (float[N,10] y) { y = Relu(x) }", "not an image classifier"),
        ("() => (float[1] y) { y = Identity(w) }", "takes no input"),
        ("(float[N,3,90000,90000] x) => (float[N,3] y) { y = Relu(x) }", "too large"),
        ("(float[N,3,4,4] x) => (float[N,3] y) { y = MatMul(x, w) }", "does not load"),
    ],
)
def test_a_model_that_no_image_fits_is_an_error_of_the_model(text, words):
    with pytest.raises(ModelError, match=words):
        shapes_of(build(text, w=(1,)), ["y"])


def test_the_noise_image_is_the_same_each_time_and_suits_the_model():
    seen = noise_image(tiny_resnet())
    assert (seen.shape, seen.dtype) == ((1, 3, 16, 16), np.float32)
    np.testing.assert_array_equal(seen, noise_image(tiny_resnet()))
    with pytest.raises(ModelError, match="not an image classifier"):
        noise_image(build("(float[N,10] x) => (float[N,10] y) { y = Relu(x) }"))
