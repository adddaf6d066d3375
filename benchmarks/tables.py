"""Markdown tables, and the place in a file that a script writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantize.files import write_atomic

BEGIN, END = "<!-- benchmarks: written by `make bench` -->", "<!-- end of benchmarks -->"


class MarkerError(Exception):
    """A file has not exactly one place to write to: one line."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar or a line break inside a cell does not end it.

    Raises:
        ValueError: a row has not as many cells as the head.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells below {len(head)} heads: {row}")
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def between(text: str, content: str) -> str:
    """The text with `content` between its two markers, whatever stood there.

    Raises:
        MarkerError: there is not one of each, in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise MarkerError(f"it needs the line {BEGIN} and below it {END}, once each")
    if BEGIN in content or END in content:
        raise MarkerError("what is to be written holds a marker itself")
    before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    return f"{before}{BEGIN}\n\n{content.strip()}\n\n{END}{after}"


def write_between(path: Path, content: str) -> None:
    """The same in a file, all of it or nothing.

    Raises:
        MarkerError: names the file.
    """
    try:
        text = path.read_text()
        changed = between(text, content)
    except (OSError, MarkerError) as error:
        raise MarkerError(f"{path.name} cannot be written: {error}") from error
    write_atomic(path, changed.encode())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
