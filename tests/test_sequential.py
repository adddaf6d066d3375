"""Decisions while images come in: the promise over all looks together, summed exactly."""

import math
from collections import defaultdict
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from quantize.paired import decide_agreement, decide_drop
from quantize.plan import Drop, Goal
from quantize.sequential import decide_agreement_at, decide_drop_at, levels, looks


def table(lost, gained, n):
    return Drop(0, 0, 0, lost, gained, n)


def absolute(margin, confidence=0.9):
    return Goal(margin, "absolute", confidence=confidence)


# -------------------------------------------------------------------------------- looks


@given(st.integers(1, 10**7))
@settings(max_examples=200, deadline=None)
def test_looks_grow_by_the_root_of_two_up_to_all_images(total):
    at = looks(total)
    assert at[-1] == total
    assert len(at) == 1 or at[0] >= 24
    assert at[0] < 36 or len(at) == 1
    for before, after in pairwise(at):
        assert before < after
        assert after / before == pytest.approx(math.sqrt(2), rel=0.05)


def test_no_images_are_no_look():
    with pytest.raises(ValueError, match="no look"):
        looks(0)


# ------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.99])
def test_a_single_look_may_err_as_promised(confidence):
    assert levels((300,), confidence) == pytest.approx((1 - confidence,))


@pytest.mark.parametrize("at", [(50, 100), (10, 100), (90, 100)])
def test_two_looks_together_err_as_promised(at):
    """Two scores of one walk are two normal ones with correlation sqrt(n1 / n2)."""
    first, second = levels(at, 0.9)
    assert first == pytest.approx(0.1 * (at[0] / at[1]) ** 1.5)
    shared = math.sqrt(at[0] / at[1])
    both = multivariate_normal([0, 0], [[1, shared], [shared, 1]]).cdf(norm.ppf([first, second]))
    assert first + second - both == pytest.approx(0.1, abs=2e-5)


def test_many_looks_together_err_as_promised():
    at = looks(2000)
    bounds = norm.ppf(levels(at, 0.9))
    rng = np.random.default_rng(1)
    walk, before = np.zeros(100_000), 0
    crossed = np.zeros(100_000, bool)
    for n, bound in zip(at, bounds, strict=True):
        walk += rng.normal(0, math.sqrt(n - before), 100_000)
        crossed |= walk <= bound * math.sqrt(n)
        before = n
    assert crossed.mean() == pytest.approx(0.1, abs=0.004)


@given(st.integers(1, 50_000), st.sampled_from([0.6, 0.9, 0.95, 0.999]))
@settings(max_examples=20, deadline=None)
def test_each_level_is_below_what_all_together_promise(total, confidence):
    found = levels(looks(total), confidence)
    assert len(found) == len(looks(total))
    assert min(found) > 0
    assert max(found) <= (1 - confidence) * (1 + 1e-9)


# ------------------------------------------------------------------------ the promise


@cache
def said(look, at, lost, gained, goal):
    return decide_drop_at(look, at, table(lost, gained, at[look]), 1.0, goal)


def binomial(k, n, p):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def ends(total, goal, p_lost, p_gained):
    """Chance of each outcome, summed over all tables that matter."""
    at, outcomes, before = looks(total), defaultdict(float), 0
    going = {(0, 0): 1.0}
    for look, n in enumerate(at):
        more = n - before
        after = defaultdict(float)
        for b in range(more + 1):
            some = binomial(b, more, p_lost)
            for c in range(more + 1 - b) if some > 1e-6 else ():
                step = some * binomial(c, more - b, p_gained / (1 - p_lost))
                if step < 1e-6:
                    continue
                for (lost, gained), share in going.items():
                    after[lost + b, gained + c] += share * step
        going = {}
        for (lost, gained), share in after.items():
            outcome = said(look, at, lost, gained, goal)
            if outcome is None:
                going[lost, gained] = share
            else:
                outcomes[outcome] += share
        before = n
    assert not going
    assert sum(outcomes.values()) == pytest.approx(1, abs=1e-3)
    return outcomes


@pytest.mark.parametrize("confidence", [0.8, 0.9])
@pytest.mark.parametrize("margin", [0.04, 0.08])
def test_at_the_margin_met_and_unmet_are_as_seldom_as_promised(margin, confidence):
    goal = absolute(margin, confidence)
    worst = dict.fromkeys(("met", "unmet"), 0.0)
    for p_gained in (0.0, 0.02):
        outcomes = ends(70, goal, margin + p_gained, p_gained)
        for name in worst:
            worst[name] = max(worst[name], outcomes[name])
    assert all(0.15 * (1 - confidence) < share <= 1 - confidence for share in worst.values())


def agreement_ends(total, goal, p):
    at, outcomes, before = looks(total), defaultdict(float), 0
    going = {0: 1.0}
    for look, n in enumerate(at):
        after = defaultdict(float)
        for equal, share in going.items():
            for k in range(n - before + 1):
                after[equal + k] += share * binomial(k, n - before, p)
        going = {}
        for equal, share in after.items():
            outcome = decide_agreement_at(look, at, equal / n, goal)
            if outcome is None:
                going[equal] = share
            else:
                outcomes[outcome] += share
        before = n
    return outcomes


@pytest.mark.parametrize(("least", "confidence"), [(0.98, 0.9), (0.9, 0.9), (0.5, 0.8)])
def test_agreement_at_its_margin_is_decided_as_seldom_as_promised(least, confidence):
    outcomes = agreement_ends(150, Goal(least, "agreement", confidence=confidence), least)
    for name in ("met", "unmet"):
        assert 0.15 * (1 - confidence) < outcomes[name] <= 1 - confidence
    assert sum(outcomes.values()) == pytest.approx(1)


# --------------------------------------------------------------------------- decisions


def first_decision(total, goal, p_lost, p_gained):
    """(images, outcome) where the rates stay as they are."""
    at = looks(total)
    for look, n in enumerate(at):
        seen = table(round(p_lost * n), round(p_gained * n), n)
        outcome = decide_drop_at(look, at, seen, 1.0, goal)
        if outcome is not None:
            return n, outcome
    raise AssertionError("the last look must decide")


def test_clear_candidates_need_few_images():
    goal = absolute(0.01)
    assert first_decision(2000, goal, 0.0, 0.0) == (707, "met")
    assert first_decision(2000, goal, 0.3, 0.02) == (62, "unmet")
    images, outcome = first_decision(2000, goal, 0.05, 0.005)
    assert outcome == "unmet"
    assert images < 400


def test_at_the_margin_all_images_do_not_decide():
    assert first_decision(2000, absolute(0.01), 0.012, 0.002) == (2000, "undecided")


def test_the_margin_of_a_relative_goal_depends_on_float():
    """Nothing lost in 500 images shows a drop below 0.9 %, not below 0.45 %."""
    at = looks(500)
    seen = table(0, 0, 500)
    assert decide_drop_at(len(at) - 1, at, seen, 0.9, Goal(0.01, confidence=0.9)) == "met"
    assert decide_drop_at(len(at) - 1, at, seen, 0.45, Goal(0.01, confidence=0.9)) == "undecided"


@given(st.integers(24, 400), st.floats(0.001, 0.2), st.data())
@settings(max_examples=40, deadline=None)
def test_one_more_lost_image_never_makes_an_outcome_better(total, margin, data):
    at = looks(total)
    look = data.draw(st.integers(0, len(at) - 1))
    n = at[look]
    gained = data.draw(st.integers(0, n // 4))
    order = {"unmet": 0, "undecided": 1, None: 1, "met": 2}
    ranks = [
        order[decide_drop_at(look, at, table(lost, gained, n), 1.0, absolute(margin))]
        for lost in range(0, n - gained + 1, max(1, n // 20))
    ]
    assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize("lost", [0, 2, 3, 20])
def test_without_a_confidence_the_point_rule_decides_at_the_end(lost):
    at, goal = looks(100), Goal(0.02, "absolute")
    assert decide_drop_at(0, at, table(lost, 0, at[0]), 1.0, goal) is None
    end = decide_drop_at(len(at) - 1, at, table(lost, 0, 100), 1.0, goal)
    assert end == decide_drop(table(lost, 0, 100), 1.0, goal)
    asked = Goal(0.98, "agreement")
    assert decide_agreement_at(0, at, 1 - lost / 100, asked) is None
    last = decide_agreement_at(len(at) - 1, at, 1 - lost / 100, asked)
    assert last == decide_agreement(1 - lost / 100, 100, asked)


def test_clear_agreement_needs_few_images():
    at, goal = looks(1000), Goal(0.95, "agreement", confidence=0.9)
    outcomes = [decide_agreement_at(look, at, 1.0, goal) for look in range(len(at))]
    assert outcomes[0] is None
    assert outcomes.index("met") < len(at) - 4
    assert decide_agreement_at(0, at, 0.5, goal) == "unmet"
    assert decide_agreement_at(len(at) - 1, at, 0.95, goal) == "undecided"


def test_other_images_than_those_of_the_look_are_refused():
    at = looks(100)
    with pytest.raises(ValueError, match="not look 0"):
        decide_drop_at(0, at, table(0, 0, 99), 1.0, absolute(0.01))
    for index in (-1, len(at)):
        with pytest.raises(ValueError, match="no look"):
            decide_drop_at(index, at, table(0, 0, 100), 1.0, absolute(0.01))
        with pytest.raises(ValueError, match="no look"):
            decide_agreement_at(index, at, 1.0, Goal(0.9, "agreement", confidence=0.9))
