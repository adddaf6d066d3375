"""Small pictures of the images that changed their answer, only where somebody asks for them."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from quantize.data.images import UnreadableImage, decode, encode_thumbnail
from quantize.errors import DataError
from quantize.report.changes import Change

log = logging.getLogger(__name__)

SIDE = 64
"""Pixels of the longer side."""

_LARGEST = 256 << 20


def thumbnails(folder: Path, changes: Iterable[Change]) -> dict[str, bytes]:
    """Pictures of the images that are found again, by name and by the hash of their bytes.

    Args:
        folder: is searched with all that is below it.
        changes: what to look for.

    Returns:
        digest -> JPEG of at most `SIDE` x `SIDE` pixels, encoded anew: nothing else of the file.

    Raises:
        DataError: the folder cannot be read, or holds none of the images.
    """
    wanted: dict[str, set[str]] = {}
    for change in changes:
        wanted.setdefault(change.name, set()).add(change.digest)
    if not wanted:
        return {}
    found = {}
    for path in _files(folder):
        digest = _digest(path) if path.name in wanted else None
        if digest is None or digest in found or digest not in wanted[path.name]:
            continue
        try:
            found[digest] = encode_thumbnail(decode(path), SIDE)
        except UnreadableImage as error:
            log.warning("no thumbnail: %s", error.message)
    if not found:
        raise DataError(
            f"folder {folder} holds none of the images that changed their answer",
            "name the folder of the evaluation images",
        )
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, in the order of names."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"images {error.filename} cannot be read: {error.strerror or error}",
            "name the folder of the evaluation images",
        ) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _digest(path: Path) -> str | None:
    """sha256 of a regular file of possible size, else None."""
    try:
        seen = path.stat()
        if not stat.S_ISREG(seen.st_mode) or seen.st_size > _LARGEST:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
