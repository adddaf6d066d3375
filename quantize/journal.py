"""The run folder: one job's state on disk, one process at a time, every finished step durable.

`journal.jsonl` holds one JSON object a line: first the job's key, then each finished trial, then
the end. A line cut off by a kill is ignored; its step runs again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quantize.errors import RunFolderError
from quantize.files import cannot_write, make_folder, sha256, write_atomic
from quantize.plan import Cpu, Fidelity, Latency, Plan, Scheme, Trial

log = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
LOCK = "lock"


class RunFolder:
    """A locked run folder; use as a context manager.

    Args:
        path: the folder; made if absent.

    Raises:
        RunFolderError: another process uses the folder.
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path)
        self.candidates = path / "candidates"
        self._lock = self._take_lock()
        self._entries: list[dict[str, Any]] = []

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def begin(self, key: str, *, fresh: bool) -> str:
        """Continue the same job, or put another job's folder aside and start.

        Args:
            key: what decides the job's outcome, hashed.
            fresh: forget an earlier run of the same job.

        Returns:
            `new`, `continued` or `finished`.
        """
        entries = _read(self.path / JOURNAL)
        same = bool(entries) and entries[0].get("key") == key
        if entries and not same:
            self._put_aside()
        if same and not fresh:
            self._entries = entries
            self._rewrite()
            return "finished" if any(e["event"] == "end" for e in entries) else "continued"
        self._clear()
        make_folder(self.candidates)
        self._append({"event": "begin", "key": key})
        return "new"

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
            if entry["event"] == "trial" and entry["path"] and entry["plan"] == wanted:
                return self._restored(entry)
        return None

    def trials(self) -> tuple[Trial, ...]:
        """All finished trials, in order."""
        restored = (self._restored(e) for e in self._entries if e["event"] == "trial")
        return tuple(trial for trial in restored if trial is not None)

    def note(self, event: str, **values: Any) -> None:
        """Make another finished step durable."""
        self._append({"event": event, **values})

    def noted(self, event: str) -> dict[str, Any] | None:
        """The last such step, or None."""
        return next((e for e in reversed(self._entries) if e["event"] == event), None)

    def write(self, name: str, content: bytes | str) -> Path:
        """Write one file of the folder atomically."""
        path = self.path / name
        write_atomic(path, content.encode() if isinstance(content, str) else content)
        return path

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file, keys in the given order."""
        return self.write(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_arrays(self, name: str, **arrays: NDArray[Any]) -> Path:
        """Write an .npz file; equal arrays give equal bytes."""
        buffer = BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return self.write(name, buffer.getvalue())

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
                "wait for it, or give this run another --output-model",
            ) from error
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
        trial = trial_from_json(entry, self.path)
        if trial.path is not None and not (
            trial.path.is_file() and sha256(trial.path) == entry["sha256"]
        ):
            return None
        return trial

    def _put_aside(self) -> None:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old{number}")).exists():
            number += 1
        make_folder(aside)
        for child in self._children():
            child.rename(aside / child.name)
        log.info("the run folder held another job; it is now %s", aside)

    def _clear(self) -> None:
        for child in self._children():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(child) if child.is_dir() else child.unlink()

    def _children(self) -> list[Path]:
        return [child for child in self.path.iterdir() if child.name != LOCK]


def trial_to_json(trial: Trial, root: Path) -> dict[str, Any]:
    """A trial as JSON values, its path relative to the run folder."""
    values = dataclasses.asdict(trial)
    values["path"] = str(trial.path.relative_to(root)) if trial.path else None
    return values


def trial_from_json(values: dict[str, Any], root: Path) -> Trial:
    """The inverse of `trial_to_json`."""
    plan = dict(values["plan"])
    plan["scheme"] = Scheme(**plan["scheme"])
    plan["repairs"], plan["keep_float"] = tuple(plan["repairs"]), tuple(plan["keep_float"])
    fidelity, latency = values["fidelity"], values["latency"]
    return Trial(
        plan=Plan(**plan),
        path=root / values["path"] if values["path"] else None,
        accuracy=values["accuracy"],
        fidelity=Fidelity(**fidelity) if fidelity else None,
        latency=Latency(**{**latency, "cpu": Cpu(**latency["cpu"])}) if latency else None,
        accepted=values["accepted"],
        note=values["note"],
        seconds=values["seconds"],
    )


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _read(path: Path) -> list[dict[str, Any]]:
    """The journal's whole lines; what a kill cut off, and anything after it, is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{path} cannot be read: {error}", "remove the run folder or use --fresh"
        ) from error
    entries: list[dict[str, Any]] = []
    for line in lines[:-1]:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(entry, dict) or "event" not in entry:
            break
        entries.append(entry)
    return entries
