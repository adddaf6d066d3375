"""SHA256SUMS: the list of a bundle's files as `sha256sum -c` reads it, and who is not on it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from quantize.bundle.names import is_path, printable
from quantize.errors import BundleError
from quantize.files import sha256

SUMS = "SHA256SUMS"
MOST_FILES = 1000
_LARGEST = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_NAMED = 5


def write_sums(folder: Path) -> str:
    """Write SHA256SUMS over every file of a folder; returns its own sha256, the digest."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in sorted(listed(folder))]
    content = "".join(lines).encode("ascii")
    (folder / SUMS).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def check_sums(folder: Path, digest: str | None = None) -> Mapping[str, str]:
    """Compare a folder with its SHA256SUMS.

    Args:
        folder: of a bundle.
        digest: the published sha256 of SHA256SUMS itself, or None.

    Returns:
        Name -> sha256 of every file, SHA256SUMS itself left out.

    Raises:
        BundleError: a file is missing, was added or changed, or is no regular file; names it.
    """
    found = listed(folder)
    if SUMS not in found:
        raise BundleError(f"{folder} is no bundle: there is no {SUMS}", "name a release bundle")
    expected = _read_sums(folder / SUMS, digest)
    here = found - {SUMS}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - here)]
    problems += [f"{printable(name)} was added" for name in sorted(here - expected.keys())]
    problems += [
        f"{name} was changed"
        for name in sorted(here & expected.keys())
        if sha256(folder / name) != expected[name]
    ]
    if problems:
        more = len(problems) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        raise BundleError(
            f"bundle {folder} is not what {SUMS} lists: {', '.join(problems[:_NAMED])}{rest}",
            "fetch the bundle again",
        )
    return expected


def listed(folder: Path) -> set[str]:
    """Paths of all files below a folder, with `/` between names.

    Raises:
        BundleError: there is a link, a device, an odd name, or too much.
    """
    return set(_walk(folder, "", iter(range(MOST_FILES))))


def _walk(folder: Path, above: str, budget: Iterator[int]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        modes = [entry.stat(follow_symlinks=False).st_mode for entry in entries]
    except OSError as error:
        raise BundleError(
            f"bundle {folder} cannot be read: {error.strerror}", "name a release bundle"
        ) from error
    for entry, mode in zip(entries, modes, strict=True):
        name = f"{above}{entry.name}"
        if next(budget, None) is None:
            raise BundleError(f"the bundle holds more than {MOST_FILES} files", "it is none")
        if stat.S_ISDIR(mode) and name.count("/") < 2:
            yield from _walk(Path(entry.path), f"{name}/", budget)
        elif not stat.S_ISREG(mode):
            raise BundleError(
                f"the bundle holds {printable(name)!r}, which is no regular file",
                "fetch the bundle again",
            )
        elif not is_path(name):
            raise BundleError(
                f"the bundle holds a file called {printable(name)!r}", "remove it if it is yours"
            )
        else:
            yield name


def _read_sums(path: Path, digest: str | None) -> dict[str, str]:
    if path.stat().st_size > _LARGEST:
        raise BundleError(f"{SUMS} is larger than 1 MiB", "fetch the bundle again")
    content = path.read_bytes()
    own = hashlib.sha256(content).hexdigest()
    if digest is not None and own != digest.strip().lower():
        raise BundleError(
            f"{SUMS} was changed: its sha256 is {own}, and {printable(digest)[:80]} was published",
            "fetch the bundle again",
        )
    expected: dict[str, str] = {}
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or not is_path(match[2]) or match[2] in (SUMS, *expected):
            raise BundleError(
                f"{SUMS} is damaged: line {number} is not `sha256  name`, each name once",
                "fetch the bundle again",
            )
        expected[match[2]] = match[1]
    return expected
