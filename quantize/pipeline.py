"""READ FIRST: the way from a float model to a verified int8 one, one call per room.

    config -> data (calibrate | search | holdout) -> prepare -> search -> verify -> report

`tune` below is that line. Each room is a module that knows nothing of the others.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantize.bundle.placing import check_target
from quantize.bundle.writing import Released, release
from quantize.candidates import Workshop
from quantize.config import Config, check_tunable
from quantize.deadline import NEVER, Deadline
from quantize.errors import BudgetError
from quantize.graph.prepare import Prepared, prepare
from quantize.job import Given, Job, open_cache, open_job
from quantize.journal import RunFolder
from quantize.measure import Verified, benchmark, evaluate, timing_of, verify, verify_files
from quantize.outcome import check_output, keep_best, publish, set_aside, write_outcome
from quantize.plan import EXIT_CODES, OnProgress, Outcome, Verdict
from quantize.portability import Portability, elsewhere, listed
from quantize.price import OnPrice, price_of, search_deadline
from quantize.probe import run_once
from quantize.remembered import memory_folder
from quantize.report.document import History, document
from quantize.report.evidence import evidence
from quantize.search import EXPIRED
from quantize.strategy import accept, find
from quantize.versions import facts, versions

__all__ = ["Result", "benchmark", "evaluate", "tune", "verify"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """What a tuning job leaves.

    Attributes:
        verdict: met, unmet or undecided on this processor.
        outcome: the worst of that and of those on the processors of `evaluation.cpus`.
        report: the content of report.json.
        run: the run folder.
        output: the int8 file, or None unless the outcome is met.
        released: the release bundle, or None unless it was asked for and the outcome is met.
    """

    verdict: Verdict
    outcome: Outcome
    report: dict[str, Any]
    run: Path
    output: Path | None
    released: Released | None = None

    @property
    def exit_code(self) -> int:
        """Of the outcome: 0 met, 3 unmet, 4 undecided."""
        return EXIT_CODES[self.outcome]


def tune(  # noqa: PLR0913 - each is one option of the command
    model: str | Path,
    config: Config,
    output: str | Path,
    *,
    calibration: Given | None = None,
    evaluation: Given | None = None,
    fresh: bool = False,
    bundle: Path | None = None,
    started: float | None = None,
    on_progress: OnProgress | None = None,
    on_price: OnPrice | None = None,
) -> Result:
    """Quantize a float classifier and prove what it costs.

    Args:
        model: the float ONNX file.
        config: from `load_config`.
        output: where the int8 file goes if the goal is met; an older file becomes `.old`.
        calibration: a re-iterable of (path | uint8 [H,W,3] | prepared float32 [C,H,W], label or
            None) instead of the configured dataset.
        evaluation: the same for evaluation.
        fresh: start over, even where an earlier run of the same job can be continued.
        bundle: folder for a release bundle if the goal is met; see `quantize.release`.
        started: since when the time budget counts, on the clock of `time.monotonic()`; None: now.
        on_progress: told while it works.
        on_price: told what the run will cost, before the search starts.

    Returns:
        The verdict, the report, and where the files are.

    Raises:
        QuantizeError: model, data, configuration, disk or engine cannot be used.
        BudgetError: the time budget was spent before the verdict; what was found is kept.
    """
    now = time.monotonic()
    started = now if started is None else started
    budget = config.tuning.exit_policy.timeout
    deadline = Deadline.after(budget - (now - started)) if budget else NEVER
    model, output = Path(model), Path(output)
    check_tunable(
        config, calibration_given=calibration is not None, evaluation_given=evaluation is not None
    )
    check_output(model, config.source, output)
    listed(config)
    if bundle:
        check_target(bundle)
    with (
        RunFolder(run_path(config, output), facts(), fresh=fresh) as run,
        open_cache(run.path) as cache,
    ):
        images = {"calibration": calibration, "evaluation": evaluation}
        job = open_job(model, config, cache, **images, on_progress=on_progress, deadline=deadline)
        job = replace(job, memory=None if fresh else memory_folder())
        result = _tune(job, output, run, started, on_progress, on_price)
    released = release(run.path, model, bundle) if bundle and result.output else None
    return replace(result, released=released)


def _tune(
    job: Job,
    output: Path,
    run: RunFolder,
    started: float,
    on_progress: OnProgress | None,
    on_price: OnPrice | None,
) -> Result:
    """The way itself, on opened inputs."""
    prepared = prepare(job.model.proto, run_once, job.model.size)
    accepted = accept(job, prepared, run.answers, job.memory)
    # Until here the job can be refused: an older run and an older output stay as they are.
    state = run.begin(job.key(versions()))
    set_aside(output)
    search = job.searching_until(_search_deadline(job, prepared, accepted.pace, on_price))
    workshop = Workshop(search, prepared, run.candidates)
    found = find(search, accepted.base, workshop, run)
    best = keep_best(found, run)
    proof = _verify(job, best, run, on_progress)
    everywhere = _elsewhere(job, best, proof.verdict)
    tables = evidence(job, workshop, found, proof, best, on_progress)
    history = History(state, run.recalled, run.answers.reused, time.monotonic() - started)
    report = document(job, prepared, found, proof, best, tables, history, everywhere.elsewhere)
    write_outcome(run, job, report, proof, tables)
    published = publish(best, output) if everywhere.outcome == "met" else None
    run.note("end", outcome=everywhere.outcome, complete=found.stopped != EXPIRED)
    run.answers.forget()
    return Result(proof.verdict, everywhere.outcome, report, run.path, published)


def _search_deadline(
    job: Job, prepared: Prepared, pace: float | None, on_price: OnPrice | None
) -> Deadline:
    """When the search has to end so that there is time for the verdict; tells the price."""
    price = price_of(job, prepared, pace)
    if on_price:
        on_price(price)
    return search_deadline(job.holdout.deadline, price)


def _verify(job: Job, best: Path, run: RunFolder, on_progress: OnProgress | None) -> Verified:
    """The verdict on the best candidate.

    Raises:
        BudgetError: there was no time for it; says where the candidate is.
    """
    goal, timing = job.config.goal(), timing_of(job.config)
    try:
        return verify_files(
            job.model, best, job.holdout, goal, timing, on_progress, run.answers, memory=job.memory
        )
    except BudgetError as error:
        raise _unverified(error, "the verdict", best) from error


def _elsewhere(job: Job, best: Path, here: Verdict) -> Portability:
    """The verdict on the other processors that were asked for.

    Raises:
        BudgetError: there was no time for it; says where the candidate is.
    """
    limit = job.config.evaluation.cpus_timeout
    try:
        return elsewhere(job.model.path, best, job.holdout, here, listed(job.config), limit)
    except BudgetError as error:
        raise _unverified(error, "the verdict on another processor", best) from error


def _unverified(error: BudgetError, what: str, best: Path) -> BudgetError:
    return BudgetError(
        f"{error.message} before {what}; the best candidate, unverified, is {best}", error.cure
    )


def run_path(config: Config, output: Path) -> Path:
    """The run folder: tuning.workspace.path, else `<output>.run` beside the output."""
    return config.tuning.workspace.path or output.with_name(f"{output.name}.run")
