"""READ FIRST: the way from a float model to a verified int8 one, one call per room.

    config -> data (calibrate | search | holdout) -> prepare -> search -> verify -> report

`tune` below is that line. Each room is a module that knows nothing of the others.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.candidates import Workshop
from quantize.config import Config, check_tunable
from quantize.graph.prepare import prepare
from quantize.job import Given, open_cache, open_job
from quantize.journal import RunFolder
from quantize.measure import benchmark, evaluate, timing_of, verify, verify_files
from quantize.outcome import check_output, keep_best, publish, set_aside, write_outcome
from quantize.plan import OnProgress, Verdict
from quantize.probe import run_once
from quantize.report.document import document, versions
from quantize.strategy import accept, find

__all__ = ["Result", "benchmark", "evaluate", "tune", "verify"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """What a tuning job leaves.

    Attributes:
        verdict: met, unmet or undecided; holds the exit code.
        report: the content of report.json.
        run: the run folder.
        output: the int8 file, or None unless the verdict is met.
    """

    verdict: Verdict
    report: dict[str, Any]
    run: Path
    output: Path | None


def tune(
    model: str | Path,
    config: Config,
    output: str | Path,
    *,
    calibration: Given | None = None,
    evaluation: Given | None = None,
    fresh: bool = False,
    on_progress: OnProgress | None = None,
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
        on_progress: told while it works.

    Returns:
        The verdict, the report, and where the files are.

    Raises:
        QuantizeError: model, data, configuration, disk or engine cannot be used.
    """
    started = time.monotonic()
    model, output = Path(model), Path(output)
    check_tunable(
        config, calibration_given=calibration is not None, evaluation_given=evaluation is not None
    )
    check_output(model, config.source, output)
    with RunFolder(run_path(config, output)) as run, open_cache(run.path) as cache:
        images = {"calibration": calibration, "evaluation": evaluation}
        job = open_job(model, config, cache, **images, on_progress=on_progress)
        prepared = prepare(job.model.proto, run_once, job.model.size)
        base = accept(job, prepared)
        # Until here the job can be refused: an older run and an older output stay as they are.
        state = run.begin(job.key(versions()), fresh=fresh)
        set_aside(output)
        workshop = Workshop(job, prepared, run.candidates)
        found = find(job, base, workshop, run, started)
        best = keep_best(found, run)
        proof = verify_files(
            job.model, best, job.holdout, config.goal(), timing_of(config), on_progress
        )
        report = document(job, prepared, found, proof, best, state, time.monotonic() - started)
        write_outcome(run, job, report, proof)
        published = publish(best, output) if proof.verdict.outcome == "met" else None
        run.note("end", outcome=proof.verdict.outcome)
    return Result(proof.verdict, report, run.path, published)


def run_path(config: Config, output: Path) -> Path:
    """The run folder: tuning.workspace.path, else `<output>.run` beside the output."""
    return config.tuning.workspace.path or output.with_name(f"{output.name}.run")
