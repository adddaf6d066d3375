"""The run folder: one job's state on disk, one process at a time, every finished step durable.

`journal.jsonl` holds one JSON object a line: first the job's key, then each finished trial, then
the end; of a trial also that a step of it began. A line cut off by a kill is ignored; its step
runs again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Collection, ItemsView, Mapping
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from quantize.answers import AnswerFolder
from quantize.checked_json import Value
from quantize.errors import BudgetError, RunFolderError
from quantize.files import (
    TEMPORARY,
    cannot_write,
    is_file,
    is_there,
    make_folder,
    npz_bytes,
    sha256,
    write_atomic,
)
from quantize.plan import EXIT_CODES, Cpu, Fidelity, Latency, Plan, Trial
from quantize.plan_json import plan_of

log = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
LOCK = "lock"
ANSWERS = "answers"
SAMPLES = "samples"
STATISTICS = "statistics"
_KEPT = frozenset({ANSWERS, SAMPLES, STATISTICS})
"""What may be this job's before the journal says so; names tell which of it is."""

_FIRST = frozenset({JOURNAL, *_KEPT, "candidates"})


class RunFolder:
    """A locked run folder; use as a context manager.

    Args:
        path: the folder; made if absent.
        given: JSON values that hold for every answer: package versions, instruction set.
        fresh: forget an earlier run of the same job.

    Attributes:
        answers: each model's answers, image by image, until the run ends.

    Raises:
        RunFolderError: another process uses the folder, or a part of it lies elsewhere.
        OutputError: the folder cannot be made or written.
    """

    def __init__(
        self, path: Path, given: Mapping[str, Any] | None = None, *, fresh: bool = False
    ) -> None:
        self.path = path
        self.fresh = fresh
        self.candidates = path / "candidates"
        self.answers = AnswerFolder(path / ANSWERS, given or {})
        self._recalled: set[str] = set()
        self._entries: list[dict[str, Any]] = []
        self._earlier: list[dict[str, Any]] = []
        self._begun = False
        self._made = [made for made in (path / LOCK, path) if not os.path.lexists(made)]
        make_folder(path)
        self._check_links()
        self._lock = self._take_lock()
        if fresh and (path / JOURNAL).exists():
            self.answers.forget()
            for name in (SAMPLES, STATISTICS):
                shutil.rmtree(path / name, ignore_errors=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if not self._begun and isinstance(error, Exception) and not isinstance(error, BudgetError):
            self.answers.forget_used()
        if not (self.path / JOURNAL).exists():
            self._vanish()
        self._lock.close()

    def begin(self, key: str) -> str:
        """Continue the same job, or put another job's folder aside and start.

        Args:
            key: what decides the job's outcome, hashed.

        Returns:
            `new`, `continued` or `finished`.

        Raises:
            RunFolderError: the folder holds files that are not of a run, or cannot be emptied.
        """
        entries = _read(self.path / JOURNAL)
        same = bool(entries) and entries[0].get("key") == key
        known = entries if same and not self.fresh else []
        if not entries:
            self._check_ours()
        try:
            if entries and not same:
                self._put_aside()
            self._entries = known or [{"event": "begin", "key": key}]
            self._earlier = list(known)
            self._rewrite()
            if not known:  # only now: a kill in between leaves a journal that knows nothing
                self._clear()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        make_folder(self.candidates)
        self._begun = True
        if not known:
            return "new"
        end = self.noted("end")
        return "finished" if end is not None and end.get("complete", True) else "continued"

    def remember(self, trial: Trial) -> None:
        """Make a finished trial durable."""
        digest = sha256(trial.path) if trial.path else None
        self._append({"event": "trial", "sha256": digest, **trial_to_json(trial, self.path)})

    def recall(self, plan: Plan) -> Trial | None:
        """The finished trial of this plan, if its file is still what it was.

        A failed trial is not recalled: what failed may have been the disk.
        """
        wanted = _jsonable(plan.to_json())
        for entry in reversed(self._entries):
            if entry["event"] == "trial" and entry.get("path") and entry.get("plan") == wanted:
                trial = self._restored(entry)
                if trial is not None and entry in self._earlier:
                    self._recalled.add(plan.key)
                return trial
        return None

    def recall_last(self, count: int) -> tuple[Trial, ...]:
        """The last so many finished trials, which an earlier run ended with and this one takes."""
        found = self.trials()[-count:]
        self._recalled |= {f"last {index}" for index in range(len(found))}
        return found

    @property
    def recalled(self) -> int:
        """How many trials of an earlier run were used again."""
        return len(self._recalled)

    def trials(self) -> tuple[Trial, ...]:
        """All finished trials, in order."""
        restored = (self._restored(e) for e in self._entries if e["event"] == "trial")
        return tuple(trial for trial in restored if trial is not None)

    def note(self, event: str, **values: Any) -> None:
        """Make another finished step durable."""
        self._append({"event": event, **values})

    def noted(self, event: str, **values: Any) -> dict[str, Any] | None:
        """The last such step with these values, or None."""
        wanted = {"event": event, **_jsonable(values)}.items()
        return next((e for e in reversed(self._entries) if wanted <= _hashable(e)), None)

    def last(self) -> dict[str, Any]:
        """The step that was made durable last."""
        return self._entries[-1]

    def write(self, name: str, content: bytes | str) -> Path:
        """Write one file of the folder atomically.

        What is no Unicode, as a file's name may be on Linux, is escaped as JSON and YAML read it.
        """
        path = self.path / name
        if isinstance(content, str):
            content = content.encode("utf-8", "backslashreplace")
        write_atomic(path, content)
        return path

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file, keys in the given order."""
        return self.write(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_arrays(self, name: str, **arrays: NDArray[Any]) -> Path:
        """Write an .npz file; equal arrays give equal bytes."""
        return self.write(name, npz_bytes(arrays))

    def _take_lock(self) -> IO[str]:
        try:
            file = (self.path / LOCK).open("a+")
        except OSError as error:
            raise cannot_write(self.path / LOCK, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise RunFolderError(
                f"run folder {self.path} is in use by another run",
                "wait for it, or give this run another --output",
            ) from error
        if not _is_at(file, self.path / LOCK):  # a refused run took it away meanwhile
            file.close()
            make_folder(self.path)
            return self._take_lock()
        return file

    def _append(self, entry: dict[str, Any]) -> None:
        entry = _jsonable(entry)
        try:
            with (self.path / JOURNAL).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path / JOURNAL, error) from error
        self._entries.append(entry)

    def _rewrite(self) -> None:
        """Drop a line that a kill cut off, so that the next one does not grow onto it."""
        lines = (json.dumps(entry, sort_keys=True) + "\n" for entry in self._entries)
        self.write(JOURNAL, "".join(lines))

    def _restored(self, entry: dict[str, Any]) -> Trial | None:
        try:
            trial = trial_from_json(entry, self.path)
        except (AttributeError, KeyError, TypeError, RunFolderError):
            return None  # another version's, or edited
        if trial.path is not None and not (
            trial.path.is_file() and sha256(trial.path) == entry.get("sha256")
        ):
            return None
        return trial

    def _vanish(self) -> None:
        """The job was refused before it began: leave things as they were found."""
        with contextlib.suppress(OSError):  # something else was put there
            for made in self._made:
                made.rmdir() if made == self.path else made.unlink()

    def _put_aside(self) -> None:
        number = 1
        home = self.path.resolve()
        while (aside := home.with_name(f"{home.name}.old{number}")).exists():
            number += 1
        make_folder(aside)
        # The journal goes last: as long as it is here, the rest is known to be a run's.
        for child in sorted(self._children(), key=lambda child: child.name == JOURNAL):
            if child.name not in _KEPT:
                child.rename(aside / child.name)
        log.info("the run folder held another job; it is now %s", aside)

    def _check_links(self) -> None:
        """What stands elsewhere is somebody's, and these folders are emptied."""
        for name in sorted(_KEPT):
            if (self.path / name).is_symlink():
                raise RunFolderError(
                    f"run folder {self.path}: {name} is a link to another place",
                    "remove the link, or name another folder",
                )

    def _check_ours(self) -> None:
        """Only what an interrupted start leaves may be there: the rest is not ours to delete."""
        for child in self._children():
            if child.name not in _FIRST and not child.name.startswith(TEMPORARY):
                raise RunFolderError(
                    f"run folder {self.path} holds {child.name!r}, which is not of a run",
                    "name a folder that is empty or does not exist yet",
                )

    def _clear(self) -> None:
        for child in self._children():
            if child.name in {JOURNAL, *_KEPT}:
                continue
            with contextlib.suppress(FileNotFoundError):
                folder = child.is_dir() and not child.is_symlink()
                shutil.rmtree(child) if folder else child.unlink()

    def _children(self) -> list[Path]:
        return [child for child in self.path.iterdir() if child.name != LOCK]


def trial_to_json(trial: Trial, root: Path) -> dict[str, Any]:
    """A trial as JSON values, its path relative to the run folder."""
    values = dataclasses.asdict(trial)
    values["path"] = str(trial.path.relative_to(root)) if trial.path else None
    return values


def trial_from_json(values: dict[str, Any], root: Path) -> Trial:
    """The inverse of `trial_to_json`.

    Raises:
        AttributeError, KeyError, TypeError, RunFolderError: the values are not those of a trial.
    """
    plan = Value(values["plan"], root / JOURNAL, RunFolderError, "tune again with --fresh", "plan")
    fidelity, latency, probe = values["fidelity"], values["latency"], values["probe"]
    return Trial(
        plan=plan_of(plan),
        path=root / values["path"] if values["path"] else None,
        accuracy=_maybe(values["accuracy"]),
        fidelity=Fidelity(**_numbers(fidelity)) if fidelity else None,
        latency=_latency(dict(latency)) if latency else None,
        accepted=_one_of((True, False), values["accepted"]),
        note=_text(values["note"]),
        seconds=_number(values["seconds"]),
        probe=Fidelity(**_numbers(probe)) if probe else None,
        gain_db=_maybe(values["gain_db"]),
        outcome=_one_of((*EXIT_CODES, None), values["outcome"]),
        images=_maybe(values["images"]),
        drop_points=_maybe(values.get("drop_points")),  # journals from before this key go on, too
    )


def _latency(values: dict[str, Any]) -> Latency:
    made_on = Cpu(**values.pop("cpu"))
    return Latency(**_numbers(values), cpu=made_on)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):  # infinite SQNR is one, too
        raise TypeError(f"{value!r} is no number")
    return value


def _maybe(value: Any) -> Any:
    return None if value is None else _number(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _one_of(known: Collection[Any], value: Any) -> Any:
    if value not in known:
        raise TypeError(f"{value!r} is unknown")
    return value


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _hashable(entry: dict[str, Any]) -> ItemsView[str, Any]:
    """What of an entry can be compared: values that are no lists and no objects."""
    return {k: v for k, v in entry.items() if not isinstance(v, dict | list)}.items()


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _read(path: Path) -> list[dict[str, Any]]:
    """The journal's whole lines; what a kill cut off, and anything after it, is left out."""
    try:
        if is_there(path) and not is_file(path):  # reading a pipe would wait for ever
            raise OSError("it is no regular file")
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{path} cannot be read: {error}", "remove the run folder, or name another"
        ) from error
    entries: list[dict[str, Any]] = []
    for line in lines[:-1]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(entry, dict) or "event" not in entry:
            break
        entries.append(entry)
    return entries
