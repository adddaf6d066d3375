"""What the page tells beyond the account: checked values of the same report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from quantize.checked_json import Value
from quantize.plan import Goal, GoalKind
from quantize.report.reading import Speed

_SETS = ("calibration", "search", "holdout")


@dataclass(frozen=True)
class ModelFile:
    """A model file: its name or None, sha256, size in bytes, opset."""

    name: str | None
    sha256: str
    bytes: int
    opset: int


@dataclass(frozen=True)
class Candidate:
    """What the search images told of one candidate.

    Attributes:
        top1: on `images` search images (a ratio), or None.
        images: behind `top1`, or None.
        speed: or None where it was not timed.
    """

    top1: float | None
    images: int | None
    speed: Speed | None


@dataclass(frozen=True)
class ImageSet:
    """One of the three sets.

    Attributes:
        name: calibration, search or holdout.
        images: how many.
        sha256: over content, labels and preprocessing.
        preprocessing: its transforms in order, each as text.
        unreadable: how many could not be used.
        first: (name, reason) of the first of those.
    """

    name: str
    images: int
    sha256: str
    preprocessing: tuple[str, ...]
    unreadable: int
    first: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answers:
    """Labelled answers on the holdout: ratios, and images that only one model has right."""

    float_top5: float
    int8_top5: float
    drop_ratio: float | None
    lost: int
    gained: int


@dataclass(frozen=True)
class Timing:
    """How the two files were timed: threads used and asked for, rounds."""

    threads: int
    asked: int
    rounds: int


@dataclass(frozen=True)
class Measured:
    """What a clock or the machine made.

    Attributes:
        finished: UTC, ISO 8601.
        seconds: of the run.
        earlier: new, continued or finished.
        cpu: its name.
        cores: of it.
        timing: or None.
    """

    finished: str
    seconds: float
    earlier: str
    cpu: str
    cores: int
    timing: Timing | None


@dataclass(frozen=True, eq=False)
class Details:
    """Checked values of a report, beside those of its `Account`.

    Attributes:
        goal: what was asked.
        float_: the input file.
        int8: the file that was verified.
        input_size: C, H, W.
        classes: of the model.
        convolutions: how many are int8, and how many there are.
        stayed_float: layers with weights that are not int8.
        encodings: hash of the scales, or None.
        answers: or None without labels.
        agreement_low: 95 % limits of the agreement (ratios); likewise agreement_high.
        agreement_high: the upper one.
        sets: calibration, search, holdout.
        search_again: whether the search had the calibration images again.
        duplicates: images left out because their bytes came before.
        notes: what else a reader should know of the data.
        prepare: what was done to the working copy.
        strategy: of the search.
        candidates: as long as the account's rungs.
        versions: of packages, sorted.
        tool: name and version.
        measured: by a clock or the machine.
    """

    goal: Goal
    float_: ModelFile
    int8: ModelFile
    input_size: tuple[int, ...]
    classes: int
    convolutions: tuple[int, int]
    stayed_float: tuple[str, ...]
    encodings: str | None
    answers: Answers | None
    agreement_low: float
    agreement_high: float
    sets: tuple[ImageSet, ...]
    search_again: bool
    duplicates: int
    notes: tuple[str, ...]
    prepare: tuple[str, ...]
    strategy: str
    candidates: tuple[Candidate, ...]
    versions: tuple[tuple[str, str], ...]
    tool: str
    measured: Measured


def details_of(found: Value) -> Details:
    """The details of a report.

    Args:
        found: the whole report, with the keys of its version.

    Raises:
        RunFolderError: a value is missing or of another kind.
    """
    float_, int8 = found.at("float_model"), found.at("int8_model")
    encodings, data = int8.at("plan", "encodings_sha256"), found.at("data")
    low, high = _pair(found.at("fidelity", "agreement_interval"))
    tool = found.at("tool")
    return Details(
        goal=_goal(found.at("verdict", "goal")),
        float_=_model(float_, float_.at("file").text()),
        int8=_model(int8, None),
        input_size=tuple(item.count() for item in float_.at("input", "size").items()),
        classes=float_.at("output", "classes").count(),
        convolutions=(
            int8.at("convolutions", "int8").count(),
            int8.at("convolutions", "all").count(),
        ),
        stayed_float=int8.at("stayed_float").texts(),
        encodings=None if encodings.value is None else encodings.text(),
        answers=_answers(found.at("accuracy")),
        agreement_low=low,
        agreement_high=high,
        sets=tuple(_images(name, data.at(name)) for name in _SETS),
        search_again=data.at("search", "is_calibration").flag(),
        duplicates=data.at("duplicates").count(),
        notes=data.at("notes").texts(),
        prepare=found.at("prepare").texts(),
        strategy=found.at("search", "strategy").text(),
        candidates=_candidates(found.at("search", "trials"), found.at("measured", "trials")),
        versions=_texts_by_name(found.at("versions")),
        tool=f"{tool.at('name').text()} {tool.at('version').text()}",
        measured=_measured(found.at("measured")),
    )


def _goal(value: Value) -> Goal:
    kind = value.at("kind").one_of("relative", "absolute", "agreement")
    confidence = value.at("confidence").number_or_none()
    if confidence is not None and not 0.5 < confidence < 1:
        raise value.at("confidence").wrong("between 0.5 and 1")
    return Goal(
        tolerance=value.at("tolerance").number(),
        kind=cast("GoalKind", kind),
        confidence=confidence,
        speed_floor=value.at("speed_floor").number(),
    )


def _model(value: Value, name: str | None) -> ModelFile:
    sha256, size = value.at("sha256").text(), value.at("bytes").count()
    return ModelFile(name, sha256, size, value.at("opset").count())


def _pair(value: Value) -> tuple[float, float]:
    numbers = [item.number() for item in value.items()]
    if len(numbers) != 2:
        raise value.wrong("an interval")
    return numbers[0], numbers[1]


def _answers(value: Value) -> Answers | None:
    if value.value is None:
        return None
    return Answers(
        value.at("float", "top5").number(),
        value.at("int8", "top5").number(),
        value.at("drop_ratio").number_or_none(),
        value.at("lost").count(),
        value.at("gained").count(),
    )


def _images(name: str, value: Value) -> ImageSet:
    unreadable = value.at("unreadable")
    steps = tuple(_step(item) for item in value.at("preprocessing").items())
    return ImageSet(
        name,
        value.at("images").count(),
        value.at("sha256").text(),
        steps,
        unreadable.at("images").count(),
        _texts_by_name(unreadable.at("first")),
    )


def _step(value: Value) -> str:
    """A transform as text, such as `Resize(size=256)`."""
    if not isinstance(value.value, dict) or len(value.value) != 1:
        raise value.wrong("a transform")
    ((name, options),) = value.value.items()
    if not isinstance(options, dict):
        raise value.wrong("a transform")
    known = ", ".join(f"{k}={_plain(v)}" for k, v in options.items() if v is not None)
    return f"{name}({known})" if known else name


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join('…' if isinstance(v, list | dict) else str(v) for v in value)}]"
    return "…" if isinstance(value, dict) else str(value)


def _texts_by_name(value: Value) -> tuple[tuple[str, str], ...]:
    if not isinstance(value.value, dict):
        raise value.wrong("an object")
    return tuple((name, value.at(name).text()) for name in value.value)


def _candidates(trials: Value, measured: Value) -> tuple[Candidate, ...]:
    times = [_speed(item.at("latency")) for item in measured.items()]
    found = []
    for index, trial in enumerate(trials.items()):
        images = trial.at("images") if trial.has("images") else None
        found.append(
            Candidate(
                trial.at("top1").number_or_none(),
                None if images is None or images.value is None else images.count(),
                times[index] if index < len(times) else None,
            )
        )
    return tuple(found)


def _speed(value: Value) -> Speed | None:
    if value.value is None:
        return None
    return Speed(*(value.at(k).number() for k in ("float_ms", "int8_ms", "ratio", "low", "high")))


def _measured(value: Value) -> Measured:
    latency, cpu = value.at("latency"), value.at("cpu")
    timing = None
    if latency.value is not None:
        timing = Timing(*(latency.at(k).count() for k in ("threads", "threads_asked", "rounds")))
    seconds = value.at("seconds").number()
    if seconds < 0:
        raise value.at("seconds").wrong("a time")
    return Measured(
        value.at("finished").text(),
        seconds,
        value.at("earlier_run").text(),
        cpu.at("name").text(),
        cpu.at("cores").count(),
        timing,
    )
