"""A float model's answers to images, kept beyond a run: verifying again asks only the int8 model.

A file for each model, preprocessing, instruction set and set of package versions, named by their
hash; in it a row for each image: its digest, its logits, and their sum. A row that is not what was
written is as good as none. The first batch is always computed, and compared: if one bit differs,
nothing that is in the file is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.errors import OutputError
from quantize.plan import Batch
from quantize.private import private_folder

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 30
"""What all files may take together; the least recently used ones go first."""

_DIGEST_WORDS = 4
_FORMAT = 1
_CHUNK = 1 << 20

Ask = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def memory_folder() -> Path | None:
    """Where answers are kept: in the user's cache, or nowhere if that cannot be used."""
    try:
        return private_folder("answers")
    except OutputError as error:
        log.info("float answers are not kept: %s", error.message)
        return None


class Remembered:
    """A float model that knows the answers it gave before.

    Args:
        ask: the model, images float32 [N,C,H,W] -> logits float32 [N,K].
        at_once: how many threads may ask.
        folder: of the files.
        given: JSON values that decide the answers: model, preprocessing, versions.
        classes: K.

    Attributes:
        reused: answers that were not computed.
        at_once: as given.
    """

    def __init__(
        self, ask: Ask, at_once: int, folder: Path, given: Mapping[str, Any], classes: int
    ) -> None:
        self.reused = 0
        self.at_once = at_once
        self._ask = ask
        self._lock = threading.Lock()
        self._classes = classes
        key = json.dumps([_FORMAT, classes, dict(given)], sort_keys=True)
        self._rows = _Rows(folder / f"{hashlib.sha256(key.encode()).hexdigest()}.rows", classes)
        self._compared = not len(self._rows)

    def of(self, batch: Batch) -> NDArray[np.float32]:
        """The logits of a batch, float32 [N,K], known or computed."""
        with self._lock:
            known = [self._rows.get(digest) for digest in batch.digests]
            first, self._compared = not self._compared, True
        if all(row is not None for row in known) and not first:
            with self._lock:
                self.reused += len(known)
            return np.stack([row for row in known if row is not None])
        logits = self._ask(batch.images)
        with self._lock:
            self._note(batch.digests, known, logits)
        return logits

    def _note(
        self,
        digests: tuple[str, ...],
        known: list[NDArray[np.float32] | None],
        logits: NDArray[np.float32],
    ) -> None:
        pairs = zip(known, logits, strict=True)
        if any(row is not None and row.tobytes() != now.tobytes() for row, now in pairs):
            log.warning("the float answers that were kept are not those of today: not used")
            self._rows.forget()
        elif logits.shape[1:] == (self._classes,):
            new = [i for i, row in enumerate(known) if row is None]
            self._rows.add([digests[i] for i in new], logits[new])


class _Rows:
    """The file: rows by digest. Memory: 16 bytes an image.

    Args:
        path: of the file.
        classes: logits of a row.
    """

    def __init__(self, path: Path, classes: int) -> None:
        self._path = path
        self._row = np.dtype(
            [("digest", "<u8", (_DIGEST_WORDS,)), ("sum", "<u4"), ("logits", "<f4", (classes,))]
        )
        self._growing = True
        self._order = np.zeros(0, np.int64)
        self._heads = np.zeros(0, np.uint64)
        with suppress(OSError):
            if path.is_file():  # opening a pipe would wait for ever
                os.utime(path)
                self._index()

    def __len__(self) -> int:
        return len(self._order)

    def get(self, digest: str) -> NDArray[np.float32] | None:
        """The logits of an image, or None."""
        words = _words(digest)
        at = int(np.searchsorted(self._heads, words[0])) if len(self) else 0
        if at >= len(self) or self._heads[at] != words[0]:
            return None
        try:
            with self._path.open("rb", buffering=0) as file:
                size = self._row.itemsize
                content = os.pread(file.fileno(), size, int(self._order[at]) * size)
        except OSError:
            return None
        if len(content) != size:
            return None
        row = np.frombuffer(content, self._row)[0]
        logits = np.ascontiguousarray(row["logits"])
        right = (row["digest"] == words).all() and int(row["sum"]) == _sum(words, logits)
        return logits if right else None

    def add(self, digests: list[str], logits: NDArray[np.float32]) -> None:
        """Append rows; a disk that does not take them ends that."""
        if not digests or not self._growing:
            return
        rows = np.zeros(len(digests), self._row)
        rows["digest"] = [_words(digest) for digest in digests]
        rows["logits"] = logits
        rows["sum"] = [_sum(row["digest"], row["logits"]) for row in rows]
        try:
            self._append(rows.tobytes())
        except OSError as error:
            log.warning("float answers are not kept: %s", error.strerror or error)
            self._growing = False

    def forget(self) -> None:
        """Nothing is known any more."""
        self._order, self._heads = self._order[:0], self._heads[:0]
        with suppress(OSError):
            self._path.unlink()

    def _index(self) -> None:
        with self._path.open("rb", buffering=_CHUNK) as file:
            heads = np.fromiter(self._heads_of(file), np.uint64)
        self._order = np.argsort(heads, kind="stable")
        self._heads = heads[self._order]

    def _heads_of(self, file: Any) -> Iterator[int]:
        at_once = max(1, _CHUNK // self._row.itemsize) * self._row.itemsize
        while content := file.read(at_once):
            whole = len(content) // self._row.itemsize
            yield from np.frombuffer(content, self._row, whole)["digest"][:, 0].tolist()

    def _append(self, content: bytes) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another process may do the same
            size = os.fstat(handle).st_size
            end = size - size % self._row.itemsize  # a kill may have cut a row off
            if end + len(content) > MOST_BYTES:
                self._growing = False
                return
            self._make_room(len(content))
            file.seek(end)
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]

    def _make_room(self, more: int) -> None:
        """Remove the files that were not used for longest, never this one."""
        files = [(seen.st_mtime, seen.st_size, path) for path, seen in _stats(self._path.parent)]
        total = sum(size for _, size, _ in files) + more
        for _, size, path in sorted(files):
            if total <= MOST_BYTES:
                return
            if path != self._path:
                with suppress(OSError):
                    path.unlink()
                total -= size


def _stats(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob("*.rows"):
        with suppress(OSError):  # another process took it away
            yield path, path.stat()


def _words(digest: str) -> NDArray[np.uint64]:
    """A sha256 in hex as four words."""
    return np.frombuffer(bytes.fromhex(digest), "<u8")


def _sum(words: NDArray[np.uint64], logits: NDArray[np.float32]) -> int:
    return zlib.crc32(logits.tobytes(), zlib.crc32(words.tobytes()))
