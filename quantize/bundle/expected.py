"""What a bundle's manifest promises, as typed values, and set against what is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from quantize.bundle.names import printable
from quantize.checked_json import Value
from quantize.paired import agreement_interval
from quantize.plan import Evaluation, Goal, GoalKind, Verdict

_UNKNOWN = "-"
_MOST_RUNS = 1000
"""A manifest must not keep a machine busy for ever."""


@dataclass(frozen=True)
class Row:
    """One figure, as text."""

    name: str
    expected: str
    seen: str


@dataclass(frozen=True)
class Right:
    """Images of the release that the float model has right, that int8 has, and how they differ."""

    float_: int
    int8: int
    lost: int
    gained: int


@dataclass(frozen=True)
class Expected:
    """Figures of the release.

    Attributes:
        goal: what was asked.
        isa: instruction set that they hold for.
        images: of the holdout.
        images_sha256: over content, labels and preprocessing.
        float_top1: ratio, or None without labels; likewise int8_top1.
        int8_top1: see there.
        low: lower end of int8_top1's 95 % interval (Wilson), or None without labels.
        high: upper end.
        right: the counts behind them, or None without labels.
        drop: points with its interval, or None without labels.
        agreement: ratio.
        latency: float_ms, int8_ms, ratio, low and high, or None where it was not measured.
        cpu: name of the processor.
        timing: threads asked, warm-up and rounds.
    """

    goal: Goal
    isa: str
    images: int
    images_sha256: str
    float_top1: float | None
    int8_top1: float | None
    low: float | None
    high: float | None
    right: Right | None
    drop: tuple[float, float, float] | None
    agreement: float
    latency: dict[str, float] | None
    cpu: str
    timing: tuple[int, int, int]


def expected_of(manifest: Value) -> Expected:
    """The promises of a manifest.json.

    Raises:
        BundleError: a value is missing or impossible; names it.
    """
    verdict, accuracy = manifest.at("verdict"), manifest.at("accuracy").optional()
    images = verdict.at("images").count(10**9)
    top1 = [accuracy.at(m, "top1").number(0, 1) if accuracy else None for m in ("float", "int8")]
    limits = agreement_interval(top1[1], images) if top1[1] is not None and images else None
    drop = None
    if accuracy:
        drop = (
            accuracy.at("drop_points").number(-100, 100),
            *accuracy.at("drop_interval_points").interval(),
        )
    latency = manifest.at("latency").optional()
    times = ("float_ms", "int8_ms", "ratio", "low", "high")
    timing = manifest.at("timing")
    return Expected(
        goal=_goal(verdict.at("goal")),
        isa=printable(verdict.at("instruction_set").text()),
        images=images,
        images_sha256=manifest.at("data", "holdout", "sha256").digest(),
        float_top1=top1[0],
        int8_top1=top1[1],
        low=limits.low if limits else None,
        high=limits.high if limits else None,
        right=_right(accuracy, images) if accuracy and images else None,
        drop=drop,
        agreement=manifest.at("fidelity", "agreement").number(0, 1),
        latency={key: latency.at(key).number(0) for key in times} if latency else None,
        cpu=printable(manifest.at("cpu", "name").text()),
        timing=(
            max(1, timing.at("threads").count(4096)),
            min(timing.at("warm_up").count(), _MOST_RUNS),
            max(1, min(timing.at("rounds").count(), _MOST_RUNS)),
        ),
    )


def _right(accuracy: Value, images: int) -> Right:
    """Counts that fit together, so that a table can be made of them."""
    float_, int8 = (accuracy.at("right", m, "top1").count(images) for m in ("float", "int8"))
    lost, gained = (accuracy.at(key).count(images) for key in ("lost", "gained"))
    if lost - gained != float_ - int8 or lost > float_ or gained > images - float_:
        raise accuracy.wrong("a table of whole images")
    return Right(float_, int8, lost, gained)


def _goal(value: Value) -> Goal:
    sure = value.at("confidence").optional()
    return Goal(
        value.at("tolerance").number(0, 1),
        cast("GoalKind", value.at("kind").one_of("relative", "absolute", "agreement")),
        None if sure is None else sure.number(0.5, 0.999999),
        value.at("speed_floor").number(0, 1000),
    )


def rows(
    expected: Expected,
    verdict: Verdict | None,
    alone: Evaluation | None = None,
    milliseconds: float | None = None,
) -> tuple[Row, ...]:
    """The table.

    Args:
        expected: of the release.
        verdict: of both models, or None.
        alone: else the int8 model's answers.
        milliseconds: and its time.
    """
    found: dict[str, Any] = _of_verdict(verdict) if verdict else _of_one(alone, milliseconds)
    promised = {
        "images": str(expected.images),
        "top-1 float": _share(expected.float_top1),
        "top-1 int8": _share(expected.int8_top1),
        "95 % interval": _span(expected.low, expected.high),
        "drop, points": _number(expected.drop[0] if expected.drop else None),
        "its 95 % interval": _points(expected.drop[1:] if expected.drop else None),
        "equal answers": _share(expected.agreement),
        "float, ms": _number(expected.latency["float_ms"] if expected.latency else None),
        "int8, ms": _number(expected.latency["int8_ms"] if expected.latency else None),
        "times as fast": _fast(expected.latency),
    }
    kept = [name for name in promised if verdict or name in found]
    table = [Row(name, promised[name], found.get(name, _UNKNOWN)) for name in kept]
    return tuple(row for row in table if (row.expected, row.seen) != (_UNKNOWN, _UNKNOWN))


def _of_verdict(seen: Verdict) -> dict[str, str]:
    drop, latency = seen.drop, seen.latency
    limits = agreement_interval(seen.int8_top1, seen.images) if seen.int8_top1 is not None else None
    return {
        "images": str(seen.images),
        "top-1 float": _share(seen.float_top1),
        "top-1 int8": _share(seen.int8_top1),
        "95 % interval": _span(*limits) if limits else _UNKNOWN,
        "drop, points": _number(drop.points if drop else None),
        "its 95 % interval": _points((drop.low, drop.high) if drop else None),
        "equal answers": _share(seen.fidelity.agreement),
        "float, ms": _number(latency.float_ms if latency else None),
        "int8, ms": _number(latency.int8_ms if latency else None),
        "times as fast": _fast(
            {"ratio": latency.ratio, "low": latency.low, "high": latency.high} if latency else None
        ),
    }


def _of_one(seen: Evaluation | None, milliseconds: float | None) -> dict[str, str]:
    if seen is None:
        return {}
    top1 = seen.accuracy(1)
    return {
        "images": str(seen.images),
        "top-1 int8": _share(top1),
        "95 % interval": _span(*agreement_interval(top1, seen.images)),
        "int8, ms": _number(milliseconds),
    }


def _share(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{100 * value:.2f} %"


def _span(low: float | None, high: float | None) -> str:
    return _UNKNOWN if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f} %"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}"


def _points(limits: tuple[float, ...] | None) -> str:
    return f"{limits[0]:.2f} to {limits[1]:.2f}" if limits else _UNKNOWN


def _fast(seen: dict[str, float] | None) -> str:
    return f"{seen['ratio']:.2f} ({seen['low']:.2f} to {seen['high']:.2f})" if seen else _UNKNOWN
