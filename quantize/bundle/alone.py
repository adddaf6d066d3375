"""The int8 file without its float parent: what its accuracy says of the goal.

How many images the float model has right is then the release's word. On the very images of the
release that is all there is to know of the drop, and its table of changed answers with it. On
others, accuracies of different images are compared, which decides only where there are many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from quantize.bundle.expected import Expected, Right
from quantize.paired import Interval, agreement_interval, decide_drop, margin, tango
from quantize.plan import Drop, Goal, Outcome

_USUAL_CONFIDENCE = 0.95
"""One-sided, where the goal asks for none: a point rule would decide between unlike images."""

_WORDS = {"met": "ACCURACY MET", "unmet": "ACCURACY NOT MET", "undecided": "UNDECIDED"}


@dataclass(frozen=True)
class Alone:
    """What the int8 file's accuracy shows.

    Attributes:
        outcome: whether the drop from the float accuracy as released is within the goal. Of the
            speed it says nothing.
        top1: of the int8 file (ratio), with Wilson's 95 % interval; likewise low, high.
        low: see there.
        high: see there.
        reason: why, one line.
    """

    outcome: Outcome
    top1: float
    low: float
    high: float
    reason: str

    @property
    def exit_code(self) -> int:
        """0 met, 3 unmet, 4 undecided."""
        return {"met": 0, "unmet": 3, "undecided": 4}[self.outcome]

    def line(self) -> str:
        """The result."""
        top1, low, high = (100 * value for value in (self.top1, self.low, self.high))
        return (
            f"{_WORDS[self.outcome]}: int8 top-1 {top1:.2f} % (95 % interval {low:.2f} to"
            f" {high:.2f}); {self.reason}; the drop and the speed are unproven without --float"
        )


def judge_alone(expected: Expected, right: int, images: int, *, same_images: bool) -> Alone:
    """Compare with the float accuracy as released.

    Args:
        expected: of the release.
        right: images that the int8 file has right.
        images: how many were seen.
        same_images: whether they are those of the release, and all could be read again.
    """
    top1 = right / images
    outcome, reason = _decided(expected, right, images, same_images=same_images)
    return Alone(outcome, top1, *agreement_interval(top1, images), reason)


def _decided(
    expected: Expected, right: int, images: int, *, same_images: bool
) -> tuple[Outcome, str]:
    known = expected.right
    if known is None:
        return "undecided", "the release knows no accuracy"
    goal = _goal_on_top1(expected.goal)
    before = known.float_ / expected.images
    allowed = margin(goal, before)
    if same_images:
        table = table_of(known, right, images)
        outcome = decide_drop(table, before, goal)
        points, where = table.points, "on the same images"
    else:
        limits = newcombe(known.float_, expected.images, right, images, goal.confidence)
        outcome = _side(limits, allowed)
        points = 100 * (before - right / images)
        sure = 100 * (goal.confidence or _USUAL_CONFIDENCE)
        where = (
            f"on other images, if these are alike (one-sided {sure:g} % limits of the drop"
            f" {100 * limits.low:.2f} and {100 * limits.high:.2f})"
        )
    if expected.goal.kind == "agreement" and outcome == "met":
        return "undecided", "equal answers, which the goal asks for, are not seen without --float"
    more = "; more images or --float decide" if outcome == "undecided" else ""
    return outcome, (
        f"{abs(points):.2f} points {'above' if points < 0 else 'below'} float as released,"
        f" {where}, where a drop of {100 * allowed:.2f} is allowed{more}"
    )


def table_of(known: Right, right: int, images: int) -> Drop:
    """The paired table on the release's images, as far as one count can tell.

    It is the release's own where the count is. A difference is taken for images that int8 alone
    loses or gains, as few as can make it.
    """
    difference = known.float_ - right
    fewer = known.int8 - right
    if fewer >= 0:
        lost = min(known.lost + fewer, known.float_)
        gained = lost - difference
    else:
        gained = min(known.gained - fewer, images - known.float_)
        lost = gained + difference
    low, high = tango(lost, gained, images)
    return Drop(100 * difference / images, 100 * low, 100 * high, lost, gained, images)


def newcombe(
    float_right: int, float_images: int, right: int, images: int, confidence: float | None
) -> Interval:
    """Hybrid score interval of p - q for shares p, q of different images (ratios).

        low  = p - q - sqrt((p - l)^2 + (v - q)^2)
        high = p - q + sqrt((u - p)^2 + (q - k)^2)

    where (l, u) and (k, v) are Wilson's intervals of p and q. Newcombe, Statistics in Medicine 17
    (1998) 873-890, method 10. Each limit errs with the chance 1 - confidence.
    """
    both = 2 * (confidence or _USUAL_CONFIDENCE) - 1
    p, q = float_right / float_images, right / images
    of_p, of_q = agreement_interval(p, float_images, both), agreement_interval(q, images, both)
    return Interval(
        p - q - math.hypot(p - of_p.low, of_q.high - q),
        p - q + math.hypot(of_p.high - p, q - of_q.low),
    )


def _side(limits: Interval, allowed: float) -> Outcome:
    if limits.high <= allowed:
        return "met"
    return "unmet" if limits.low > allowed else "undecided"


def _goal_on_top1(goal: Goal) -> Goal:
    """The goal itself; where it is on equal answers, what these allow the top-1 at most."""
    if goal.kind == "agreement":
        return replace(goal, kind="absolute", tolerance=1 - goal.tolerance)
    return goal
