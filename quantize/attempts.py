"""A candidate that takes the process with it is skipped at last, so that a rerun gets past it.

The journal alone cannot tell a candidate that crashes from a user who kills: it only shows a step
that began and never ended. So a death counts against a candidate only with a sign beside it:

- a crash (segmentation fault, abort) is written down as it happens, by a handler that writes to a
  file of the run folder; a kill leaves that file empty;
- the kernel counts the processes that it killed for want of memory: the count has grown.

A kill by a user or a scheduler has neither and counts for nothing, however often it comes. So
does a death after which more images were answered than before: a rerun gets further by itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from quantize.errors import EngineError, OutputError
from quantize.files import cannot_write
from quantize.journal import RunFolder
from quantize.plan import Latency, Plan
from quantize.search import Hands, Quality

log = logging.getLogger(__name__)

MOST_DEATHS = 3
"""In a row. A crash would be sure at two; the kernel's count is of the whole machine."""

CRASH = "crash"
"""What the handler writes to; it is there only while a search runs, or was cut off."""

_DOING = {"make": "made", "judge": "judged", "time": "timed"}


class Attempts:
    """Steps that began, beside those that the journal knows to have ended; a context manager.

    Args:
        run: begun, and nothing noted since.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._path = run.path / CRASH
        last = run.last()
        self._open = last if last.get("event") == "attempt" else None
        self._died = self._open is not None and self._shows_death(self._open)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Attempts:
        if faulthandler.is_enabled():  # the caller's own; what it writes to cannot be asked
            return self
        try:
            self._path.unlink(missing_ok=True)
            self._file = self._path.open("xb")
        except OSError as error:
            raise cannot_write(self._path, error) from error
        faulthandler.enable(self._file)
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        faulthandler.disable()
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def watched(self, hands: Hands, see: Callable[[Plan], None]) -> Hands:
        """The same hands, which note what they begin and refuse what the process died of.

        Args:
            hands: `make` and what comes before the next note, the probe, count as one step.
            see: does first what `make` needs images for: that is no candidate's fault.
        """

        def make(plan: Plan) -> Path:
            see(plan)
            with self._attempt("make", plan.key):
                return hands.make(plan)

        def judge(path: Path) -> Quality:
            with self._attempt("judge", path.stem):
                return hands.judge(path)

        def time(path: Path) -> Latency:
            with self._attempt("time", path.stem):
                return hands.time(path)

        return replace(hands, make=make, judge=judge, time=time)

    @contextlib.contextmanager
    def _attempt(self, step: str, plan: str) -> Iterator[None]:
        """One step.

        Raises:
            EngineError: the process died of it too often.
        """
        deaths = self._deaths(step, plan)
        self._run.note(
            "attempt",
            step=step,
            plan=plan,
            deaths=deaths,
            answers=self._run.answers.size,
            memory_kills=_memory_kills(),
        )
        if deaths >= MOST_DEATHS:
            raise EngineError(
                f"the process ended {deaths} times while it was {_DOING[step]}; skipped",
                "--fresh tries it again",
            )
        try:
            yield
        except BaseException:  # the process lives: whatever ends it later is not this step
            with contextlib.suppress(OutputError):
                self._run.note("left", step=step, plan=plan)
            raise

    def _deaths(self, step: str, plan: str) -> int:
        """How often in a row the process died of this step, without getting any further."""
        last = self._run.noted("attempt", step=step, plan=plan)
        if last is None:
            return 0
        deaths = _whole(last.get("deaths"))
        if deaths >= MOST_DEATHS:
            return deaths
        if last is not self._open or last.get("answers") != self._run.answers.size:
            return 0
        return deaths + self._died

    def _shows_death(self, last: dict[str, Any]) -> bool:
        """Whether there is a sign that the step ended the process that began it."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_size:
                log.warning("candidate %s: the process crashed", last.get("plan"))
                return True
        before, now = last.get("memory_kills"), _memory_kills()
        return isinstance(before, int) and now is not None and now > before


def _memory_kills() -> int | None:
    """How many processes the kernel has killed since it started because memory ran out."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
