"""How the configured strategy looks for a candidate: ours (`guided`) or one of INC's loops."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

from quantize.candidates import Workshop, plans
from quantize.config import INC_STRATEGIES
from quantize.errors import BudgetError, EngineError
from quantize.evaluation import Reference, against
from quantize.job import Job
from quantize.journal import RunFolder
from quantize.latency import meets_floor
from quantize.loops import inc_loop, settled
from quantize.measure import predictor, time_files, timing_of
from quantize.paired import decide_agreement, decide_drop, drop, margin
from quantize.plan import Goal, Latency, SearchResult
from quantize.search import Hands, Quality, search

log = logging.getLogger(__name__)


def find(
    job: Job, base: Reference, workshop: Workshop, run: RunFolder, started: float
) -> SearchResult:
    """Search for a candidate that meets goal and floor on the search images.

    Args:
        job: the inputs.
        base: the float model's answers on the search images.
        workshop: writes candidates.
        run: remembers finished trials.
        started: `time.monotonic()` of the run's start; the time budget counts from it.

    Raises:
        EngineError: no candidate could be made; the message holds the last one's reason.
        BudgetError: the time was over before the first one.
    """
    hands = hands_of(job, base, workshop, run, started)
    if job.config.tuning.strategy.name in INC_STRATEGIES:
        found = _earlier_loop(run, hands) or _loop(job, base, workshop, hands, run, started)
    else:
        found = search(plans(job.config, workshop.prepared.model), hands)
    if found.best is None and hands.expired():
        raise BudgetError(
            f"the time budget was spent before the first candidate: {found.stopped}",
            "give more time, or fewer images",
        )
    if found.best is None:
        reasons = [trial.note for trial in found.trials if trial.note] or [found.stopped]
        raise EngineError(f"no int8 candidate could be made: {reasons[-1]}")
    return found


def _loop(
    job: Job, base: Reference, workshop: Workshop, hands: Hands, run: RunFolder, started: float
) -> SearchResult:
    """INC's loop, made durable as a whole: INC cannot continue one."""
    found = inc_loop(job, _baseline(job, base), workshop, hands, _seconds_left(job, started))
    if found.best is not None:
        count = len(found.trials)
        run.note("loop", stopped=found.stopped, trials=count, of=len(run.trials()))
    return found


def _earlier_loop(run: RunFolder, hands: Hands) -> SearchResult | None:
    """The loop that an earlier run of this job finished, if its files are still what they were."""
    noted = run.noted("loop")
    trials = run.trials()
    if noted is None or len(trials) != noted["of"]:
        return None
    return settled(trials[-noted["trials"] :], noted["stopped"], hands)


def _baseline(job: Job, base: Reference) -> float:
    """What the float model scores on the search images: top-1, or agreement with itself."""
    on_labels = job.config.goal().kind != "agreement" and base.evaluation.labelled
    return base.evaluation.accuracy() if on_labels else 1.0


def _seconds_left(job: Job, started: float) -> float:
    """Of the time budget; 0 means that there is none."""
    budget = job.config.tuning.exit_policy.timeout
    return max(1.0, budget - (time.monotonic() - started)) if budget else 0.0


def hands_of(
    job: Job, base: Reference, workshop: Workshop, run: RunFolder, started: float
) -> Hands:
    """The search's functions, on real files."""
    goal, timing = job.config.goal(), timing_of(job.config)
    budget = job.config.tuning.exit_policy.timeout

    def latency(path: Path) -> Latency:
        images = job.search.first(1)
        return time_files(job.model.path, path, images, timing, floor=goal.speed_floor)

    return Hands(
        make=workshop.make,
        judge=lambda path: quality(path, job, base, goal),
        time=latency,
        fast_enough=lambda seen: meets_floor(seen, goal.speed_floor),
        remember=run.remember,
        recall=run.recall,
        expired=lambda: bool(budget) and time.monotonic() - started > budget,
    )


def quality(path: Path, job: Job, base: Reference, goal: Goal) -> Quality:
    """Compare a candidate with float on the search images.

    The point rule decides here; confidence is asked of the holdout alone.
    """
    seen = against(base, predictor(path), job.search)
    point_rule = replace(goal, confidence=None)
    if goal.kind == "agreement" or not base.evaluation.labelled:
        least = goal if goal.kind == "agreement" else replace(goal, tolerance=1 - goal.tolerance)
        good = decide_agreement(
            seen.fidelity.agreement, base.evaluation.images, replace(least, confidence=None)
        )
        note = f"agreement {100 * seen.fidelity.agreement:.2f} %"
        return Quality(None, seen.fidelity, good == "met", note)
    top1 = base.evaluation.accuracy()
    difference = drop(base.evaluation, seen.int8)
    good = decide_drop(difference, top1, point_rule)
    note = (
        f"drop {difference.points:.2f} points on search images,"
        f" {100 * margin(goal, top1):.2f} allowed"
    )
    return Quality(seen.int8.accuracy(), seen.fidelity, good == "met", note)
