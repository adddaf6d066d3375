"""The constant tensors of a model: do they hold what they declare, in its file or beside it?

Nothing is read before its size is known to be right: a file may declare anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import onnx
from onnx import TensorProto

from quantize.errors import ModelError

MOST_BYTES = 2**31 - 1
"""What a protobuf message can hold, and so what a model can."""

_BITS: dict[int, int] = {
    **dict.fromkeys((TensorProto.UINT4, TensorProto.INT4), 4),
    **dict.fromkeys(
        (
            TensorProto.BOOL,
            TensorProto.INT8,
            TensorProto.UINT8,
            TensorProto.FLOAT8E4M3FN,
            TensorProto.FLOAT8E4M3FNUZ,
            TensorProto.FLOAT8E5M2,
            TensorProto.FLOAT8E5M2FNUZ,
        ),
        8,
    ),
    **dict.fromkeys(
        (TensorProto.INT16, TensorProto.UINT16, TensorProto.FLOAT16, TensorProto.BFLOAT16), 16
    ),
    **dict.fromkeys((TensorProto.INT32, TensorProto.UINT32, TensorProto.FLOAT), 32),
    **dict.fromkeys(
        (TensorProto.INT64, TensorProto.UINT64, TensorProto.DOUBLE, TensorProto.COMPLEX64), 64
    ),
    TensorProto.COMPLEX128: 128,
}


def load_external(model: onnx.ModelProto, path: Path) -> None:
    """Read the tensors that lie in files beside the model, in place.

    Args:
        model: as read from `path`.
        path: the model file.

    Raises:
        ModelError: such a file is missing, lies outside the model's folder, or is too short.
    """
    outside = [t for t in tensors(model) if t.data_location == TensorProto.EXTERNAL]
    if sum(_bytes(tensor) or 0 for tensor in outside) > MOST_BYTES:
        raise ModelError(f"model {path} is larger than 2 GiB", "quantize a smaller model")
    for tensor in outside:
        try:
            content = _read(tensor, path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model {path}: external data of {tensor.name!r} cannot be read: {error}",
                "save the model with its data beside it",
            ) from error
        tensor.raw_data = content
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def check_sizes(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError unless every tensor holds as many elements as its dimensions say."""
    for tensor in tensors(model):
        if not _whole(tensor):
            raise ModelError(
                f"model {path}: tensor {tensor.name!r} does not hold the {list(tensor.dims)}"
                " elements that it declares; the file is damaged",
                "fetch or export it again",
            )


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every dense constant: initializers and attributes, in subgraphs and functions too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for attribute in chain.from_iterable(node.attribute for node in nodes):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _of_graph(graph)


def _bytes(tensor: TensorProto) -> int | None:
    """Bytes of the declared content, 4-bit elements two a byte; None for strings and unknowns."""
    bits = _BITS.get(tensor.data_type)
    return None if bits is None else (math.prod(tensor.dims) * bits + 7) // 8


def _whole(tensor: TensorProto) -> bool:
    count, size = math.prod(tensor.dims), _bytes(tensor)
    if any(d < 0 for d in tensor.dims) or tensor.data_type == TensorProto.UNDEFINED:
        return False
    if tensor.data_type == TensorProto.STRING:
        return bool(len(tensor.string_data) == count)
    if size is None:  # a type newer than this table
        return True
    if tensor.HasField("raw_data"):
        return bool(len(tensor.raw_data) == size)
    if _BITS[tensor.data_type] == 4:
        count = (count + 1) // 2
    elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        count *= 2
    held = getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type))
    return bool(len(held) == count)


def _read(tensor: TensorProto, path: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _inside(entries.get("location", ""), tensor, path)
    size = _bytes(tensor)
    offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size or 0)
    if size is None or length != size or any(d < 0 for d in tensor.dims):
        raise ValueError(f"its length {length} does not suit its dimensions {list(tensor.dims)}")
    if offset < 0 or offset + size > file.stat().st_size:
        raise ValueError(f"{file.name} is cut short")
    with file.open("rb") as source:
        source.seek(offset)
        return source.read(size)


def _inside(location: str, tensor: TensorProto, path: Path) -> Path:
    """The file that holds the data: a link may lead to it, but not out of the model's folder."""
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not location or not file.is_relative_to(folder):
        raise ModelError(
            f"model {path}: external data of {tensor.name!r} lies outside its folder",
            "save the model with its data beside it",
        )
    if not file.is_file():
        raise ModelError(
            f"model {path}: external data file {file.name!r} of {tensor.name!r} is missing",
            f"put it into {folder}",
        )
    return file
