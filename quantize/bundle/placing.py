"""Where a release goes: found out before any work, and filled whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quantize.errors import OutputError
from quantize.files import TEMPORARY, cannot_write, is_file, is_folder, is_there

MANIFEST = "manifest.json"


def check_target(output: Path, *, force: bool = False) -> None:
    """Find out before any work whether a release can be written.

    Raises:
        OutputError: something is there already, or its folder is missing or read-only.
    """
    if os.path.lexists(output):
        if not force:
            raise OutputError(f"output {output} exists", "name another folder, or give --force")
        if output.is_symlink() or not is_file(output / MANIFEST):
            raise OutputError(
                f"output {output} is no release, so --force does not replace it",
                "name another folder",
            )
    try:
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=TEMPORARY):
            pass
    except OSError as error:
        raise cannot_write(output, error) from error


def archive_of(output: Path, name: str) -> Path:
    """The archive beside a release folder."""
    return output.parent / f"{name}-bundle.tar.gz"


def check_archive(archive: Path, *, force: bool) -> None:
    """Raise OutputError if the archive cannot be written."""
    if is_folder(archive) or (is_there(archive) and not force):
        raise OutputError(
            f"output {archive} exists", "name another folder or --name, or give --force"
        )


def swap(pairs: Sequence[tuple[Path, Path]], room: Path) -> None:
    """Put new things in the place of old ones: all of them, or none."""
    undo: list[tuple[Path, Path]] = []
    try:
        for number, (new, target) in enumerate(pairs):
            if target.exists():
                old = room / f"old{number}"
                target.rename(old)
                undo.append((old, target))
            new.rename(target)
            undo.append((target, new))
    except BaseException:
        for here, back in reversed(undo):
            with contextlib.suppress(OSError):
                here.rename(back)
        raise
