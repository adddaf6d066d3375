"""A report as MLflow takes it: parameters, metrics with their steps, tags.

Knows nothing of MLflow: names and values only, listed in docs/tracking.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from quantize.checked_json import Value
from quantize.plan import EXIT_CODES
from quantize.report.reading import Account, account_of
from quantize.report.values import shown

_MOST_TEXT = 500
"""Older servers refuse longer values."""

_GOAL = ("kind", "tolerance", "confidence", "speed_floor")
_LATENCY = {
    "float_ms": "float_ms",
    "int8_ms": "int8_ms",
    "ratio": "ratio",
    "low": "ratio_low",
    "high": "ratio_high",
}


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        key: its name; units stand in it, else it is a ratio or a count.
        value: finite.
        step: number of the candidate from 1, or 0 for the run as a whole.
    """

    key: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class Record:
    """What is told of one run.

    Attributes:
        name: of the run.
        params: what was asked and chosen.
        metrics: what was found.
        tags: the verdict.
        started: when the run began, in seconds since 1970.
        finished: when it ended, likewise.
    """

    name: str
    params: dict[str, str]
    metrics: tuple[Metric, ...]
    tags: dict[str, str]
    started: float
    finished: float


def record_of(report: Value, name: str) -> Record:
    """A whole report.

    Args:
        report: of a finished run.
        name: what to call the run.

    Raises:
        RunFolderError: a value is missing or of another kind.
    """
    account = account_of(report, name)
    finished = _time(report.at("measured", "finished"))
    seconds = report.at("measured", "seconds").number(0, 1e9)
    return Record(
        name=_bounded(name),
        params={key: _bounded(value) for key, value in _params(report, account)},
        metrics=(*_results(report, account, seconds), *_trials(report)),
        tags={key: _bounded(value) for key, value in _tags(account)},
        started=finished - seconds,
        finished=finished,
    )


def _params(report: Value, account: Account) -> Iterator[tuple[str, str]]:
    for key in _GOAL:
        yield f"goal.{key}", _word(report.at("verdict", "goal", key))
    plan = account.plan
    yield "plan.engine", plan.engine
    yield "plan.format", plan.format
    yield "plan.weight_granularity", plan.scheme.weight_granularity
    yield "plan.method", plan.scheme.method
    yield "plan.reduce_range", str(plan.scheme.reduce_range).lower()
    yield "plan.portable", str(plan.scheme.portable).lower()
    yield "plan.repairs", ", ".join(plan.repairs) or "none"
    yield "plan.nodes_left_float", str(len(plan.keep_float))
    yield "plan.encodings_sha256", _word(report.at("int8_model", "plan", "encodings_sha256"))
    for part in ("calibration", "search", "holdout"):
        yield f"data.{part}_images", str(report.at("data", part, "images").count())
        yield f"data.{part}_sha256", report.at("data", part, "sha256").text()
    yield "search.strategy", report.at("search", "strategy").text()
    for key in ("file", "sha256"):
        yield f"float_model.{key}", report.at("float_model", key).text()
    yield "int8_model.sha256", report.at("int8_model", "sha256").digest()
    for package in report.at("versions").names():
        yield f"version.{package}", report.at("versions", package).text()
    yield "cpu.name", report.at("measured", "cpu", "name").text()
    yield "cpu.isa", account.isa


def _results(report: Value, account: Account, seconds: float) -> Iterator[Metric]:
    accuracy = report.at("accuracy")
    if accuracy.value is not None:
        for model in ("float", "int8"):
            for top in ("top1", "top5"):
                yield Metric(f"accuracy.{model}_{top}", accuracy.at(model, top).number())
        low, high = accuracy.at("drop_interval_points").interval()
        yield Metric("accuracy.drop_points", accuracy.at("drop_points").number())
        yield Metric("accuracy.drop_low_points", low)
        yield Metric("accuracy.drop_high_points", high)
        for key in ("lost", "gained"):
            yield Metric(f"accuracy.{key}", accuracy.at(key).count())
    yield Metric("fidelity.agreement", account.agreement)
    yield from _maybe("fidelity.sqnr_db", report.at("fidelity", "sqnr_db"))
    latency = report.at("measured", "latency")
    if latency.value is not None:
        for key, told in _LATENCY.items():
            yield Metric(f"latency.{told}", latency.at(key).number())
    yield Metric("size.float_bytes", account.float_bytes)
    yield Metric("size.int8_bytes", account.int8_bytes)
    yield Metric("int8_share_of_multiply_adds", account.int8_share)
    yield Metric("changed_images", account.changed)
    yield Metric("seconds", seconds)


def _trials(report: Value) -> Iterator[Metric]:
    measured = list(report.at("measured", "trials").items())
    for step, trial in enumerate(report.at("search", "trials").items(), 1):
        for key in ("top1", "drop_points", "gain_db"):
            if trial.has(key):  # an older report has no drop
                yield from _maybe(f"trial.{key}", trial.at(key), step)
        for group, prefix in (("fidelity", "trial."), ("probe", "trial.probe_")):
            if trial.at(group).value is not None:
                for key in ("sqnr_db", "agreement"):
                    yield from _maybe(f"{prefix}{key}", trial.at(group, key), step)
        yield Metric("trial.accepted", float(trial.at("accepted").flag()), step)
        clock = measured[step - 1]  # as long as search.trials: account_of saw to it
        yield Metric("trial.seconds", clock.at("seconds").number(), step)
        if clock.at("latency").value is not None:
            yield Metric("trial.int8_ms", clock.at("latency", "int8_ms").number(), step)
            yield Metric("trial.latency_ratio", clock.at("latency", "ratio").number(), step)


def _maybe(key: str, value: Value, step: int = 0) -> Iterator[Metric]:
    """A figure that may be missing: infinite or undefined, or not measured."""
    number = value.number_or_none()
    if number is not None:
        yield Metric(key, number, step)


def _tags(account: Account) -> Iterator[tuple[str, str]]:
    counts = account.decisive
    yield "quantize.outcome", counts.outcome
    yield "quantize.exit_code", str(EXIT_CODES[counts.outcome])
    yield "quantize.reason", counts.reason
    yield "quantize.goal", account.goal
    yield "quantize.instruction_set", account.isa
    yield "quantize.stopped", account.stopped
    yield (
        "mlflow.note.content",
        f"Goal {counts.outcome}: {counts.reason}. Seen on {counts.images} holdout images,"
        f" {counts.label}.",
    )


def _word(value: Value) -> str:
    """A text or a number as MLflow keeps it."""
    if value.value is None:
        return "none"
    return value.value if isinstance(value.value, str) else f"{value.number():g}"


def _bounded(text: str) -> str:
    """The text without what steers a reader, no longer than any server takes."""
    clean = shown(" ".join(text.split()))
    return clean if len(clean) <= _MOST_TEXT else f"{clean[: _MOST_TEXT - 1]}…"


def _time(value: Value) -> float:
    """Seconds since 1970."""
    try:
        found = datetime.fromisoformat(value.text())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise value.wrong("a time") from None
