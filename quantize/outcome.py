"""What a run leaves on disk: the best model, the evidence, and the output on success."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from quantize.errors import OutputError
from quantize.files import cannot_write, check_writable, write_atomic
from quantize.job import Job
from quantize.journal import RunFolder
from quantize.measure import Verified
from quantize.npz import unpack
from quantize.plan import Encodings, SearchResult
from quantize.report.summary import summary
from quantize.report.tables import Tables

log = logging.getLogger(__name__)

BEST = "best.onnx"
ENCODINGS = "encodings.npz"


def check_output(model: Path, config: Path | None, output: Path) -> None:
    """Refuse an output that cannot be written, before any work.

    Args:
        model: the float file.
        config: the configuration's file, or None.
        output: the path asked for.

    Raises:
        OutputError: it is a folder, or in a place that is not writable; or it, or what an older
            file there is renamed to, is the float model or the configuration.
    """
    check_writable(output)
    if _old(output).is_dir():
        raise OutputError(
            f"output {output}: an older file is renamed {_old(output).name}, and that is a folder",
            "name another file",
        )
    for what, source in (("input model", model), ("configuration", config)):
        if source is None:
            continue
        if _same(output, source):
            raise OutputError(f"output {output} is the {what} itself", "name another file")
        if _same(_old(output), source):
            raise OutputError(
                f"output {output}: an older file is renamed {_old(output).name}, and that is the"
                f" {what}",
                "name another file",
            )


def set_aside(output: Path) -> None:
    """Rename an older output to `.old`: a failed run leaves nothing that looks like a success."""
    if not output.exists():
        return
    try:
        output.replace(_old(output))
    except OSError as error:
        raise cannot_write(output, error) from error


def _old(output: Path) -> Path:
    return output.with_name(f"{output.name}.old")


def _same(one: Path, other: Path) -> bool:
    """Whether both are one file, under whatever names; what cannot be looked at is none."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def keep_best(found: SearchResult, run: RunFolder) -> Path:
    """Copy the search's best file to `best.onnx`, its plan and encodings beside it."""
    if found.best is None or found.best.path is None:
        raise ValueError("the search has no file to keep")
    plan, encodings = found.best.plan, found.best.path.with_suffix(".npz")
    if encodings.is_file():
        run.write(ENCODINGS, encodings.read_bytes())
        decided = Encodings.from_arrays(unpack(encodings.read_bytes()))
        plan = replace(plan, encodings_sha256=decided.sha256)
    run.write_json("plan.json", plan.to_json())
    return run.write(BEST, found.best.path.read_bytes())


def publish(best: Path, output: Path) -> Path:
    """Put the verified bytes at the output path, whole or not at all."""
    write_atomic(output, best.read_bytes())
    return output


def write_outcome(
    run: RunFolder, job: Job, report: dict[str, Any], proof: Verified, tables: Tables
) -> None:
    """Write config.yaml, outcomes.npz, the tables, report.json, summary.txt and report.html."""
    run.write("config.yaml", job.config.to_yaml())
    seen = proof.comparison
    run.write_arrays(
        "outcomes.npz",
        digest=np.array(seen.float_.digests, "S64"),  # as text they would take four times as much
        label=seen.float_.labels,
        float_top5=seen.float_.top5,
        int8_top5=seen.int8.top5,
    )
    for name, content in tables.files().items():
        run.write(name, content)
    write_texts(run, report)


def write_texts(run: RunFolder, report: dict[str, Any]) -> None:
    """Write report.json, summary.txt and report.html."""
    from quantize.report.page import PAGE, page  # matplotlib and Jinja2 only when they are used

    texts = {"summary.txt": summary(report), PAGE: page(report)}
    run.write_json("report.json", report)
    for name, text in texts.items():
        run.write(name, text)
