"""How the configured strategy looks for a candidate: ours (`guided`) or one of INC's loops."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quantize.answers import AnswerFolder, Answers
from quantize.attempts import Attempts
from quantize.candidates import Workshop
from quantize.config import INC_STRATEGIES
from quantize.errors import BudgetError, EngineError, QuantizeError
from quantize.evaluation import Reference, logits_row, reference
from quantize.graph import io
from quantize.graph.prepare import Prepared
from quantize.job import Job, Tally, check_readable
from quantize.journal import RunFolder
from quantize.judging import baseline, decidable, judge, probe, probe_images, probe_size
from quantize.latency import LEAST_ROUNDS, meets_floor
from quantize.layer_table import layer_table
from quantize.loops import inc_loop, settled
from quantize.measure import predictor, remembering, time_files, timing_of
from quantize.plan import Latency, Plan, SearchResult
from quantize.planning import check_plans, equipped, plans
from quantize.remedies import FOLLOWING
from quantize.runtime import cores
from quantize.sanity import check_float
from quantize.search import Hands, beside, guided

log = logging.getLogger(__name__)

TRIED = ("bias", "pixels", "equalize", "ranges", "scales")
"""Repairs in the order in which the ladder tries them: those that usually bring most first."""

NOT_PORTABLE = "not portable; only tells what that costs"

_LEAST_TIMED = 16
"""Images whose time says something of others."""


@dataclass(frozen=True, eq=False)
class Accepted:
    """What the float model shows of a job that nothing refuses.

    Attributes:
        base: its answers on the search images.
        pace: seconds that reading and running one of them took, or None where too few were
            computed to say.
    """

    base: Reference
    pace: float | None


def accept(
    job: Job,
    prepared: Prepared,
    answers: AnswerFolder | None = None,
    memory: Path | None = None,
) -> Accepted:
    """All that can refuse a job on sight of its content; nothing is written but `answers`.

    Args:
        job: the inputs.
        prepared: the working copy.
        answers: keeps the float model's answers as they come; None: in memory only.
        memory: folder of its answers beyond a run; None: all are computed.

    Returns:
        The float model's answers on the search images, and how long each took.

    Raises:
        DataError: an image set is unreadable, or the float model is no better than chance.
        ConfigError, EngineError: a rule or an engine that the search would stumble over.
    """
    check_readable(job.calibration)
    check_plans(job.config, prepared.model)
    predict = predictor(job.model.path)
    with _float_answers(job, answers) as kept:
        known = remembering(predict, job.model, job.search, memory)
        asked = job.search.without(kept.done)
        started = time.perf_counter()
        base = reference(known or predict, asked, kept)
        seconds = time.perf_counter() - started
    check_float(job, base.evaluation, predict)
    computed = len(asked.samples) - (known.reused if known else 0)
    return Accepted(base, seconds / computed if computed >= _LEAST_TIMED else None)


def _float_answers(job: Job, folder: AnswerFolder | None) -> Answers:
    """Where the float model's logits of the search images are kept."""
    if folder is None:
        return Answers()
    parts = {"float": job.model.sha256, "images": job.search.digest}
    wanted = [sample.digest for sample in job.search.samples]
    return folder.of("search", logits_row(job.model.classes), parts, wanted)


def find(job: Job, base: Reference, workshop: Workshop, run: RunFolder) -> SearchResult:
    """Search for a candidate that meets goal and floor on the search images.

    It ends with the best so far when the deadline of the job's search images passes.

    Args:
        job: the inputs.
        base: the float model's answers on the search images.
        workshop: writes candidates.
        run: remembers finished trials.

    Raises:
        EngineError: no candidate could be made; the message holds the last one's reason.
        BudgetError: the time was over before the first one.
    """
    hands = hands_of(job, base, workshop, run)
    if job.config.tuning.strategy.name in INC_STRATEGIES:
        found = _earlier_loop(run, hands) or _loop(job, base, workshop, hands, run)
    else:
        with Attempts(run) as attempts:
            watched = attempts.watched(hands, lambda plan: _see(workshop, plan))
            found = _guided(job, workshop, watched, run)
    if found.best is None and hands.expired():
        raise BudgetError(
            f"the time budget was spent before the first candidate: {found.stopped}",
            "give more time, or fewer images",
        )
    if found.best is None:
        reasons = [trial.note for trial in found.trials if trial.note] or [found.stopped]
        raise EngineError(f"no int8 candidate could be made: {reasons[-1]}")
    return found


def _guided(job: Job, workshop: Workshop, hands: Hands, run: RunFolder) -> SearchResult:
    """Our ladder; repairs need the onnxruntime engine, which takes given scales."""
    first, *others = plans(job.config, workshop.prepared.model)
    ours = first.engine == "onnxruntime"

    def rank(plan: Plan) -> list[str]:
        return _ranked(plan, workshop, run)

    begin = [equipped(first, job.config)] if ours and hands.decidable else []
    found = guided(
        [*begin, first],
        TRIED if ours else (),
        rank,
        hands,
        following=tuple(sorted(FOLLOWING)) if ours else (),
        others=others,
    )
    if found.best is None or not first.scheme.portable:
        return found
    free = replace(found.best.plan, scheme=replace(first.scheme, portable=False))
    return beside(found, free, hands, NOT_PORTABLE)


def _ranked(plan: Plan, workshop: Workshop, run: RunFolder) -> list[str]:
    """Int8 layers by the noise power that each alone adds per multiply-add, the most first.

    Measured on one file, so that no layer needs a candidate of its own.
    """
    known = run.noted("rank", plan=plan.key)
    if known is not None:
        return [str(name) for name in known["layers"]]
    file = run.candidates / f"{plan.key}.onnx"
    made = file if file.is_file() else workshop.make(plan)
    model, statistics = workshop.rounded_from(plan)
    search = workshop.job.search
    few = search.first(probe_size(len(search.samples)))
    rows = layer_table(
        model,
        io.load(made),
        np.concatenate(list(replace(few, tally=Tally()).arrays())),
        statistics,
        threads=cores(),
        expired=lambda: search.deadline.passed,
    )
    search.deadline.check()
    costs = {
        row.name: row.noise_share / row.multiply_add_share
        for row in rows
        if row.int8 and row.noise_share is not None and row.multiply_add_share > 0
    }
    order = sorted((name for name in costs if name not in plan.keep_float), key=lambda n: -costs[n])
    run.note("rank", plan=plan.key, layers=order)
    return order


def _loop(
    job: Job, base: Reference, workshop: Workshop, hands: Hands, run: RunFolder
) -> SearchResult:
    """INC's loop, made durable as a whole: INC cannot continue one, but evaluations are kept."""
    found = inc_loop(job, baseline(base, job.config.goal()), workshop, hands)
    if found.best is not None and not hands.expired():
        count = len(found.trials)
        run.note("loop", stopped=found.stopped, trials=count, of=len(run.trials()))
    return found


def _earlier_loop(run: RunFolder, hands: Hands) -> SearchResult | None:
    """The loop that an earlier run of this job finished, if its files are still what they were."""
    noted = run.noted("loop")
    if noted is None or len(run.trials()) != noted["of"]:
        return None
    return settled(run.recall_last(noted["trials"]), noted["stopped"], hands)


def _see(workshop: Workshop, plan: Plan) -> None:
    """Look at images apart: what they, or a caller who is told of them, raise is not the plan's."""
    if plan.engine != "inc":
        workshop.see_images(plan)


def _made(workshop: Workshop, plan: Plan) -> Path:
    """The plan's int8 file; its images were looked at before: `_see`.

    Raises:
        EngineError: whatever went wrong with this one: a defect must not cost the other candidates.
    """
    if plan.engine == "inc":  # in a process of its own, whose end is such an error already
        return workshop.make(plan)
    try:
        return workshop.make(plan)
    except QuantizeError:
        raise
    except Exception as error:
        log.info("candidate %s", plan.key, exc_info=True)
        raise EngineError(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def hands_of(job: Job, base: Reference, workshop: Workshop, run: RunFolder) -> Hands:
    """The search's functions, on real files."""
    goal, asked = job.config.goal(), timing_of(job.config)
    # Enough to accept or refuse; where they are not, more follow. The verdict has all of them.
    timing = replace(asked, rounds=min(asked.rounds, LEAST_ROUNDS))

    def latency(path: Path) -> Latency:
        images = job.search.first(1)
        floor = goal.speed_floor
        return time_files(job.model.path, path, images, timing, floor=floor, brief=True)

    few = probe_images(job, base)
    loop = job.config.tuning.strategy.name in INC_STRATEGIES  # INC is told of all images
    return Hands(
        make=lambda plan: _made(workshop, plan),
        probe=lambda path: probe(path, few),
        judge=lambda path: judge(path, job, base, run.answers, whole=loop),
        time=latency,
        fast_enough=lambda seen: meets_floor(seen, goal.speed_floor),
        decidable=decidable(base, goal),
        remember=run.remember,
        recall=run.recall,
        expired=lambda: job.search.deadline.passed,
    )
