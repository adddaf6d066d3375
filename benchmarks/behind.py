"""Every row in which we are behind, with its cause: line by line, and gathered by cause."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.causes import UNKNOWN, Causes

Row = Mapping[str, Any]

TIME, TUNING = "time", "time of tuning"
_NO_LONGER = 1.05
"""What our own file may take in a peer's runtime, of the peer's time, to be as fast there."""

_ASPECTS = {"top1": ("top-1", "points"), "agreement": ("equal answers", "points")}
_ASPECTS |= {"sqnr_db": ("SQNR", "dB")}


@dataclass(frozen=True)
class Behind:
    """One row.

    Attributes:
        model: as tables call it, with the goal where there is one.
        peer: whom we are behind, likewise.
        what: in which respect.
        amount: how far, in `unit`.
        unit: of the amount.
        cause: as far as it is known.
        place: batch and threads of a time, else empty.
        places: in how many of them the model was measured.
    """

    model: str
    peer: str
    what: str
    amount: float
    unit: str
    cause: str
    place: str = ""
    places: int = 0


def entries(results: Row, causes: Causes) -> list[Behind]:
    """All rows, times first."""
    return [*_slower(results, causes), *_less_accurate(results, causes), *_longer(results, causes)]


def by_model(found: Sequence[Behind]) -> list[list[str]]:
    """Model, peer, respect, amount and cause: times of one model, peer and cause are one line."""
    lines = []
    for (model, peer, what, cause, _), same in _gathered(
        found, lambda one: (one.model, one.peer, one.what, one.cause, one.unit)
    ):
        place = f"{what}, batch on threads: {_places(same)}" if what == TIME else what
        lines.append([model, peer, place, _amounts(same), cause])
    return lines


def by_cause(found: Sequence[Behind]) -> list[list[str]]:
    """Peer, respect, where, amount and cause: whatever has one cause is one line."""
    lines = []
    for (peer, what, cause, _), same in _gathered(
        found, lambda one: (one.peer, one.what, one.cause, one.unit)
    ):
        where = []
        for (model,), few in _gathered(same, lambda one: (one.model,)):
            everywhere = len(few) == few[0].places
            told = "all" if everywhere else _places(few)
            where.append(f"{model} ({told})" if what == TIME else model)
        lines.append([peer, what, "; ".join(where), _amounts(same), cause])
    return lines


def _gathered(
    found: Sequence[Behind], key: Callable[[Behind], tuple[str, ...]]
) -> Iterable[tuple[tuple[str, ...], list[Behind]]]:
    """The rows of each key, in the order in which the keys are met."""
    groups: dict[tuple[str, ...], list[Behind]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups.items()


def _places(found: Sequence[Behind]) -> str:
    return ", ".join(one.place for one in found)


def _amounts(found: Sequence[Behind]) -> str:
    """How far at the least and at the most, in the unit of all of them."""
    sign = "+" if found[0].unit in ("points", "dB") else ""
    ends = sorted({f"{one.amount:{sign}.2f}" for one in found}, key=float)
    return f"{ends[0]}{f' to {ends[-1]}' if len(ends) > 1 else ''} {found[0].unit}"


def _slower(results: Row, causes: Causes) -> list[Behind]:
    rows = [row for row in results["latency"] if row["rival"] and row.get("standing") == "behind"]
    runtimes = _of_runtimes(results, rows)
    found = []
    for row in sorted(rows, key=lambda row: (row["case"], row["peer"])):
        known = causes.of(row["id"])
        model, peer = _model(results, row), _peer(results, row)
        found.append(
            Behind(
                *(model, peer, TIME, row["ratio"]["value"], "times as fast"),
                runtimes.get(row["id"], UNKNOWN) if known == UNKNOWN else known,
                f"{row['batch']} on {row['threads']}",
                _settings(results, row),
            )
        )
    return found


def _settings(results: Row, row: Row) -> int:
    """In how many settings a row's model was measured."""
    return len(
        {
            (seen["batch"], seen["threads"])
            for seen in results["latency"]
            if seen["case"] == row["case"]
        }
    )


def _of_runtimes(results: Row, rows: Sequence[Row]) -> dict[str, str]:
    """Where our own file takes no longer in a peer's runtime, that is the cause."""
    shares: dict[str, dict[str, float]] = {}
    for row in rows:
        runtime = results["peers"][row["peer"]].get("runtime")
        for seen in results["latency"]:
            if seen["peer"] != f"ours-{runtime}" or "failed" in seen:
                continue
            share = seen["ms"]["value"] / row["ms"]["value"]
            alike = all(seen[key] == row[key] for key in ("case", "batch", "threads"))
            if alike and share <= _NO_LONGER:
                shares.setdefault(row["peer"], {})[row["id"]] = share
    return {
        row: "the runtime, not the file: run there, quantize's takes"
        f" {min(those.values()):.2f} to {max(those.values()):.2f} of its time"
        for those in shares.values()
        for row in those
    }


def _less_accurate(results: Row, causes: Causes) -> list[Behind]:
    return [
        Behind(
            _model(results, row),
            _peer(results, row),
            _ASPECTS[aspect][0],
            span["value"],
            _ASPECTS[aspect][1],
            causes.of(row["id"]),
        )
        for row in results["accuracy"]
        if row["rival"]
        for aspect, span in row.get("against", {}).items()
        if span["standing"] == "behind"
    ]


def _longer(results: Row, causes: Causes) -> list[Behind]:
    return [
        Behind(
            f"{_model(results, row)}, {row['goal']}",
            "INC `basic`",
            TUNING,
            row["share"],
            f"of its time, at most {row['asked']:g} asked",
            causes.of(row["id"]),
        )
        for row in results["tuning"]
        if row.get("standing") == "behind"
    ]


def _model(results: Row, row: Row) -> str:
    return str(results["cases"][row["case"]]["name"])


def _peer(results: Row, row: Row) -> str:
    return str(results["peers"][row["peer"]]["name"])
