"""Progress on standard error: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from quantize.plan import Progress

_PLAIN_EVERY_S = 10.0


def printable(text: str) -> str:
    """The text without control characters: names from files must not steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class PlainFormatter(logging.Formatter):
    """Log lines quote names of files, too; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record without control characters."""
        text = super().format(record)
        lines = text.split("\n") if record.exc_info else [text]
        return "\n".join(map(printable, lines))


class ProgressPrinter:
    """Called with each `Progress`; use as a context manager."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._done = 0
        self._started = self._told = 0.0

    def __enter__(self) -> ProgressPrinter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: Progress) -> None:
        """Show one step."""
        if self._terminal:
            self._show_bar(step)
        else:
            self._print_line(step)

    def tell(self, lines: Iterable[str]) -> None:
        """Print lines between the bars."""
        text = "".join(f"{printable(line)}\n" for line in lines)
        if self._bar is not None:
            self._bar.console.print(text, end="", markup=False, highlight=False)
            return
        with contextlib.suppress(OSError):  # nobody may be listening any more
            sys.stderr.write(text)
            sys.stderr.flush()

    def _show_bar(self, step: Progress) -> None:
        if self._bar is None:
            self._bar = _make_bar()
            self._bar.start()
        if step.stage != self._stage or self._task is None:
            self._stage = step.stage
            self._task = self._bar.add_task(step.stage, total=step.total, unit=step.unit)
        self._bar.update(self._task, completed=step.done, total=step.total)

    def _print_line(self, step: Progress) -> None:
        now = time.monotonic()
        finished = step.total is not None and step.done >= step.total
        again = step.stage != self._stage or step.done <= self._done
        self._done = step.done
        if again:
            self._stage, self._started, self._told = step.stage, now, now
        if not finished and now - self._told < _PLAIN_EVERY_S:
            return
        self._told = now
        total = "" if step.total is None else f" of {step.total}"
        left = ""
        if step.total and 0 < step.done < step.total:
            left = f", about {(now - self._started) * (step.total / step.done - 1):.0f} s left"
        with contextlib.suppress(OSError):  # nobody may be listening any more
            sys.stderr.write(f"{step.stage}: {step.done}{total} {step.unit}{left}\n")
            sys.stderr.flush()


def _make_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
