"""Part 2: the whole command against INC's `basic` loop: time, evaluations, calibrations, memory.

Both get the same float model, images and goal, and take turns. Both times are those of a process,
from its start until goal and speed floor are met or given up. Ours is the whole command: inputs
checked, search, verdict on images that the search did not see, both timings, report. INC's is its
import, its loop, which is judged by the images it was tuned on, and one timing; what is then told
of its model is left out. Its loop is cut off at `patience` times ours: a share that reads "< 0.2"
is a bound. `loop_seconds` is its loop alone.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cases import ROOT, Ready
from benchmarks.environments import reason
from benchmarks.process_tree import Ended, run

MOST_REPEATS = 3
PLAIN = 2.0
"""A share that is this many times under or above what is asked needs no second turn."""
MOST_SECONDS = 3600.0
WHERE_FIRST_FAILS, WHERE_FIRST_PASSES = 0.2, 1.25
"""What our time may be, in INC's: depending on whether INC's first candidate meets the goal."""

_GRACE_S = 300.0
"""INC's own start, its last evaluation and the timing, beyond the time that its loop gets."""

Run = Callable[[list[str], Path, float], Ended]


def measure(
    case: Ready, *, seconds: float, patience: float, with_inc: bool, runner: Run = run
) -> list[dict[str, Any]]:
    """Rows of ours and of INC's, medians of up to `MOST_REPEATS` turns.

    One turn is enough where it leaves no doubt: the share is far from what is asked, INC was cut
    off, which it would be again, or one of the two failed.

    Args:
        case: model, images and goal.
        seconds: after these neither gets another turn.
        patience: INC's time, in ours.
        with_inc: whether it is installed.
        runner: runs a program.
    """
    mine: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    start = time.monotonic()
    while len(mine) < MOST_REPEATS:
        mine.append(_guided(case, runner))
        if with_inc:
            limit = min(MOST_SECONDS, max(10.0, patience * mine[-1]["seconds"]))
            theirs.append(_basic(case, limit, runner))
        late = time.monotonic() - start >= seconds
        if late or "failed" in mine[-1] or (with_inc and _is_plain(mine[-1], theirs[-1])):
            break
    rows = [_row(case, "ours", mine)]
    if with_inc:
        rows.append(_row(case, "inc-basic", theirs))
        rows[0] |= claim(rows[0], rows[1])
    return rows


def claim(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Our time in INC's, and whether it is what is asked: nothing where one of the two failed."""
    if "failed" in ours or "failed" in theirs:
        return {}
    share = ours["seconds"] / theirs["seconds"]
    asked = WHERE_FIRST_PASSES if theirs["first_passes"] else WHERE_FIRST_FAILS
    return {
        "share": share,
        "share_of_loop": ours["seconds"] / theirs["loop_seconds"],
        "asked": asked,
        "bound": bool(theirs["cut_off"]),
        "standing": "ahead" if share <= asked else "behind",
    }


def _is_plain(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether another turn would tell nothing new."""
    told = claim(ours, theirs)
    if not told or told["bound"]:
        return True
    return not 1 / PLAIN <= told["share"] / told["asked"] <= PLAIN


def _row(case: Ready, key: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of median time, with the times of all."""
    row = {"id": f"tuning/{case.case.key}/{key}", "case": case.case.key, "peer": key}
    row |= {"goal": case.case.goal}
    if failed := [seen for seen in runs if "failed" in seen]:
        return row | failed[0]
    middle = statistics.median_low([seen["seconds"] for seen in runs])
    chosen = next(seen for seen in runs if seen["seconds"] == middle)
    peaks = [seen["peak_bytes"] for seen in runs if seen["peak_bytes"]]
    every = [round(seen["seconds"], 2) for seen in runs]
    return row | chosen | {"every": every, "peak_bytes": max(peaks, default=None)}


def _guided(case: Ready, runner: Run) -> dict[str, Any]:
    output = case.folder / "tuned.onnx"
    # Nothing of an earlier turn may help.
    shutil.rmtree(case.folder / f"{output.name}.run", ignore_errors=True)
    command = [sys.executable, "-m", "quantize", "tune", str(case.model), "--quiet", "--fresh"]
    ended = runner([*command, "--config", str(case.config), "-o", str(output)], ROOT, MOST_SECONDS)
    told = {"seconds": ended.seconds, "peak_bytes": ended.peak_bytes}
    if ended.code is None:
        return told | {"failed": f"failed: not within {MOST_SECONDS:g} s"}
    if ended.code not in (0, 3, 4):
        return told | {"failed": f"failed: {reason(ended.err)}"}
    report = json.loads((output.with_name(f"{output.name}.run") / "report.json").read_text())
    return told | _told(report, ended.code, trained=case.case.trained)


def _told(report: dict[str, Any], code: int, *, trained: bool) -> dict[str, Any]:
    """The row of a report.

    A pass of a candidate over the search images is an evaluation, and so is each model's over the
    holdout. The guided search calibrates once, and once more for INC's own candidate.
    """
    measured, latency = report["measured"], report["measured"]["latency"]
    engines = [trial["plan"]["engine"] for trial in report["search"]["trials"]]
    told = {
        "ended": f"exit {code}",
        "met": code == 0,
        "evaluations": measured["passes_over_search_set"] + 2,
        "candidates": len(engines),
        "calibrations": int("onnxruntime" in engines) + engines.count("inc"),
        "agreement": report["fidelity"]["agreement"],
        "sqnr_db": report["fidelity"]["sqnr_db"],
        "speed": [latency[key] for key in ("ratio", "low", "high")] if latency else None,
    }
    accuracy = report["accuracy"]
    if accuracy and trained:
        told |= {"drop": accuracy["drop_points"], "interval": accuracy["drop_interval_points"]}
    return told


def _basic(case: Ready, limit: float, runner: Run) -> dict[str, Any]:
    folder = case.folder / "basic"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = [str(path.resolve()) for path in (case.model, case.config, folder)]
    command = [sys.executable, "-m", "benchmarks.basic", *files, str(limit)]
    ended = runner(command, ROOT, limit + _GRACE_S)
    told = {"seconds": ended.seconds, "peak_bytes": ended.peak_bytes}
    if ended.code is None:
        return told | {"failed": f"failed: not within {limit + _GRACE_S:.0f} s"}
    if ended.code or not ended.out.strip():
        return told | {"failed": f"failed: {reason(ended.err)}"}
    seen: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
    if "failed" in seen:
        return told | {"failed": f"failed: {seen['failed']}"}
    seen |= {
        "seconds": ended.seconds - seen["aside_seconds"],
        "ended": _ended(seen),
        "met": seen["content"] and seen["fast_enough"],
        "evaluations": seen["trials"] + 1,
        "candidates": seen["trials"],
        "calibrations": seen["trials"],
    }
    return told | seen


def _ended(seen: dict[str, Any]) -> str:
    if seen["cut_off"]:
        return "cut off"
    if not seen["content"]:
        return "gave up"
    return "content" if seen["fast_enough"] else "content, too slow"
