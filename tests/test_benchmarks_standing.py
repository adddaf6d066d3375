"""Ahead, equal or behind: the arithmetic of what the benchmarks claim."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.standing import (
    LEAST_ROUNDS,
    Span,
    best,
    decibels,
    decibels_difference,
    ratio,
    share_difference,
    spread,
)

seconds = st.floats(1e-6, 1e3)
rounds = st.lists(st.tuples(seconds, seconds), min_size=LEAST_ROUNDS, max_size=40)


@settings(deadline=None)  # a busy machine is no failure
@given(rounds)
def test_the_interval_holds_the_median_and_turns_around_with_the_sides(pairs):
    ours, theirs = zip(*pairs, strict=True)
    seen, turned = ratio(ours, theirs), ratio(theirs, ours)
    assert seen.low <= seen.value <= seen.high
    opposite = {"ahead": "behind", "behind": "ahead", "equal": "equal"}
    assert turned.standing(1.0) == opposite[seen.standing(1.0)]


@settings(deadline=None)
@given(st.lists(seconds, min_size=LEAST_ROUNDS, max_size=40))
def test_the_same_times_are_equal(times):
    assert ratio(times, times) == Span(1.0, 1.0, 1.0)
    assert ratio(times, times).standing(1.0) == "equal"


@pytest.mark.parametrize(
    ("low", "high", "standing"),
    [
        (1.03, 1.05, "ahead"),
        (1.01, 1.05, "equal"),  # as our own file is
        (0.99, 1.005, "equal"),
        (0.95, 0.99, "equal"),
        (0.95, 0.97, "behind"),
    ],
)
def test_what_cannot_be_told_from_our_own_file_is_equal(low, high, standing):
    assert Span(1.0, low, high).beyond(Span(1.0, 0.98, 1.02)) == standing


@pytest.mark.parametrize(("low", "standing"), [(0.95, "equal"), (1.01, "ahead")])
def test_without_our_file_twice_the_interval_has_to_leave_out_one(low, standing):
    assert Span(1.0, low, 1.05).beyond(None) == standing


def test_a_slow_moment_that_hits_both_changes_no_ratio():
    drift = np.array([1, 1, 5, 1, 9, 1, 1, 2.0])
    assert ratio(drift, 2 * drift) == Span(2.0, 2.0, 2.0)


def test_the_same_speed_is_called_equal_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    called = [ratio(*rng.lognormal(0, 0.1, (2, 40))).standing(1.0) == "equal" for _ in range(1000)]
    assert 0.94 <= np.mean(called) <= 0.99


@pytest.mark.parametrize(("mine", "others"), [(5, 5), (6, 7)])
def test_rounds_that_give_no_interval_are_refused(mine, others):
    with pytest.raises(ValueError, match="give no interval"):
        ratio([1.0] * mine, [1.0] * others)


def test_spread_is_in_milliseconds():
    seen = spread([0.001 * value for value in range(1, 12)])
    assert (seen.value, seen.low, seen.high) == pytest.approx((6, 2, 10))


def test_a_share_of_images_is_compared_image_by_image():
    ours = np.array([True] * 95 + [False] * 5)
    theirs = np.array([True] * 80 + [False] * 20)
    seen = share_difference(ours, theirs)
    assert seen.value == pytest.approx(15)
    assert seen.standing(0.0) == "ahead"
    assert share_difference(theirs, ours).standing(0.0) == "behind"
    assert share_difference(ours, ours).standing(0.0) == "equal"


def test_decibels_are_those_of_the_definition():
    signal, noise = np.array([60.0, 40.0]), np.array([0.4, 0.6])
    assert decibels(signal, noise) == pytest.approx(20)
    assert decibels(signal, np.zeros(2)) == np.inf


def test_a_difference_in_decibels_is_that_of_the_two():
    rng = np.random.default_rng(1)
    signal, ours, theirs = rng.uniform(1, 2, (3, 200))
    seen = decibels_difference(ours, 2 * theirs)
    assert seen.value == pytest.approx(decibels(signal, ours) - decibels(signal, 2 * theirs))
    assert seen.low < seen.value < seen.high
    assert seen.standing(0.0) == "ahead"
    assert decibels_difference(ours, ours).standing(0.0) == "equal"


def test_the_best_peer_is_the_fastest_rival_that_ran():
    def row(peer, ms, rival=True):
        return {"peer": peer, "rival": rival, "ms": {"value": ms}}

    broken = {"peer": "broken", "rival": True, "failed": "why"}
    rows = [row("ours", 1, rival=False), row("slow", 3), row("fast", 2), broken]
    assert best(rows)["peer"] == "fast"
    assert best([broken]) is None
