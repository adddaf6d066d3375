"""The search for a candidate that meets goal and speed floor. It is handed functions and plans.

Order comes from the caller, cheapest first, and the earliest plan that meets both wins: measured
time accepts or refuses, it never chooses, so that two runs end with the same bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from quantize.errors import EngineError, ModelError
from quantize.plan import Fidelity, Latency, Plan, SearchResult, Trial

log = logging.getLogger(__name__)

SLOW = "misses the speed floor"
NONE_LEFT = "no candidate met goal and speed floor on search images; the closest was taken"


@dataclass(frozen=True)
class Quality:
    """What the search images say of one candidate.

    Attributes:
        accuracy: top-1 (ratio), or None without labels.
        fidelity: closeness to float.
        good: whether the goal is met on these images.
        note: the figures, where it is not.
    """

    accuracy: float | None
    fidelity: Fidelity
    good: bool
    note: str


@dataclass(frozen=True)
class Hands:
    """What the search can do, each a function.

    Attributes:
        make: writes the plan's int8 file.
        judge: evaluates a file on the search images.
        time: measures a file against float.
        fast_enough: whether a latency meets the floor.
        remember: makes a finished trial durable.
        recall: the trial of an earlier, interrupted run of the same job.
        expired: whether the time budget is spent.
    """

    make: Callable[[Plan], Path]
    judge: Callable[[Path], Quality]
    time: Callable[[Path], Latency]
    fast_enough: Callable[[Latency], bool]
    remember: Callable[[Trial], None]
    recall: Callable[[Plan], Trial | None]
    expired: Callable[[], bool]


def search(plans: Iterable[Plan], hands: Hands) -> SearchResult:
    """Try plans in order until one meets goal and floor.

    A candidate that fails is recorded with its cause and the search goes on. Without an accepted
    one, the best is the fast enough candidate with the highest SQNR, else the highest SQNR.
    """
    trials: list[Trial] = []
    for plan in plans:
        if trials and hands.expired():
            best = closest(trials, hands.fast_enough)
            return SearchResult(best, tuple(trials), "the time budget is spent")
        trial = hands.recall(plan)
        if trial is None:
            trial = attempt(plan, hands)
            hands.remember(trial)
        trials.append(trial)
        if trial.accepted:
            return SearchResult(trial, tuple(trials), "goal and speed floor met on search images")
    return SearchResult(closest(trials, hands.fast_enough), tuple(trials), NONE_LEFT)


def attempt(plan: Plan, hands: Hands) -> Trial:
    """Make and judge one candidate; its failure is a trial with a note, not an exception.

    What is not the candidate's fault, such as a full disk, is an exception.
    """
    start = time.monotonic()
    failed = Trial(plan, None, None, None, None, accepted=False, note="", seconds=0.0)
    try:
        path = hands.make(plan)
        quality = hands.judge(path)
        latency = hands.time(path)
    except (EngineError, ModelError) as error:
        log.warning("candidate %s failed: %s", plan.key, error)
        return replace(failed, note=f"failed: {error}", seconds=time.monotonic() - start)
    fast = hands.fast_enough(latency)
    notes = [] if quality.good else [quality.note]
    if not fast:
        notes.append(SLOW)
    return Trial(
        plan,
        path,
        quality.accuracy,
        quality.fidelity,
        latency,
        accepted=quality.good and fast,
        note="; ".join(notes),
        seconds=time.monotonic() - start,
    )


def closest(trials: Iterable[Trial], fast_enough: Callable[[Latency], bool]) -> Trial | None:
    """The trial to keep when none was accepted; the earlier of equals."""
    ran = [t for t in trials if t.fidelity is not None and t.latency is not None]
    fast = [t for t in ran if t.latency is not None and fast_enough(t.latency)]
    return max(fast or ran, key=lambda t: t.fidelity.sqnr_db if t.fidelity else 0, default=None)
