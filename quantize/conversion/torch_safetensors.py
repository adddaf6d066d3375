"""Safetensors files, read without torch: a JSON header that says where each array lies.

    u64 length of the header | header, JSON | arrays, little-endian, without gaps

Every size is held against the file's before anything is read, so that what is taken of memory is
never more than the file is long.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeGuard

import numpy as np

from quantize.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_MOST_HEADER = 8 << 20
"""Bytes of a header; that of a ResNet-152 has 0.1 MB."""

_MOST_AXES = 8
_MOST_SIDE = 1 << 40
_CURE = "save the state dict with safetensors again"

_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """Where an array lies: the bytes from `begin` to `end`, counted from behind the header."""

    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of this size begins as one: a length in eight bytes, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file, by name; bfloat16 becomes float32, the rest stays what it is.

    Raises:
        ModelError: the file is cut short, lies about a size, or has arrays of another kind.
    """
    try:
        with path.open("rb") as file:
            return arrays_of(file, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}", "check the path"
        ) from error


def arrays_of(file: BinaryIO, size: int, path: Path) -> dict[str, NDArray[Any]]:
    """The same of an open file of that many bytes; errors call it `path`."""
    length = _header_length(file.read(8), size, path)
    entries = _entries(file.read(length), path)
    _check_places(entries, size - 8 - length, path)
    return {entry.name: _array(file, 8 + length, entry, path) for entry in entries}


def _header_length(head: bytes, size: int, path: Path) -> int:
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= size - 8:
        raise ModelError(f"{path} is not a safetensors file, or is cut short", _CURE)
    if length > _MOST_HEADER:
        raise ModelError(
            f"{path}: its header of {length} bytes is larger than {_MOST_HEADER}", _CURE
        )
    return length


def _entries(header: bytes, path: Path) -> list[_Entry]:
    try:
        content = json.loads(header.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # of text and of JSON are ValueErrors
        raise ModelError(f"{path}: its header is not JSON: {error}", _CURE) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: its header is not a table", _CURE)
    content.pop("__metadata__", None)
    return [_entry(name, value, path) for name, value in content.items()]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON table whose keys are there once: readers differ in which of two they take."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is there twice")
    return table


def _entry(name: str, value: Any, path: Path) -> _Entry:
    given: dict[str, Any] = value if isinstance(value, dict) else {}
    kind, shape, offsets = given.get("dtype"), given.get("shape"), given.get("data_offsets")
    if not _counts(shape, _MOST_AXES) or not _counts(offsets, 2) or len(offsets) != 2:
        raise ModelError(f"{path}: what it says of {name!r} is damaged", _CURE)
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise ModelError(
            f"{path}: {name!r} is of kind {str(kind)[:20]!r}, which is not known here",
            "save the weights as float32",
        )
    return _Entry(name, kind, tuple(shape), offsets[0], offsets[1])


def _counts(value: Any, most: int) -> TypeGuard[list[int]]:
    """Whether this is a list of at most so many sizes."""
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(side) is int and 0 <= side <= _MOST_SIDE for side in value)
    )


def _check_places(entries: Sequence[_Entry], size: int, path: Path) -> None:
    """Every array is as long as its shape says, and they fill the file one after another."""
    at = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        declared = math.prod(entry.shape) * np.dtype(_DTYPES[entry.kind]).itemsize
        if entry.end - entry.begin != declared:
            raise ModelError(
                f"{path}: {entry.name!r} takes {entry.end - entry.begin} bytes where its shape"
                f" {list(entry.shape)} asks for {declared}",
                _CURE,
            )
        if entry.begin != at:
            what = "overlaps another array" if entry.begin < at else "lies behind a gap"
            raise ModelError(f"{path}: {entry.name!r} {what}", _CURE)
        at = entry.end
    if at != size:
        raise ModelError(f"{path} holds {size} bytes of arrays where its header says {at}", _CURE)


def _array(file: BinaryIO, start: int, entry: _Entry, path: Path) -> NDArray[Any]:
    file.seek(start + entry.begin)
    content = file.read(entry.end - entry.begin)
    if len(content) != entry.end - entry.begin:
        raise ModelError(f"{path} changed while it was read", "run the same command again")
    values = np.frombuffer(content, _DTYPES[entry.kind]).reshape(entry.shape)
    return from_bfloat16(values) if entry.kind == "BF16" else values


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Bfloat16, given as its bits, is the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
