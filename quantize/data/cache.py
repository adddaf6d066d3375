"""Prepared images on disk, so that a run decodes each of them once.

One file, written at its end only and without a name in the file system: it cannot be read or
swapped by anyone else, and it vanishes with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from quantize.files import cannot_write

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    """Where an array lies: byte offset and [C,H,W]."""

    offset: int
    shape: tuple[int, ...]


class ArrayCache:
    """A bounded store of float32 arrays by name, safe to use from several threads.

    Args:
        folder: where the file is; made with mode 0700 if missing.
        max_bytes: what the file may grow to; arrays beyond that are not kept.

    Raises:
        OutputError: the file cannot be created.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._made_folder = not folder.exists()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - close()
        except OSError as error:
            raise cannot_write(folder, error) from error
        self._max_bytes = max_bytes
        self._end = 0
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> NDArray[np.float32] | None:
        """The array that was put under this name, bit for bit, or None."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            array = np.empty(entry.shape, np.float32)
            self._file.seek(entry.offset)
            if self._file.readinto(array.reshape(-1).view(np.uint8).data) == array.nbytes:
                return array
        _log.warning("the image cache was truncated from outside; decoding again")
        return None

    def put(self, name: str, array: NDArray[np.float32]) -> bool:
        """Keep an array, if there is room and the name is new.

        Args:
            name: what to find it by.
            array: float32 [C,H,W], contiguous.

        Returns:
            Whether it was kept.
        """
        if array.dtype != np.float32:
            raise TypeError(f"the cache keeps float32, not {array.dtype}")
        with self._lock:
            room = self._end + array.nbytes <= self._max_bytes
            if not room or name in self._entries or self._file.closed:
                return False
            try:
                self._append(np.ascontiguousarray(array))
            except OSError as error:  # a full disk costs time, not the run
                _log.warning("the image cache stops growing: %s", error.strerror or error)
                self._max_bytes = 0
                return False
            self._entries[name] = _Entry(self._end, array.shape)
            self._end += array.nbytes
            return True

    def close(self) -> None:
        """Give the disk space back; every `get` answers None from here on."""
        with self._lock:
            self._entries.clear()
            self._file.close()
            if self._made_folder:
                with contextlib.suppress(OSError):  # something else was put there
                    self._folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, array: NDArray[np.float32]) -> None:
        """Write at the end; a write that fails half way is cut off again."""
        self._file.seek(self._end)
        rest = array.reshape(-1).view(np.uint8).data
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
