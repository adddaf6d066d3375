"""What a file computes as it came: names, order and pieces."""

import numpy as np
import pytest

from graphs import answers, build, noise, norm
from models import tiny_resnet
from old_models import old_resnet18
from quantize.calibrate import calibrate
from quantize.conversion.old_reference import reference
from quantize.engines import ort
from quantize.errors import ModelError
from quantize.graph.expose import with_outputs
from quantize.graph.prepare import prepare
from quantize.plan import Plan, Scheme
from quantize.probe import run_once


@pytest.mark.parametrize("version", [3, 6, 7, 12])
def test_every_tensor_that_follows_from_the_image_in_the_order_of_the_graph(version):
    model = old_resnet18(version)
    found = reference(model, 1)(noise(2, 3, 32, 32))
    assert list(found) == [node.output[0] for node in model.graph.node]
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    assert {len(value) for value in found.values()} == {2}


def test_onnxruntime_runs_the_original_itself():
    model = tiny_resnet(opset=9)
    images = noise(3, 3, 16, 16)
    names = [node.output[0] for node in model.graph.node]
    exposed = with_outputs(model, names)
    found = reference(model, None)(images)
    assert list(found) == names
    values = zip((v.name for v in exposed.graph.output), answers(exposed, images), strict=True)
    for name, value in values:
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_numpy_and_onnxruntime_agree():
    """The same weights and graph, as opset 6 and as 7."""
    images = noise(2, 3, 32, 32)
    old, new = (reference(old_resnet18(version), 1)(images) for version in (6, 7))
    assert list(old) == list(new)
    for name, value in old.items():
        np.testing.assert_allclose(value, new[name], atol=1e-4)


def test_weights_and_masks_are_no_tensors_of_the_image():
    model = build(
        """(float[N,3] x) => (float[N,3] y, float[3] z) {
        z = Relu(k) a, mask = Dropout<ratio=0.5>(x) y = Add(a, z) }""",
        opset=9,
        k=(3,),
    )
    found = reference(model, None)(noise(2, 3))
    assert {"a", "y"} <= set(found)
    assert "mask" not in found


def test_what_has_no_batch_axis_is_left_out_of_pieces():
    model = build("(float[1,3] x) => (float[1,3] y) { a = Transpose(x) y = Relu(x) }", opset=9)
    assert list(reference(model, 1)(noise(2, 3))) == ["y"]


@pytest.mark.parametrize("version", [6, 8])
def test_the_model_is_not_changed(version):
    model = build(
        """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
        y = BatchNormalization<spatial=0>(x, gamma, beta, mean, var) }""",
        opset=version,
        **norm(3),
    )
    before = model.SerializeToString()
    reference(model, None)(noise(2, 3, 4, 4))
    assert model.SerializeToString() == before


def test_a_tensor_made_twice_is_refused():
    model = build("(float[N,3] x) => (float[N,3] y) { y = Relu(x) z = Abs(x) }", opset=6)
    model.graph.node[1].output[0] = "y"
    with pytest.raises(ModelError, match="'y' in two places"):
        reference(model, None)


def test_a_cycle_is_refused():
    model = build(
        "(float[N,3] x) => (float[N,3] y) { a = Add(x, b) b = Relu(a) y = Abs(b) }", opset=6
    )
    with pytest.raises(ModelError, match="reads 'b', which nothing makes"):
        reference(model, None)(noise(2, 3))


def test_an_int8_file_is_run_as_it_is():
    """Asked for every tensor, onnxruntime fuses less, and halves are rounded to the other side."""
    model = prepare(tiny_resnet(), run_once, (3, 16, 16)).model
    images = noise(4, 3, 16, 16)
    plan = Plan("onnxruntime", "qdq", Scheme())
    made = ort.quantize(model, calibrate(model, [images], threads=1), plan)
    found = reference(made, None)(images)
    assert list(found) == ["logits"]
    np.testing.assert_array_equal(found["logits"], answers(made, images)[0])
