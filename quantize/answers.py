"""Rows of an evaluation, one an image, on disk as they come: a kill costs a batch, not an hour.

The file is nothing but rows of one numpy type, appended. Its name says what was evaluated, so a
row is never taken for another's; a row that a kill cut off is cut away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quantize.files import cannot_write, make_folder

log = logging.getLogger(__name__)

_FLUSH_S = 20.0
"""How often rows are forced to the disk; a killed process loses none, only a power cut does."""

Rows = NDArray[np.void]
"""Structured rows; the field `digest` (S64) says of which image each is."""


class Answers:
    """The rows of one evaluation; use as a context manager.

    Args:
        file: where they are kept, and their type; None keeps them in memory.
        wanted: digests of the images, in the order in which `rows` gives them.

    Attributes:
        path: the file, or None.
        reused: rows that an earlier run had left.
    """

    def __init__(
        self, file: tuple[Path, np.dtype[Any]] | None = None, wanted: Sequence[str] = ()
    ) -> None:
        self.path = file[0] if file else None
        self._wanted = tuple(wanted)
        left = self._left(*file) if file else ()
        self.reused = len(left)
        self._parts: list[Rows] = [left] if isinstance(left, np.ndarray) and len(left) else []
        self._file: IO[bytes] | None = None
        self._flushed = time.monotonic()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk was told when the row came
                self._file.close()
            self._file = None

    @property
    def done(self) -> frozenset[str]:
        """Digests of the images that need not be run again."""
        return frozenset(str(d, "ascii") for part in self._parts for d in part["digest"])

    def add(self, rows: Rows) -> None:
        """Make rows durable.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        if not len(rows):
            return
        self._parts.append(rows)
        if self.path is None:
            return
        try:
            if self._file is None:
                make_folder(self.path.parent)
                self._file = self.path.open("ab")
            self._file.write(rows.tobytes())
            self._file.flush()
            if time.monotonic() - self._flushed > _FLUSH_S:
                os.fsync(self._file.fileno())
                self._flushed = time.monotonic()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def rows(self) -> Rows | None:
        """All rows in the order of the images, or None if there is none."""
        if not self._parts:
            return None
        whole = np.concatenate(self._parts)
        self._parts = [whole]  # those of many images are not small
        if not self._wanted or self._in_order(whole):
            return whole
        order = {digest: index for index, digest in enumerate(self._wanted)}
        places = np.fromiter((order[str(each, "ascii")] for each in whole["digest"]), np.int64)
        return whole[np.argsort(places, kind="stable")]

    def digests_of(self, rows: Rows) -> tuple[str, ...]:
        """Of which images the rows are: the very texts that were wanted, where these are all."""
        if len(rows) == len(self._wanted) and self._in_order(rows):
            return self._wanted
        return tuple(str(digest, "ascii") for digest in rows["digest"])

    def _in_order(self, rows: Rows) -> bool:
        """Whether rows come as the images do, some perhaps left out; takes no memory."""
        wanted = iter(self._wanted)
        return all(str(digest, "ascii") in wanted for digest in rows["digest"])

    def _left(self, path: Path, row: np.dtype[Any]) -> Rows:
        """The whole rows of the file; all of it is put away if a row is of no wanted image."""
        empty: Rows = np.empty(0, row)
        if not path.exists():
            return empty
        try:
            whole = path.stat().st_size // row.itemsize
            os.truncate(path, whole * row.itemsize)
            rows: Rows = np.fromfile(path, row)
        except OSError as error:
            raise cannot_write(path, error) from error
        digests = {str(digest, "ascii") for digest in rows["digest"]}
        if len(digests) == len(rows) and digests.issubset(self._wanted):
            return rows
        log.warning("%s is damaged: its answers are computed again", path.name)
        with suppress(OSError):
            path.unlink()
        return empty


class AnswerFolder:
    """Where a job's evaluations keep their rows.

    Args:
        path: the folder; made when the first row comes.
        given: JSON values that hold for all: package versions, instruction set.
    """

    def __init__(self, path: Path, given: Mapping[str, Any]) -> None:
        self.path = path
        self._given = dict(given)
        self._used: list[Answers] = []

    def of(
        self, what: str, row: np.dtype[Any], parts: Mapping[str, Any], wanted: Sequence[str]
    ) -> Answers:
        """The rows of one evaluation.

        Args:
            what: its name, such as `verify`.
            row: their type.
            parts: JSON values that decide the rows: models, images.
            wanted: digests of its images, in order.
        """
        text = json.dumps([self._given, parts], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        answers = Answers((self.path / f"{what}-{key}.rows", row), wanted)
        self._used.append(answers)
        return answers

    @property
    def reused(self) -> int:
        """Answers that an earlier run had left."""
        return sum(answers.reused for answers in self._used)

    @property
    def size(self) -> int:
        """Bytes of all rows on disk: it grows with each answer."""
        return sum(path.stat().st_size for path in self.path.glob("*.rows"))

    def forget(self) -> None:
        """Remove all rows: they are in the results now, or are not wanted."""
        self._remove(self.path.glob("*.rows"))

    def forget_used(self) -> None:
        """Remove the rows of this run's evaluations: its job was refused."""
        self._remove([answers.path for answers in self._used if answers.path])

    def _remove(self, files: Iterable[Path]) -> None:
        for file in files:
            with suppress(OSError):
                file.unlink()
        with suppress(OSError):
            self.path.rmdir()
