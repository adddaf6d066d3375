"""A folder of class folders: each file is there whole or not at all, right ones are kept."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import OutputError
from quantize.files import TEMPORARY, cannot_write, make_folder


@contextmanager
def taken(output: Path) -> Iterator[Path]:
    """Be the only process that writes there.

    Yields:
        A scratch folder on the same disk, for files that are not whole yet.

    Raises:
        OutputError: it cannot be made, or another process writes there.
    """
    make_folder(output)
    scratch = output / f"{TEMPORARY}partial"
    try:
        handle = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_write(output, error) from error
    try:
        _lock(handle, output)
        try:
            make_folder(scratch)
            yield scratch
        finally:  # also what a process that was killed has left there
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(handle)


def _lock(handle: int, output: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OutputError(
            f"{output} is being written by another process", "wait for it, or end it"
        ) from error


def refuse_strays(folder: Path, belongs: Callable[[str], bool]) -> None:
    """A file too many would be an image too many, a folder too many would shift the labels.

    Args:
        folder: of class folders, or a class folder; need not be there.
        belongs: whether an entry of that name does.

    Raises:
        OutputError: something else is there.
    """
    try:
        with os.scandir(folder) as entries:
            stray = next((e.name for e in entries if not belongs(e.name) or e.is_symlink()), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_write(folder, error) from error
    if stray is not None:
        raise OutputError(
            f"{folder} already holds {stray[:100]!r}, which is none of these images",
            "name another folder",
        )


def refuse_lack_of_space(output: Path, needed: int) -> None:
    """Say it now, not after an hour.

    Raises:
        OutputError: the disk has less than `needed` bytes left.
    """
    try:
        free = shutil.disk_usage(output).free
    except OSError as error:
        raise cannot_write(output, error) from error
    if needed > free:
        raise OutputError(
            f"{output} has {free / 1e9:.1f} GB left, {needed / 1e9:.1f} GB are needed",
            "free some space, or name another folder",
        )


@dataclass
class Tally:
    """How many files were written and how many were right already."""

    written: int = 0
    kept: int = 0


def place(content: bytes, target: Path, scratch: Path, tally: Tally) -> None:
    """Put a file there unless it is there.

    Raises:
        OutputError: it cannot be written.
    """
    if _holds(target, content):
        tally.kept += 1
        return
    partial = scratch / "file"
    try:
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    tally.written += 1


def _holds(path: Path, content: bytes) -> bool:
    """Whether a plain file has exactly this content."""
    try:
        seen = path.lstat()
        if not stat.S_ISREG(seen.st_mode) or seen.st_size != len(content):
            return False
        return path.read_bytes() == content
    except OSError:
        return False


def missing_bytes(sizes: Mapping[Path, int]) -> int:
    """What is left to write, in whole blocks: files of another size are not there."""
    block = 4096
    needed = 0
    for path, size in sizes.items():
        try:
            there = path.lstat().st_size == size
        except OSError:
            there = False
        needed += 0 if there else size + -size % block
    return needed
