"""How the configured strategy looks for a candidate: ours (`guided`) or one of INC's loops."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from quantize.answers import AnswerFolder, Answers
from quantize.candidates import Workshop, check_plans, plans
from quantize.config import INC_STRATEGIES
from quantize.errors import BudgetError, EngineError, ModelError
from quantize.evaluation import Reference, logits_row, reference
from quantize.graph.coverage import coverage
from quantize.graph.prepare import Prepared
from quantize.job import Job, check_readable
from quantize.journal import RunFolder
from quantize.judging import baseline, decidable, judge, probe, probe_images
from quantize.latency import meets_floor
from quantize.loops import inc_loop, settled
from quantize.measure import predictor, time_files, timing_of
from quantize.plan import Latency, Plan, SearchResult
from quantize.probe import shapes_of
from quantize.remedies import FOLLOWING, WALKED
from quantize.sanity import check_float
from quantize.search import Hands, guided

log = logging.getLogger(__name__)

TRIED = ("bias", "pixels", "rounding", "equalize", "ranges", "scales")
"""Repairs in the order in which the ladder tries them: those that usually bring most first."""

_LEAST_WALKED = 16
_WALKED_VALUES = 1 << 20


def accept(job: Job, prepared: Prepared, answers: AnswerFolder | None = None) -> Reference:
    """All that can refuse a job on sight of its content; nothing is written but `answers`.

    Args:
        job: the inputs.
        prepared: the working copy.
        answers: keeps the float model's answers as they come; None: in memory only.

    Returns:
        The float model's answers on the search images.

    Raises:
        DataError: an image set is unreadable, or the float model is no better than chance.
        ConfigError, EngineError: a rule or an engine that the search would stumble over.
    """
    check_readable(job.calibration)
    check_plans(job.config, prepared.model)
    predict = predictor(job.model.path)
    with _float_answers(job, answers) as kept:
        base = reference(predict, job.search.without(kept.done), kept)
    check_float(job, base.evaluation, predict)
    return base


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
        found = _guided(job, workshop, hands, run)
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
    repairs = TRIED if first.engine == "onnxruntime" else ()

    def rank(plan: Plan) -> list[str]:
        return _ranked(plan, workshop, hands, run)

    return guided([first], repairs, rank, hands, others=others, brief=brief_look(job))


def brief_look(job: Job) -> int | None:
    """How many images repairs look at while they are compared; None where all are quick.

    Few images of many pixels say as much as many of few.
    """
    channels, height, width = job.model.size
    few = max(_LEAST_WALKED, _WALKED_VALUES // (channels * height * width))
    return few if few < min(WALKED, len(job.calibration.samples)) else None


def _ranked(plan: Plan, workshop: Workshop, hands: Hands, run: RunFolder) -> list[str]:
    """Int8 layers by what leaving each one float brings, in dB per multiply-add, best first.

    Told without the repairs that follow what the layers before lose, since each of these
    candidates would need its own.
    """
    steady = tuple(name for name in plan.repairs if name not in FOLLOWING)
    plan = replace(plan, repairs=steady)
    model = workshop.prepared.model
    seen = coverage(model, lambda names: shapes_of(model, names, workshop.job.model.size))
    before = _compared(plan, workshop, hands, run)
    gains: dict[str, float] = {}
    for layer in seen.layers:
        if layer.name in plan.keep_float:
            continue
        if hands.expired():
            raise BudgetError("the time budget is spent")
        one = replace(plan, keep_float=tuple(sorted({*plan.keep_float, layer.name})))
        sqnr_db = _compared(one, workshop, hands, run)
        if sqnr_db is not None and before is not None:
            gains[layer.name] = (sqnr_db - before) / max(1, layer.multiply_adds)
    return sorted(gains, key=lambda name: -gains[name])


def _compared(plan: Plan, workshop: Workshop, hands: Hands, run: RunFolder) -> float | None:
    """Output SQNR on the probe, in dB, of a candidate that is not kept; None where it fails."""
    known = hands.recall(plan)
    if known is not None and known.probe is not None:
        return known.probe.sqnr_db
    noted = run.noted("rank", plan=plan.key)
    if noted is not None:
        return float(noted["sqnr_db"])
    try:
        path = workshop.make(plan)
        seen = hands.probe(path)
    except (EngineError, ModelError) as error:
        log.warning("candidate %s failed: %s", plan.key, error)
        return None
    path.unlink()
    run.note("rank", plan=plan.key, sqnr_db=seen.sqnr_db)
    return seen.sqnr_db


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
    trials = run.trials()
    if noted is None or len(trials) != noted["of"]:
        return None
    return settled(trials[-noted["trials"] :], noted["stopped"], hands)


def hands_of(job: Job, base: Reference, workshop: Workshop, run: RunFolder) -> Hands:
    """The search's functions, on real files."""
    goal, timing = job.config.goal(), timing_of(job.config)

    def latency(path: Path) -> Latency:
        images = job.search.first(1)
        return time_files(job.model.path, path, images, timing, floor=goal.speed_floor)

    few = probe_images(job, base)
    loop = job.config.tuning.strategy.name in INC_STRATEGIES  # INC is told of all images
    return Hands(
        make=workshop.make,
        probe=lambda path: probe(path, few),
        judge=lambda path: judge(path, job, base, run.answers, whole=loop),
        time=latency,
        fast_enough=lambda seen: meets_floor(seen, goal.speed_floor),
        decidable=decidable(base, goal),
        remember=run.remember,
        recall=run.recall,
        expired=lambda: job.search.deadline.passed,
    )
