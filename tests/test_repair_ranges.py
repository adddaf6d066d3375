"""Ranges from histograms: min-max, percentile, MSE-optimal, KL."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quantize.histogram import Counter
from quantize.plan import Method, Range
from quantize.repair.ranges import (
    PERCENTILE_SHARE,
    _integral,
    by_method,
    kl,
    min_max,
    mse_optimal,
    percentile,
)

SIZE = 50_000
SMALLEST = 2.0**-31
VALUES = arrays.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


def seen(values):
    values = np.asarray(values, np.float32)
    counter = Counter()
    counter.add("x", values)
    return Range(float(values.min()), float(values.max())), counter.counts("x")


def sample(kind):
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(SIZE)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(3 * normal + 3, 0, 6),
        "negative": -np.abs(normal),
        "far from zero": 5 + rng.uniform(0, 1, SIZE),
        "heavy": rng.standard_t(3, SIZE),
        "heavy relu": np.maximum(rng.standard_t(3, SIZE), 0),
        "outlier": np.append(normal, 200.0),
        "two outliers": np.append(normal, [-900.0, 60.0]),
        "uniform": rng.uniform(-1, 3, SIZE),
        "exponential": rng.exponential(size=SIZE),
        "lognormal": rng.lognormal(0, 2, SIZE),
    }[kind].astype(np.float32)


KINDS = [
    "normal",
    "relu",
    "relu6",
    "negative",
    "far from zero",
    "heavy",
    "heavy relu",
    "outlier",
    "two outliers",
    "uniform",
    "exponential",
    "lognormal",
]


def error(values, span, levels=256):
    """Mean squared error of uint8 as the engine rounds, from raw values."""
    values = values.astype(np.float64)
    step = (span.high - span.low) / (levels - 1)
    zero = np.rint(-span.low / step)
    integers = np.clip(np.rint(values / step) + zero, 0, levels - 1)
    return float(((values - (integers - zero) * step) ** 2).mean())


def symmetric_error(values, limit):
    values = values.astype(np.float64)
    step = limit / 127
    return float(((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2).mean())


# ------------------------------------------------------------------------ all of them


def test_a_plans_method_is_one_of_these_functions_and_they_differ():
    many = np.tile(sample("normal"), 6)  # so many that a percentile leaves the outliers out
    span, counts = seen(np.append(many, [-900.0, 60.0]))
    found = {method: by_method(method, span, counts) for method in get_args(Method)}
    assert found == {
        "minmax": min_max(span),
        "percentile": percentile(span, counts, PERCENTILE_SHARE),
        "kl": kl(span, counts),
        "mse": mse_optimal(span, counts),
    }
    assert len(set(found.values())) == len(found)


def every_method(span, counts):
    return {
        "min_max": min_max(span),
        "percentile": percentile(span, counts, 0.9),
        "mse": mse_optimal(span, counts),
        "kl": kl(span, counts),
    }


@given(VALUES)
@settings(deadline=None, max_examples=60)
def test_every_range_contains_zero_and_stays_within_min_max(values):
    span, counts = seen(values)
    whole = min_max(span)
    for method, found in every_method(span, counts).items():
        assert whole.low <= found.low <= 0 <= found.high <= whole.high, method


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1e-20, -1e-20], [3.0], [-3.0], [1e12]])
def test_degenerate_tensors_have_ranges(values):
    span, counts = seen(values)
    for found in (*every_method(span, counts).values(), mse_optimal(span, counts, symmetric=True)):
        assert np.isfinite([found.low, found.high]).all()
        assert found.low <= 0 <= found.high


def test_min_max_only_adds_zero():
    assert min_max(Range(-1.5, 2.5)) == Range(-1.5, 2.5)
    assert min_max(Range(0.5, 2.5)) == Range(0.0, 2.5)
    assert min_max(Range(-2.5, -0.5)) == Range(-2.5, 0.0)


# ------------------------------------------------------------------------- percentile


@given(VALUES, st.floats(0.01, 1), st.floats(0.01, 1))
@settings(deadline=None, max_examples=100)
def test_a_larger_share_is_never_narrower(values, one, two):
    span, counts = seen(values)
    narrow, wide = (percentile(span, counts, share) for share in sorted((one, two)))
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@given(VALUES, st.floats(0.01, 1))
@settings(deadline=None, max_examples=100)
def test_at_least_the_share_is_inside_and_no_more_than_its_half_beyond_either_end(values, share):
    span, counts = seen(values)
    found = percentile(span, counts, share)
    most = len(values) * (1 - share) / 2 + 1e-9
    assert (values < found.low - SMALLEST).sum() <= most
    assert (values > found.high + SMALLEST).sum() <= most


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_percentiles_are_those_of_the_values_up_to_a_bin(share):
    values = sample("normal")
    found = percentile(*seen(values), share)
    exact = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    np.testing.assert_allclose([found.low, found.high], exact, rtol=0.035)


def test_all_of_them_is_min_max():
    span, counts = seen(sample("heavy"))
    assert percentile(span, counts, 1) == min_max(span)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_no_share_is_an_error(share):
    with pytest.raises(ValueError, match="a share above 0 and at most 1"):
        percentile(*seen([1.0]), share)


# -------------------------------------------------------------------------------- MSE


@pytest.mark.parametrize("kind", KINDS)
def test_no_range_of_a_grid_has_a_smaller_error(kind):
    """Brute force over raw values, both limits tried against each other."""
    values = sample(kind)
    span, counts = seen(values)
    whole = min_max(span)
    shares = 2.0 ** -(np.arange(25) / 4)
    least = min(
        error(values, Range(whole.low * a, whole.high * b))
        for a in (shares if whole.low else [1.0])
        for b in (shares if whole.high else [1.0])
    )
    found = mse_optimal(span, counts)
    assert error(values, found) <= 1.01 * least
    assert error(values, found) <= 1.01 * error(values, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_no_symmetric_range_has_a_smaller_error(kind):
    values = sample(kind)
    span, counts = seen(values)
    found = mse_optimal(span, counts, symmetric=True)
    most = float(np.abs(values).max())
    assert found.low == -found.high
    assert found.high <= most
    least = min(symmetric_error(values, most * share) for share in 2.0 ** -(np.arange(160) / 20))
    assert symmetric_error(values, found.high) <= 1.01 * least


def test_fewer_levels_clip_more():
    values = sample("normal")
    span, counts = seen(values)
    few, many = (mse_optimal(span, counts, levels=levels) for levels in (16, 256))
    assert few.high < many.high
    whole = min_max(span)
    least = min(
        error(values, Range(whole.low * s, whole.high * s), 16) for s in np.arange(1, 101) / 100
    )
    assert error(values, few, 16) <= 1.01 * least


@pytest.mark.parametrize("kind", ["normal", "relu", "uniform", "exponential", "outlier"])
def test_with_four_levels_rounding_and_clipping_are_weighed_rightly(kind):
    values = sample(kind)
    span, counts = seen(values)
    whole = min_max(span)
    lows = np.linspace(0, 1, 41) * whole.low if whole.low else [0.0]
    highs = 2.0 ** -(np.arange(161) / 16) * whole.high
    least = min(error(values, Range(low, high), 4) for low in lows for high in highs)
    assert error(values, mse_optimal(span, counts, levels=4), 4) <= 1.01 * least


@pytest.mark.parametrize("further", [1.0, 1.2, 1.4, 1.7])
def test_the_limits_are_found_apart(further):
    """A rare value far out on one side and another nearer on the other: both are clipped."""
    low, high = -900.0 * further, 60.0 * further
    _, counts = seen(sample("normal"))
    _, rare = seen([low, high])
    found = mse_optimal(Range(low, high), 10_000 * counts + rare)
    body = mse_optimal(*seen(sample("normal")))
    assert found.low == pytest.approx(body.low, rel=0.06)
    assert found.high == pytest.approx(body.high, rel=0.06)


@pytest.mark.parametrize("value", [-7.3, -4.0, -2.5, -0.4, 0.0, 0.3, 1.0, 6.6, 9.9])
def test_the_integral_of_squared_errors_is_the_sum_of_its_parts(value):
    below, above = np.float64(4), np.float64(6)
    parts = (np.arange(1_000_000) + 0.5) / 1_000_000 * value
    squares = (parts - np.clip(np.rint(parts), -below, above)) ** 2
    exact = _integral(np.float64(value), below, above)
    assert exact == pytest.approx(squares.mean() * value, abs=1e-6)


def test_what_has_no_tail_is_not_clipped():
    span, counts = seen(sample("relu6"))
    assert mse_optimal(span, counts) == Range(0.0, 6.0)


# --------------------------------------------------------------------------------- KL


@pytest.mark.parametrize("kind", ["heavy", "outlier", "two outliers", "lognormal"])
def test_kl_clips_heavy_tails(kind):
    span, counts = seen(sample(kind))
    found, whole = kl(span, counts), min_max(span)
    assert found.high - found.low < 0.8 * (whole.high - whole.low)
    assert found.high >= 2  # but not the body


@pytest.mark.parametrize("kind", ["uniform", "relu6", "far from zero"])
def test_kl_leaves_what_has_no_tail(kind):
    span, counts = seen(sample(kind))
    assert kl(span, counts) == min_max(span)


def test_kl_does_not_depend_on_how_many_zeros_there_are():
    span, counts = seen(np.append(sample("lognormal"), 0))
    more, counts_of_more = seen(np.append(sample("lognormal"), np.zeros(10 * SIZE)))
    assert kl(span, counts) == kl(more, counts_of_more)
