"""Ranges are exact: those of the tensors that onnxruntime gives, over all images."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import answers, build, noise
from models import tiny_resnet
from quantize.calibrate import calibrate
from quantize.errors import ModelError
from quantize.graph.expose import float_tensors, with_outputs
from quantize.graph.prepare import prepare
from quantize.plan import Range
from quantize.probe import run_once

IMAGES = noise(17, 3, 16, 16)


@pytest.fixture(scope="module")
def ready():
    return prepare(tiny_resnet(), run_once, (3, 16, 16)).model


@pytest.fixture(scope="module")
def exact(ready):
    """Ranges by fetching every tensor, one image at a time."""
    opened = with_outputs(ready, [name for name in float_tensors(ready) if name != "data"])
    names = [value.name for value in opened.graph.output]
    ranges = {"data": Range(float(IMAGES.min()), float(IMAGES.max()))}
    for image in IMAGES:
        for name, value in zip(names, answers(opened, image[None]), strict=True):
            seen = Range(float(value.min()), float(value.max()))
            ranges[name] = ranges[name].merge(seen) if name in ranges else seen
    return ranges


@given(cuts=st.lists(st.integers(1, 16), unique=True))
@settings(max_examples=15, deadline=None)
def test_ranges_are_exact_however_images_are_batched(ready, exact, cuts):
    batches = np.split(IMAGES, sorted(cuts))
    seen = calibrate(ready, iter(batches), threads=1)
    assert seen.images == 17
    assert dict(seen.ranges) == exact


def test_threads_do_not_change_ranges(ready, exact):
    assert dict(calibrate(ready, [IMAGES], threads=2).ranges) == exact


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_a_fixed_batch_gives_the_same_ranges_and_count(ready, exact, batch):
    fixed = onnx.ModelProto.FromString(ready.SerializeToString())
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    seen = calibrate(fixed, [IMAGES[:5], IMAGES[5:]], threads=1)
    assert seen.images == 17
    assert dict(seen.ranges) == exact


def test_every_float_tensor_has_a_range(ready):
    seen = calibrate(ready, [IMAGES], threads=1)
    made = {name for node in ready.graph.node for name in node.output}
    assert set(seen.ranges) == made | {"data"}


def test_the_model_is_not_changed(ready):
    before = ready.SerializeToString()
    calibrate(ready, [IMAGES], threads=1)
    assert ready.SerializeToString() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 1, 7, 30, 47])
def test_a_value_that_is_not_finite_is_named_wherever_it_is(value, position):
    model = build("(float[N,3,4,4] x) => (float[N,3,4,4] y) { a = Add(x, k) y = Relu(a) }", k=(1,))
    images = noise(4, 3, 4, 4)
    images[2].flat[position] = value
    with pytest.raises(ModelError, match="tensor 'x' is not finite on the calibration images"):
        calibrate(model, [images[:2], images[2:]], threads=1)


def test_a_nan_that_an_activation_swallows_is_named_too():
    model = build(
        """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
        hidden = Sqrt(x) n = IsNaN(hidden) y = Where(n, x, hidden) }"""
    )
    model = onnx.shape_inference.infer_shapes(model)
    with pytest.raises(ModelError, match="tensor 'hidden' is not finite"):
        calibrate(model, [noise(4, 3, 4, 4)], threads=1)


def test_images_that_do_not_fit_are_an_error_of_the_model(ready):
    with pytest.raises(ModelError, match="the calibration graph fails on images"):
        calibrate(ready, [noise(2, 3, 8, 16)[:, :1]], threads=1)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 9)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_merged_ranges_span_all(pairs):
    ranges = [Range(low, low + width) for low, width in pairs]
    merged = ranges[0]
    for other in ranges[1:]:
        merged = merged.merge(other)
    assert merged == Range(min(r.low for r in ranges), max(r.high for r in ranges))
