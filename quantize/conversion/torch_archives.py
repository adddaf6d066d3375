"""Torch's zip archives: what they may hold, and the weights of a `.pt2` that holds no pickle.

Nothing of torch is used: `torch.export.load` unpickles what it does not know. The weights of an
exported program lie in such an archive as they are, under names that a JSON file lists.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.conversion.torch_safetensors import from_bfloat16
from quantize.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MOST_MEMBERS = 20_000
_MOST_JSON = 8 << 20
_MOST_AXES = 8
_MOST_SIDE = 1 << 40
_PICKLED = (".pt", ".pth", ".pkl")
_CONFIG = "_weights_config.json"
_WEIGHTS = "data/weights/"
_RAW = (f"{_WEIGHTS}weight_", "data/constants/tensor_")
_NOTES = frozenset(
    {"archive_format", "archive_version", "byteorder", "version", ".format_version"}
    | {".storage_alignment", ".data/version", ".data/serialization_id"}
)
_STRIDED = 7
_CURE = "save the module's state_dict() as safetensors"

# Numbers that torch's export gives to kinds of elements.
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?"}
_BFLOAT16 = 13


def is_program(path: Path) -> bool:
    """Whether a zip archive is an exported program and no state dict.

    Raises:
        ModelError: it is damaged, or is neither.
    """
    with opened(path) as archive:
        names = {_relative(name) for name in archive.namelist()}
    if {"archive_format", "serialized_exported_program.json"} & names or any(
        name.startswith("models/") for name in names
    ):
        return True
    if "constants.pkl" in names:
        raise ModelError(f"{path} is a TorchScript program, which is code", _CURE)
    if "data.pkl" not in names:
        raise ModelError(f"{path} is a zip archive, but none of torch's", "check the path")
    return False


def read_program(path: Path) -> dict[str, NDArray[Any]]:
    """The weights of a `.pt2` by name.

    Raises:
        ModelError: something in it is pickled or is no data, or a size does not fit.
    """
    with opened(path) as archive:
        members = {_relative(name): name for name in archive.namelist()}
        _refuse_code(members, path)
        configs = [name for name in members if name.endswith(_CONFIG)]
        if len(configs) != 1:
            raise ModelError(
                f"{path} holds the weights of {len(configs)} models, not of one", _CURE
            )
        if "byteorder" in members and _content(archive, members["byteorder"]) != b"little":
            raise ModelError(f"{path} is not little-endian", _CURE)
        listed = _listed(_content(archive, members[configs[0]]), path)
        return {name: _weight(archive, members, name, at, path) for name, at in listed.items()}


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members are stored as they are, so none is larger than it seems.

    Raises:
        ModelError: it is damaged, compressed, encrypted, or has too many members.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is a damaged archive: {error}", "fetch it again") from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}", "check the path"
        ) from error


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    names = {member.filename for member in members}
    packed = any(
        member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size
        for member in members
    )
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise ModelError(f"{path} is compressed, or declares more than it holds", _CURE)
    if len(names) != len(members) or len(members) > _MOST_MEMBERS:
        raise ModelError(f"{path} has a member twice, or too many of them", _CURE)


def _relative(name: str) -> str:
    """Without the folder in which torch puts everything."""
    return name.partition("/")[2]


def _refuse_code(members: dict[str, str], path: Path) -> None:
    pickled = sorted(name for name in members if name.endswith(_PICKLED) or "_obj_" in name)
    if pickled:
        raise ModelError(f"{path}: its {pickled[0][:100]!r} is pickled, so it is not loaded", _CURE)
    for name in sorted(members):
        plain = name in _NOTES or name.startswith(_RAW)
        if not plain and not (name.endswith(".json") and name.startswith(("models/", "data/"))):
            raise ModelError(f"{path}: its {name[:100]!r} may be code", _CURE)


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MOST_JSON:
        raise ValueError(f"{name[:100]} is too large")
    return archive.read(name)


def _listed(content: bytes, path: Path) -> dict[str, dict[str, Any]]:
    try:
        table = json.loads(content)
    except RecursionError as error:
        raise ValueError(f"JSON: {error}") from error
    listed = table.get("config") if isinstance(table, dict) else None
    if not isinstance(listed, dict) or not all(isinstance(v, dict) for v in listed.values()):
        raise ModelError(f"{path}: its list of weights is damaged", _CURE)
    return listed


def _weight(
    archive: zipfile.ZipFile, members: dict[str, str], name: str, entry: dict[str, Any], path: Path
) -> NDArray[Any]:
    if entry.get("use_pickle") is not False:
        raise ModelError(f"{path}: {name[:100]!r} is pickled, so it is not loaded", _CURE)
    member = members.get(f"{_WEIGHTS}{entry.get('path_name')}")
    meta = entry.get("tensor_meta")
    shape, strides = (_sizes(meta, key) for key in ("sizes", "strides"))
    kind = meta.get("dtype") if isinstance(meta, dict) else None
    if member is None or shape is None or strides != _contiguous(shape) or not _at_start(meta):
        raise ModelError(f"{path}: what it says of {name[:100]!r} is damaged or unusual", _CURE)
    dtype = "<u2" if kind == _BFLOAT16 else _DTYPES.get(kind) if type(kind) is int else None
    if dtype is None:
        raise ModelError(f"{path}: {name[:100]!r} is of kind {kind!r:.20}, not known here", _CURE)
    declared = math.prod(shape) * np.dtype(dtype).itemsize
    if archive.getinfo(member).file_size != declared:
        raise ModelError(
            f"{path}: {name[:100]!r} takes {archive.getinfo(member).file_size} bytes where its"
            f" shape {list(shape)} asks for {declared}",
            _CURE,
        )
    values = np.frombuffer(archive.read(member), dtype).reshape(shape)
    return from_bfloat16(values) if kind == _BFLOAT16 else values


def _sizes(meta: Any, key: str) -> tuple[int, ...] | None:
    given = meta.get(key) if isinstance(meta, dict) else None
    if not isinstance(given, list) or len(given) > _MOST_AXES:
        return None
    sides = [side.get("as_int") if isinstance(side, dict) else None for side in given]
    fine = all(type(side) is int and 0 <= side <= _MOST_SIDE for side in sides)
    return tuple(int(side) for side in sides if side is not None) if fine else None


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How far apart neighbours lie along each axis, in elements, where nothing is between."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _at_start(meta: Any) -> bool:
    return bool(meta.get("storage_offset") == {"as_int": 0} and meta.get("layout") == _STRIDED)
