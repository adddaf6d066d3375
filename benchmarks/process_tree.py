"""A program and all that it starts: its end, its time and its peak memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.1
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        code: its exit code, or None where its time was over.
        out: what it printed.
        err: what it complained of.
        seconds: it took.
        peak_bytes: most memory at once, or None where the system does not tell: at each look the
            VmHWM of all processes of the tree that live are added up. Pages that two of them
            share count twice, peaks of different moments count together, and a process that lives
            for less than a tenth of a second may be missed.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    peak_bytes: int | None


def run(command: list[str], folder: Path, seconds: float) -> Ended:
    """Run a program to its end, or to the end of its time.

    Args:
        command: program and arguments.
        folder: where it runs.
        seconds: after these it is ended, with all that it started.
    """
    start = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        peak = _Peak(process.pid)
        try:
            out, err = process.communicate(timeout=seconds)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired as late:
            code, out, err = None, late.stdout or b"", late.stderr or b""
        finally:
            took = time.monotonic() - start
            peak.stop()
            end_group(process)
    said, complained = (text.decode(errors="replace") for text in (out, err))
    return Ended(code, said, complained, took, peak.bytes or None)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program that was started in its own session, and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tree(pid: int, proc: Path = Path("/proc")) -> Iterator[int]:
    """A process and all its descendants, as far as they can be seen."""
    yield pid
    for file in (proc / str(pid) / "task").glob("*/children"):
        try:
            children = file.read_text().split()
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            yield from tree(int(child), proc)


def peak_of(pid: int, proc: Path = Path("/proc")) -> int:
    """The sum of VmHWM over a process and its descendants, in bytes."""
    total = 0
    for each in tree(pid, proc):
        try:
            found = _PEAK.search((proc / str(each) / "status").read_text())
        except OSError:
            continue
        total += 1024 * int(found.group(1)) if found else 0
    return total


class _Peak:
    """Looks at a tree of processes until it is told to stop."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.bytes = max(self.bytes, peak_of(self._pid))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
