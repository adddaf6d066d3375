"""The int8 file as it ships: the verified bytes, with what they are for written behind them.

Protobuf merges what is appended, so the shipped file begins with best.onnx bit for bit; the rest
holds metadata alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from quantize.errors import BundleError
from quantize.graph.descriptions import places
from quantize.graph.tensors import MOST_BYTES, tensors
from quantize.graph.view import View, opset

PREFIX = "quantize."
"""How the keys of this package's metadata begin."""


@dataclass(frozen=True)
class Ports:
    """What the shipped file takes and gives, as the model zoo writes it.

    Attributes:
        inputs: name, shape and type of each.
        outputs: likewise.
        opset: of ai.onnx.
        onnx_version: the first release of ONNX with that opset and file format.
        probabilities: whether the scores are those of a Softmax at the end.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    opset: int
    onnx_version: str
    probabilities: bool


def stamped(best: bytes, facts: dict[str, Any]) -> bytes:
    """The file with metadata behind it.

    Args:
        best: the verified file.
        facts: key -> JSON value or text; never what was measured, since that came later.

    Raises:
        BundleError: a key is there already.
    """
    known = {prop.key for prop in parse(best, "best.onnx").metadata_props}
    tail = onnx.ModelProto()
    for key, value in sorted(facts.items()):
        if PREFIX + key in known:
            raise BundleError(f"best.onnx has metadata {PREFIX + key} already", "tune again")
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        tail.metadata_props.add(key=PREFIX + key, value=text)
    return best + bytes(tail.SerializeToString(deterministic=True))


def unstamped_sha256(content: bytes, size: int) -> str:
    """Sha256 of the verified bytes within a shipped file.

    Args:
        content: the shipped file.
        size: how many bytes were verified.

    Raises:
        BundleError: what follows them is not this package's metadata alone.
    """
    tail = parse(content[size:], "the metadata of the model")
    keys = {prop.key for prop in tail.metadata_props}
    del tail.metadata_props[:]
    if size > len(content) or tail.ByteSize() or not all(key.startswith(PREFIX) for key in keys):
        raise BundleError("the model holds more than the verified bytes and metadata", _CURE)
    return hashlib.sha256(content[:size]).hexdigest()


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """A model's message.

    Raises:
        BundleError: it is none.
    """
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise BundleError(f"{name} is not an ONNX file", _CURE) from error
    return model


def parse_tensor(content: bytes, name: str) -> TensorProto:
    """A tensor's message.

    Raises:
        BundleError: it is none.
    """
    try:
        tensor: TensorProto = TensorProto.FromString(content)
    except DecodeError as error:
        raise BundleError(f"{name} is no tensor", _CURE) from error
    return tensor


_CURE = "fetch the bundle again"


def refuse_external(path: Path, cure: str = _CURE) -> None:
    """Stop before anything opens a file that the model names.

    Args:
        path: the model.
        cure: what to do about such a model.

    Raises:
        BundleError: the model is too large, damaged, or keeps data outside its file.
    """
    if path.stat().st_size > MOST_BYTES:
        raise BundleError(f"{path.name} is larger than 2 GiB", _CURE)
    model = parse(path.read_bytes(), path.name)
    sparse = [part for s in _sparse(model) for part in (s.values, s.indices)]
    for tensor in (*tensors(model), *sparse):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise BundleError(
                f"{path.name} keeps the data of a tensor in another file, which no bundle does",
                cure,
            )


def ports(model: onnx.ModelProto) -> Ports:
    """What a classifier takes and gives."""
    view = View(model.graph)
    last = view.producers.get(model.graph.output[0].name)
    while last is not None and last.op_type in ("Identity", "DequantizeLinear", "QuantizeLinear"):
        last = view.producers.get(last.input[0])
    return Ports(
        [_port(value) for value in view.inputs],
        [_port(value) for value in model.graph.output],
        opset(model),
        _release_of(model),
        last is not None and last.op_type in ("Softmax", "QLinearSoftmax"),
    )


def refuse_places(model: onnx.ModelProto, name: str, cure: str) -> None:
    """Stop before a model ships that says where it was made.

    Args:
        model: the file.
        name: what to call it.
        cure: what to do about it.

    Raises:
        BundleError: it names a folder or this machine; says where.
    """
    found = places(model)
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise BundleError(f"{name} tells of the machine that made it: {found[0][:200]}{more}", cure)


def _sparse(model: onnx.ModelProto) -> list[onnx.SparseTensorProto]:
    attributes = [a for node in model.graph.node for a in node.attribute]
    return [
        *model.graph.sparse_initializer,
        *(a.sparse_tensor for a in attributes if a.HasField("sparse_tensor")),
        *(s for a in attributes for s in a.sparse_tensors),
    ]


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = "float" if value.type.tensor_type.elem_type == TensorProto.FLOAT else "uint8"
    shape = [d.dim_param or int(d.dim_value) for d in value.type.tensor_type.shape.dim]
    return {"name": value.name, "shape": shape, "type": f"tensor({kind})"}


def _release_of(model: onnx.ModelProto) -> str:
    for row in helper.VERSION_TABLE:
        if row[1] >= model.ir_version and row[2] >= opset(model):
            return str(row[0])
    return str(helper.VERSION_TABLE[-1][0])
