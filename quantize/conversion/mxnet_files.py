"""MXNet's two files, read whole: their sizes are known before memory is taken."""

from __future__ import annotations

from pathlib import Path

from quantize.errors import ModelError

_LFS_MARK = b"version https://git-lfs"


def read_whole(path: Path, what: str, most: int) -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        what: how errors call it.
        most: bytes that such a file has at the most.

    Raises:
        ModelError: missing, no file, unreadable, empty, larger than `most`, a Git LFS pointer.
    """
    try:
        if not path.is_file():
            raise ModelError(
                f"{what} {path} {'is not a file' if path.exists() else 'does not exist'}",
                "check the path",
            )
        if path.stat().st_size > most:
            raise ModelError(f"{what} {path} is larger than {most >> 20} MiB", "check the path")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # a zero byte in a path is a ValueError
        raise ModelError(f"{what} {path} cannot be read: {error}", "check the path") from error
    if not content:
        raise ModelError(f"{what} {path} is empty", "fetch or export it again")
    if content.startswith(_LFS_MARK):
        raise ModelError(f"{what} {path} is a Git LFS pointer, not the file", "run: git lfs pull")
    return content
