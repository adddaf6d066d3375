"""Fixed bins: every value has its place, counts add up, clipping is exact."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quantize.histogram import (
    BINS,
    CENTRES,
    EDGES,
    MOST_COUNTED,
    ZERO,
    Counter,
    bin_of,
    clipped,
    every,
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = arrays.arrays(np.float32, st.integers(1, 200), elements=FLOATS)


def histogram(*parts):
    counter = Counter()
    for part in parts:
        counter.add("x", part)
    return counter.counts("x")


def test_bins_ascend_without_gaps_and_are_narrow():
    assert EDGES.shape == (BINS + 1,)
    assert CENTRES.shape == (BINS,)
    assert BINS <= 4096
    assert (np.diff(EDGES) > 0).all()
    np.testing.assert_array_equal(EDGES, -EDGES[::-1])
    positive = EDGES[ZERO + 1 :]
    widths = positive[1:] / positive[:-1] - 1
    assert widths.max() == pytest.approx(1 / 32)
    assert widths.min() == pytest.approx(1 / 63)
    assert CENTRES[ZERO] == 0
    with pytest.raises(ValueError, match="read-only"):
        EDGES[0] = 0


@given(FLOATS)
@settings(deadline=None, max_examples=300)
def test_a_value_is_in_its_bin(value):
    index = bin_of(value)
    size = abs(value)
    if size < EDGES[ZERO + 1]:
        assert index == ZERO
    elif size >= EDGES[-1]:
        assert index == (BINS - 1 if value > 0 else 0)
    else:
        mirrored = index if value > 0 else BINS - 1 - index
        assert EDGES[mirrored] <= size < EDGES[mirrored + 1]


@given(VALUES, VALUES)
@settings(deadline=None, max_examples=50)
def test_counting_two_parts_is_counting_the_whole(one, two):
    whole = histogram(np.concatenate([one, two]))
    np.testing.assert_array_equal(histogram(one) + histogram(two), whole)
    np.testing.assert_array_equal(histogram(one, two), whole)
    assert whole.sum() == len(one) + len(two)
    assert whole.dtype == np.int64


def test_long_and_strided_arrays_are_counted_whole():
    values = np.random.default_rng(0).standard_normal(300_001, dtype=np.float32)
    for step in (1, 2, 7):
        part = values[::step]
        expected = np.zeros(BINS, np.int64)
        edges = np.searchsorted(EDGES, np.abs(part).astype(np.float64), side="right") - 1
        index = np.where(np.abs(part) < EDGES[ZERO + 1], ZERO, edges)
        np.add.at(expected, np.where(part < 0, BINS - 1 - index, index), 1)
        np.testing.assert_array_equal(histogram(part), expected)


def test_tensors_are_counted_apart():
    counter = Counter()
    counter.add("one", np.ones(3, np.float32))
    counter.add("two", np.zeros(5, np.float32))
    assert (counter.counts("one").sum(), counter.counts("two")[ZERO]) == (3, 5)


@given(VALUES, FLOATS, FLOATS)
@settings(deadline=None, max_examples=100)
def test_the_histogram_of_clipped_values_follows_exactly(values, one, two):
    low, high = sorted((one, two))
    direct = histogram(np.clip(values, np.float32(low), np.float32(high)))
    np.testing.assert_array_equal(clipped(histogram(values), low, high), direct)


@given(VALUES)
@settings(deadline=None, max_examples=20)
def test_limits_may_be_infinite(values):
    counts = histogram(values)
    np.testing.assert_array_equal(clipped(counts, -math.inf, math.inf), counts)
    relu = histogram(np.maximum(values, np.float32(0)))
    np.testing.assert_array_equal(clipped(counts, 0.0, math.inf), relu)


@given(st.integers(1, 20_000), st.integers(1, 5_000))
@settings(deadline=None, max_examples=200)
def test_a_share_of_the_positions_is_bounded_and_reaches_every_column(positions, channels):
    step = every(positions, channels)
    assert math.gcd(step, positions) == 1
    if positions * channels <= MOST_COUNTED:
        assert step == 1
    assert len(range(0, positions, step)) * channels <= max(MOST_COUNTED + channels, channels)


def test_every_column_and_row_of_an_image_has_its_part():
    width = 112
    taken = np.arange(0, width * width, every(width * width, 64))
    assert set(taken % width) == set(taken // width) == set(range(width))
