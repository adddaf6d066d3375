"""Paired statistics: against brute force, against published tables, and at the margin itself."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, norm

from quantize.errors import DataError
from quantize.paired import (
    above_chance,
    agreement_interval,
    decide_agreement,
    decide_drop,
    drop,
    images_to_agree,
    images_to_decide,
    margin,
    tango,
)
from quantize.plan import NO_LABEL, Drop, Evaluation, Goal

Z = norm.ppf(0.975)


@st.composite
def tables(draw, most=200):
    """(lost, gained, n), where tables without discordant images are frequent."""
    n = draw(st.integers(1, most))
    lost = draw(st.integers(0, n) | st.just(0))
    gained = draw(st.integers(0, n - lost) | st.just(0))
    return lost, gained, n


def evaluation(predicted, labels, digests=None):
    labels = np.asarray(labels)
    names = tuple(map(str, range(len(labels)))) if digests is None else digests
    return Evaluation(names, np.asarray(predicted)[:, None], labels)


def answered(lost, gained, n):
    """Two evaluations with this table, and half of the rest right in both."""
    rest = n - lost - gained
    float_right = np.array([1] * lost + [0] * gained + [1] * (rest // 2) + [0] * (rest - rest // 2))
    int8_right = np.array([0] * lost + [1] * gained + [1] * (rest // 2) + [0] * (rest - rest // 2))
    labels = np.zeros(n, np.int64)
    return evaluation(1 - float_right, labels), evaluation(1 - int8_right, labels)


# ------------------------------------------------------------------- Tango's interval


def score(b, c, n, d):
    """The score statistic at d, the nuisance found by maximising the likelihood numerically.

    Cells: b with probability q + d, c with q, the other n - b - c with 1 - 2 q - d.
    """
    least, most = max(0.0, -d), (1 - d) / 2

    def minus_log_likelihood(q):
        total = 0.0
        for count, share in ((b, q + d), (c, q), (n - b - c, 1 - 2 * q - d)):
            if count:
                total -= count * math.log(max(share, 1e-300))
        return total

    q = minimize_scalar(
        minus_log_likelihood, bounds=(least, most), method="bounded", options={"xatol": 1e-13}
    ).x
    q = min((least, q, most), key=minus_log_likelihood)
    variance = n * (2 * q + d * (1 - d))
    return (b - c - n * d) / math.sqrt(variance) if variance > 1e-15 else math.nan


def edge(b, c, n, z, inside, outside):
    """Where acceptance by the score test ends, by bisection."""
    for _ in range(30):
        middle = (inside + outside) / 2
        if abs(score(b, c, n, middle)) <= z:
            inside = middle
        else:
            outside = middle
    return inside


def accepted_by_brute_force(b, c, n, z):
    """The least and the largest d that the score test accepts."""
    grid = np.linspace(-1, 1, 202)
    inside = [i for i in range(1, 201) if abs(score(b, c, n, grid[i])) <= z]
    first, last = inside[0], inside[-1]
    assert inside == list(range(first, last + 1))
    return (
        edge(b, c, n, z, grid[first], grid[first - 1]),
        edge(b, c, n, z, grid[last], grid[last + 1]),
    )


@pytest.mark.parametrize(
    "table",
    [
        *((0, 0, 10), (1, 0, 10), (0, 1, 10), (3, 1, 12), (10, 0, 10), (0, 10, 10), (5, 5, 10)),
        *((0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 2), (7, 2, 60), (0, 6, 100), (40, 35, 100)),
    ],
)
def test_the_interval_holds_what_the_score_test_accepts(table):
    assert tango(*table) == pytest.approx(accepted_by_brute_force(*table, Z), abs=1e-5)


@given(tables(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=40, deadline=None)
def test_the_score_at_a_limit_is_the_quantile(table, confidence):
    b, c, n = table
    z = norm.ppf(0.5 + confidence / 2)
    low, high = tango(b, c, n, confidence)
    if b - c > -n:
        assert score(b, c, n, low) == pytest.approx(z, abs=2e-3)
    if b - c < n:
        assert score(b, c, n, high) == pytest.approx(-z, abs=2e-3)


def test_a_published_example():
    """Airway hyper-responsiveness before and after stem cell transplantation, table 1, 1, 7, 12.

    Fagerland, Lydersen and Laake, "Recommended tests and confidence intervals for paired binomial
    proportions", Statistics in Medicine 33 (2014), give -0.517 to -0.026 for Tango's interval.
    """
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(tables())
@settings(max_examples=200, deadline=None)
def test_the_interval_is_sane(table):
    b, c, n = table
    low, high = tango(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1
    assert low < high
    mirrored = tango(c, b, n)
    assert mirrored.low == pytest.approx(-high, abs=1e-9)
    assert mirrored.high == pytest.approx(-low, abs=1e-9)
    wider = tango(b, c, n, 0.99)
    assert wider.low <= low
    assert wider.high >= high


@given(tables(most=60), st.sampled_from([0.6, 0.9, 0.95]))
@settings(max_examples=60, deadline=None)
def test_one_more_lost_image_raises_both_limits(table, confidence):
    b, c, n = table
    if b + c < n:
        before, after = tango(b, c, n, confidence), tango(b + 1, c, n, confidence)
        assert after.low >= before.low - 1e-9
        assert after.high >= before.high - 1e-9


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 10_000_000])
def test_without_a_discordant_image_the_limit_is_still_above_zero(n):
    seen = tango(0, 0, n)
    assert seen.high == pytest.approx(Z**2 / (n + Z**2), rel=1e-9)
    assert seen.low == -seen.high


@pytest.mark.parametrize("n", [1, 2, 50, 10_000_000])
def test_extreme_tables(n):
    assert tango(n, 0, n).high == 1.0
    assert tango(0, n, n).low == -1.0
    assert tango(n, 0, n).low < 1
    assert tango(0, n, n).high > -1
    one = tango(1, 0, n)
    assert one.low < 1 / n < one.high or n == 1


@pytest.mark.parametrize("table", [(0, 0, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5), (6, 0, 5)])
def test_impossible_tables_are_refused(table):
    with pytest.raises(ValueError, match="no paired table"):
        tango(*table)


@cache
def upper(lost, gained, n):
    return tango(lost, gained, n, 0.90).high


@pytest.mark.parametrize(
    ("n", "gained_share"),
    [(100, 0.0), (200, 0.0), (200, 0.02), (400, 0.0), (400, 0.02), (1000, 0.0), (1000, 0.05)],
)
def test_a_model_at_the_margin_is_accepted_as_seldom_as_promised(n, gained_share):
    """True drop = margin: the one-sided 95 % limit may fall below it in about 5 % of samples."""
    allowed = 0.02
    rng = np.random.default_rng(n)
    counts = rng.multinomial(
        n, [gained_share + allowed, gained_share, 1 - 2 * gained_share - 0.02], 20_000
    )
    met = [upper(int(b), int(c), n) <= allowed for b, c, _ in counts]
    assert np.mean(met) <= 0.06


# -------------------------------------------------------------------------------- drop


@given(tables(most=80))
@settings(max_examples=50, deadline=None)
def test_the_drop_is_counted_from_paired_answers(table):
    lost, gained, n = table
    seen = drop(*answered(lost, gained, n))
    low, high = tango(lost, gained, n)
    assert (seen.lost, seen.gained, seen.images) == (lost, gained, n)
    assert seen.points == pytest.approx(100 * (lost - gained) / n)
    assert (seen.low, seen.high) == (100 * low, 100 * high)


def test_the_drop_is_the_difference_of_the_accuracies():
    float_, int8 = answered(7, 3, 50)
    assert drop(float_, int8).points == pytest.approx(100 * (float_.accuracy() - int8.accuracy()))


def test_other_images_or_missing_labels_have_no_drop():
    float_, int8 = answered(1, 1, 5)
    others = evaluation(int8.predicted, int8.labels, tuple("abcde"))
    bare = evaluation(float_.predicted, [0, 0, NO_LABEL, 0, 0])
    for pair in ((float_, others), (bare, int8)):
        with pytest.raises(DataError, match="same labelled images"):
            drop(*pair)


# ---------------------------------------------------------------------------- decisions


def test_the_margin_is_relative_or_absolute():
    assert margin(Goal(0.01), 0.8) == pytest.approx(0.008)
    assert margin(Goal(0.01, "absolute"), 0.8) == 0.01
    assert margin(Goal(0.0), 0.8) == 0


@given(tables(), st.floats(0, 0.2), st.sampled_from(["relative", "absolute"]))
@settings(max_examples=100, deadline=None)
def test_the_point_rule_compares_accuracies(table, tolerance, kind):
    lost, gained, n = table
    float_, int8 = answered(lost, gained, n)
    seen = drop(float_, int8)
    goal = Goal(tolerance, kind)
    floor = (
        float_.accuracy() * (1 - tolerance) if kind == "relative" else float_.accuracy() - tolerance
    )
    if abs(int8.accuracy() - floor) > 1e-9:
        expected = "met" if int8.accuracy() >= floor else "unmet"
        assert decide_drop(seen, float_.accuracy(), goal) == expected


@pytest.mark.parametrize("n", [3, 7, 10, 100, 997])
def test_exactly_at_the_point_rules_margin_is_met(n):
    for lost in range(n + 1):
        seen = Drop(0, 0, 0, lost, 0, n)
        assert decide_drop(seen, 1.0, Goal(lost / n)) == "met"
        assert decide_drop(seen, 1.0, Goal((lost - 0.001) / n)) == "unmet"


def test_a_confidence_asks_the_one_sided_limit():
    seen = Drop(0, 0, 0, 12, 4, 1000)
    low, high = tango(12, 4, 1000, 0.90)
    for allowed, expected in (
        (high * 1.03, "met"),
        (high - 1e-6, "undecided"),
        (low + 1e-6, "undecided"),
        (low * 0.7, "unmet"),
    ):
        assert decide_drop(seen, 1.0, Goal(allowed, "absolute", confidence=0.95)) == expected


def test_the_limit_alone_does_not_decide_where_it_errs_too_often():
    """Nothing lost of 52 happens to 6.9 % of models that lose 5 %."""
    seen = Drop(0, 0, 0, 0, 0, 52)
    assert tango(0, 0, 52, 0.90).high < 0.05
    assert decide_drop(seen, 1.0, Goal(0.05, "absolute", confidence=0.95)) == "undecided"
    assert decide_drop(seen, 1.0, Goal(0.05, "absolute", confidence=0.93)) == "met"


@pytest.mark.parametrize("table", [(12, 4, 1000), (0, 0, 100), (3, 0, 80)])
def test_no_p_value_decides_against_the_limits(monkeypatch, table):
    monkeypatch.setattr("quantize.paired.p_value", lambda *_: 0.0)
    low, high = tango(*table, 0.90)
    for allowed in (max(0.0, low) + 1e-6, high - 1e-6):
        goal = Goal(allowed, "absolute", confidence=0.95)
        assert decide_drop(Drop(0, 0, 0, *table), 1.0, goal) == "undecided"


@given(tables(), st.floats(0, 1.5), st.sampled_from([0.6, 0.9, 0.99]))
@settings(max_examples=60, deadline=None)
def test_what_is_decided_agrees_with_the_limits(table, allowed, confidence):
    lost, gained, n = table
    outcome = decide_drop(
        Drop(0, 0, 0, lost, gained, n), 1.0, Goal(allowed, "absolute", confidence=confidence)
    )
    low, high = tango(lost, gained, n, 2 * confidence - 1)
    if outcome == "met":
        assert high <= allowed + 1e-9
    if outcome == "unmet":
        assert low >= allowed - 1e-9


def errors(n, goal, p_lost, p_gained, most=26):
    """Chances of met and unmet, by `decide_drop` and by Tango's limit alone, table by table."""
    total = dict.fromkeys(("met", "unmet", "limit"), 0.0)
    for lost in range(most + 1):
        for gained in range(most + 1 - lost if p_gained else 1):
            rest = n - lost - gained
            if rest < 0:
                continue
            ways = math.comb(n, lost) * math.comb(n - lost, gained)
            chance = ways * p_lost**lost * p_gained**gained * (1 - p_lost - p_gained) ** rest
            outcome = decide_drop(Drop(0, 0, 0, lost, gained, n), 1.0, goal)
            if outcome != "undecided":
                total[outcome] += chance
            if tango(lost, gained, n, 2 * goal.confidence - 1).high <= goal.tolerance:
                total["limit"] += chance
    return total


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("n", "margin", "gained"),
    [(20, 0.1, 0.0), (24, 0.1, 0.1), (52, 0.05, 0.0), (120, 0.02, 0.02), (500, 0.01, 0.0)],
)
def test_at_the_margin_the_promise_holds_exactly(n, margin, gained, confidence):
    seen = errors(
        n, Goal(margin, "absolute", confidence=confidence), margin + gained, gained, min(n, 26)
    )
    assert seen["met"] <= 1 - confidence
    assert seen["unmet"] <= 1 - confidence


@pytest.mark.parametrize(
    ("n", "margin", "confidence", "chance"),
    [(52, 0.05, 0.95, 0.95**52), (200, 0.01, 0.9, 0.99**200), (1000, 0.002, 0.9, 0.998**1000)],
)
def test_the_limit_alone_breaks_the_promise(n, margin, confidence, chance):
    """So the sums above can fail: all discordance is loss, and nothing is lost by chance."""
    seen = errors(n, Goal(margin, "absolute", confidence=confidence), margin, 0.0)
    assert seen["limit"] == pytest.approx(chance)
    assert seen["limit"] > 1 - confidence
    assert seen["met"] < 1e-12


def test_a_margin_above_every_drop_is_met():
    assert decide_drop(Drop(0, 0, 0, 9, 0, 9), 1.0, Goal(1.0, "absolute", confidence=0.9)) == "met"


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("least", [0.5, 0.9, 0.98, 0.995])
@pytest.mark.parametrize("n", [10, 52, 299, 1000])
def test_agreement_at_its_margin_is_decided_as_seldom_as_promised(n, least, confidence):
    goal = Goal(least, "agreement", confidence=confidence)
    chances = binom.pmf(np.arange(n + 1), n, least)
    outcomes = np.array([decide_agreement(equal / n, n, goal) for equal in range(n + 1)])
    assert chances[outcomes == "met"].sum() <= 1 - confidence
    assert chances[outcomes == "unmet"].sum() <= 1 - confidence


def test_agreement_is_decided_by_the_exact_binomial():
    """All of 298 equal still happens to 5.004 % of models at 99 %, all of 299 to 4.95 %."""
    goal = Goal(0.99, "agreement", confidence=0.95)
    assert decide_agreement(1.0, 298, goal) == "undecided"
    assert decide_agreement(1.0, 299, goal) == "met"
    assert decide_agreement(0.0, 1, goal) == "unmet"
    assert decide_agreement(0.0, 1, Goal(0.9, "agreement", confidence=0.95)) == "undecided"


@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from([None, 0.8, 0.95]))
@settings(max_examples=25, deadline=None)
def test_agreement_is_the_mirror_of_the_drop(n, least, confidence):
    outcomes = [
        decide_agreement(equal / n, n, Goal(least, "agreement", confidence=confidence))
        for equal in range(n + 1)
    ]
    order = {"unmet": 0, "undecided": 1, "met": 2}
    ranks = [order[outcome] for outcome in outcomes]
    assert ranks == sorted(ranks)
    if confidence is None:
        assert "undecided" not in outcomes
        assert outcomes.count("met") == sum(equal >= least * n - 1e-9 for equal in range(n + 1))


def test_agreement_has_wilsons_interval():
    low, high = agreement_interval(0.9, 200)
    centre = (0.9 + Z**2 / 400) / (1 + Z**2 / 200)
    half = Z / (1 + Z**2 / 200) * math.sqrt(0.9 * 0.1 / 200 + Z**2 / 160_000)
    assert (low, high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert agreement_interval(1.0, 100).high == 1
    assert agreement_interval(1.0, 100).low < 1


# ------------------------------------------------------------------ images that decide


@given(tables(most=60), st.floats(0, 0.3), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_the_images_that_would_decide_do(table, tolerance, confidence):
    lost, gained, n = table
    goal = Goal(tolerance, "absolute", confidence=confidence)
    wanted = images_to_decide(Drop(0, 0, 0, lost, gained, n), 1.0, goal)
    if wanted is not None:
        assert wanted > n
        more = round(lost * wanted / n)
        grown = Drop(0, 0, 0, more, min(round(gained * wanted / n), wanted - more), wanted)
        assert decide_drop(grown, 1.0, goal) != "undecided"


@pytest.mark.parametrize("n", [2, 3, 5, 7, 14, 50])
def test_images_can_be_told_where_all_are_discordant(n):
    """Half a lost and half a gained image may not both be rounded up."""
    goal = Goal(0.01, "absolute", confidence=0.95)
    assert images_to_decide(Drop(0, 0, 0, n // 2, n - n // 2, n), 1.0, goal) > n


def test_nearly_enough_images_do_not_decide():
    goal = Goal(0.02, "absolute", confidence=0.95)
    seen = Drop(1, 0, 0, 3, 1, 200)
    wanted = images_to_decide(seen, 1.0, goal)
    fewer = int(wanted * 0.9)
    rates = (3 / 200 * fewer, 1 / 200 * fewer)
    assert decide_drop(Drop(1, 0, 0, *map(round, rates), fewer), 1.0, goal) == "undecided"
    assert 500 < wanted < 2000


def test_at_the_margin_no_number_of_images_decides():
    goal = Goal(0.02, "absolute", confidence=0.95)
    assert images_to_decide(Drop(2, 0, 0, 20, 0, 1000), 1.0, goal) is None
    assert images_to_agree(0.98, 1000, Goal(0.98, "agreement", confidence=0.95)) is None


def test_images_that_would_agree():
    goal = Goal(0.98, "agreement", confidence=0.95)
    wanted = images_to_agree(0.99, 100, goal)
    assert decide_agreement(0.99, wanted, goal) == "met"
    assert decide_agreement(0.99, int(wanted * 0.8), goal) == "undecided"


# ------------------------------------------------------------------------------ chance


@pytest.mark.parametrize(
    ("right", "n", "classes", "expected"),
    [
        (100, 1000, 10, False),
        (127, 1000, 10, False),  # p = 0.003
        (131, 1000, 10, True),  # p = 0.0009
        (0, 1000, 10, False),
        (9, 9, 2, False),  # p = 0.002
        (10, 10, 2, True),  # p = 0.00098
        (1, 1, 1000, False),  # p = 0.001
        (2, 2, 1000, True),
        (5, 5, 1, False),
    ],
)
def test_better_than_chance_means_one_in_a_thousand(right, n, classes, expected):
    labels = np.zeros(n, np.int64)
    predicted = np.array([0] * right + [1] * (n - right))
    assert above_chance(evaluation(predicted, labels), classes) == expected
