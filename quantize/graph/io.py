"""ONNX files: read with every way a file can be wrong named, written atomically."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from quantize.errors import ModelError
from quantize.files import write_atomic
from quantize.graph.tensors import MOST_BYTES, check_sizes, load_external

_LFS_MARK = b"version https://git-lfs"


def load(path: Path) -> onnx.ModelProto:
    """Read a model, external data included.

    Raises:
        ModelError: missing, empty, truncated, a Git LFS pointer, not ONNX, over 2 GiB, or its
            external data is missing, cut short or outside the model's folder.
    """
    try:
        _check_file(path)
        # The format is given: onnx would take it from the name's ending.
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(
            f"model {path} is not an ONNX file, or is cut short", "fetch or export it again"
        ) from error
    except OSError as error:
        raise ModelError(
            f"model {path} cannot be read: {error.strerror or error}", "check the path"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"model {path} holds no graph", "fetch or export it again")
    _check_names(model, path)
    load_external(model, path)
    check_sizes(model, path)
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
    try:
        content = bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise ModelError("the model is larger than 2 GiB", "quantize a smaller model") from error
    return content


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"model {path} does not exist", "check the path")
    if not path.is_file():
        raise ModelError(f"model {path} is not a file", "name the .onnx file")
    if path.stat().st_size > MOST_BYTES:
        raise ModelError(f"model {path} is larger than 2 GiB", "keep its weights in external data")
    with path.open("rb") as file:
        head = file.read(len(_LFS_MARK))
    if not head:
        raise ModelError(f"model {path} is empty", "fetch or export it again")
    if head == _LFS_MARK:
        raise ModelError(f"model {path} is a Git LFS pointer, not the model", "run: git lfs pull")


def _domain(name: str) -> str:
    return name or "ai.onnx"


def _check_names(model: onnx.ModelProto, path: Path) -> None:
    """Protobuf hands over what is no UTF-8 as bytes, and no name is that."""
    graph = model.graph
    for node in graph.node:
        names = [node.op_type, node.name, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
        _check_text(names, path)
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    _check_text([value.name for value in values], path)
    _check_text([known.domain for known in model.opset_import], path)


def _check_text(names: list[str], path: Path) -> None:
    if not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"model {path} has a name that is no text; the file is damaged",
            "fetch or export it again",
        )


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    """A file cut at a field's border parses, but its nodes then miss their inputs."""
    known = {i.name for i in model.graph.input} | {i.name for i in model.graph.initializer}
    known |= {s.values.name for s in model.graph.sparse_initializer}
    known |= {name for node in model.graph.node for name in node.output}
    domains = {_domain(o.domain) for o in model.opset_import}
    for node in model.graph.node:
        lost = next((repr(name) for name in node.input if name and name not in known), None)
        if lost is None and _domain(node.domain) not in domains:
            lost = f"operators of {_domain(node.domain)}"
        if lost is not None:
            raise ModelError(
                f"model {path}: node {node.name or node.op_type!r} needs {lost}, which nothing"
                " provides; the file is cut short or damaged",
                "fetch or export it again",
            )
    if not model.graph.output:
        raise ModelError(
            f"model {path} has no output; the file is cut short", "fetch or export it again"
        )
    for output in model.graph.output:  # onnx's version converter would crash
        if output.name not in known:
            raise ModelError(
                f"model {path}: no node makes the output {output.name!r}; the file is damaged",
                "fetch or export it again",
            )
