"""ONNX files: read with every way a file can be wrong named, written atomically."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from quantize.errors import ModelError
from quantize.files import write_atomic

_LFS_MARK = b"version https://git-lfs"
_PROTOBUF_LIMIT = 2**31 - 1


def load(path: Path) -> onnx.ModelProto:
    """Read a model, external data included.

    Raises:
        ModelError: missing, empty, truncated, a Git LFS pointer, not ONNX, or its external
            data is missing or lies outside the model's folder.
    """
    _check_file(path)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"model {path} is not an ONNX file, or is cut short", "fetch or export it again"
        ) from error
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror or error}") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"model {path} holds no graph", "fetch or export it again")
    _load_external(model, path)
    _check_weights(model, path)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one file; the same model gives the same bytes.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
        ModelError: the model is larger than a protobuf file can be.
    """
    write_atomic(path, to_bytes(model))


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The model as bytes, deterministic.

    Raises:
        ModelError: the model is larger than 2 GiB, the limit of a protobuf message.
    """
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise ModelError("the model is larger than 2 GiB", "quantize a smaller model")
    return bytes(model.SerializeToString(deterministic=True))


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"model {path} does not exist", "check the path")
    if not path.is_file():
        raise ModelError(f"model {path} is not a file", "name the .onnx file")
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_MARK))
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror or error}") from error
    if not head:
        raise ModelError(f"model {path} is empty", "fetch or export it again")
    if head == _LFS_MARK:
        raise ModelError(f"model {path} is a Git LFS pointer, not the model", "run: git lfs pull")


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise ModelError(
                f"model {path}: external data of {tensor.name!r} lies outside its folder",
                "save the model with its data beside it",
            )
        if not target.is_file():
            raise ModelError(
                f"model {path}: external data file {target.name!r} of {tensor.name!r} is missing",
                f"put it into {folder}",
            )
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"model {path}: its external data cannot be read: {error}") from error


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    """A file cut at a field's border parses, but its nodes then miss their inputs."""
    known = {i.name for i in model.graph.input} | {i.name for i in model.graph.initializer}
    known |= {s.values.name for s in model.graph.sparse_initializer}
    known |= {name for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        for name in node.input:
            if name and name not in known:
                raise ModelError(
                    f"model {path}: node {node.name or node.op_type!r} reads {name!r}, which"
                    " nothing provides; the file is cut short or damaged",
                    "fetch or export it again",
                )
    if not model.graph.output:
        raise ModelError(
            f"model {path} has no output; the file is cut short", "fetch or export it again"
        )
