"""report.json: everything that the run found, as JSON values.

All that a clock or this machine made stands under `measured`; the rest is equal for equal inputs,
package versions and instruction set. The layout is described in docs/report.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quantize import __version__
from quantize.files import sha256
from quantize.graph import io
from quantize.graph.coverage import Coverage, coverage
from quantize.graph.prepare import Prepared
from quantize.graph.view import opset
from quantize.job import Images, Job
from quantize.measure import Verified, timing_of
from quantize.plan import Latency, SearchResult, Trial, Verdict
from quantize.probe import shapes_of
from quantize.report.elsewhere import Elsewhere
from quantize.report.tables import Tables
from quantize.report.values import finite
from quantize.versions import versions

SCHEMA_VERSION = 1
_FOLDERS = re.compile(r"(?<![\w.~-])/(?:[^/\s:;,'\"]+/)+")


@dataclass(frozen=True)
class History:
    """How a run went.

    Attributes:
        state: `new`, `continued` or `finished`: what the run folder held of this job.
        trials: candidates of an earlier run that were used again.
        answers: images' answers of an earlier run that were used again.
        seconds: how long this run took.
    """

    state: str
    trials: int
    answers: int
    seconds: float


def document(
    job: Job,
    prepared: Prepared,
    found: SearchResult,
    proof: Verified,
    best: Path,
    tables: Tables,
    history: History,
    elsewhere: Sequence[Elsewhere[Verdict]] = (),
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        job: the inputs.
        prepared: the working copy.
        found: the search's result.
        proof: the verdict and the answers behind it.
        best: the int8 file that was verified, its plan.json beside it.
        tables: layers, changed images, classes.
        history: how the run went.
        elsewhere: verdicts on other processors.
    """
    verdict = proof.verdict
    content = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "quantize", "version": __version__},
        "versions": versions(),
        "verdict": _verdict(verdict),
        "float_model": _float_model(job),
        "int8_model": _int8_model(job, best),
        "data": _data(job),
        "prepare": list(prepared.steps),
        "search": _search(job, found, best.parent),
        "accuracy": _accuracy(verdict),
        "fidelity": {
            **asdict(verdict.fidelity),
            "agreement_interval": [verdict.agreement_low, verdict.agreement_high],
        },
        **tables.to_json(),
        "measured": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(history.seconds, 1),
            "earlier_run": history.state,
            "reused": _reused(history, verdict),
            "passes_over_search_set": round(
                job.search.tally.images / max(1, len(job.search.samples)), 2
            ),
            "cpu": asdict(verdict.cpu),
            "cpus": [seen.row() for seen in elsewhere],
            "latency": _latency(verdict.latency, job),
            "trials": [
                {"plan": t.plan.key, "seconds": t.seconds, "latency": _latency(t.latency, job)}
                for t in found.trials
            ],
        },
    }
    return finite(content)  # type: ignore[no-any-return]


def model_coverage(path: Path, size: tuple[int, int, int]) -> Coverage:
    """How much of a file's arithmetic is int8, on images of (C, H, W)."""
    model = io.load(path)
    return coverage(model, lambda names: shapes_of(model, names, size))


def _reused(history: History, verdict: Verdict) -> dict[str, Any]:
    return {
        "trials": history.trials,
        "answers": history.answers,
        "float_answers": verdict.reused,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "reason": verdict.reason,
        "goal": asdict(verdict.goal),
        "instruction_set": verdict.cpu.isa,
        "images": verdict.images,
        "more_images": verdict.more_images,
    }


def _float_model(job: Job) -> dict[str, Any]:
    model = job.model
    return {
        "file": model.path.name,
        "sha256": model.sha256,
        "bytes": model.path.stat().st_size,
        "opset": opset(model.proto),
        "input": {"name": model.signature.input, "size": list(model.size)},
        "output": {"name": model.signature.output, "classes": model.classes},
    }


def _int8_model(job: Job, best: Path) -> dict[str, Any]:
    seen = model_coverage(best, job.model.size)
    convs, all_convs = seen.count("Conv")
    return {
        "sha256": sha256(best),
        "bytes": best.stat().st_size,
        "opset": opset(io.load(best)),
        "plan": json.loads(best.with_name("plan.json").read_text(encoding="utf-8")),
        "int8_share_of_multiply_adds": seen.int8_share,
        "convolutions": {"int8": convs, "all": all_convs},
        "stayed_float": list(seen.stayed_float),
    }


def _data(job: Job) -> dict[str, Any]:
    splits = job.splits
    return {
        "calibration": _images(job.calibration),
        "search": {**_images(job.search), "is_calibration": splits.search_is_calibration},
        "holdout": _images(job.holdout),
        "duplicates": splits.duplicates,
        "notes": list(splits.notes),
    }


def _images(images: Images) -> dict[str, Any]:
    return {
        "images": len(images.samples),
        "sha256": images.digest,
        "preprocessing": images.pipeline.describe(),
        "unreadable": {
            "images": images.unreadable.count,
            "first": dict(images.unreadable.images),
        },
    }


def _search(job: Job, found: SearchResult, run: Path) -> dict[str, Any]:
    def clean(text: str) -> str:
        return _without_folders(text, (run, job.model.path.parent))

    return {
        "strategy": job.config.tuning.strategy.name,
        "stopped": clean(found.stopped),
        "trials": [_trial(trial, clean(trial.note)) for trial in found.trials],
    }


def _trial(trial: Trial, note: str) -> dict[str, Any]:
    return {
        "plan": {"key": trial.plan.key, **trial.plan.to_json()},
        "top1": trial.accuracy,
        "drop_points": trial.drop_points,
        "fidelity": asdict(trial.fidelity) if trial.fidelity else None,
        "probe": asdict(trial.probe) if trial.probe else None,
        "gain_db": trial.gain_db,
        "outcome": trial.outcome,
        "images": trial.images,
        "accepted": trial.accepted,
        "note": note,
    }


def _without_folders(text: str, folders: Iterable[Path]) -> str:
    """Text may quote an error that names a file: its place is nobody else's business."""
    for folder in folders:
        for form in (folder.resolve(), folder.absolute()):
            text = text.replace(f"{form}/", "")
    return _FOLDERS.sub("", text)


def _accuracy(verdict: Verdict) -> dict[str, Any] | None:
    drop = verdict.drop
    if drop is None or verdict.float_top1 is None:
        return None
    return {
        "float": {"top1": verdict.float_top1, "top5": verdict.float_top5},
        "int8": {"top1": verdict.int8_top1, "top5": verdict.int8_top5},
        "drop_points": drop.points,
        "drop_interval_points": [drop.low, drop.high],
        "drop_ratio": drop.points / 100 / verdict.float_top1 if verdict.float_top1 else None,
        "lost": drop.lost,
        "gained": drop.gained,
    }


def _latency(latency: Latency | None, job: Job) -> dict[str, Any] | None:
    if latency is None:
        return None
    values = asdict(latency)
    values.pop("cpu")
    return {**values, "threads_asked": timing_of(job.config).asked}
