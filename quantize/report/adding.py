"""The verb `verify --add-to RUN`: what other processors say of a run's file goes into its report.

That may be another machine, with the run folder, the float model and the images at hand, or one
that is emulated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize.checked_json import Value
from quantize.errors import RunFolderError
from quantize.files import is_folder, sha256
from quantize.journal import RunFolder
from quantize.outcome import write_texts
from quantize.portability import Portability, cannot_overflow
from quantize.report.cpus import row
from quantize.report.reading import account_of, read_report
from quantize.runtime import cpu

if TYPE_CHECKING:
    from quantize.config import Config

_AS_THE_RUN = "verify its best.onnx, configured as the run was"


def check_addable(
    run: Path, float_model: Path, int8_model: Path, config: Config, cpus: Sequence[str]
) -> None:
    """Refuse, before any work, what is not of this run or says nothing new.

    Args:
        run: a finished run's folder.
        float_model: the file to verify against.
        int8_model: the file to verify.
        config: says the goal.
        cpus: further processors, emulated.

    Raises:
        RunFolderError: no finished run, another run's files or goal, or nothing to add.
    """
    if not is_folder(run):
        raise RunFolderError(f"{run} is no run folder", "name the folder, not a file in it")
    report = read_report(run)
    account_of(report, str(run))
    for what, path in (("float_model", float_model), ("int8_model", int8_model)):
        if _digest(path) != report.at(what, "sha256").digest():
            raise RunFolderError(f"run {run} did not verify {path}", _AS_THE_RUN)
    if asdict(config.goal()) != report.at("verdict", "goal").value:
        raise RunFolderError(f"run {run} was asked for another goal", _AS_THE_RUN)
    if not cpus and _is_here(report):
        raise RunFolderError(
            f"run {run} has this processor's verdict already",
            "verify on another machine, or name an emulated one with --cpu",
        )


def add_to(run: Path, int8_model: Path, seen: Portability) -> None:
    """Write the verdicts into report.json, summary.txt and report.html of a run.

    A processor that stands there already is replaced.

    Args:
        run: checked by `check_addable`.
        int8_model: the file that was verified.
        seen: the verdicts.

    Raises:
        RunFolderError: they are of other images, or another process uses the folder.
        OutputError: the folder cannot be written.
    """
    with RunFolder(run) as folder:
        report = read_report(run)
        if seen.holdout != report.at("data", "holdout", "sha256").digest():
            raise RunFolderError(f"run {run} was verified on other images", _AS_THE_RUN)
        rows = [one.row() for one in seen.elsewhere]
        if not _is_here(report):
            rows.insert(0, _own(seen, int8_model))
        content = dict(report.value)
        kept = content["measured"].get("cpus", [])
        fresh = {_name(one) for one in rows}
        rows = [*(one for one in kept if _name(one) not in fresh), *rows]
        content["measured"] = {**content["measured"], "cpus": rows}
        write_texts(folder, content)


def _digest(path: Path) -> str | None:
    try:
        return sha256(path)
    except OSError:
        return None


def _is_here(report: Value) -> bool:
    """Whether the run's own verdict is of this processor."""
    own, here = report.at("measured", "cpu"), cpu()
    return (own.at("name").text(), own.at("isa").text()) == (here.name, here.isa)


def _own(seen: Portability, int8_model: Path) -> dict[str, Any]:
    """The row of this machine."""
    here = seen.here
    proven = cannot_overflow(int8_model)
    return row(here, images=here.images, emulated=False, against_here=None, proven=proven)


def _name(one: dict[str, Any]) -> tuple[str, str]:
    return one["cpu"]["name"], one["cpu"]["isa"]
