"""Which class each validation image is of: the published map, or a list of `name label` lines."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.errors import DataError
from quantize.imagenet.pickled import plain

_GZIP = b"\x1f\x8b"
_PICKLES = (b"(", b"]", b"\x80")
_MOST_BYTES = 32 << 20
_MOST_IMAGES = 2_000_000
_CLASSES = 1000
_MOST_NAME = 100
_WNID = re.compile(r"n[0-9]{8}")
_INDEX = re.compile(r"[0-9]{1,4}")
_SYNSETS = ("synset.txt", "synsets.txt", "synset_words.txt")
_SYNSET = "give a synset.txt with one line for each class"


@dataclass(frozen=True)
class Labels:
    """The classes and what is of them.

    Attributes:
        classes: names of the class folders, sorted, so that the rank is the label.
        folder_of: file name of each image -> its class folder.
        numbered: the folders are called by the label, since nothing told the classes' names.
    """

    classes: tuple[str, ...]
    folder_of: dict[str, str]
    numbered: bool = False


def read_labels(path: Path, synset: Path | None = None) -> Labels:
    """Read the published map (`.pklz`, a pickle that is not run) or a text file.

    Args:
        path: the file; lines are `name wnid` or `name label`, labels from 0.
        synset: for a text file: lines that begin with a wnid, in the order of the labels; None:
            the synset.txt beside it, if there is one.

    Raises:
        DataError: it is none of these, says two things of an image, or names a class wrongly.
    """
    content = _content(path)
    if content.startswith(_GZIP):
        return _of_map(plain(_unzipped(content, path), path.name), path)
    if content.startswith(_PICKLES):
        return _of_map(plain(content, path.name), path)
    return _of_text(_text(content, path), path, synset or _beside(path))


def is_image_name(text: str) -> bool:
    """Whether a file of a class folder may be called so: one word, not hidden, no folders."""
    plain_word = text.isprintable() and not {" ", "/", "\\"} & set(text)
    return plain_word and 0 < len(text) <= _MOST_NAME and not text.startswith(".")


def read_synset(path: Path) -> tuple[str, ...]:
    """The first word of each line, which is the wnid of that class.

    Raises:
        DataError: it cannot be read, or the wnids are not sorted and distinct.
    """
    lines = _text(_content(path), path).splitlines()
    wnids = tuple(line.split()[0] for line in lines if line.strip())
    wrong = next((w for w in wnids if not _WNID.fullmatch(w)), None)
    if not wnids or wrong is not None:
        raise DataError(f"{path} names no wnid such as n01440764: {(wrong or '')[:40]!r}", _SYNSET)
    if list(wnids) != sorted(set(wnids)):
        raise DataError(f"{path} is not sorted by wnid, so its lines are not the labels", _SYNSET)
    return wnids


def _of_map(value: Any, path: Path) -> Labels:
    """The published form: [wnids, [(file name, wnid), ...]]."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _no_map(path)
    classes, pairs = value
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(classes, list | tuple) or not isinstance(pairs, list | tuple):
        raise _no_map(path)
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _no_map(path)
    if not all(isinstance(w, str) and _WNID.fullmatch(w) for w in classes):
        raise _no_map(path)
    known = tuple(sorted(set(classes)))
    return Labels(known, _checked(pairs, set(known), path))


def _of_text(text: str, path: Path, synset: Path | None) -> Labels:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise DataError(
                f"{path}: entry {number} is not `name label`: {' '.join(row)[:80]!r}",
                "give each line a file name and a class",
            )
    if not rows:
        raise DataError(f"{path} is empty", "list one image a line")
    if all(_WNID.fullmatch(label) for _, label in rows):
        known = read_synset(synset) if synset else tuple(sorted({label for _, label in rows}))
        return Labels(known, _checked(rows, set(known), path))
    wrong = next((label for _, label in rows if not _INDEX.fullmatch(label)), None)
    if wrong is not None:
        raise DataError(
            f"{path}: {wrong[:40]!r} is neither a wnid nor a label from 0 to 9999",
            "give all lines the same kind of label",
        )
    return _numbered(rows, path, synset)


def _numbered(rows: list[list[str]], path: Path, synset: Path | None) -> Labels:
    """Labels are numbers: the folders are called by the synset's wnids, else by the numbers."""
    most = max(int(label) for _, label in rows)
    if synset is not None:
        classes = read_synset(synset)
        if most >= len(classes):
            raise DataError(
                f"{path} has a label {most}, but {synset} only {len(classes)} classes",
                "labels count from 0",
            )
    else:
        classes = tuple(f"{label:04}" for label in range(max(_CLASSES, most + 1)))
    pairs = [[name, classes[int(label)]] for name, label in rows]
    return Labels(classes, _checked(pairs, set(classes), path), numbered=synset is None)


def _checked(pairs: Any, known: set[str], path: Path) -> dict[str, str]:
    """Image -> class, each of them once and each name one that a file may have."""
    found: dict[str, str] = {}
    if len(pairs) > _MOST_IMAGES:
        raise DataError(f"{path} lists {len(pairs)} images", "name the map of ImageNet's images")
    for name, label in pairs:
        if not isinstance(name, str) or not is_image_name(name):
            raise DataError(
                f"{path} lists {str(name)[:80]!r}, which is no name of an image",
                "name the map of ImageNet's images",
            )
        if not isinstance(label, str) or label not in known:
            raise DataError(
                f"{path}: {name} is of class {str(label)[:40]!r}, which is not among the classes",
                "map and synset.txt have to belong together",
            )
        if found.setdefault(name, label) != label:
            raise DataError(f"{path} says two classes of {name}", "give each image one class")
    if not found:
        raise DataError(f"{path} lists no image", "name the map of ImageNet's images")
    return found


def _beside(path: Path) -> Path | None:
    """A list of the classes in the same folder."""
    return next((path.with_name(n) for n in _SYNSETS if path.with_name(n).is_file()), None)


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise DataError(
                f"{path} is no file" if path.exists() else f"{path} does not exist",
                "name the map or val.txt",
            )
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check it") from error
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path} is too large for a list of images", "name the map or val.txt")
    return content


def _unzipped(content: bytes, path: Path) -> bytes:
    """What gzip packed, at most as much as a map may have."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(content, _MOST_BYTES + 1)
    except zlib.error as error:
        raise DataError(f"{path} is a damaged gzip file", "fetch it again") from error
    if len(found) > _MOST_BYTES:
        raise DataError(f"{path} unpacks to more than a map of images", "name the published map")
    if not unpacker.eof:
        raise DataError(f"{path} is cut short", "fetch it again")
    return found


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text", "name a text file") from error


def _no_map(path: Path) -> DataError:
    return DataError(
        f"{path} is no map of ImageNet's validation images", "name the published map or val.txt"
    )
