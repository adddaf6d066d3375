"""Prepared images on disk, so that a run decodes each of them once, even one that is killed.

A file an image, named by what it is. It appears whole, by renaming, so two processes may share the
folder, and a kill leaves nothing half written. What was written before this process began is
checked by its sum, as a power cut may have left anything. Nothing is ever executed or unpickled.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import struct
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from quantize.errors import BudgetError
from quantize.files import TEMPORARY, cannot_write

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_HEADER = struct.Struct("<8s2I4Q")
"""Mark, dtype, CRC-32 of all that follows it, number of axes, and up to three sides."""

_MARK = b"quantize"
_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
_MOST_AXES = 3
_NAME = re.compile(r"[0-9A-Za-z-]{1,200}")
_SUFFIX = ".cached"
_FILE = re.compile(_NAME.pattern + re.escape(_SUFFIX))
"""What the cache may remove: other people's files in its folder are called otherwise."""

_KEPT_SHARE = 0.9
_STALE_S = 3600.0
"""After this long a temporary file is what a killed process left."""


class ArrayCache:
    """A bounded store of uint8 and float32 arrays by name, for several threads and processes.

    As a context manager it is removed at the end, except by an interrupt or a spent budget: then
    the next run goes on with it.

    Args:
        folder: where the files are; made with mode 0700 if missing.
        max_bytes: what they may take together; the least recently used ones go first.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._opened = time.time()
        self._lock = threading.Lock()
        self._closed = False
        self._warned = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._bytes = self._tidy()
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise cannot_write(folder, error) from error

    def get(self, name: str) -> NDArray[Any] | None:
        """The array that was put under this name, bit for bit, or None."""
        if self._closed:
            return None
        path = self._path(name)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                seen = os.fstat(handle)
                array = _read(handle, seen.st_size, checked=seen.st_mtime < self._opened)
                os.utime(handle)
            finally:
                os.close(handle)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("a cached image is not used: %s", error)
            with contextlib.suppress(OSError):
                Path(path).unlink()
            return None
        return array

    def put(self, name: str, array: NDArray[Any]) -> bool:
        """Keep an array, if the name is new and it fits.

        Args:
            name: what to find it by: letters, digits and dashes.
            array: uint8 or float32, of at most three axes.

        Returns:
            Whether it was kept.
        """
        if array.dtype not in _DTYPES:
            raise TypeError(f"the cache keeps uint8 and float32, not {array.dtype}")
        path = self._path(name)
        header, content = _written(array)
        size = len(header) + len(content)
        if self._closed or size > self._max_bytes or Path(path).exists():
            return False
        try:
            self._make_room(size)
            self._write(path, header, content)
        except OSError as error:  # a full disk costs time, not the run
            self._stop_growing(error)
            return False
        return True

    def close(self, *, keep: bool = False) -> None:
        """Every `get` answers None from here on.

        Args:
            keep: leave the files to the next run; else the disk space is given back.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):  # another process took it away
                for path in () if keep else self._folder.iterdir():
                    if _FILE.fullmatch(path.name) or path.name.startswith(TEMPORARY):
                        path.unlink(missing_ok=True)
                self._folder.rmdir()  # unless something else was put there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        unfinished = error is not None and not isinstance(error, Exception)
        self.close(keep=unfinished or isinstance(error, BudgetError))

    def _path(self, name: str) -> str:
        """As text: to join a Path would be a tenth of `get`."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name in the cache")
        return f"{self._folder}/{name}{_SUFFIX}"

    def _write(self, path: str, header: bytes, content: memoryview) -> None:
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=TEMPORARY)
        temporary = self._folder / name
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                for part in (memoryview(header), content):
                    while part:
                        part = part[file.write(part) :]
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _make_room(self, size: int) -> None:
        """Count what is about to come; above the bound, drop what was not used for longest."""
        with self._lock:
            self._bytes += size
            if self._bytes <= self._max_bytes:
                return
            self._bytes = self._tidy(int(_KEPT_SHARE * self._max_bytes) - size) + size

    def _tidy(self, most: int | None = None) -> int:
        """Bytes of the files; the oldest are removed until they have at most `most`."""
        known: list[tuple[float, int, str]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process took it away
                    seen = entry.stat(follow_symlinks=False)
                    stale = seen.st_mtime < self._opened - _STALE_S
                    if _FILE.fullmatch(entry.name):
                        known.append((seen.st_mtime, seen.st_size, entry.name))
                    elif entry.name.startswith(TEMPORARY) and stale:
                        (self._folder / entry.name).unlink()
        total = sum(size for _, size, _ in known)
        for _, size, name in sorted(known):
            if most is None or total <= most:
                break
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
            total -= size
        return total

    def _stop_growing(self, error: OSError) -> None:
        with self._lock:
            if not self._warned:
                _log.warning("the image cache stops growing: %s", error.strerror or error)
            self._warned = True
            self._max_bytes = 0


def _written(array: NDArray[Any]) -> tuple[bytes, memoryview]:
    """Header and content of the file of an array."""
    if array.ndim > _MOST_AXES:
        raise TypeError(f"the cache keeps arrays of up to {_MOST_AXES} axes, not {array.ndim}")
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    sides = [*array.shape, *[1] * (_MOST_AXES - array.ndim)]
    rest = struct.pack("<4Q", array.ndim, *sides)
    total = zlib.crc32(content, zlib.crc32(rest))
    kind = _DTYPES.index(array.dtype)
    return _HEADER.pack(_MARK, kind, total, array.ndim, *sides), content


def _read(handle: int, size: int, *, checked: bool) -> NDArray[Any]:
    """The array of an open file of `size` bytes; its sum is looked at if `checked`.

    Raises:
        ValueError: the file is not what was written.
    """
    header = bytearray(_HEADER.size)
    if os.readv(handle, [header]) != len(header):
        raise ValueError("it is cut short")
    mark, kind, total, axes, *sides = _HEADER.unpack(header)
    if mark != _MARK or kind >= len(_DTYPES) or axes > _MOST_AXES:
        raise ValueError("it is no file of the cache")
    if math.prod(sides) * _DTYPES[kind].itemsize != size - len(header):
        raise ValueError("its size is not what it declares")
    array: NDArray[Any] = np.empty(sides[:axes], _DTYPES[kind])
    content = array.reshape(-1).view(np.uint8).data
    if os.readv(handle, [content]) != len(content):
        raise ValueError("it is cut short")
    if checked and zlib.crc32(content, zlib.crc32(bytes(header[16:]))) != total:
        raise ValueError("its sum is wrong")
    return array
