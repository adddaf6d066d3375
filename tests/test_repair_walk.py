"""The walk, on networks of a few matrix products written in numpy."""

from dataclasses import replace

import numpy as np
import pytest

from quantize.plan import Encoding
from quantize.repair.columns import matrix_columns
from quantize.repair.gram import INTEGER_GRAM, grams_of
from quantize.repair.scales import WeightForm
from quantize.repair.walk import (
    POSITIONS,
    Plain,
    Remedies,
    Repairable,
    bias_shift,
    clipped_mean,
    sampled,
    stride_of,
    walk,
)
from quantize.runtime import Operator

ALL = Remedies(scales=True, rounding=True, bias=True)
RNG = np.random.default_rng(7)
HIDDEN = RNG.normal(0.5, 1, (64, 4)) @ RNG.normal(0, 0.7, (4, 12))
IMAGES = np.maximum(HIDDEN + RNG.normal(0, 0.1, (64, 12)), 0).astype(np.float32)
WEIGHTS = {
    "one": RNG.normal(0, 1, (10, 12)).astype(np.float32),
    "two": RNG.normal(0.2, 1, (8, 10)).astype(np.float32),
}
BIASES = {name: RNG.normal(0, 1, len(w)).astype(np.float32) for name, w in WEIGHTS.items()}
ENCODINGS = {
    "x": Encoding(np.float32(0.2), 0),
    "r": Encoding(np.float32(0.4), 0),
}


def integers(value, name):
    """The uint8 that the walk hands on for a rounded activation, float32 for another."""
    encoding = ENCODINGS.get(name)
    if encoding is None:
        return value.astype(np.float32)
    q = np.clip(np.rint(value / encoding.scale) + encoding.zero_point, 0, 255)
    return q.astype(np.uint8)


def reals(value, name):
    encoding = ENCODINGS.get(name)
    if encoding is None:
        return value
    return ((value.astype(np.float32) - encoding.zero_point) * encoding.scale).astype(np.float32)


def dense(name, read, made, seen=None, activation=None, **options):
    """A matrix product, in two pieces; `activation` are the limits behind it."""
    weight, bias = WEIGHTS[name], BIASES[name]
    low, high = activation or (-np.inf, np.inf)

    def run(tensors, w, b):
        if seen is not None:
            seen.append(set(tensors))
        given = reals(tensors[read], read) @ w.T + b
        return [given[:40], given[40:]]

    def finish(given, shift):
        return integers(np.clip(np.concatenate(given) + shift, low, high), made)

    def grams(value):
        return grams_of(matrix_columns(value), ENCODINGS.get(read), PRODUCT)

    options = {"limits": (low, high), "unit": float(ENCODINGS[read].scale), **options}
    return Repairable(name, (read,), (made,), weight, bias, run, finish, grams=grams, **options)


RELU = (0.0, np.inf)
PRODUCT = Operator(INTEGER_GRAM, threads=1, name="of the products")


def network(seen=None):
    return [dense("one", "x", "r", seen, activation=RELU), dense("two", "r", "y", seen)]


def means_of(*limits):
    """What the float network gives, behind the limits of each layer."""
    h = IMAGES @ WEIGHTS["one"].T + BIASES["one"]
    y = np.maximum(h, 0) @ WEIGHTS["two"].T + BIASES["two"]
    return {
        name: clipped_mean(value[..., None], limit)
        for name, value, limit in zip(("one", "two"), (h, y), limits, strict=True)
    }


def fake(value, name):
    encoding = ENCODINGS[name]
    integers = np.clip(np.rint(value / encoding.scale) + encoding.zero_point, 0, 255)
    return ((integers - encoding.zero_point) * encoding.scale).astype(np.float32)


def both(repaired):
    """(h, y) in float, and of the quantized copy with the repaired layers."""
    exact_h = IMAGES @ WEIGHTS["one"].T + BIASES["one"]
    exact_y = np.maximum(exact_h, 0) @ WEIGHTS["two"].T + BIASES["two"]
    one, two = repaired["one"], repaired["two"]
    rough_h = fake(IMAGES, "x") @ one.matrix.T + one.bias
    rough_y = fake(np.maximum(rough_h, 0), "r") @ two.matrix.T + two.bias
    return (exact_h, exact_y), (rough_h, rough_y)


def mean_errors(repaired):
    (h, y), (rough_h, rough_y) = both(repaired)
    pairs = ((np.maximum(h, 0), np.maximum(rough_h, 0)), (y, rough_y))
    return [np.abs((exact - rough).mean(axis=0, dtype=np.float64)).max() for exact, rough in pairs]


def noise_of(repaired, layer):
    exact, rough = (values[layer] for values in both(repaired))
    return float(((exact - rough) ** 2).mean())


def walked(remedies, steps=None, **options):
    limits = [step.limits for step in steps or network()]
    means = means_of(*limits, *[(-np.inf, np.inf)] * (2 - len(limits)))
    return walk({"x": integers(IMAGES, "x")}, steps or network(), means, remedies, **options)


def test_without_remedies_weights_round_to_nearest_and_biases_stay():
    found = walked(Remedies())
    assert list(found) == ["one", "two"]
    for name, weight in WEIGHTS.items():
        done = found[name]
        np.testing.assert_allclose(done.scale, np.abs(weight).max(axis=1) / 127, rtol=1e-6)
        np.testing.assert_array_equal(done.integers, np.rint(weight / done.scale[:, None]))
        np.testing.assert_array_equal(done.bias, BIASES[name])


def test_bias_correction_leaves_no_error_of_the_mean():
    """In every layer, though each reads what the quantized ones before it give."""
    assert min(mean_errors(walked(Remedies()))) > 0.004
    for remedies in (Remedies(bias=True), ALL):
        behind_relu, plain = mean_errors(walked(remedies))
        assert behind_relu < 1e-4
        assert plain < 1e-5


def test_maps_have_a_mean_for_each_channel():
    x = np.random.default_rng(1).normal(1, 1, (5, 3, 4, 4)).astype(np.float32)
    weight = np.random.default_rng(2).normal(0, 1, (2, 3)).astype(np.float32)
    rough = (np.clip(np.rint(x / 0.5) + 4, 0, 255) - 4).astype(np.float32) * np.float32(0.5)

    def product(images, w):
        return np.einsum("nchw,mc->nmhw", images, w)

    def run(tensors, w, b):
        return [product(rough, w) + b.reshape(1, -1, 1, 1)]

    step = Repairable(
        "c", ("x",), ("y",), weight, np.zeros(2, np.float32), run, lambda given, _: given[0]
    )
    wanted = product(x, weight)
    means = {"c": wanted.mean(axis=(0, 2, 3), dtype=np.float64)}
    done = walk({"x": x}, [step], means, Remedies(bias=True))["c"]
    [given] = run({}, done.matrix, done.bias)
    np.testing.assert_allclose(given.mean(axis=(0, 2, 3)), means["c"], atol=1e-5)


def test_an_operator_that_has_no_bias_is_not_corrected():
    steps = [dense("one", "x", "r", has_bias=False)]
    done = walked(Remedies(bias=True), steps)["one"]
    np.testing.assert_array_equal(done.bias, BIASES["one"])


def test_rounding_for_the_input_beats_the_nearest_integer():
    rounded, simple = (
        walked(Remedies(rounding=rounding, bias=True), form=WeightForm(7))
        for rounding in (True, False)
    )
    assert noise_of(rounded, 0) < 0.75 * noise_of(simple, 0)
    assert noise_of(rounded, 1) < noise_of(simple, 1)


@pytest.mark.parametrize("limit", [63, 127])
@pytest.mark.parametrize("remedies", [Remedies(), ALL])
def test_weights_are_on_the_int8_grid(limit, remedies):
    for done in walked(remedies, form=WeightForm(limit)).values():
        assert (done.integers.dtype, done.scale.dtype) == (np.int8, np.float32)
        assert done.matrix.dtype == done.bias.dtype == np.float32
        assert np.abs(done.integers.astype(int)).max() <= limit
        np.testing.assert_array_equal(np.rint(done.matrix / done.scale[:, None]), done.integers)


def test_a_channel_of_tiny_weights_keeps_its_bias():
    """Biases are int32 in units of input scale times weight scale."""
    step = dense("one", "x", "r")
    weight, bias = step.weight.copy(), step.bias.copy()
    weight[3], weight[4], bias[3:5] = 0, 1e-20, 5.0
    for remedies in (Remedies(), Remedies(scales=True)):
        done = walked(remedies, [replace(step, weight=weight, bias=bias)])["one"]
        units = done.bias / (np.float64(ENCODINGS["x"].scale) * done.scale)
        assert np.abs(units).max() < 2**31
        np.testing.assert_allclose(done.bias[3:5], 5.0, atol=1e-4)
        np.testing.assert_allclose(done.scale[5], np.abs(weight[5]).max() / 127, rtol=0.41)
    free = walked(Remedies(), [replace(step, weight=weight, bias=bias, unit=0.0)])["one"]
    assert np.abs(free.bias / (np.float64(ENCODINGS["x"].scale) * free.scale)).max() > 2**31


def test_activations_are_let_go_after_their_last_reader():
    seen = []
    walked(ALL, network(seen))
    assert seen == [{"x"}, {"r"}]


def test_what_is_read_again_later_is_kept_until_then():
    seen = []

    def add(tensors):
        seen.append(set(tensors))
        return [tensors["y"] + reals(tensors["r"], "r")[:, :8]]

    steps = [*network(seen), Plain(("y", "r"), ("z",), add)]
    means = means_of(RELU, (-np.inf, np.inf))
    walk({"x": integers(IMAGES, "x")}, steps, means, Remedies())
    assert seen == [{"x"}, {"r"}, {"r", "y"}]


def test_the_walk_is_deterministic_and_leaves_its_input_alone():
    before = IMAGES.copy()
    one, two = walked(ALL), walked(ALL)
    np.testing.assert_array_equal(IMAGES, before)
    for name in one:
        np.testing.assert_array_equal(one[name].integers, two[name].integers)
        np.testing.assert_array_equal(one[name].bias, two[name].bias)


@pytest.mark.parametrize("limits", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 2.0), (-np.inf, 1.0)])
def test_the_means_between_the_limits_are_made_equal(limits):
    rng = np.random.default_rng(3)
    wanted = rng.normal(0.4, 1, (20, 3, 20)).astype(np.float32)
    given = (0.9 * wanted + rng.normal(0.1, 0.2, wanted.shape)).astype(np.float32)
    target = clipped_mean(wanted, limits)
    np.testing.assert_allclose(target, np.clip(wanted, *limits).mean(axis=(0, 2)), atol=1e-6)
    shift = bias_shift(target, given, limits)
    moved = given + shift.reshape(-1, 1)
    missing = (np.clip(wanted, *limits) - np.clip(moved, *limits)).mean(axis=(0, 2))
    assert np.abs(missing).max() < 1e-4


def test_a_channel_that_is_always_cut_off_is_left_alone():
    given = np.full((10, 2, 1), -4, np.float32)
    np.testing.assert_array_equal(bias_shift(np.zeros(2), given, (0.0, np.inf)), [0, 0])
    np.testing.assert_allclose(bias_shift(np.full(2, -5.0), given), [-1, -1])


def test_the_mean_behind_a_relu_counts():
    (exact, _), (rough, _) = both(walked(Remedies(bias=True)))
    error = (np.maximum(exact, 0) - np.maximum(rough, 0)).mean(axis=0, dtype=np.float64)
    assert np.abs(error).max() < 1e-4
    assert np.abs((exact - rough).mean(axis=0)).max() > 1e-3


@pytest.mark.parametrize("shape", [(16, 3, 60, 60), (40, 2, 57, 19), (5, 4, 3, 3), (7, 4)])
def test_large_activations_are_thinned_out_without_harm(shape):
    """However they are cut into pieces; and all columns are seen."""
    values = np.random.default_rng(3).normal(0.5, 1, shape).astype(np.float32)
    whole = sampled(values, len(values))
    pieces = [sampled(values[:4], len(values)), sampled(values[4:], len(values))]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    per_channel = whole.shape[0] * whole.shape[2]
    of_all = values[:, 0].size
    assert per_channel == of_all if of_all <= POSITIONS else 0.7 < per_channel / POSITIONS < 2.1
    if values.ndim == 4:
        step = stride_of(len(values), shape)
        assert {at % shape[3] for at in range(0, shape[2] * shape[3], step)} == set(range(shape[3]))
