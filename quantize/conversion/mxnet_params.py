"""MXNet's `.params`: named arrays in a binary form that changed three times.

Everything is little-endian:

    u64 0x112, u64 reserved, u64 count, count arrays, u64 count, count names (u64 length, UTF-8)

    array, first version     u32 rank, u32 dimensions, place, type, values
    array, 0xF993FAC8        rank, i64 dimensions, place, type, values
    array, 0xF993FAC9        i32 storage, rank, i64 dimensions, place, type, values
    array, 0xF993FACA        the same, where rank 0 is a scalar and -1 means unknown

A place is two i32 (device, number), a type one i32. Up to 0xF993FAC9 rank 0 means that nothing
follows. The file may say anything, so each size is held against the bytes that are left.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.conversion.mxnet_files import read_whole
from quantize.errors import ModelError

MOST_BYTES = 2**31 - 1
"""Of a `.params` file: what an ONNX file could hold."""

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MOST_ARRAYS = 100_000
_MOST_RANK = 8
_MOST_NAME = 4096
_BFLOAT16 = 12
_TYPES = {
    0: "<f4",
    1: "<f8",
    2: "<f2",
    3: "u1",
    4: "<i4",
    5: "i1",
    6: "<i8",
    7: "?",
    8: "<i2",
    9: "<u2",
    10: "<u4",
    11: "<u8",
    _BFLOAT16: "<u2",
}
_STORAGES = {1: "row_sparse", 2: "csr"}


def read_params(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.params` file.

    Returns:
        Name, without the `arg:` or `aux:` before it -> array in the file's own type, read-only;
        bfloat16 as float32. Arrays that the file declares without a shape are left out.

    Raises:
        ModelError: not such a file, cut short, damaged, sparse arrays, no names.
    """
    return parse_params(read_whole(path, "parameters", MOST_BYTES), str(path))


def parse_params(content: bytes, file: str) -> dict[str, NDArray[Any]]:
    """The same of bytes at hand; see `read_params`.

    Args:
        content: of the file.
        file: how errors call it.
    """
    reader = _Reader(content, file)
    if len(content) < 24 or reader.number("<Q") != _LIST:
        raise ModelError(f"{file} is not an MXNet .params file", "name the file of the weights")
    reader.number("<Q")
    arrays = [_array(reader, index) for index in range(reader.count("arrays", least=4))]
    names = [_name(reader) for _ in range(reader.count("names", least=8))]
    if arrays and not names:
        raise ModelError(f"{file} holds arrays without names", "save them as a dictionary")
    if len(names) != len(arrays):
        raise reader.damaged(f"{len(arrays)} arrays have {len(names)} names")
    if reader.left:
        raise reader.damaged(f"{reader.left} bytes follow the last name")
    found: dict[str, NDArray[Any]] = {}
    for name, array in zip(names, arrays, strict=True):
        if name in found:
            raise reader.damaged(f"two arrays are called {name!r}")
        if array is not None:
            found[name] = array
    return found


class _Reader:
    """A place in the bytes, and errors that tell it."""

    def __init__(self, content: bytes, file: str) -> None:
        self._content = memoryview(content)
        self._file = file
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._content) - self._at

    def damaged(self, reason: str) -> ModelError:
        """The error for a file that contradicts itself."""
        return ModelError(
            f"{self._file} is cut short or damaged: {reason} (at byte {self._at})",
            "fetch or save it again",
        )

    def take(self, size: int, what: str) -> memoryview:
        """The next bytes, not copied."""
        if size > self.left:
            raise self.damaged(f"{what} should have {size} bytes, {self.left} are left")
        self._at += size
        return self._content[self._at - size : self._at]

    def number(self, form: str) -> int:
        """The next number."""
        return int(struct.unpack(form, self.take(struct.calcsize(form), "a number"))[0])

    def count(self, what: str, least: int) -> int:
        """How many things follow, each of `least` bytes or more."""
        count = self.number("<Q")
        if count > min(_MOST_ARRAYS, self.left // least):
            raise self.damaged(f"{count} {what} are declared")
        return count


def _array(reader: _Reader, index: int) -> NDArray[Any] | None:
    magic = reader.number("<I")
    if magic in (_V2, _V3):
        storage = reader.number("<i")
        if storage in _STORAGES:
            raise ModelError(
                f"array {index} of the parameters is sparse ({_STORAGES[storage]})",
                "save dense arrays: array.tostype('default')",
            )
        if storage:
            raise reader.damaged(f"array {index} has storage {storage}")
    if magic in (_V1, _V2, _V3):
        rank, dimension = reader.number("<i"), "<q"
    else:  # the first version has no mark: its rank comes first
        rank, dimension = magic, "<I"
    if rank == (-1 if magic == _V3 else 0):
        return None
    if not 0 <= rank <= _MOST_RANK:
        raise reader.damaged(f"array {index} has {rank} dimensions")
    shape = [reader.number(dimension) for _ in range(rank)]
    if any(size <= 0 for size in shape):
        raise reader.damaged(f"array {index} has the shape {shape}")
    reader.take(8, "its place")
    kind = reader.number("<i")
    if kind not in _TYPES:
        raise reader.damaged(f"array {index} has the unknown type {kind}")
    dtype = np.dtype(_TYPES[kind])
    values = np.frombuffer(
        reader.take(math.prod(shape) * dtype.itemsize, f"array {index} of {shape}"), dtype
    )
    if kind == _BFLOAT16:
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(shape)


def _name(reader: _Reader) -> str:
    size = reader.number("<Q")
    if size > _MOST_NAME:
        raise reader.damaged(f"a name of {size} bytes is declared")
    try:
        name = bytes(reader.take(size, "a name")).decode()
    except UnicodeDecodeError as error:
        raise reader.damaged("a name is not UTF-8") from error
    return name.removeprefix("arg:") if name.startswith("arg:") else name.removeprefix("aux:")
