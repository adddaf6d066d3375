"""How sure a verdict is, and what more images would bring if the rates stayed as seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantize.paired import (
    agreement_interval,
    decide_agreement,
    decide_drop,
    images_to_agree,
    images_to_decide,
    margin,
    tango,
)
from quantize.plan import Drop, Outcome
from quantize.report.details import Details
from quantize.report.reading import Account

_FACTORS = (1, 2, 4, 10)
_USUAL = 0.95


@dataclass(frozen=True)
class Prospect:
    """The 95 % interval that so many images would probably give, in percent or points."""

    images: int
    low: float
    high: float


@dataclass(frozen=True)
class Certainty:
    """What is known, and what would be.

    Attributes:
        confidence: one-sided, that was asked; without one, the usual 0.95.
        asked: whether it was.
        outcome: at that confidence.
        decisive: images in all that would probably decide, or None where these do or hardly any
            number would.
        seen: the difference, in points; for a goal on agreement, the agreement in percent.
        limit: what the goal allows at most or asks at least, likewise.
        prospects: the images seen first, then more of them.
    """

    confidence: float
    asked: bool
    outcome: Outcome
    decisive: int | None
    seen: float
    limit: float
    prospects: tuple[Prospect, ...]


def certainty(run: Account, more: Details) -> Certainty | None:
    """Judge the figures of a report at a confidence, and look ahead.

    Args:
        run: its account.
        more: its details.

    Returns:
        None where the counts cannot be.
    """
    answers, n = more.answers, run.images
    if n < 1 or not 0 <= run.agreement <= 1:
        return None
    if more.goal.kind == "agreement":
        return _on_agreement(run, more)
    if run.accuracy is None or answers is None or answers.lost + answers.gained > n:
        return None
    return _on_drop(run.accuracy.float_top1, answers.lost, answers.gained, n, more)


def _on_drop(top1: float, lost: int, gained: int, n: int, more: Details) -> Certainty:
    confidence = more.goal.confidence or _USUAL
    goal = replace(more.goal, confidence=confidence)
    points = 100 * (lost - gained) / n
    seen = Drop(points, points, points, lost, gained, n)  # deciding asks for the counts alone
    outcome = decide_drop(seen, top1, goal)
    prospects = []
    for factor in _FACTORS:
        limits = tango(lost * factor, gained * factor, n * factor)
        prospects.append(Prospect(n * factor, 100 * limits.low, 100 * limits.high))
    return Certainty(
        confidence,
        more.goal.confidence is not None,
        outcome,
        images_to_decide(seen, top1, goal) if outcome == "undecided" else None,
        points,
        100 * margin(goal, top1),
        tuple(prospects),
    )


def _on_agreement(run: Account, more: Details) -> Certainty:
    confidence = more.goal.confidence or _USUAL
    goal = replace(more.goal, confidence=confidence)
    share, n = run.agreement, run.images
    outcome = decide_agreement(share, n, goal)
    prospects = []
    for factor in _FACTORS:
        limits = agreement_interval(share, n * factor)
        prospects.append(Prospect(n * factor, 100 * limits.low, 100 * limits.high))
    return Certainty(
        confidence,
        more.goal.confidence is not None,
        outcome,
        images_to_agree(share, n, goal) if outcome == "undecided" else None,
        100 * share,
        100 * goal.tolerance,
        tuple(prospects),
    )
