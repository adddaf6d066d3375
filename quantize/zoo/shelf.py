"""The folder where fetched models stay: ours alone, one process at a time for each model."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantize.errors import OutputError
from quantize.files import cannot_write, sha256
from quantize.private import private_folder
from quantize.zoo.table import Entry

_POLL_S = 0.05


def open_shelf(cache: Path | None) -> Path:
    """The folder `zoo` in the cache, made with mode 0700 if missing.

    Args:
        cache: None: `$QUANTIZE_CACHE`, else `$XDG_CACHE_HOME/quantize`, else `~/.cache/quantize`.

    Raises:
        OutputError: it cannot be made, or others could swap the files in it.
    """
    return private_folder("zoo", cache)


@contextmanager
def locked(shelf: Path, entry: Entry, patience_s: float) -> Iterator[None]:
    """Be the only process that fetches this model.

    Raises:
        OutputError: the lock cannot be taken, or not in time.
    """
    path = shelf / f"{entry.name}.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        _wait(handle, entry, patience_s)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, entry: Entry, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise OutputError(
                    f"{entry.name} is being fetched by another process", "wait for it, or end it"
                ) from error
            time.sleep(_POLL_S)
        except OSError as error:
            raise OutputError(
                f"the cache cannot be locked: {error.strerror}", "name one on a local disk"
            ) from error
        else:
            return


def is_right(path: Path, entry: Entry) -> bool:
    """Whether a file is the model, by size and sha256."""
    try:
        seen = path.stat()
        regular = stat.S_ISREG(seen.st_mode)
        return regular and seen.st_size == entry.size and sha256(path) == entry.sha256
    except OSError:
        return False
