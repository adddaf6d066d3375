"""Reading report.json of a run folder: a file that nobody vouches for becomes typed values."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from quantize.checked_json import Value, read_json
from quantize.errors import RunFolderError
from quantize.files import is_folder, is_there
from quantize.plan import LayerRow, Plan
from quantize.plan_json import plan_of
from quantize.report.changes import Change, ClassDrop, Right
from quantize.report.cpus import Place, decisive, holds_for, places_of

REPORT = "report.json"
_JOURNAL = "journal.jsonl"
_LARGEST = 64 << 20
_VERSION = 1
_AGAIN = "run the same tune command again: a finished run is only verified anew"


@dataclass(frozen=True)
class Accuracy:
    """Top-1 on the holdout: ratios, and the drop with its 95 % interval in points."""

    float_top1: float
    int8_top1: float
    drop: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """Batch-1 medians in milliseconds, and how many times as fast int8 is, with its interval."""

    float_ms: float
    int8_ms: float
    ratio: float
    low: float
    high: float

    @property
    def unsteady(self) -> bool:
        """Whether the two medians contradict the rounds: something else kept the machine busy."""
        return not self.low * self.int8_ms <= self.float_ms <= self.high * self.int8_ms


@dataclass(frozen=True)
class Rung:
    """One candidate of the search.

    Attributes:
        plan: how it was made.
        sqnr_db: on the probe, in dB, or None.
        gain_db: what it brought there over the candidate it was made from, or None.
        seconds: how long it took.
        accepted: whether it met goal and floor on the search images.
        note: its figures, or why it was refused.
    """

    plan: Plan
    sqnr_db: float | None
    gain_db: float | None
    seconds: float
    accepted: bool
    note: str


@dataclass(frozen=True, eq=False)
class Account:
    """What one run found, as its report tells it.

    Attributes:
        place: the run folder or report.json, as it was named.
        outcome: met, unmet or undecided, on the processor of the run.
        reason: why.
        images: of the holdout.
        more_images: that would probably decide, or None.
        isa: the instruction set that it holds for.
        saturates: whether sums of two products are cut off at 16 bits there.
        cpus: verdicts on other processors.
        goal: what was asked, as text.
        speed_floor: least ratio asked.
        float_sha256: of the float file.
        float_bytes: its size; likewise int8_bytes.
        int8_bytes: of the int8 file.
        holdout: hash of the images and their preprocessing.
        plan: of the file that was verified.
        int8_share: of the multiply-adds (a ratio).
        stopped: why the search ended.
        rungs: of the search, in order.
        accuracy: or None without labels.
        sqnr_db: output SQNR on the holdout: infinite where nothing differs, None where undefined.
        agreement: images with equal best class (a ratio).
        speed: or None where it was not measured.
        layers: in graph order.
        changed: how many images changed their answer.
        changes: those that are known by name; all of them, or the first hundred.
        classes: that differ, worst first, or None without labels.
    """

    place: str
    outcome: Literal["met", "unmet", "undecided"]
    reason: str
    images: int
    more_images: int | None
    isa: str
    saturates: bool
    cpus: tuple[Place, ...]
    goal: str
    speed_floor: float
    float_sha256: str
    float_bytes: int
    int8_bytes: int
    holdout: str
    plan: Plan
    int8_share: float
    stopped: str
    rungs: tuple[Rung, ...]
    accuracy: Accuracy | None
    sqnr_db: float | None
    agreement: float
    speed: Speed | None
    layers: tuple[LayerRow, ...]
    changed: int
    changes: tuple[Change, ...]
    classes: tuple[ClassDrop, ...] | None

    @property
    def decisive(self) -> Place:
        """The worst verdict of all processors, that of the run first among equals."""
        return decisive(self._here, self.cpus)

    @property
    def holds_for(self) -> str:
        """For which processors the verdict holds, in one sentence."""
        return holds_for(
            self._here, self.cpus, proven=self.cannot_overflow, saturates=self.saturates
        )

    @property
    def cannot_overflow(self) -> bool:
        """Whether no layer has a sum of two products that could leave 16 bits."""
        known = [row.overflow_possible for row in self.layers if row.int8]
        return self.plan.scheme.reduce_range or (bool(known) and not any(p != 0 for p in known))

    @property
    def _here(self) -> Place:
        return Place(self.isa, self.outcome, self.reason, self.images)


def read_account(path: Path) -> Account:
    """The report of a run, with all changed images that its folder tells.

    Args:
        path: a run folder, or its report.json.

    Raises:
        RunFolderError: no run, an unfinished one, an older version's, or a damaged file.
    """
    found = read_report(path)
    account = account_of(found, str(path))
    return replace(account, changes=_all_changes(account, found.file))


def read_report(path: Path) -> Value:
    """The whole report of a run, to be checked value by value.

    Args:
        path: a run folder, or its report.json.

    Raises:
        RunFolderError: as `read_account`.
    """
    file = path / REPORT if is_folder(path) else path
    try:
        found = read_json(file, _LARGEST, RunFolderError, _AGAIN)
    except RunFolderError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _missing(path) from error
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise RunFolderError(f"{file} is no UTF-8 text", "name a run folder") from error
        if isinstance(error.__cause__, OSError):
            raise RunFolderError(error.message, "check the path") from error
        raise
    if not found.has("schema_version"):
        raise RunFolderError(f"{file} is no report of a run", "name a run folder")
    version = found.at("schema_version").count()
    if version != _VERSION:
        raise RunFolderError(
            f"{file} has schema version {version}, and this package reads {_VERSION}",
            "use the package that wrote it, or tune again",
        )
    for key in ("layers", "changed", "classes"):
        if not found.has(key):
            raise RunFolderError(f"{file} is of an older version: it has no {key!r}", _AGAIN)
    return found


def report_value(content: Any, file: Path = Path(REPORT)) -> Value:
    """A report that is at hand, to be checked value by value.

    Args:
        content: of report.json.
        file: to name where a value is not what it should be.
    """
    return Value(content, file, RunFolderError, _AGAIN)


def _missing(path: Path) -> RunFolderError:
    """Why there is no report."""
    beside = path.with_name(f"{path.name}.run")
    if is_folder(path) and is_there(path / _JOURNAL):
        return RunFolderError(
            f"run {path} is not finished: it has no {REPORT} yet",
            "run the same tune command again: it continues",
        )
    if is_folder(beside):
        return RunFolderError(f"{path} is no run folder", f"name {beside}")
    if is_folder(path):
        return RunFolderError(
            f"folder {path} holds no run: there is no {REPORT}", "name a run folder"
        )
    return RunFolderError(f"run {path} does not exist", "name a run folder, such as int8.onnx.run")


def account_of(found: Value, place: str) -> Account:
    """The values that `explain` needs, each checked; changed images as far as the report lists.

    Args:
        found: a whole report.
        place: what to call it.

    Raises:
        RunFolderError: a value is missing or of another kind.
    """
    verdict, int8, measured = found.at("verdict"), found.at("int8_model"), found.at("measured")
    outcome = verdict.at("outcome").one_of("met", "unmet", "undecided")
    changed, more = found.at("changed", "images").count(), verdict.at("more_images")
    sqnr_db = found.at("fidelity", "sqnr_db").number_or_none()
    agreement = found.at("fidelity", "agreement").number()
    return Account(
        place=place,
        outcome=cast("Literal['met', 'unmet', 'undecided']", outcome),
        reason=verdict.at("reason").text(),
        images=verdict.at("images").count(),
        more_images=None if more.value is None else more.count(),
        isa=verdict.at("instruction_set").text(),
        saturates=measured.at("cpu", "saturates").flag(),
        cpus=places_of(measured),
        goal=_goal(verdict.at("goal")),
        speed_floor=verdict.at("goal", "speed_floor").number(),
        float_sha256=found.at("float_model", "sha256").text(),
        float_bytes=found.at("float_model", "bytes").count(),
        int8_bytes=int8.at("bytes").count(),
        holdout=found.at("data", "holdout", "sha256").text(),
        plan=plan_of(int8.at("plan")),
        int8_share=int8.at("int8_share_of_multiply_adds").number(),
        stopped=found.at("search", "stopped").text(),
        rungs=_rungs(found.at("search", "trials"), measured.at("trials")),
        accuracy=_accuracy(found.at("accuracy")),
        sqnr_db=math.inf if sqnr_db is None and agreement == 1 else sqnr_db,
        agreement=agreement,
        speed=_speed(measured.at("latency")),
        layers=tuple(map(_layer, found.at("layers").items())),
        changed=changed,
        changes=tuple(map(_change, found.at("changed", "first").items())),
        classes=_classes(found.at("classes")),
    )


def _goal(value: Value) -> str:
    kind = value.at("kind").one_of("relative", "absolute", "agreement")
    tolerance, confidence = value.at("tolerance").number(), value.at("confidence").number_or_none()
    text = {
        "relative": f"lose at most {100 * tolerance:g} % of the float top-1",
        "absolute": f"lose at most {100 * tolerance:g} points of top-1",
        "agreement": f"{100 * tolerance:g} % equal answers",
    }[kind]
    return text if confidence is None else f"{text}, {100 * confidence:g} % sure"


def _rungs(trials: Value, measured: Value) -> tuple[Rung, ...]:
    times = [item.at("seconds").number() for item in measured.items()]
    rungs = []
    for index, trial in enumerate(trials.items()):
        if index >= len(times):
            raise measured.wrong("as long as search.trials")
        probe = trial.at("probe")
        sqnr_db = None if probe.value is None else probe.at("sqnr_db").number_or_none()
        rungs.append(
            Rung(
                plan_of(trial.at("plan")),
                sqnr_db,
                trial.at("gain_db").number_or_none(),
                times[index],
                trial.at("accepted").flag(),
                trial.at("note").text(),
            )
        )
    return tuple(rungs)


def _accuracy(value: Value) -> Accuracy | None:
    if value.value is None:
        return None
    interval = [item.number() for item in value.at("drop_interval_points").items()]
    if len(interval) != 2:
        raise value.at("drop_interval_points").wrong("an interval")
    float_, int8 = (value.at(model, "top1").number() for model in ("float", "int8"))
    return Accuracy(float_, int8, value.at("drop_points").number(), *interval)


def _speed(value: Value) -> Speed | None:
    if value.value is None:
        return None
    return Speed(*(value.at(k).number() for k in ("float_ms", "int8_ms", "ratio", "low", "high")))


def _layer(value: Value) -> LayerRow:
    sqnr_db, noise = (value.at(key).number_or_none() for key in ("sqnr_db", "noise_share"))
    return LayerRow(
        value.at("name").text(),
        value.at("operator").text(),
        value.at("int8").flag(),
        value.at("share_of_multiply_adds").number(),
        math.inf if sqnr_db is None and noise == 0 else sqnr_db,
        noise,
        value.at("weight_range_ratio").number_or_none(),
        value.at("saturation_share").number_or_none(),
        *(_perhaps(value, key) for key in ("overflow_possible_share", "overflow_share")),
    )


def _perhaps(layer: Value, key: str) -> float | None:
    """A figure that reports of older runs do not have."""
    return layer.at(key).number_or_none() if layer.has(key) else None


def _classes(value: Value) -> tuple[ClassDrop, ...] | None:
    if value.value is None:
        return None
    keys = ("class", "images", "float_right", "int8_right", "lost", "gained")
    found = [ClassDrop(*(item.at(key).count() for key in keys)) for item in value.items()]
    if not all(drop.images for drop in found):
        raise value.wrong("a list of classes with images")
    return tuple(found)


def _all_changes(account: Account, file: Path) -> tuple[Change, ...]:
    """The images that changed: from the report, or where that holds only some, from the table."""
    known, count = account.changes, account.changed
    if len(known) >= count:
        return known
    table = file.with_name("changed.csv")
    try:
        if not table.is_file() or table.stat().st_size > _LARGEST:
            return known
        with table.open(encoding="utf-8", newline="") as text:
            whole = tuple(_from_row(row) for row in csv.DictReader(text))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return known
    return whole if len(whole) == count else known


def _change(value: Value) -> Change:
    label, right = value.at("label"), value.at("right")
    return Change(
        value.at("image").text(),
        value.at("digest").text(),
        None if label.value is None else label.count(),
        value.at("float").count(),
        value.at("int8").count(),
        None if right.value is None else cast("Right", right.one_of("float", "int8", "neither")),
    )


def _from_row(row: dict[str, str]) -> Change:
    """A row of changed.csv.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    values = {key: int(row[key]) if row[key] else None for key in ("label", "float", "int8")}
    right = row["right"] or None
    as_json = {"image": row["image"], "digest": row["digest"], **values, "right": right}
    try:
        return _change(report_value(as_json, Path("changed.csv")))
    except RunFolderError as error:
        raise ValueError(str(error)) from error
