"""READ FIRST: a model by name -> a file whose sha256 is the pinned one, or no file at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from quantize.errors import ModelError
from quantize.files import cannot_write, check_writable, write_atomic
from quantize.plan import OnProgress, Progress
from quantize.zoo.download import LFS_MARK, Download
from quantize.zoo.shelf import is_right, locked, open_shelf
from quantize.zoo.sources import Source, parse_source
from quantize.zoo.table import SOURCES, Entry, find
from quantize.zoo.transport import Patience, Refused, Transport

_KB = 1000
_PATIENCE = Patience()


def fetch(
    name: str,
    *,
    sources: Sequence[str | Path] = (),
    output: str | Path | None = None,
    cache: str | Path | None = None,
    patience: Patience = _PATIENCE,
    on_progress: OnProgress | None = None,
) -> Path:
    """Get a model of the zoo; offline where it was fetched before.

    Args:
        name: such as `resnet50-v1-12`.
        sources: https addresses, folders or files, instead of the zoo's; tried in this order.
        output: where to put a copy, or None.
        cache: folder where models stay; None: the user's cache.
        patience: how long servers and other processes are waited for.
        on_progress: told while it works.

    Returns:
        The output, else the file in the cache. Its bytes have the sha256 of the zoo's manifest.

    Raises:
        ModelError: there is no such model, or no source gives it.
        OutputError: the cache or the output cannot be written.
    """
    return fetch_entry(
        find(name),
        [str(source) for source in sources or SOURCES],
        output=Path(output) if output is not None else None,
        cache=Path(cache) if cache is not None else None,
        patience=patience,
        on_progress=on_progress,
    )


def fetch_entry(
    entry: Entry,
    sources: Sequence[str],
    *,
    output: Path | None,
    cache: Path | None,
    patience: Patience = _PATIENCE,
    on_progress: OnProgress | None = None,
) -> Path:
    """As `fetch`, for one entry of the table."""
    places = [parse_source(source, entry) for source in sources]
    if output is not None:
        check_writable(output)
        if is_right(output, entry):
            return output
    shelf = open_shelf(cache)
    kept = shelf / entry.file
    with locked(shelf, entry, patience.lock_s):
        if not is_right(kept, entry):
            _get(entry, places, kept, Transport(patience), _teller(entry, on_progress))
        if output is None:
            return kept
        content = _read(kept, entry)
        if content is None:
            raise ModelError(f"{kept} changed while it was copied", "run the same command again")
    write_atomic(output, content)
    return output


def _get(
    entry: Entry,
    places: Sequence[Source],
    kept: Path,
    transport: Transport,
    tell: Callable[[int], None],
) -> None:
    """The first place that gives the right bytes.

    Raises:
        ModelError: none does; says why for each.
    """
    complaints = []
    for place in places:
        try:
            if place.url is not None:
                part = kept.with_name(f"{kept.name}.part")
                _download(place.url, Download(entry, part, transport, tell), kept)
            elif place.path is not None:
                write_atomic(kept, _copied(place.path, entry))
                tell(entry.size)
        except Refused as refused:
            complaints.append(f"{place} {refused}")
        else:
            return
    raise ModelError(
        f"{entry.name} could not be fetched: {'; '.join(complaints)}",
        "check the network, or name a folder or file that has it: --source PATH",
    )


def _download(url: str, download: Download, kept: Path) -> None:
    """Download, check, and only then give it its name."""
    fresh = download.run(url)
    if not is_right(download.part, download.entry) and not fresh:
        download.forget()  # the beginning was of something else
        download.run(url)
    right = is_right(download.part, download.entry)
    if right:
        try:
            download.part.replace(kept)
        except OSError as error:
            raise cannot_write(kept, error) from error
    download.forget()
    if not right:
        raise Refused("sends a file with another sha256")


def _copied(path: Path, entry: Entry) -> bytes:
    """The content of a local file.

    Raises:
        Refused: it is not there, or another one.
    """
    try:
        if not path.is_file():
            raise Refused("is no file" if path.exists() else "does not exist")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(LFS_MARK))
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror or error}") from error
    if head == LFS_MARK:
        raise Refused("is a Git LFS pointer, not the model (git lfs pull gets it)")
    if size != entry.size:
        raise Refused(f"has {size} bytes instead of {entry.size}")
    content = _read(path, entry)
    if content is None:
        raise Refused("has another sha256")
    return content


def _read(path: Path, entry: Entry) -> bytes | None:
    """The file's bytes if they are the model, checked as they will be written."""
    try:
        with path.open("rb") as file:
            content = file.read(entry.size + 1)
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == entry.sha256 else None


def _teller(entry: Entry, on_progress: OnProgress | None) -> Callable[[int], None]:
    """Progress in kB."""

    def tell(have: int) -> None:
        if on_progress:
            on_progress(Progress("fetch", -(-have // _KB), -(-entry.size // _KB), "kB"))

    return tell
