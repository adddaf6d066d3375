"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

TEMPORARY = ".quantize."
"""How the name of a file begins that is not whole yet."""

_CHUNK = 1 << 20


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to a temporary sibling of `path`, flush it to disk, rename it.

    Raises:
        OutputError: naming `path` and the operating system's reason; nothing is left behind.
    """
    _check_replaceable(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:  # an interrupt leaves nothing behind either
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An .npz file's bytes, without pickles; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, array in arrays.items():
            entry = zipfile.ZipInfo(f"{member}.npy")  # its date is fixed
            # Rounded weights shrink by a seventh, in ten times the time.
            deflated = array.dtype != np.int8
            entry.compress_type = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.save(file, array, allow_pickle=False)
    return buffer.getvalue()


def is_there(path: Path) -> bool:
    """Whether there is something; an impossible name or a closed folder is a no, no exception."""
    return os.path.exists(path)  # noqa: PTH110 - pathlib raises there


def is_folder(path: Path) -> bool:
    """Whether there is a folder, likewise."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether there is a regular file, likewise."""
    return os.path.isfile(path)  # noqa: PTH113


def make_folder(path: Path) -> None:
    """Create a folder and its parents; an existing folder is fine.

    Raises:
        OutputError: naming the folder and the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """Find out now, not after an hour, that a file can be created at `path`.

    Raises:
        OutputError: `path` is a folder or a device, or its folder is missing or read-only.
    """
    try:
        if path.is_dir():
            raise OutputError(f"output {path} is a folder", "name a file")
        _check_replaceable(path)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=TEMPORARY):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def _check_replaceable(path: Path) -> None:
    """Renaming would put a file in the place of a device or a pipe, for every program here."""
    if is_there(path) and not (is_file(path) or is_folder(path)):
        raise OutputError(f"output {path} is no regular file", "name a file")


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error for a failed write, with the operating system's reason and a cure."""
    cures = {
        errno.ENOSPC: "free some space and run the same command again",
        errno.EDQUOT: "free some space and run the same command again",
        errno.EFBIG: "raise this user's limit on the size of files (ulimit -f)",
        errno.ENOENT: "create the folder first",
        errno.ENOTDIR: "name a path inside a folder",
        errno.ENAMETOOLONG: "choose a shorter name",
    }
    reason = error.strerror or str(error)
    cure = cures.get(error.errno or 0, "choose a path that this user may write to")
    return OutputError(f"cannot write {path}: {reason}", cure)


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
