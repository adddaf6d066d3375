"""What commands print: answers on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

from quantize.console import ProgressPrinter, printable
from quantize.report.values import finite


class Shown(Protocol):
    """What a command found or made, for machines and for people."""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""

    def lines(self) -> list[str]:
        """The same for people."""


@contextmanager
def progress(quiet: bool) -> Iterator[ProgressPrinter | None]:
    """A printer for `on_progress`; None where nobody wants to see it."""
    if quiet:
        yield None
        return
    with ProgressPrinter() as printer:
        yield printer


class _StandardOutput:
    """Standard output that says in one line what it cannot take, whoever prints: typer the help."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._whole():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._whole():
            self._stream.flush()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = True
            if not isinstance(error, BrokenPipeError):  # `| head -1` has what it wants
                from quantize.files import cannot_write  # numpy comes with it

                raise cannot_write(Path("standard output"), error) from error


@contextmanager
def standard_output() -> Iterator[None]:
    """What is printed meanwhile, also by others.

    Raises:
        OutputError: standard output is a file, and its disk is full.
    """
    stream = _StandardOutput(sys.stdout)
    try:
        with redirect_stdout(cast("TextIO", stream)):
            yield
    finally:
        if stream.failed:
            # What is still in the buffer goes nowhere, or it would be tried again at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(content: Any, lines: list[str], as_json: bool) -> None:
    """Print for machines or for people."""
    if as_json:
        print(json.dumps(finite(content), indent=2, allow_nan=False))
    else:
        print("\n".join(map(printable, lines)))
    sys.stdout.flush()


def open_streams() -> None:
    """Put something in the place of standard streams that were closed (`>&-`)."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def show(found: Shown, as_json: bool) -> None:
    """Print what says itself how it is printed."""
    say(found.to_json(), found.lines(), as_json)


def complain(line: str) -> None:
    """Print one line on standard error."""
    with suppress(OSError):  # nobody may be listening any more
        print(printable(line), file=sys.stderr, flush=True)
