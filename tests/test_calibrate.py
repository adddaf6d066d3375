"""Statistics are those of the tensors that onnxruntime gives, over all images."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import answers, build, noise
from models import prepared, resnet50_v1, tiny_dataset, tiny_resnet
from quantize.calibrate import calibrate
from quantize.errors import ModelError
from quantize.graph.expose import float_tensors, with_outputs
from quantize.graph.points import quantization_points
from quantize.graph.prepare import prepare
from quantize.histogram import MOST_COUNTED, ZERO, Counter
from quantize.plan import Range, Statistics
from quantize.probe import run_once
from quantize.runtime import Session

ROOT = Path(__file__).parent.parent

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


# ------------------------------------------------------------------- histograms, means


def fetch(model, images):
    """Every float tensor, all images together."""
    names = float_tensors(model)
    opened = with_outputs(model, names[1:])
    found = dict(zip([v.name for v in opened.graph.output], answers(opened, images), strict=True))
    return {names[0]: images, **found}


def counted(values):
    counter = Counter()
    counter.add("x", np.ascontiguousarray(values).reshape(-1))
    return counter.counts("x")


def assert_equal_statistics(one, other):
    assert one.images == other.images
    assert dict(one.ranges) == dict(other.ranges)
    assert one.histograms.keys() == other.histograms.keys()
    for name, counts in one.histograms.items():
        np.testing.assert_array_equal(counts, other.histograms[name])
    assert one.means.keys() == other.means.keys()
    for name, mean in one.means.items():
        np.testing.assert_allclose(mean, other.means[name], rtol=1e-9, atol=1e-12)


def test_histograms_count_every_value_of_every_point(ready):
    seen = calibrate(ready, [IMAGES[:4], IMAGES[4:]], threads=1)
    values = fetch(ready, IMAGES)
    assert tuple(seen.histograms) == quantization_points(ready)
    for name, counts in seen.histograms.items():
        np.testing.assert_array_equal(counts, counted(values[name]))
        assert counts.sum() == values[name].size


def test_means_are_those_of_each_layers_input_channels(ready):
    seen = calibrate(ready, [IMAGES], threads=1)
    values = fetch(ready, IMAGES)
    read = {node.name: node.input[0] for node in ready.graph.node if node.op_type == "Conv"}
    assert set(seen.means) == {*read, *(n.name for n in ready.graph.node if n.op_type == "Gemm")}
    for layer, name in read.items():
        exact = values[name].mean(axis=(0, 2, 3), dtype=np.float64)
        np.testing.assert_allclose(seen.means[layer], exact, rtol=1e-5, atol=1e-6)
    [gemm] = set(seen.means) - set(read)
    np.testing.assert_allclose(
        seen.means[gemm], values["flatten"].mean(axis=0, dtype=np.float64), rtol=1e-5
    )


def test_clipped_and_last_axis_inputs_have_their_means():
    model = build(
        """(float[N,3,6,6] x) => (float[N,4,6,2] y) {
        a = Conv<kernel_shape=[1,1]>(x, k) c = Clip(a, low, high)
        b = Conv<kernel_shape=[1,1]>(c, l) y = MatMul(b, w) }""",
        k=(4, 3, 1, 1),
        l=(4, 4, 1, 1),
        w=(6, 2),
        low=np.array(-0.1, np.float32),
        high=np.array(0.3, np.float32),
    )
    model = onnx.shape_inference.infer_shapes(model)
    for node in model.graph.node:
        node.name = node.output[0]
    images = noise(5, 3, 6, 6)
    seen, values = calibrate(model, [images], threads=1), fetch(model, images)
    by_input = {node.input[0]: node.name for node in model.graph.node}
    for name, axes in (("x", (0, 2, 3)), ("c", (0, 2, 3)), ("b", (0, 1, 2))):
        exact = values[name].mean(axis=axes, dtype=np.float64)
        np.testing.assert_allclose(seen.means[by_input[name]], exact, rtol=1e-5, atol=1e-7)
    assert seen.ranges["c"] == Range(float(np.float32(-0.1)), float(np.float32(0.3)))


@given(cut=st.integers(0, 17), size=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_statistics_of_two_halves_merge_to_those_of_the_whole(ready, cut, size):
    def over(images):
        starts = range(0, len(images), size)
        return calibrate(ready, (images[s : s + size] for s in starts), threads=1)

    whole = calibrate(ready, [IMAGES], threads=1)
    assert_equal_statistics(over(IMAGES[:cut]).merge(over(IMAGES[cut:])), whole)
    assert_equal_statistics(over(IMAGES), whole)


def test_neither_batch_nor_threads_change_a_bit(ready):
    one = calibrate(ready, [IMAGES], threads=1)
    other = calibrate(ready, (image[None] for image in IMAGES), threads=2)
    for layer, mean in one.means.items():
        np.testing.assert_array_equal(mean, other.means[layer])
    assert_equal_statistics(one, other)


def test_a_fixed_batch_counts_no_filling(ready):
    fixed = onnx.ModelProto.FromString(ready.SerializeToString())
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    assert_equal_statistics(
        calibrate(fixed, [IMAGES], threads=1), calibrate(ready, [IMAGES], threads=1)
    )


def test_statistics_of_different_models_do_not_merge(ready):
    seen = calibrate(ready, [IMAGES], threads=1)
    for other in (
        Statistics({**seen.ranges, "new": Range(0, 1)}, 1, seen.histograms, seen.means),
        Statistics(seen.ranges, 1, {}, seen.means),
        Statistics(seen.ranges, 1, seen.histograms, {}),
    ):
        with pytest.raises(ValueError, match="different models"):
            seen.merge(other)
    nothing = calibrate(ready, [], threads=1)
    assert seen.merge(nothing) is seen
    assert nothing.merge(seen) is seen


def test_of_a_large_tensor_an_even_share_is_counted():
    model = build(
        "(float[N,3,300,300] x) => (float[N,3,300,300] y) { y = LeakyRelu<alpha=0.5>(x) }"
    )
    images = noise(2, 3, 300, 300)
    seen = calibrate(onnx.shape_inference.infer_shapes(model), [images], threads=1)
    counts = seen.histograms["x"]
    assert MOST_COUNTED < counts.sum() <= 2 * MOST_COUNTED
    assert seen.ranges["x"] == Range(float(images.min()), float(images.max()))
    below = counts[:ZERO].sum() / counts.sum()
    assert below == pytest.approx((images < 0).mean(), abs=0.01)


def test_a_scalar_tensor_is_no_obstacle():
    model = build(
        """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
        m = ReduceMax<keepdims=0>(x) y = Add(x, m) }"""
    )
    images = noise(3, 3, 4, 4)
    seen = calibrate(onnx.shape_inference.infer_shapes(model), [images[:1]], threads=1)
    highest = float(images[:1].max())
    assert seen.ranges["m"] == Range(highest, highest)


# ------------------------------------------------------------------------------- cost

MEMORY = """
import sys
import numpy as np, onnx
from quantize.calibrate import calibrate

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def images(few, many, size):
    rng = np.random.default_rng(0)
    for index in range(many):
        yield rng.standard_normal((1, 3, size, size), dtype=np.float32)
        if index + 1 in (few, many):
            print(resident())

few, many, size = map(int, sys.argv[2:])
calibrate(onnx.load(sys.argv[1]), images(few, many, size), threads=1)
"""


def memory(model, tmp_path, few, many, size):
    """Anonymous memory in kB after few and after many images, in a process of its own."""
    onnx.save(model, tmp_path / "model.onnx")
    command = [sys.executable, "-c", MEMORY, tmp_path / "model.onnx", few, many, size]
    run = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=True
    )
    return list(map(int, run.stdout.split()))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    model = prepare(tiny_resnet(32, 64), run_once, (3, 64, 64)).model
    few, many = memory(model, tmp_path, 20, 160, 64)
    assert many <= 1.05 * few


@pytest.fixture(scope="module")
def resnet():
    return prepare(resnet50_v1(), run_once, (3, 224, 224)).model


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_for_400_images_of_a_resnet50_is_that_for_50(resnet, tmp_path):
    few, many = memory(resnet, tmp_path, 50, 400, 224)
    assert many <= 1.05 * few


@pytest.mark.slow
def test_calibrating_a_resnet50_costs_little_more_than_its_inference(resnet):
    """Processor time at one thread, by turns: under 2 when quiet; the bound catches defects."""
    images = prepared(tiny_dataset(4, 4, 224, seed=5))
    plain = Session(resnet.SerializeToString(), threads=1)
    ratios = []

    def by_turns():
        for image in [*images, *images]:
            start = time.process_time()
            plain.run(image[None])
            middle = time.process_time()
            yield image[None]
            ratios.append((time.process_time() - middle) / (middle - start))

    calibrate(resnet, by_turns(), threads=1)
    print(f"calibration costs {np.median(ratios[2:]):.2f} times the plain inference")
    assert np.median(ratios[2:]) <= 3
