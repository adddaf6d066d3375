"""Cross-layer equalization: the factors by themselves, and on small networks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import answers, build, noise
from quantize.graph.expose import with_outputs
from quantize.graph.layers import constants_of
from quantize.graph.prepare import prepare
from quantize.probe import run_once
from quantize.repair.channels import equalized as equalized_and_moved
from quantize.repair.equalize import Channels, equalize, scaled_constants

IMAGES = noise(24, 3, 8, 8, seed=5)
SKEW = np.array([1, 1 / 4, 1 / 16, 1 / 50, 1, 1 / 2, 1 / 30, 1 / 9], np.float32)


def channels(high, square=None):
    high = np.asarray(high, np.float64)
    return Channels(high, np.square(high) / 4 if square is None else np.asarray(square, float))


# -------------------------------------------------------------------------- the factors


@settings(deadline=None, max_examples=60)
@given(
    high=st.lists(st.floats(0, 1e3), min_size=2, max_size=9),
    seed=st.integers(0, 999),
    depthwise=st.booleans(),
)
def test_factors_only_grow_channels_and_keep_the_range(high, seed, depthwise):
    rng = np.random.default_rng(seed)
    shape = (len(high), 1, 3, 3) if depthwise else (5, len(high), 1, 1)
    found = equalize(
        channels(high), rng.normal(0, 1, shape).astype(np.float32), depthwise=depthwise
    )
    assert (found.factors >= 1).all()
    assert np.isfinite(found.factors).all()
    assert (found.factors * high).max() <= max(high) * (1 + 1e-9)
    assert (found.factors[np.asarray(high) == 0] == 1).all()
    if found.exponent == 0:
        assert (found.factors == 1).all()


@pytest.mark.parametrize("depthwise", [False, True])
def test_unequal_channels_that_matter_equally_become_equal(depthwise):
    high = np.array([8.0, 1.0, 0.1])
    weight = np.ones((3, 1, 1, 1) if depthwise else (4, 3, 1, 1), np.float32)
    weight /= high.reshape((3, 1, 1, 1) if depthwise else (1, 3, 1, 1)).astype(np.float32)
    found = equalize(channels(high), weight, depthwise=depthwise)
    assert found.exponent == 1
    np.testing.assert_allclose(found.factors, [1, 8, 80])


def test_equal_channels_stay():
    weight = np.random.default_rng(0).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    found = equalize(channels([2.0, 2.0, 2.0]), weight, depthwise=False)
    assert (found.exponent, found.factors.tolist()) == (0, [1, 1, 1])


def test_a_small_channel_that_hardly_matters_stays():
    """It would gain nothing, and the rounding of the weights that read it would cost more."""
    weight = np.ones((4, 2, 1, 1), np.float32)
    weight[:, 1] = 1e-6
    assert equalize(channels([1.0, 0.01]), weight, depthwise=False).exponent == 0


def test_an_ordinary_layer_has_to_gain_half_of_the_noise():
    weight = np.ones((4, 2, 1, 1), np.float32)
    for share, exponent in ((0.9, 0), (0.1, 1)):
        weight[:, 1] = 1 / share
        assert equalize(channels([1.0, share]), weight, depthwise=False).exponent == exponent
        own = weight[0].reshape(2, 1, 1, 1)
        assert equalize(channels([1.0, share]), own, depthwise=True).exponent == 1


def test_maxima_have_room_where_two_halves_of_the_images_differ():
    one, other = channels([8.0, 1.0, 2.0, 5.0]), channels([8.0, 2.0, 2.0, 8.0])
    for found in (one.with_room(other), other.with_room(one)):
        assert found.high.tolist() == [8, 3, 2, 8]
        np.testing.assert_allclose(found.square, (one.square + other.square) / 2)


def test_dead_channels_have_no_part_in_it():
    weight = np.ones((4, 3, 1, 1), np.float32)
    assert equalize(channels([0.0, 0.0, 0.0]), weight, depthwise=False).exponent == 0
    weight[:, 2] = 10
    found = equalize(channels([1.0, 0.0, 0.1]), weight, depthwise=False)
    assert found.exponent > 0
    assert found.factors[:2].tolist() == [1, 1]
    assert found.factors[2] > 1


def test_a_factor_has_an_end():
    weight = np.ones((2, 1, 1, 1), np.float32)
    found = equalize(channels([1.0, 1e-9]), weight, depthwise=True)
    assert found.factors.max() <= 4096


def test_channels_of_two_sets_of_images_merge_to_those_of_all():
    values = np.random.default_rng(1).uniform(0, 1, (10, 4))

    def of(some):
        return Channels(some.max(axis=0), (some**2).mean(axis=0))

    merged, whole = of(values[:4]).merge(of(values[4:]), 0.6), of(values)
    np.testing.assert_allclose(merged.high, whole.high)
    np.testing.assert_allclose(merged.square, whole.square)


def test_constants_are_scaled_along_their_axes():
    factors = np.array([1.0, 2.0])
    first, second = np.ones((2, 3, 1, 1), np.float32), np.ones((4, 2, 3, 3), np.float32)
    bias = np.array([1, 1], np.float32)
    grown, moved, shrunk = scaled_constants(factors, (first, bias), second, axes=(0, 1))
    assert {a.dtype for a in (grown, moved, shrunk)} == {np.dtype(np.float32)}
    assert grown[:, 0, 0, 0].tolist() == [1, 2]
    assert moved.tolist() == [1, 2]
    assert shrunk[0, :, 0, 0].tolist() == [1, 0.5]
    assert scaled_constants(factors, (first, None), second, axes=(0, 1))[1] is None


# ------------------------------------------------------------------------- on a network


def network(between="Relu(h)", second="Conv(r, v)", skew=SKEW, **shapes):
    """Two convolutions whose common channels are scaled by `skew` and back."""
    clip = between.startswith("Clip")
    rng = np.random.default_rng(3)
    w = rng.normal(0, 0.5, (8, 3, 3, 3)).astype(np.float32)
    b = rng.normal(0.3, 0.3, 8).astype(np.float32)
    v = rng.normal(0, 0.5, shapes.get("v", (6, 8, 1, 1))).astype(np.float32)
    axis = (-1, 1, 1, 1) if v.shape[1] == 1 else (1, -1, 1, 1)
    if not clip:  # with a Clip, scaling back would be another function
        v = v / skew.reshape(axis)
    return prepare(
        build(
            f"""(float[N,3,8,8] x) => (float[N,M] y) {{
                [a] h = Conv(x, w, b)
                [m] r = {between}
                [c] g = {second}
                p = GlobalAveragePool(g)
                y = Flatten(p)
            }}""",
            w=w * skew.reshape(-1, 1, 1, 1),
            b=b * skew,
            v=v,
            zero=np.float32(0),
            six=np.float32(6),
        ),
        run_once,
        (3, 8, 8),
    ).model


def equalized(model, pinned=()):
    return equalized_and_moved(model, IMAGES, pinned=frozenset(pinned))[0]


def highs(model):
    names = ["r"]
    values = answers(with_outputs(model, names), IMAGES)
    return values[1].max(axis=(0, 2, 3))


FORMS = {
    "relu": {},
    "clip": {"between": "Clip(h, zero, six)"},
    "depthwise": {"second": "Conv<group=8>(r, v)", "v": (8, 1, 3, 3)},
    "depthwise clip": {
        "between": "Clip(h, zero, six)",
        "second": "Conv<group=8>(r, v)",
        "v": (8, 1, 3, 3),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_function_stays_and_channels_become_more_equal(form):
    model = network(**FORMS[form])
    made = equalized(model)
    exact = answers(model, IMAGES)[0]
    np.testing.assert_allclose(answers(made, IMAGES)[0], exact, atol=1e-5 * np.abs(exact).max())
    before, after = highs(model), highs(made)
    assert before.max() / before.min() > 20
    assert after.max() / after.min() < 0.5 * before.max() / before.min()
    np.testing.assert_allclose(after.max(), before.max(), rtol=1e-5)


def test_planted_differences_are_undone():
    """With full exponents every channel comes near the range's end, as without the plant."""
    model = network(**FORMS["depthwise"])
    assert highs(model).min() < 0.03 * highs(model).max()
    after = highs(equalized(model))
    assert 0.7 * after.max() < after.min() < 0.99 * after.max()  # with room for other images


def same_constants(model, made):
    one, two = constants_of(model), constants_of(made)
    return all(np.array_equal(one[name], two[name]) for name in one)


def test_equal_channels_leave_the_model_as_it_is():
    model = network(skew=np.ones(8, np.float32))
    scale = highs(model)
    model = network(skew=(1 / scale).astype(np.float32))
    made = constants_of(equalized(model))
    for name, value in constants_of(model).items():
        np.testing.assert_allclose(made[name], value, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"between": "Sigmoid(h)"},
        {"between": "LeakyRelu(h)"},
        {"between": "Clip(h, six, six)"},
        {"between": "Clip(h)"},
        {"between": "Relu(h) s = Add(r, h)"},
        {"between": "Relu(h) [e] s = MaxPool<kernel_shape=[1,1]>(r)", "second": "Conv(s, v)"},
        {"second": "Conv<group=2>(r, v)", "v": (6, 4, 1, 1)},
        {"second": "Conv<group=4>(r, v)", "v": (4, 2, 1, 1)},
    ],
    ids=["sigmoid", "leaky", "high clip", "open clip", "add", "pool", "groups", "wide groups"],
)
def test_pairs_that_cannot_be_equalized_are_left_alone(options):
    model = network(**options) if "v" not in options else grouped(**options)
    assert same_constants(model, equalized(model))


def grouped(second, v):
    """The same, for a grouped convolution, not scaled back."""
    rng = np.random.default_rng(3)
    return prepare(
        build(
            f"(float[N,3,8,8] x) => (float[N,M] y) {{ [a] h = Conv(x, w, b) [m] r = Relu(h)"
            f" [c] g = {second} p = GlobalAveragePool(g) y = Flatten(p) }}",
            w=rng.normal(0, 0.5, (8, 3, 3, 3)).astype(np.float32) * SKEW.reshape(-1, 1, 1, 1),
            b=SKEW,
            v=v,
        ),
        run_once,
        (3, 8, 8),
    ).model


@pytest.mark.parametrize("pin", ["a", "c"])
def test_what_the_user_keeps_float_is_not_touched(pin):
    model = network()
    assert same_constants(model, equalized(model, [pin]))
