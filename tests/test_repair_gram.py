"""Gram matrices are what float64 gives, of integers to the last digit."""

import time

import numpy as np
import pytest

from graphs import noise
from models import prepared, resnet50_v1, tiny_dataset
from quantize.calibrate import calibrate
from quantize.graph.prepare import prepare
from quantize.plan import Encoding, Plan
from quantize.probe import run_once
from quantize.remedies import repair
from quantize.repair import stages
from quantize.repair.bench import Bench
from quantize.repair.gram import INTEGER_GRAM, grams_of
from quantize.runtime import Operator, Session


@pytest.fixture(scope="module", params=[1, 2])
def product(request):
    return Operator(INTEGER_GRAM, threads=request.param, name="of the products")


def exact(columns):
    """The sums in float64, straight from the formula."""
    reals = columns.astype(np.float64)
    return np.einsum("gpi,gpj->gij", reals, reals)


@pytest.mark.parametrize("shape", [(1, 70, 5), (3, 1, 4), (2, 40, 300), (16, 9, 9)])
@pytest.mark.parametrize("zero_point", [0, 7, 255])
def test_integers_are_multiplied_without_an_error(product, shape, zero_point):
    columns = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    encoding = Encoding(np.float32(0.1), zero_point)
    [(groups, found)] = grams_of(iter([(slice(0, shape[0]), columns)]), encoding, product)
    assert groups == slice(0, shape[0])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, exact(columns.astype(np.int64) - zero_point))


@pytest.mark.parametrize("zero_point", [0, 255])
def test_the_largest_integers_neither_saturate_nor_leave_32_bits(product, zero_point):
    columns = np.full((1, 70_000, 3), 255 - zero_point, np.uint8)
    columns[:, ::2, 1] = 0
    encoding = Encoding(np.float32(1), zero_point)
    [(_, found)] = grams_of(iter([(slice(0, 1), columns)]), encoding, product)
    np.testing.assert_array_equal(found, exact(columns.astype(np.int64) - zero_point))
    assert found.max() > 2**31


def test_reals_are_multiplied_in_float64(product):
    columns = noise(3, 50, 7)
    parts = iter([(slice(0, 2), columns[:2]), (slice(2, 3), columns[2:])])
    found = np.concatenate([gram for _, gram in grams_of(parts, None, product)])
    np.testing.assert_allclose(found, exact(columns), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_those_of_a_resnet50_cost_no_multiple_of_its_inference(monkeypatch):
    """Processor time at one thread while rounding all 54 layers, plain before and after."""
    model = prepare(resnet50_v1(), run_once, (3, 224, 224)).model
    images = prepared(tiny_dataset(4, 8, 224, seed=5))
    statistics = calibrate(model, [images[:16]], threads=1)
    plain = Session(model.SerializeToString(), threads=1)
    seconds = {"plain": 0.0, "grams": 0.0}
    layers = []

    def taken(name, work):
        start = time.process_time()
        try:
            return work()
        finally:
            seconds[name] += time.process_time() - start

    def watched(columns, encoding, product):
        layers.append(encoding)
        grams = grams_of(columns, encoding, product)
        while (one := taken("grams", lambda: next(grams, None))) is not None:
            yield one

    def infer():
        for image in images:
            taken("plain", lambda image=image: plain.run(image[None]))

    monkeypatch.setattr(stages, "grams_of", watched)
    plain.run(images[:1])
    infer()
    repair(Bench(model, statistics, images, 1), Plan("onnxruntime", "qdq", repairs=("rounding",)))
    infer()
    ratio = 2 * seconds["grams"] / seconds["plain"]
    print(f"Gram matrices cost {ratio:.2f} times the plain inference of {len(images)} images")
    assert len(layers) == 54
    assert ratio <= 5  # under 3 when quiet; this only catches defects
