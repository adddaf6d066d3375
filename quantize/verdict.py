"""The verdict: reopen the two files that count and compare them on the holdout."""

from __future__ import annotations

from quantize.errors import DataError
from quantize.evaluation import Comparison
from quantize.latency import meets_floor
from quantize.paired import (
    agreement_interval,
    decide_agreement,
    decide_drop,
    drop,
    images_to_agree,
    images_to_decide,
    margin,
)
from quantize.plan import Cpu, Drop, Goal, Latency, Outcome, Verdict


def judge(seen: Comparison, goal: Goal, latency: Latency | None, cpu: Cpu) -> Verdict:
    """Turn a comparison on the holdout into a verdict.

    Args:
        seen: both files' answers on the same images.
        goal: what was asked.
        latency: time of both files; None leaves the speed floor out.
        cpu: where the answers were computed.

    Raises:
        DataError: the goal needs labels that are missing.
    """
    labelled = seen.float_.labelled
    if goal.kind != "agreement" and not labelled:
        raise DataError(
            "the goal is on top-1, but images without a label are in the evaluation data",
            "give labels, or set tuning.accuracy_criterion.agreement",
        )
    difference = drop(seen.float_, seen.int8) if labelled else None
    agreement = agreement_interval(seen.fidelity.agreement, seen.float_.images)
    outcome, more, reason = (
        _on_agreement(seen, goal)
        if difference is None or goal.kind == "agreement"
        else _on_drop(seen, difference, goal)
    )
    if latency is not None and not meets_floor(latency, goal.speed_floor):
        outcome, more = "unmet", None
        reason = f"{reason}; the speed floor of {goal.speed_floor:g}x is missed"
    return Verdict(
        outcome=outcome,
        reason=reason,
        goal=goal,
        drop=difference,
        float_top1=seen.float_.accuracy(1) if labelled else None,
        int8_top1=seen.int8.accuracy(1) if labelled else None,
        float_top5=seen.float_.accuracy(5) if labelled else None,
        int8_top5=seen.int8.accuracy(5) if labelled else None,
        fidelity=seen.fidelity,
        agreement_low=agreement.low,
        agreement_high=agreement.high,
        images=seen.float_.images,
        more_images=more,
        latency=latency,
        cpu=cpu,
    )


def _on_drop(seen: Comparison, difference: Drop, goal: Goal) -> tuple[Outcome, int | None, str]:
    top1 = seen.float_.accuracy(1)
    outcome = decide_drop(difference, top1, goal)
    more = images_to_decide(difference, top1, goal) if outcome == "undecided" else None
    reason = (
        f"top-1 drop {difference.points:.2f} points"
        f" (95 % interval {difference.low:.2f} to {difference.high:.2f})"
        f" where {100 * margin(goal, top1):.2f} are allowed"
    )
    return outcome, more, reason + _undecided(outcome, goal, more)


def _on_agreement(seen: Comparison, goal: Goal) -> tuple[Outcome, int | None, str]:
    share, n = seen.fidelity.agreement, seen.float_.images
    outcome = decide_agreement(share, n, goal)
    more = images_to_agree(share, n, goal) if outcome == "undecided" else None
    limits = agreement_interval(share, n)
    reason = (
        f"agreement {100 * share:.2f} % (95 % interval {100 * limits.low:.2f} to"
        f" {100 * limits.high:.2f}) where {100 * goal.tolerance:.2f} % are asked"
    )
    return outcome, more, reason + _undecided(outcome, goal, more)


def _undecided(outcome: Outcome, goal: Goal, more: int | None) -> str:
    if outcome != "undecided" or goal.confidence is None:
        return ""
    wanted = f"about {more} images would decide" if more else "more images will hardly decide"
    return f"; not decided at {100 * goal.confidence:g} % confidence, {wanted}"
