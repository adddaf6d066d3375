"""Two runs side by side: what differs, and whether the two can be compared at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantize.plan import Plan
from quantize.report.account import (
    SHOWN,
    decibels,
    folded,
    middle,
    named,
    percent,
    rungs,
    size_ratio,
)
from quantize.report.changes import Change
from quantize.report.reading import Account
from quantize.report.tables import change_values

NOTABLE_DB = 1.0
"""Layers whose SQNR differs by more are told."""


@dataclass(frozen=True)
class Changes:
    """Images whose answer changed in one run and not in the other.

    Attributes:
        first: only in the first run.
        second: only in the second.
        both: how many in both.
        whole: whether all are known, or the first of each run alone.
    """

    first: tuple[Change, ...]
    second: tuple[Change, ...]
    both: int
    whole: bool


@dataclass(frozen=True)
class Difference:
    """What two runs differ in.

    Attributes:
        warnings: why they are not comparable; empty where they are.
        figures: (what, first, second), as text.
        plan: likewise, only what differs.
        rungs: likewise, every rung of either run.
        layers: (name, SQNR in dB in the first, in the second), None where it was not measured;
            of the layers that both have only those that differ by more than `NOTABLE_DB`, most
            first.
        unpaired: how many layers only one of the two has.
        changes: or None where the holdouts are not the same.
    """

    warnings: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...]
    plan: tuple[tuple[str, str, str], ...]
    rungs: tuple[tuple[str, str, str], ...]
    layers: tuple[tuple[str, float | None, float | None], ...]
    unpaired: int
    changes: Changes | None


def difference(one: Account, two: Account) -> Difference:
    """Compare two runs."""
    return Difference(
        tuple(_warnings(one, two)),
        tuple(zip(_FIGURES, _figures(one), _figures(two), strict=True)),
        tuple(_plan(one.plan, two.plan)),
        tuple(_rungs(one, two)),
        tuple(_layers(one, two)),
        len({row.name for row in one.layers} ^ {row.name for row in two.layers}),
        _changes(one, two) if one.holdout == two.holdout else None,
    )


def difference_json(found: Difference) -> dict[str, Any]:
    """The same for machines."""
    seen = found.changes
    return {
        "comparable": not found.warnings,
        "warnings": list(found.warnings),
        "plan": [{"what": w, "first": a, "second": b} for w, a, b in found.plan],
        "layers": [{"name": n, "first_db": a, "second_db": b} for n, a, b in found.layers],
        "changed": None
        if seen is None
        else {
            "only_first": [change_values(change) for change in seen.first],
            "only_second": [change_values(change) for change in seen.second],
            "both": seen.both,
            "all_known": seen.whole,
        },
    }


def difference_lines(one: Account, two: Account, names: Sequence[str] | None = None) -> list[str]:
    """Two runs for people, side by side.

    Args:
        one: the first run.
        two: the second.
        names: class names by index, or None.
    """
    found = difference(one, two)
    lines = [*folded("first", one.place), *folded("second", two.place)]
    for warning in found.warnings:
        lines += folded("WARNING", f"not comparable: {warning}")
    lines += ["", _row("", "first", "second"), *(_row(*row) for row in found.figures), ""]
    lines.append(_row("plan", "first", "second") if found.plan else "plan       the same")
    lines += [_row(f"  {what}", *pair) for what, *pair in found.plan]
    lines += ["", _row("what each rung brought", "first", "second")]
    lines += [_row(f"  {what}", *pair) for what, *pair in found.rungs]
    return [*lines, "", *_layer_lines(found), "", *_change_lines(found, names)]


# ------------------------------------------------------------------------------ findings

_FIGURES = (
    "verdict",
    "top-1 of float, int8",
    "drop, points",
    "  95 % interval",
    "equal answers",
    "output SQNR",
    "times as fast",
    "  95 % interval",
    "size of the float file's",
    "int8 multiply-adds",
    "images that changed",
)


def _warnings(one: Account, two: Account) -> list[str]:
    checks = (
        (one.float_sha256, two.float_sha256, "the float models are not the same"),
        (one.holdout, two.holdout, "the holdout images or their preprocessing are not the same"),
        (one.isa, two.isa, f"one ran on {one.isa}, the other on {two.isa}"),
        (one.goal, two.goal, f"one was asked to {one.goal}, the other to {two.goal}"),
    )
    return [text for first, second, text in checks if first != second]


def _figures(run: Account) -> tuple[str, ...]:
    """The text of each of `_FIGURES`."""
    top1 = drop = interval = times = span = "not measured"
    if run.accuracy is not None:
        seen = run.accuracy
        top1 = f"{percent(seen.float_top1, 2)}, {percent(seen.int8_top1, 2)}"
        drop, interval = f"{seen.drop:.2f}", f"{seen.low:.2f} to {seen.high:.2f}"
    if run.speed is not None:
        times = f"{run.speed.ratio:.2f}"
        span = f"{run.speed.low:.2f} to {run.speed.high:.2f}"
    ratio = size_ratio(run)
    return (
        run.decisive.outcome,
        top1,
        drop,
        interval,
        percent(run.agreement, 2),
        decibels(run.sqnr_db) or "undefined",
        times,
        span,
        "" if ratio is None else f"{ratio:.3f}",
        percent(run.int8_share),
        f"{run.changed:,} of {run.images:,}",
    )


def _plan(one: Plan, two: Plan) -> list[tuple[str, str, str]]:
    """What differs, in words."""
    rows = [
        ("engine", one.engine, two.engine),
        ("format", one.format, two.format),
        ("weights", one.scheme.weight_granularity, two.scheme.weight_granularity),
        ("activation ranges", one.ranges or "INC's", two.ranges or "INC's"),
        ("7-bit weights", _yes(one.scheme.reduce_range), _yes(two.scheme.reduce_range)),
        ("portable weights", _yes(one.scheme.portable), _yes(two.scheme.portable)),
        ("repairs", _list(one.repairs), _list(two.repairs)),
        ("nodes left float", _list(one.keep_float), _list(two.keep_float)),
    ]
    return [row for row in rows if row[1] != row[2]]


def _rungs(one: Account, two: Account) -> list[tuple[str, str, str]]:
    """Every rung of either run, in the first's order, then what only the second has."""
    sides: list[dict[str, str]] = []
    for run in (one, two):
        side = {}
        for told in rungs(run):
            seen = told.rung
            gain = seen.sqnr_db if seen.gain_db is None else seen.gain_db
            figure = decibels(gain, signed=seen.gain_db is not None) or "failed"
            kept = "ships" if told.why == "ships" else "kept" if told.kept else "left out"
            side[told.label] = f"{figure}, {seen.seconds:.1f} s, {kept}"
        sides.append(side)
    first, second = sides
    labels = dict.fromkeys([*first, *second])
    return [(label, first.get(label, "-"), second.get(label, "-")) for label in labels]


def _layers(one: Account, two: Account) -> list[tuple[str, float | None, float | None]]:
    before = {row.name: row.sqnr_db for row in one.layers}
    after = {row.name: row.sqnr_db for row in two.layers}
    rows = [(name, before[name], after[name]) for name in before if name in after]
    differing = [(*row, _distance(row[1], row[2])) for row in rows]
    chosen = [row for row in differing if row[3] > NOTABLE_DB]
    chosen.sort(key=lambda row: -row[3])
    return [(name, first, second) for name, first, second, _ in chosen]


def _distance(one: float | None, two: float | None) -> float:
    """In dB; infinite where only one of them was measured."""
    if one is None or two is None:
        return 0.0 if one is two else math.inf
    return 0.0 if one == two else abs(one - two)


def _changes(one: Account, two: Account) -> Changes:
    before = {change.digest for change in one.changes}
    after = {change.digest for change in two.changes}
    return Changes(
        tuple(change for change in one.changes if change.digest not in after),
        tuple(change for change in two.changes if change.digest not in before),
        len(before & after),
        all(len(run.changes) == run.changed for run in (one, two)),
    )


# --------------------------------------------------------------------------------- lines


def _row(what: str, first: str, second: str) -> str:
    return f"{middle(what, 33):35}{middle(first, 30):32}{middle(second, 30)}".rstrip()


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _list(values: Sequence[str]) -> str:
    return ", ".join(values) or "none"


def _layer_lines(found: Difference) -> list[str]:
    unpaired = [f"layers     {found.unpaired} are in one run alone"] if found.unpaired else []
    if not found.layers:
        return [*unpaired, f"layers     none of both differs by more than {NOTABLE_DB:g} dB"]
    title = f"layers that differ by over {NOTABLE_DB:g} dB"
    lines = [_row(title, "first", "second")]
    lines += [
        _row(f"  {name}", *(decibels(value) or "not measured" for value in pair))
        for name, *pair in found.layers[:SHOWN]
    ]
    more = len(found.layers) - SHOWN
    return [*unpaired, *lines, *([f"  and {more} more"] if more > 0 else [])]


def _change_lines(found: Difference, names: Sequence[str] | None) -> list[str]:
    seen = found.changes
    if seen is None:
        return ["changed    not compared: the images are not the same"]
    lines = [
        f"images whose answer changed: {seen.both:,} in both runs, {len(seen.first):,} only in the"
        f" first, {len(seen.second):,} only in the second"
    ]
    if not seen.whole:
        lines.append("  of the first hundred of each: there is no changed.csv with all of them")
    for title, some in (("only in the first", seen.first), ("only in the second", seen.second)):
        if some:
            lines.append(f"  {title:30}{'label':22}{'float':22}int8")
        for change in some[:SHOWN]:
            label = "" if change.label is None else named(change.label, names, 20)
            float_, int8 = named(change.float_, names, 20), named(change.int8, names, 20)
            lines.append(f"    {middle(change.name, 27):28}{label:22}{float_:22}{int8}")
        if len(some) > SHOWN:
            lines.append(f"    and {len(some) - SHOWN:,} more")
    return lines
