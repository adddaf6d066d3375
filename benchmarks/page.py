"""The results as Markdown: a page of its own, and the excerpt that README.md holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.causes import UNKNOWN, Causes
from benchmarks.standing import best
from benchmarks.tables import table, write_between
from quantize.files import write_atomic

Row = Mapping[str, Any]

HOW_TO_READ = """\
- **Time** is milliseconds of one run: the median of interleaved rounds, and in brackets where the
  middle 80 % of the rounds lie. In each round every file has one turn, in an order that is drawn
  anew, so what slows the machine slows all. Each runtime is a process of its own that holds the
  files loaded. All ONNX files run in the same onnxruntime.
- **Times as fast** is theirs / ours of each round: its median and the 95 % interval of that median
  (order statistics). **Equal** means that the interval holds 1: equal within noise. Of equal files
  one in twenty is called ahead or behind all the same. Against float32 the arithmetic allows 4.
  "quantize, loaded twice" is our file against itself: how far its ratio is from 1 is what this
  method cannot see.
- **OpenVINO** computes what is left float in bf16 where the processor can, so its times are held
  against ours, not against its own float. "quantize, in OpenVINO" is our file, run there.
- **Drop** is float top-1 minus int8 top-1 in points on one holdout, with Tango's 95 % interval;
  **equal answers** is the share of images on which int8 answers as float does, **SQNR** that of the
  outputs. Against us: our figure minus theirs over the same images; ahead or behind where the 95 %
  interval (Tango's; for SQNR 1,000 paired resamples) leaves out 0.
- **Tuning**: ours is the whole command, INC's its loop. Asked is at most 0.2 of INC's time where
  its first candidate misses the goal, at most 1.25 where it passes. Memory adds up the peaks
  (VmHWM) of all processes of the tree.
- The peers get the same images, and a float file of opset 13 or newer: below it some write QDQ
  files that do not load. INC and onnxruntime run with per-channel weights and min-max ranges, NNCF
  and onnx-neural-compressor with their defaults."""


def whole(results: Row, causes: Causes) -> str:
    """The page: tables, machine, commands, how to read them, and where we are behind."""
    parts = [
        "# Benchmarks",
        "Written by `make bench`; the raw figures are in benchmarks.json beside it.",
        _conditions(results),
        "## How to read it\n\n" + HOW_TO_READ,
        "## Latency, against the best peer\n\n" + _against_best(results),
        *(_latency_of(results, key) for key in results["cases"]),
        "## Tuning\n\n" + _tuning(results),
        "## Accuracy, beside the speed that goes with it\n\n" + _accuracy(results),
        *(_script(name, found) for name, found in results["scripts"].items()),
        "## Where quantize is behind\n\n" + _behind(results, causes),
        "## What did not run\n\n" + _failed(results),
    ]
    return "\n\n".join(part for part in parts if part)


def excerpt(results: Row, causes: Causes) -> str:
    """What README.md shows."""
    return "\n\n".join(
        [
            machine.sentence(results["machine"]),
            "**Latency** of the int8 file in milliseconds of one run, against the peer that is"
            " fastest in each row (all peers, and how to read it:"
            " [docs/benchmarks.md](docs/benchmarks.md)):",
            _against_best(results),
            "**Tuning** until goal and speed floor are met or given up:",
            _tuning(results),
            "**Where quantize is behind**, and why:",
            _behind(results, causes),
        ]
    )


def publish(results: Row, causes: Causes, root: Path) -> None:
    """Write docs/benchmarks.md, docs/benchmarks.json and the excerpt in README.md.

    Raises:
        MarkerError: README.md has no place for it; then nothing is written.
        OutputError: a file cannot be written.
    """
    write_between(root / "README.md", excerpt(results, causes))
    write_atomic(root / "docs" / "benchmarks.md", f"{whole(results, causes)}\n".encode())
    content = json.dumps(results, indent=1)
    write_atomic(root / "docs" / "benchmarks.json", f"{content}\n".encode())


# --------------------------------------------------------------------------- conditions


def _conditions(results: Row) -> str:
    command = f"python -m benchmarks {results['arguments']}".strip()
    short = " **This is the short form: it shows that all runs, not how fast.**"
    return (
        f"{machine.sentence(results['machine'])} `{command}` took"
        f" {results['seconds'] / 60:.1f} minutes.{short if results['quick'] else ''}\n\n"
        "```sh\n"
        "make bench          # all of it; installs each peer into build/bench-envs\n"
        "make bench-quick    # minutes: that it runs\n"
        "```"
    )


def _name(results: Row, row: Row) -> str:
    return str(results["cases"][row["case"]]["name"])


def _peer(results: Row, key: str) -> str:
    return str(results["peers"][key]["name"])


# ------------------------------------------------------------------------------ latency


def _settings(rows: Iterable[Row]) -> list[tuple[str, int, int, list[Row]]]:
    """(case, batch, threads, rows), as they were measured."""

    def key(row: Row) -> tuple[str, int, int]:
        return row["case"], row["batch"], row["threads"]

    return [(*setting, list(found)) for setting, found in groupby(rows, key)]


def _against_best(results: Row) -> str:
    lines = []
    for case, batch, threads, rows in _settings(results["latency"]):
        by_peer = {row["peer"]: row for row in rows}
        ours, exact, rival = by_peer["ours"], by_peer["float"], best(rows)
        lines.append(
            [
                str(results["cases"][case]["name"]),
                f"{batch}",
                f"{threads}",
                _ms(ours),
                _ms(exact),
                f"{exact['ratio']['value']:.2f}" if "ratio" in exact else "",
                _peer(results, rival["peer"]) if rival else "none ran",
                _ms(rival) if rival else "",
                _times(rival) if rival else "",
                rival.get("standing", "") if rival else "",
            ]
        )
    head = ("model", "batch", "threads", "quantize, ms", "float32, ms", "times as fast")
    more = ("best peer", "its ms", "times as fast as it (95 %)", "quantize is")
    return table((*head, *more), lines) if lines else _NOTHING


_NOTHING = "Not measured in this run."


def _latency_of(results: Row, case: str) -> str:
    """One model: a row for each peer, a column for each setting."""
    rows = [row for row in results["latency"] if row["case"] == case]
    if not rows:
        return ""
    settings = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    lines = []
    for peer in dict.fromkeys(row["peer"] for row in rows):
        mine = {(row["batch"], row["threads"]): row for row in rows if row["peer"] == peer}
        lines.append([_peer(results, peer), *(_cell(mine[setting]) for setting in settings)])
    head = ["ms (middle 80 %); times as fast", *(f"batch {b}, {t} threads" for b, t in settings)]
    return f"### {results['cases'][case]['name']}\n\n{table(head, lines)}"


def _cell(row: Row) -> str:
    if "failed" in row:
        return "did not run"
    low, high = row["ms"]["low"], row["ms"]["high"]
    times = f"; {row['ratio']['value']:.2f}x, {row['standing']}" if "ratio" in row else ""
    return f"{_ms(row)} ({_digits(low)} to {_digits(high)}){times}"


def _ms(row: Row) -> str:
    return "did not run" if "failed" in row else _digits(row["ms"]["value"])


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _times(row: Row) -> str:
    if "ratio" not in row:
        return ""
    return f"{row['ratio']['value']:.2f} ({row['ratio']['low']:.2f} to {row['ratio']['high']:.2f})"


# ---------------------------------------------------------------------- accuracy, tuning


def _accuracy(results: Row) -> str:
    lines = []
    for row in results["accuracy"]:
        start = [_name(results, row), _peer(results, row["peer"])]
        if "failed" in row:
            lines.append([*start, "did not run", "", "", "", "", "", ""])
            continue
        against = row.get("against", {})
        lines.append(
            [
                *start,
                f"{row['images']}",
                _drop(row),
                f"{100 * row['agreement']:.2f} %",
                "exact" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
                _speed_beside(results, row),
                _difference(against.get("agreement"), "points"),
                _difference(against.get("sqnr_db"), "dB"),
            ]
        )
    head = ("model", "how", "images", "drop, points (95 %)", "equal answers", "SQNR, dB")
    more = ("ms, batch 1, 1 thread", "equal answers, quantize against it", "SQNR likewise")
    return table((*head, *more), lines) if lines else _NOTHING


def _drop(row: Row) -> str:
    if "drop" not in row:
        return "random weights"
    drop = row["drop"]
    return f"{drop['value']:.2f} ({drop['low']:.2f} to {drop['high']:.2f})"


def _difference(span: Row | None, unit: str) -> str:
    if span is None:
        return ""
    return (
        f"{span['value']:+.2f} {unit} ({span['low']:+.2f} to {span['high']:+.2f}):"
        f" {span['standing']}"
    )


def _speed_beside(results: Row, row: Row) -> str:
    for seen in results["latency"]:
        same = (seen["case"], seen["peer"]) == (row["case"], row["peer"])
        if same and (seen["batch"], seen["threads"]) == (1, 1):
            return _ms(seen)
    return ""


def _tuning(results: Row) -> str:
    lines = []
    for row in results["tuning"]:
        how = "quantize" if row["peer"] == "ours" else "INC `basic`"
        start = [_name(results, row), row["goal"], how]
        if "failed" in row:
            lines.append([*start, *[""] * 7, "did not run"])
            continue
        lines.append(
            [
                *start,
                f"{row['seconds']:.1f}",
                _share(row),
                f"{row['evaluations']:g}",
                f"{row['calibrations']}",
                f"{row['peak_bytes'] / 2**20:.0f}" if row["peak_bytes"] else "not known",
                _tuned(row),
                f"{row['speed'][0]:.2f}" if row["speed"] else "",
                row["ended"],
            ]
        )
    head = ("model", "goal", "how", "seconds", "of INC's time (asked)", "evaluations")
    more = ("calibrations", "peak, MiB", "drop; equal answers; SQNR", "times as fast", "ended")
    return table((*head, *more), lines) if lines else _NOTHING


def _share(row: Row) -> str:
    if "share" not in row:
        return ""
    most = "< " if row["bound"] else ""
    return f"{most}{row['share']:.2f} (at most {row['asked']:g}): {row['standing']}"


def _tuned(row: Row) -> str:
    drop = f"{row['drop']:.2f}; " if "drop" in row else ""
    sqnr = "exact" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
    return f"{drop}{100 * row['agreement']:.1f} %; {sqnr}"


def _script(name: str, found: Row) -> str:
    title = f"## {name.replace('_', ' ').capitalize()}"
    text = f"Did not run: {found['failed']}." if "failed" in found else found["markdown"].strip()
    return f"{title}\n\n{text}"


# ------------------------------------------------------------------------ behind, failed


def _behind(results: Row, causes: Causes) -> str:
    lines = [*_slower(results, causes), *_less_accurate(results, causes), *_longer(results, causes)]
    if not lines:
        return "Nowhere in this run."
    return table(("model", "against", "in", "by how much", "cause"), lines)


def _slower(results: Row, causes: Causes) -> list[list[str]]:
    """Latency rows of one model, peer and cause make one line."""
    rows = [
        (row["case"], row["peer"], causes.of(row["id"]), row)
        for row in results["latency"]
        if row["rival"] and row.get("standing") == "behind"
    ]
    rows.sort(key=lambda entry: entry[:3])
    lines = []
    for (case, peer, cause), entries in groupby(rows, lambda entry: entry[:3]):
        found = [entry[3] for entry in entries]
        times = sorted(row["ratio"]["value"] for row in found)
        where = ", ".join(f"{row['batch']} on {row['threads']}" for row in found)
        how = f"{times[0]:.2f}" + (f" to {times[-1]:.2f}" if len(times) > 1 else "")
        name = str(results["cases"][case]["name"])
        told = f"{how} times as fast"
        place = f"time, batch on threads: {where}"
        cause = _of_the_runtime(results, found) if cause == UNKNOWN else cause
        lines.append([name, _peer(results, peer), place, told, cause])
    return lines


def _of_the_runtime(results: Row, rows: Sequence[Row]) -> str:
    """Where our own file takes no longer in a peer's runtime, that is the cause."""
    twin = f"ours-{results['peers'][rows[0]['peer']].get('runtime')}"
    shares = [
        seen["ms"]["value"] / row["ms"]["value"]
        for row in rows
        for seen in results["latency"]
        if seen["peer"] == twin and "failed" not in seen
        if all(seen[key] == row[key] for key in ("case", "batch", "threads"))
    ]
    if len(shares) < len(rows) or max(shares) > _NO_LONGER:
        return UNKNOWN
    return (
        "the runtime, not the file: run there, quantize's takes"
        f" {min(shares):.2f} to {max(shares):.2f} of its time"
    )


_NO_LONGER = 1.05


_ASPECTS = {"top1": ("top-1", "points"), "agreement": ("equal answers", "points")}
_ASPECTS |= {"sqnr_db": ("SQNR", "dB")}


def _less_accurate(results: Row, causes: Causes) -> list[list[str]]:
    return [
        [
            _name(results, row),
            _peer(results, row["peer"]),
            _ASPECTS[aspect][0],
            f"{span['value']:+.2f} {_ASPECTS[aspect][1]}",
            causes.of(row["id"]),
        ]
        for row in results["accuracy"]
        if row["rival"]
        for aspect, span in row.get("against", {}).items()
        if span["standing"] == "behind"
    ]


def _longer(results: Row, causes: Causes) -> list[list[str]]:
    return [
        [
            f"{_name(results, row)}, {row['goal']}",
            "INC `basic`",
            "time of tuning",
            f"{row['share']:.2f} of its time, at most {row['asked']:g} asked",
            causes.of(row["id"]),
        ]
        for row in results["tuning"]
        if row.get("standing") == "behind"
    ]


def _failed(results: Row) -> str:
    """Every reason once, with what it kept from running."""
    lines: list[Sequence[str]] = [
        ("case", str(entry["name"]), entry["failed"])
        for entry in results["cases"].values()
        if "failed" in entry
    ]
    lines += [
        ("environment", str(entry["name"]), entry["failed"])
        for entry in results["peers"].values()
        if "failed" in entry
    ]
    for part in ("latency", "accuracy", "tuning"):
        lines += [
            (f"{part}, {_name(results, row)}", _who(results, row["peer"]), row["failed"])
            for row in results[part]
            if "failed" in row
        ]
    lines += [
        (f"file, {_name(results, row)}", _who(results, row["peer"]), row["note"])
        for row in results["made"]
        if row["note"] and not row["note"].startswith("failed")
    ]
    known = list(dict.fromkeys(tuple(line) for line in lines))
    return table(("what", "who", "how"), known) if known else "Everything ran."


def _who(results: Row, peer: str) -> str:
    return "INC `basic`" if peer == "inc-basic" else _who_made(results, peer)


def _who_made(results: Row, peer: str) -> str:
    return _peer(results, peer) if peer in results["peers"] else "quantize"
