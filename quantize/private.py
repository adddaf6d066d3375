"""The user's cache: folders that are this user's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from quantize.errors import OutputError
from quantize.files import cannot_write


def private_folder(name: str, cache: Path | None = None) -> Path:
    """A folder in the user's cache, made with mode 0700 if missing.

    Args:
        name: of the folder.
        cache: None: `$QUANTIZE_CACHE`, else `$XDG_CACHE_HOME/quantize`, else `~/.cache/quantize`.

    Raises:
        OutputError: it cannot be made, or others could swap the files in it.
    """
    folder = (cache or _default()) / name
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        seen = folder.lstat()
    except OSError as error:
        raise cannot_write(folder, error) from error
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise OutputError(f"cache {folder} is no folder of this user", "name another with --cache")
    if seen.st_mode & 0o022:
        raise OutputError(
            f"cache {folder} can be written by other users", "chmod it to 700, or name another"
        )
    return folder


def _default() -> Path:
    """The user's cache folder."""
    named, base = os.environ.get("QUANTIZE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    if base and Path(base).is_absolute():
        return Path(base) / "quantize"
    try:
        return Path.home() / ".cache" / "quantize"
    except RuntimeError as error:
        raise OutputError("this user has no home folder for the cache", "name --cache") from error
