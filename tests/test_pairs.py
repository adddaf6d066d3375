"""Pairs of products in 16 bits: which weights are neighbours, and when their sum overflows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.pairs import MOST, Risks, at_risk, in_pairs, kernel_order, partners

WEIGHTS = st.integers(-128, 127)


def test_channels_are_innermost_in_the_kernels_order():
    row = np.arange(6).reshape(2, 3)  # two channels, three positions
    assert row.reshape(-1)[kernel_order(2, 3)].tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("channels", "taps", "expected"),
    [
        (4, 1, [[1], [0], [3], [2]]),
        (5, 1, [[1], [0], [3], [2], [-1]]),
        (2, 2, [[2], [3], [0], [1]]),  # (c0,t0) (c1,t0) | (c0,t1) (c1,t1)
        # c0t0 c1t0 | c2t0 c0t1 | c1t1 c2t1, and c0t0 c1t0 | c2t0 0 | c0t1 c1t1 | c2t1 0
        (3, 2, [[2, 2], [4, 3], [0, 0], [5, 1], [1, -1], [3, -1]]),
        (1, 3, [[1, -1], [0, -1], [-1, -1]]),
    ],
)
def test_partners_are_neighbours_and_those_beside_a_channel_of_zeros(channels, taps, expected):
    assert partners(channels, taps).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(channels=st.integers(1, 9), taps=st.integers(1, 9))
def test_partners_are_mutual_and_those_of_the_packed_row(channels, taps):
    found, order = partners(channels, taps), kernel_order(channels, taps)
    for way in found.T:
        there = np.flatnonzero(way >= 0)
        assert (way[way[there]] == there).all()
    first, second = in_pairs(order + 1)
    for one, other in zip(first - 1, second - 1, strict=True):
        assert found[one, 0] == other


def overflows(w, v, x, y):
    return not -32768 <= w * x + v * y <= 32767


@settings(deadline=None, max_examples=300)
@given(w=WEIGHTS, v=WEIGHTS)
def test_risk_is_exactly_that_some_activations_overflow(w, v):
    some = any(overflows(w, v, x, y) for x in (0, 255) for y in (0, 255))
    assert at_risk(np.int8([[w, v]])).tolist() == [[some]]
    assert (w * v > 0 and abs(w) + abs(v) > MOST) == some


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), positions=st.integers(0, 5), columns=st.integers(1, 7))
def test_sums_that_overflow_are_counted_one_by_one(seed, positions, columns):
    rng = np.random.default_rng(seed)
    x = rng.choice(np.uint8([0, 128, 250, 255]), (positions, columns))
    w = rng.choice(np.int8([-128, -127, -100, 0, 64, 127]), (3, columns))
    padded = [np.pad(part.astype(int), ((0, 0), (0, columns % 2))) for part in (x, w)]
    expected = sum(
        overflows(row[k], row[k + 1], column[k], column[k + 1])
        for column in padded[0]
        for row in padded[1]
        for k in range(0, len(row), 2)
    )
    risks = Risks(w)
    assert risks.overflowing(x) == expected
    assert risks.pairs == 3 * len(range(0, columns, 2))
    assert risks.count == np.count_nonzero(at_risk(w))


def test_many_sums_are_counted_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr("quantize.pairs._AT_ONCE", 10)
    x, w = np.full((4, 6), 255, np.uint8), np.full((5, 6), 127, np.int8)
    assert Risks(w).overflowing(x) == 4 * 5 * 3


def test_sums_at_the_very_limits_fit():
    """-32768 fits 16 bits, 32768 does not."""
    x = np.uint8([[128, 128], [129, 128], [128, 127]])
    assert Risks(np.int8([[-128, -128]])).overflowing(x) == 1
    assert Risks(np.int8([[127, 127]])).overflowing(np.uint8([[129, 129], [130, 129]])) == 1
