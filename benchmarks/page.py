"""The results as Markdown: a page of its own, and the excerpt that README.md holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import behind, machine
from benchmarks.causes import Causes
from benchmarks.latency import FULL, NARROW
from benchmarks.raw import write_raw
from benchmarks.standing import LEAST_ROUNDS, best
from benchmarks.tables import table, write_between
from quantize.files import write_atomic

Row = Mapping[str, Any]

HOW_TO_READ = f"""\
- **Time** is milliseconds of one run: the median of interleaved rounds, and in brackets where the
  middle 80 % of the rounds lie. In each round every file has one turn, in an order that is drawn
  anew, so what slows the machine slows all. Each runtime is a process of its own that holds the
  files loaded. All ONNX files run in the same onnxruntime.
- **Times as fast** is theirs / ours of each round: its median and the 95 % interval of that median
  (order statistics). "quantize, loaded twice" is our file against itself: how far its ratio is
  from 1 is what this method cannot see. **Equal** means equal within noise: the interval holds 1,
  or overlaps the one of our file loaded twice. Of equal files up to one in twenty is called ahead
  or behind all the same. Against float32 the arithmetic allows 4.
- **Rounds**: at most {FULL.most} for a setting, or as many as {FULL.seconds:g} s hold, but at least
  {LEAST_ROUNDS}; after {FULL.enough:g} s none is added once every interval is at most {NARROW:.0%}
  wide, wherever it lies.
- **OpenVINO** computes what is left float in bf16 where the processor can, so its times are held
  against ours, not against its own float. "quantize, in OpenVINO" is our file, run there.
- **Drop** is float top-1 minus int8 top-1 in points on one holdout, with Tango's 95 % interval;
  **equal answers** is the share of images on which int8 answers as float does, **SQNR** that of the
  outputs. Against us: our figure minus theirs over the same images; ahead or behind where the 95 %
  interval (Tango's; for SQNR 1,000 paired resamples) leaves out 0.
- **Tuning**: both from the start of the process until goal and speed floor are met or given up;
  INC's loop alone stands beside it. Asked is at most 0.2 of INC's time where
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
        _noise(results),
        *(_latency_of(results, key) for key in results["cases"]),
        "## Tuning\n\n" + _tuning(results),
        "## Accuracy, beside the speed that goes with it\n\n" + _accuracy(results),
        *(_script(name, found) for name, found in results["scripts"].items()),
        "## Where quantize is behind\n\n" + _behind(results, causes),
        "## What did not run\n\n" + _failed(results),
    ]
    return "\n\n".join(part for part in parts if part)


def excerpt(results: Row, causes: Causes) -> str:
    """What README.md shows: a line for each model, and every row in which we are behind."""
    return "\n\n".join(
        [
            f"{machine.sentence(results['machine'])} Every peer and setting, and how to read it:"
            " [docs/benchmarks.md](docs/benchmarks.md).",
            "**Latency** of the int8 file at batch 1 on one thread, and how it stands against the"
            " fastest peer of each setting (batch 1, 8 and 32; one thread and all):",
            _latency_in_short(results),
            _noise(results),
            "**Tuning** until goal and speed floor are met or given up, against INC `basic`:",
            _tuning_in_short(results),
            "**Where quantize is behind** a peer, and why:",
            _behind_in_short(results, causes),
            *(
                f"**{title}**{rest}:\n\n{_said(results['scripts'][name])}"
                for name, (title, rest) in _SCRIPTS_IN_SHORT.items()
                if name in results["scripts"]
            ),
        ]
    )


_SCRIPTS_IN_SHORT = {
    "data_path": (
        "Data path",
        ", images a second from JPEG files, then with MobileNet behind it, and how near that is to"
        " what is possible",
    ),
    "growth": ("Growth", " of time and memory with the number of images"),
}
"""Parts with a script of their own that README.md shows, too -> title, and what it is about."""


def publish(results: Row, causes: Causes, root: Path) -> None:
    """Write docs/benchmarks.md, docs/benchmarks.json and the excerpt in README.md.

    Raises:
        MarkerError: README.md has no place for it; then nothing is written.
        OutputError: a file cannot be written.
    """
    write_between(root / "README.md", excerpt(results, causes))
    write_atomic(root / "docs" / "benchmarks.md", f"{whole(results, causes)}\n".encode())
    write_raw(results, root / "docs" / "benchmarks.json")


# --------------------------------------------------------------------------- conditions


def _conditions(results: Row) -> str:
    command = f"python -m benchmarks {results['arguments']}".strip()
    short = " **This is the short form: it shows that all runs, not how fast.**"
    return (
        f"{machine.sentence(results['machine'])} `{command}` took"
        f" {results['seconds'] / 60:.1f} minutes{_spent(results)}."
        f"{short if results['quick'] else ''}\n\n"
        "```sh\n"
        "make bench          # all of it; installs each peer into build/bench-envs\n"
        "make bench-quick    # minutes: that it runs\n"
        "```"
    )


def _spent(results: Row) -> str:
    """Where the time went, most of it first."""
    spent = sorted(results.get("spent", {}).items(), key=lambda entry: -entry[1])
    told = [f"{name.replace('_', ' ')} {seconds / 60:.1f}" for name, seconds in spent]
    return f" ({', '.join(told)})" if told else ""


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


def _latency_in_short(results: Row) -> str:
    """One model: its first setting, and how often it is ahead of the best peer in all."""
    lines = []
    for case, settings in groupby(_settings(results["latency"]), lambda setting: setting[0]):
        every = [rows for *_, rows in settings]
        by_peer = {row["peer"]: row for row in every[0]}
        ours, exact, rival = by_peer["ours"], by_peer["float"], best(every[0])
        rivals = [found for rows in every if (found := best(rows))]
        count = Counter(str(found.get("standing")) for found in rivals)
        lines.append(
            [
                str(results["cases"][case]["name"]),
                _ms(ours),
                f"{exact['ratio']['value']:.2f}" if "ratio" in exact else "",
                _peer(results, rival["peer"]) if rival else "none ran",
                _times(rival) if rival else "",
                " / ".join(f"{count[standing]}" for standing in ("ahead", "equal", "behind")),
                _fidelity(results, case),
            ]
        )
    head = ("model", "ms", "times as fast as float32", "best peer", "times as fast as it (95 %)")
    more = ("settings ahead / equal / behind", "drop; equal answers; SQNR")
    return table((*head, *more), lines) if lines else _NOTHING


def _fidelity(results: Row, case: str) -> str:
    mine = [row for row in results["accuracy"] if (row["case"], row["peer"]) == (case, "ours")]
    if not mine or "failed" in mine[0]:
        return ""
    row = mine[0]
    return _tuned({**row, "drop": row["drop"]["value"]} if "drop" in row else row)


def _noise(results: Row) -> str:
    """How our file does against itself."""
    rows = [row for row in results["latency"] if row["peer"] == "ours-again" and "ratio" in row]
    if not rows:
        return ""
    times = sorted(row["ratio"]["value"] for row in rows)
    equal = sum(row["standing"] == "equal" for row in rows)
    return (
        f"Noise: our file against itself, loaded twice, is {times[0]:.3f} to {times[-1]:.3f} times"
        f" as fast, and called equal in {equal} of {len(rows)} settings. A difference of this size"
        " from a peer says nothing."
    )


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
                _mib(row),
                _tuned(row),
                f"{row['speed'][0]:.2f}" if row["speed"] else "",
                row["ended"],
            ]
        )
    head = ("model", "goal", "how", "seconds", "of INC's time (asked)", "evaluations")
    more = ("calibrations", "peak, MiB", "drop; equal answers; SQNR", "times as fast", "ended")
    return table((*head, *more), lines) if lines else _NOTHING


def _tuning_in_short(results: Row) -> str:
    """One line a job: ours, and INC's beside it."""
    lines = []
    for _, both in groupby(results["tuning"], lambda row: row["case"]):
        by_peer = {row["peer"]: row for row in both}
        ours, theirs = by_peer["ours"], by_peer.get("inc-basic", {"failed": "not installed"})
        pair = [ours, theirs]
        lines.append(
            [
                _name(results, ours),
                ours["goal"],
                _two(pair, lambda row: f"{row['seconds']:.1f}"),
                _share(ours),
                _two(pair, lambda row: f"{row['evaluations']:g}"),
                _two(pair, _mib),
                _two(pair, _tuned),
                _two(pair, lambda row: str(row["ended"])),
            ]
        )
    head = ("model", "goal", "seconds: quantize / INC", "of INC's time (asked)")
    more = ("evaluations", "peak, MiB", "drop; equal answers; SQNR", "ended")
    return table((*head, *more), lines) if lines else _NOTHING


def _two(rows: Sequence[Row], told: Callable[[Row], str]) -> str:
    return " / ".join("did not run" if "failed" in row else told(row) for row in rows)


def _mib(row: Row) -> str:
    return f"{row['peak_bytes'] / 2**20:.0f}" if row["peak_bytes"] else "not known"


def _share(row: Row) -> str:
    if "share" not in row:
        return ""
    most = "< " if row["bound"] else ""
    loop = f"{most}{row['share_of_loop']:.2f} of its loop alone"
    return f"{most}{row['share']:.2f} (at most {row['asked']:g}): {row['standing']}; {loop}"


def _tuned(row: Row) -> str:
    drop = f"{row['drop']:.2f}; " if "drop" in row else ""
    sqnr = "exact" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
    return f"{drop}{100 * row['agreement']:.1f} %; {sqnr}"


def _script(name: str, found: Row) -> str:
    return f"## {name.replace('_', ' ').capitalize()}\n\n{_said(found)}"


def _said(found: Row) -> str:
    return f"Did not run: {found['failed']}." if "failed" in found else found["markdown"].strip()


# ------------------------------------------------------------------------ behind, failed


def _behind(results: Row, causes: Causes) -> str:
    lines = behind.by_model(behind.entries(results, causes))
    if not lines:
        return _NOWHERE
    return table(("model", "against", "in", "by how much", "cause"), lines)


def _behind_in_short(results: Row, causes: Causes) -> str:
    lines = behind.by_cause(behind.entries(results, causes))
    if not lines:
        return _NOWHERE
    head = ("against", "in", "where (times: batch on threads)", "by how much", "cause")
    return table(head, lines)


_NOWHERE = "Nowhere in this run."


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
