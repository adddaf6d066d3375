"""The walk, on networks of a few matrix products written in numpy."""

from dataclasses import replace

import numpy as np
import pytest

from quantize.plan import Encoding
from quantize.repair.columns import matrix_columns
from quantize.repair.walk import Remedies, Step, bias_shift, walk

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


def dense(name, read, made, seen=None, **options):
    weight, bias = WEIGHTS[name], BIASES[name]

    def run(activations, other, moved):
        if seen is not None:
            seen.append(set(activations))
        w, b = weight if other is None else other, bias if moved is None else moved
        return [activations[read] @ w.T + b]

    def columns(value):
        return matrix_columns(value, outputs=len(weight))

    return Step((read,), (made,), run, name, weight, bias, columns, **options)


def relu(read, made, seen=None):
    def run(activations, _, __):
        if seen is not None:
            seen.append(set(activations))
        return [np.maximum(activations[read], 0)]

    return Step((read,), (made,), run)


def network(seen=None):
    return [dense("one", "x", "h", seen), relu("h", "r", seen), dense("two", "r", "y", seen)]


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
    return [
        np.abs((exact - rough).mean(axis=0, dtype=np.float64)).max()
        for exact, rough in zip(*both(repaired), strict=True)
    ]


def noise_of(repaired, layer):
    exact, rough = (values[layer] for values in both(repaired))
    return float(((exact - rough) ** 2).mean())


def walked(remedies, **options):
    return walk({"x": IMAGES}, network(), ENCODINGS, remedies, **options)


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
    assert max(mean_errors(walked(Remedies(bias=True)))) < 1e-5
    assert max(mean_errors(walked(ALL))) < 1e-5


def test_maps_have_a_mean_for_each_channel():
    x = np.random.default_rng(1).normal(1, 1, (5, 3, 4, 4)).astype(np.float32)
    weight = np.random.default_rng(2).normal(0, 1, (2, 3)).astype(np.float32)

    def run(activations, other, moved):
        w = weight if other is None else other
        b = np.zeros(2, np.float32) if moved is None else moved
        return [np.einsum("nchw,mc->nmhw", activations["x"], w) + b.reshape(1, -1, 1, 1)]

    step = Step(("x",), ("y",), run, "c", weight, np.zeros(2, np.float32))
    encodings = {"x": Encoding(np.float32(0.5), 4)}
    done = walk({"x": x}, [step], encodings, Remedies(bias=True))["c"]
    rough = (np.clip(np.rint(x / 0.5) + 4, 0, 255) - 4).astype(np.float32) * np.float32(0.5)
    [given] = run({"x": rough}, done.matrix, done.bias)
    [wanted] = run({"x": x}, None, None)
    np.testing.assert_allclose(given.mean(axis=(0, 2, 3)), wanted.mean(axis=(0, 2, 3)), atol=1e-5)


def test_an_operator_that_has_no_bias_is_not_corrected():
    steps = [dense("one", "x", "h", has_bias=False)]
    done = walk({"x": IMAGES}, steps, ENCODINGS, Remedies(bias=True))["one"]
    np.testing.assert_array_equal(done.bias, BIASES["one"])


def test_rounding_for_the_input_beats_the_nearest_integer():
    rounded, simple = (
        walked(Remedies(rounding=rounding, bias=True), limit=7) for rounding in (True, False)
    )
    assert noise_of(rounded, 0) < 0.75 * noise_of(simple, 0)
    assert noise_of(rounded, 1) < noise_of(simple, 1)


@pytest.mark.parametrize("limit", [63, 127])
@pytest.mark.parametrize("remedies", [Remedies(), ALL])
def test_weights_are_on_the_int8_grid(limit, remedies):
    for done in walked(remedies, limit=limit).values():
        assert (done.integers.dtype, done.scale.dtype) == (np.int8, np.float32)
        assert done.matrix.dtype == done.bias.dtype == np.float32
        assert np.abs(done.integers.astype(int)).max() <= limit
        np.testing.assert_array_equal(np.rint(done.matrix / done.scale[:, None]), done.integers)


def test_a_channel_of_tiny_weights_keeps_its_bias():
    """Biases are int32 in units of input scale times weight scale."""
    weight, bias = WEIGHTS["one"].copy(), BIASES["one"].copy()
    weight[3], weight[4], bias[3:5] = 0, 1e-20, 5.0

    def run(activations, other, moved):
        w, b = weight if other is None else other, bias if moved is None else moved
        return [activations[next(iter({"x", "m"} & set(activations)))] @ w.T + b]

    move = Step(("x",), ("m",), lambda activations, _, __: [activations["x"]])
    for read, before in (("x", []), ("m", [move])):
        layer = Step((read,), ("y",), run, "one", weight, bias)
        for remedies in (Remedies(), Remedies(scales=True, bias=True)):
            done = walk({"x": IMAGES}, [*before, layer], ENCODINGS, remedies)["one"]
            units = done.bias / (np.float64(ENCODINGS["x"].scale) * done.scale)
            assert np.abs(units).max() < 2**31
            np.testing.assert_allclose(done.bias[3:5], 5.0, atol=1e-4)
            np.testing.assert_allclose(done.scale[5], np.abs(weight[5]).max() / 127, rtol=0.41)


def test_activations_are_let_go_after_their_last_reader():
    seen = []
    walk({"x": IMAGES}, network(seen), ENCODINGS, ALL)
    assert all(len(names) <= 2 for names in seen)
    assert {"x"} in seen
    assert {"h"} in seen
    assert seen[-1] == {"r"}


def test_what_is_read_again_later_is_kept_until_then():
    seen = []

    def add(activations, _, __):
        seen.append(set(activations))
        return [activations["y"] + activations["h"][:, :8]]

    steps = [*network(seen), Step(("y", "h"), ("z",), add)]
    walk({"x": IMAGES}, steps, ENCODINGS, Remedies())
    assert {"h", "y"} == seen[-1]
    assert all("x" not in names for names in seen[-4:])


def test_the_walk_is_deterministic_and_leaves_its_input_alone():
    before = IMAGES.copy()
    one, two = walked(ALL), walked(ALL)
    np.testing.assert_array_equal(IMAGES, before)
    for name in one:
        np.testing.assert_array_equal(one[name].integers, two[name].integers)
        np.testing.assert_array_equal(one[name].bias, two[name].bias)


@pytest.mark.parametrize("shape", [(400, 3), (20, 3, 4, 5)])
@pytest.mark.parametrize("limits", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 2.0), (-np.inf, 1.0)])
def test_the_means_between_the_limits_are_made_equal(shape, limits):
    rng = np.random.default_rng(3)
    wanted = rng.normal(0.4, 1, shape).astype(np.float32)
    given = (0.9 * wanted + rng.normal(0.1, 0.2, shape)).astype(np.float32)
    shift = bias_shift(wanted, given, limits)
    axes = (0, *range(2, len(shape)))
    moved = given + shift.reshape(-1, *[1] * (len(shape) - 2))
    missing = (np.clip(wanted, *limits) - np.clip(moved, *limits)).mean(axis=axes)
    assert np.abs(missing).max() < 1e-4


def test_a_channel_that_is_always_cut_off_is_left_alone():
    wanted = np.full((10, 2), -5, np.float32)
    given = wanted + np.float32(1)
    np.testing.assert_array_equal(bias_shift(wanted, given, (0.0, np.inf)), [0, 0])
    np.testing.assert_allclose(bias_shift(wanted, given), [-1, -1])


def test_the_mean_behind_a_relu_counts():
    steps = network()
    steps[0] = replace(steps[0], limits=(0.0, np.inf))
    done = walk({"x": IMAGES}, steps, ENCODINGS, Remedies(bias=True))
    (exact, _), (rough, _) = both(done)
    error = (np.maximum(exact, 0) - np.maximum(rough, 0)).mean(axis=0, dtype=np.float64)
    assert np.abs(error).max() < 1e-4
    assert np.abs((exact - rough).mean(axis=0)).max() > 1e-3


def test_large_activations_are_thinned_out_without_harm():
    rng = np.random.default_rng(3)
    given = rng.normal(0.5, 1, (16, 3, 60, 60)).astype(np.float32)
    slope = np.linspace(0, 2, 60, dtype=np.float32)  # columns differ
    given += slope
    moved = np.array([0.3, -0.2, 0.05], np.float32).reshape(1, 3, 1, 1)
    shift = bias_shift(given + moved, given, (0.0, 2.0))
    np.testing.assert_allclose(shift, moved.reshape(-1), atol=1e-4)
    noisy = given + rng.normal(0, 0.05, given.shape).astype(np.float32)
    shift = bias_shift(given + moved, noisy, (0.0, 2.0))
    np.testing.assert_allclose(shift, moved.reshape(-1), atol=5e-3)
