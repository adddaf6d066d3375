"""Reading .npz files that nobody vouches for: sizes and checksums first, and no pickles."""

from __future__ import annotations

import math
import zipfile
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

MOST_BYTES = 1 << 30
"""What the arrays of one file may hold together."""


def unpack(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; checksums and sizes are checked, nothing is unpickled.

    Raises:
        ValueError: it is no such file, it is damaged, or it declares more than `MOST_BYTES`.
    """
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise ValueError("it declares too much")
            return {
                entry.filename.removesuffix(".npy"): _read(archive.open(entry), entry.file_size)
                for entry in entries
            }
    except Exception as error:  # zipfile, zlib and numpy's parser raise a dozen kinds
        raise ValueError(f"not a file of arrays: {error}") from error


def _read(file: IO[bytes], size: int) -> NDArray[Any]:
    """One .npy; its header may say anything, so it is held against the size of the whole."""
    with file:
        shape, fortran, dtype = _header(file)
        if dtype.hasobject or fortran or size - file.tell() != math.prod(shape) * dtype.itemsize:
            raise ValueError("its header does not suit its size")
        return np.frombuffer(file.read(), dtype).reshape(shape).copy()


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type; the file then stands at the values."""
    version = npy.read_magic(file)  # type: ignore[no-untyped-call]
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)  # type: ignore[no-untyped-call]
    return tuple(shape), bool(fortran), dtype
