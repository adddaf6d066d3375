"""Paired statistics: the same images through both models.

The table of one comparison is (both right, lost, gained, both wrong), where `lost` counts images
that float has right and int8 wrong. Its difference, the drop, is (lost - gained) / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from scipy.optimize import brentq

from quantize.distributions import binomial_above, binomial_cdf, normal_quantile, wilson
from quantize.errors import DataError
from quantize.plan import Drop, Evaluation, Goal, Outcome
from quantize.trinomial import p_value, score, spread

_MOST_IMAGES = 10_000_000


class Interval(NamedTuple):
    """Two limits, low <= high."""

    low: float
    high: float


class Evidence(NamedTuple):
    """How unlikely what is seen would be right at the margin, one-sided p-values.

    Attributes:
        met: of a result this good or better.
        unmet: of one this bad or worse.
    """

    met: float
    unmet: float

    def outcome(self, level: float) -> Outcome:
        """What is shown if an error may have this chance, below a half."""
        if self.met <= level:
            return "met"
        return "unmet" if self.unmet <= level else "undecided"


def drop(float_: Evaluation, int8: Evaluation, confidence: float = 0.95) -> Drop:
    """Float top-1 minus int8 top-1 in points, with its two-sided interval.

    Raises:
        DataError: the two evaluations are not of the same labelled images.
    """
    if float_.digests != int8.digests or not float_.labelled:
        raise DataError("the drop needs the same labelled images for both models")
    lost = int((float_.right & ~int8.right).sum())
    gained = int((~float_.right & int8.right).sum())
    n = float_.images
    limits = tango(lost, gained, n, confidence)
    points = 100 * (lost - gained) / n
    return Drop(points, 100 * limits.low, 100 * limits.high, lost, gained, n)


def tango(lost: int, gained: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of the paired difference d = (lost - gained) / n (a ratio).

    Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998) 891-908: the limits are the two d0
    whose `quantize.trinomial.score` is +-z of the confidence.

    Args:
        lost: images that only the first model has right.
        gained: images that only the second model has right.
        n: images in all, at least 1.
        confidence: of the two-sided interval; the one-sided limit at c is that at 2 c - 1.

    Raises:
        ValueError: the counts are negative or more than n.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError(f"no paired table has lost {lost}, gained {gained} of {n}")
    z = normal_quantile(0.5 + confidence / 2)
    if lost == gained == 0:  # d0 = 0 is a root too, but no limit: z(d0) is 0 / 0 there
        far = z * z / (n + z * z)
        return Interval(-far, far)
    seen = (lost - gained) / n
    low = -1.0 if lost - gained == -n else _limit(lost, gained, n, z, -1.0, seen)
    high = 1.0 if lost - gained == n else _limit(lost, gained, n, -z, seen, 1.0)
    return Interval(low, high)


def _limit(lost: int, gained: int, n: int, z: float, left: float, right: float) -> float:
    def excess(d0: float) -> float:
        return (lost - gained - n * d0) - z * float(spread(lost, gained, n, d0))

    edge = 1e-12
    return float(brentq(excess, left + edge * (left < -0.5), right - edge * (right > 0.5)))


def agreement_interval(agreement: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share of n images (ratios)."""
    return Interval(*wilson(round(agreement * n), n, confidence))


def margin(goal: Goal, float_top1: float) -> float:
    """The largest drop that the goal allows, as a ratio of all images."""
    return goal.tolerance * (float_top1 if goal.kind == "relative" else 1.0)


def drop_evidence(seen: Drop, allowed: float) -> Evidence:
    """Exact p-values against a drop of `allowed` (a ratio), for any discordance."""
    if allowed >= 1:
        return Evidence(0.0, 1.0)
    lost, gained, n = seen.lost, seen.gained, seen.images
    return Evidence(p_value(lost, gained, n, allowed), p_value(gained, lost, n, -allowed))


def agreement_evidence(agreement: float, n: int, least: float) -> Evidence:
    """Exact binomial p-values against a share `least` of equal answers.

    The limits they belong to are those of Clopper and Pearson, Biometrika 26 (1934) 404-413.
    """
    if least <= 0:
        return Evidence(0.0, 1.0)
    different = n - round(agreement * n)
    allowed = 1 - least
    return Evidence(
        float(binomial_cdf(different, n, allowed)),
        float(binomial_above(different - 1, n, allowed)),
    )


def decide_drop(seen: Drop, float_top1: float, goal: Goal) -> Outcome:
    """Whether the drop is within the goal.

    Without a confidence the point rule decides, int8 >= float - margin, in whole images so that
    rounding cannot. With one, the one-sided limit of Tango's interval has to be on one side of
    the margin, and the exact p-value small enough: the limit alone errs more often than promised
    where few images are discordant.
    """
    allowed = margin(goal, float_top1)
    if goal.confidence is None:
        return "met" if seen.lost - seen.gained <= allowed * seen.images + 1e-9 else "unmet"
    if allowed >= 1:
        return "met"
    z = normal_quantile(goal.confidence)
    if abs(float(score(seen.lost, seen.gained, seen.images, allowed))) < z:
        return "undecided"
    return drop_evidence(seen, allowed).outcome(1 - goal.confidence)


def decide_agreement(agreement: float, n: int, goal: Goal) -> Outcome:
    """Whether enough answers are equal; exact where a confidence is asked."""
    if goal.confidence is None:
        return "met" if round(agreement * n) >= goal.tolerance * n - 1e-9 else "unmet"
    return agreement_evidence(agreement, n, goal.tolerance).outcome(1 - goal.confidence)


def images_to_decide(seen: Drop, float_top1: float, goal: Goal) -> int | None:
    """How many images would decide if the rates stayed as seen, or None if over ten million."""

    def decide(n: int) -> Outcome:
        lost = round(seen.lost * n / seen.images)
        gained = min(round(seen.gained * n / seen.images), n - lost)
        return decide_drop(replace(seen, lost=lost, gained=gained, images=n), float_top1, goal)

    return _least_images(seen.images, decide)


def images_to_agree(agreement: float, n: int, goal: Goal) -> int | None:
    """The same for a goal on agreement."""
    return _least_images(n, lambda more: decide_agreement(agreement, more, goal))


def _least_images(seen: int, decide: Callable[[int], Outcome]) -> int | None:
    n = seen
    while n <= _MOST_IMAGES:
        n = math.ceil(n * 1.05) + 1
        if decide(n) != "undecided":
            return n
    return None


def above_chance(evaluation: Evaluation, classes: int) -> bool:
    """Whether top-1 is better than guessing among K classes (one-sided binomial, p < 0.001)."""
    right = int(evaluation.right.sum())
    return float(binomial_above(right - 1, evaluation.images, 1 / classes)) < 1e-3
