"""The int8 file alone: what a count of right answers shows of the goal."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.bundle.alone import judge_alone, newcombe, table_of
from quantize.bundle.expected import Expected, Right
from quantize.plan import Goal

N = 1000


def released(goal=None, lost=12, gained=4, float_=900):
    right = Right(float_, float_ - lost + gained, lost, gained)
    goal = goal or Goal(0.01, "absolute")
    return Expected(
        goal, "isa", N, "0" * 64, float_ / N, right.int8 / N, 0.8, 0.9, right,
        (0.8, 0.1, 1.5), 0.98, None, "cpu", (1, 0, 1),
    )  # fmt: skip


def outcome(expected, right, images=N, *, same=True):
    found = judge_alone(expected, right, images, same_images=same)
    assert "\n" not in found.line()
    return found.outcome


def test_on_the_same_images_the_point_rule_of_the_goal_decides():
    assert outcome(released(), 892) == "met"
    assert outcome(released(), 890) == "met"  # 1.00 points below the 900 of float
    assert outcome(released(), 889) == "unmet"
    assert outcome(released(), 950) == "met"


def test_on_the_same_images_the_confidence_of_the_goal_decides():
    sure = Goal(0.01, "absolute", 0.95)
    assert outcome(released(sure, lost=2, gained=0), 898) == "met"
    assert outcome(released(sure), 892) == "undecided"
    assert outcome(released(sure), 860) == "unmet"


def test_on_other_images_it_takes_many():
    expected = released()
    assert outcome(expected, 892, same=False) == "undecided"
    assert outcome(expected, 89, 100, same=False) == "undecided"
    assert outcome(expected, 700, same=False) == "unmet"
    many = replace(expected, images=10**6, right=Right(900_000, 899_000, 1000, 0))
    assert outcome(many, 899_000, 10**6, same=False) == "met"


def test_equal_answers_cannot_be_counted_alone():
    agree = released(Goal(0.98, "agreement"))
    assert outcome(agree, 892) == "undecided"
    assert outcome(agree, 870) == "unmet"  # 3 points lost: 98 % equal answers are impossible
    assert outcome(replace(agree, right=None), 892) == "undecided"


@given(st.data())
def test_a_table_is_possible_and_has_the_difference_seen(data):
    n = data.draw(st.integers(1, 300))
    float_ = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, float_))
    gained = data.draw(st.integers(0, n - float_))
    seen = data.draw(st.integers(0, n))
    known = Right(float_, float_ - lost + gained, lost, gained)
    made = table_of(known, seen, n)
    assert made.lost - made.gained == float_ - seen
    assert 0 <= made.lost <= float_
    assert 0 <= made.gained <= n - float_
    if seen == known.int8:
        assert (made.lost, made.gained) == (lost, gained)


def test_the_published_example_of_the_interval():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80, 95 % two-sided."""
    limits = newcombe(56, 70, 48, 80, 0.975)
    assert (limits.low, limits.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_model_at_the_margin_is_rarely_accepted_on_other_images():
    """By simulation: 5 % are promised."""
    rng = np.random.default_rng(7)
    expected = released(Goal(0.05, "absolute"))
    accepted, times = 0, 600
    for float_, right in rng.binomial([500, 500], [0.8, 0.75], (times, 2)):
        one = replace(expected, images=500, right=Right(int(float_), int(float_), 0, 0))
        accepted += judge_alone(one, int(right), 500, same_images=False).outcome == "met"
    assert 0.02 < accepted / times < 0.08
