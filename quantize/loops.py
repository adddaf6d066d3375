"""Intel Neural Compressor's own tuning loops, with our data, our evaluation and our floor."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from quantize.candidates import Workshop
from quantize.config import Config
from quantize.deadline import NEVER, Deadline
from quantize.engines import inc
from quantize.errors import BudgetError
from quantize.graph import io
from quantize.job import Job
from quantize.plan import Latency, SearchResult, Trial
from quantize.planning import base_plan, inc_rules
from quantize.search import SLOW, Hands, Quality, closest


def inc_loop(job: Job, baseline: float, workshop: Workshop, hands: Hands) -> SearchResult:
    """Let INC search, then hold its candidates to goal and speed floor.

    INC's success is not yet ours: its choice comes first, then its other candidates that meet
    the goal, and the first that is also fast enough wins.

    Args:
        job: the inputs; the loop ends with the deadline of its search images.
        baseline: what the float model scores on the search images (a ratio).
        workshop: knows the prepared file.
        hands: judge, time, remember.

    Raises:
        EngineError: INC is missing or failed before its first candidate.
    """
    judged: dict[Path, Quality] = {}
    finished: list[inc.IncTrial] = []

    def evaluate(path: Path) -> float:
        if path == workshop.prepared_file:
            return baseline
        judged[path] = hands.judge(path)
        return score(judged[path])

    folder = workshop.folder / "inc"
    try:
        result = inc.tune(
            workshop.prepared_file,
            job.calibration.arrays(),
            evaluate,
            loop=_loop(job.config, job.search.deadline),
            plan=base_plan("inc", job.config, workshop.prepared.model),
            folder=folder,
            rules=inc_rules(job.config, workshop.prepared.model),
            on_trial=finished.append,
        )
    except BudgetError as error:
        result = inc.IncResult(tuple(finished), None, error.message, baseline)
    trials = _ours(job.config, result, judged, workshop, hands)
    shutil.rmtree(folder, ignore_errors=True)
    for trial in trials:
        hands.remember(trial)
    return settled(trials, f"INC {job.config.tuning.strategy.name}: {result.reason}", hands)


def settled(trials: Sequence[Trial], reason: str, hands: Hands) -> SearchResult:
    """The result of a loop's trials: the first accepted one, else the closest."""
    best = next((trial for trial in trials if trial.accepted), None)
    return SearchResult(best or closest(trials, hands.fast_enough), tuple(trials), reason)


def score(seen: Quality) -> float:
    """What INC is told: top-1, or the agreement where there are no labels (a ratio)."""
    return seen.fidelity.agreement if seen.accuracy is None else seen.accuracy


def _loop(config: Config, deadline: Deadline) -> inc.Loop:
    policy = config.tuning.exit_policy
    return inc.Loop(
        strategy=cast(inc.StrategyName, config.tuning.strategy.name),
        goal=config.goal(),
        sampling_sizes=config.quantization.calibration.sampling_size,
        max_trials=1 if policy.performance_only else policy.max_trials,
        timeout_s=0.0 if deadline == NEVER else max(1.0, deadline.left),
        seed=config.tuning.random_seed,
    )


def _ours(
    config: Config,
    result: inc.IncResult,
    judged: dict[Path, Quality],
    workshop: Workshop,
    hands: Hands,
) -> list[Trial]:
    """INC's trials as ours: those that meet the goal, and the closest one, are timed."""
    ranked = sorted(judged, key=lambda path: -judged[path].fidelity.sqnr_db)
    keep = {path for path, seen in judged.items() if seen.good} | set(ranked[:1])
    plan = base_plan("inc", config, workshop.prepared.model)
    trials: list[Trial] = []
    settled = False
    order = sorted(result.trials, key=lambda trial: trial.path != result.chosen)
    for theirs in order:
        seen = judged[theirs.path]
        kept, latency = None, None
        if theirs.path in keep and not theirs.note and not settled:
            name = f"{plan.key}-{theirs.path.stem}.onnx"
            kept = workshop.finish(io.load(theirs.path), name)
            latency = _timed(kept, hands)
        accepted = seen.good and latency is not None and hands.fast_enough(latency)
        settled = settled or accepted
        note = theirs.note or _note(seen, latency, hands)
        trials.append(
            Trial(
                plan,
                kept,
                seen.accuracy,
                seen.fidelity,
                latency,
                accepted=accepted,
                note="" if accepted else f"{theirs.path.stem}: {note}",
                seconds=theirs.seconds,
                images=seen.images,
                drop_points=seen.drop_points,
            )
        )
    return trials


def _timed(path: Path, hands: Hands) -> Latency | None:
    """The file's time, or None if there is no time left to measure it."""
    try:
        return hands.time(path)
    except BudgetError:
        return None


def _note(seen: Quality, latency: Latency | None, hands: Hands) -> str:
    notes = [] if seen.good else [seen.note]
    if latency is not None and not hands.fast_enough(latency):
        notes.append(SLOW)
    return "; ".join(notes) or "not needed"
