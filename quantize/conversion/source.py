"""What a file is, told by its content: names and endings lie."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantize.errors import ModelError

Kind = Literal["onnx", "mxnet", "caffe2", "torch"]

KINDS: dict[Kind, str] = {
    "onnx": "an ONNX file",
    "mxnet": "an MXNet symbol",
    "caffe2": "a Caffe2 net",
    "torch": "PyTorch weights",
}

_HEAD = 4096
_LFS_MARK = b"version https://git-lfs"
_MXNET_PARAMS = struct.pack("<Q", 0x112)
_JSON_OBJECT = re.compile(rb"\s*\{\s*[\"}]")
_NET_TEXT = re.compile(
    rb"(?:\s|#[^\n]*\n)*(?:name\s*:|op\s*\{|op\s*:\s*\{|external_input\s*:|type\s*:)"
)
_ELSE = (  # what is often taken for a model
    (_LFS_MARK, "a Git LFS pointer, not the model", "run: git lfs pull"),
    (_MXNET_PARAMS, "an MXNet parameter file", "name its -symbol.json, this file as --weights"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and name the model in it"),
    (b"<", "a web page or XML", "fetch the file itself"),
    (b"\x89HDF", "an HDF5 file, which is not read", "export the model to ONNX"),
)


@dataclass(frozen=True)
class Source:
    """The files that a model comes in.

    Attributes:
        kind: what `path` holds.
        path: the file that was named.
        weights: parameters in a file of their own; None where `path` holds them.
        value_info: shapes of a Caffe2 net's inputs, or None.
    """

    kind: Kind
    path: Path
    weights: Path | None = None
    value_info: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(p for p in (self.path, self.weights, self.value_info) if p is not None)


def find_source(path: Path, weights: Path | None = None, value_info: Path | None = None) -> Source:
    """Tell what a file is, and find the files that belong to it.

    Args:
        path: the model.
        weights: its parameters, where they lie in a file of their own; None: look beside it.
        value_info: shapes of a Caffe2 net's inputs; None: look beside it.

    Raises:
        ModelError: a file is missing or nothing that can be read, or was named for nothing.
    """
    kind = _kind(path)
    if weights is not None and kind not in ("mxnet", "caffe2"):
        raise ModelError(f"{path} is {KINDS[kind]}, which holds its weights", "drop --weights")
    if value_info is not None and kind != "caffe2":
        raise ModelError(f"{path} is {KINDS[kind]}, which says its shapes", "drop --value-info")
    if kind == "mxnet":
        return Source(kind, path, _given(weights) if weights else _params_beside(path))
    if kind == "caffe2":
        return Source(
            kind,
            path,
            _given(weights) if weights else _init_beside(path),
            _given(value_info) if value_info else _info_beside(path),
        )
    return Source(kind, path)


def _kind(path: Path) -> Kind:
    head, size = _head(_given(path)), path.stat().st_size
    for mark, what, cure in _ELSE:
        if head.lstrip().startswith(mark) if mark == b"<" else head.startswith(mark):
            raise ModelError(f"{path} is {what}", cure)
    if _is_safetensors(head, size) or head.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "torch"
    if _JSON_OBJECT.match(head):
        return "mxnet"
    # Both are protobuf messages: field 1 is a number in ONNX (its version), a name in Caffe2.
    if head[0] == 0x08:
        return "onnx"
    if head[0] in (0x0A, 0x12) or _NET_TEXT.match(head):
        return "caffe2"
    raise ModelError(
        f"{path} is no model that can be read",
        "give ONNX, an MXNet -symbol.json, a Caffe2 predict net, or PyTorch weights",
    )


def _is_safetensors(head: bytes, size: int) -> bool:
    """A length, then a JSON object of that length."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    return int(struct.unpack("<Q", head[:8])[0]) <= size - 8


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ModelError(
            f"model {path} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error
    if not head:
        raise ModelError(f"model {path} is empty", "fetch or export it again")
    return head


def _given(path: Path) -> Path:
    try:
        if not path.exists():
            raise ModelError(f"model {path} does not exist", "check the path")
        if not path.is_file():
            raise ModelError(f"model {path} is not a file", "name the file itself")
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise ModelError(
            f"model {path} cannot be read: {error.strerror or error}", "check the path"
        ) from error
    return path


def _params_beside(symbol: Path) -> Path:
    """`net-symbol.json` has `net-0000.params`; of several epochs the last."""
    stem = symbol.name.removesuffix(".json").removesuffix("-symbol")
    epochs = []
    with suppress(OSError):  # a folder that may not be listed
        ours = (p.name for p in symbol.parent.iterdir() if p.name.startswith(stem))
        epochs = sorted(n for n in ours if re.fullmatch(r"(?:-\d{4})?\.params", n[len(stem) :]))
    if not epochs:
        raise ModelError(
            f"{symbol} has no {stem}-0000.params beside it", "name the .params file: --weights"
        )
    return symbol.parent / epochs[-1]


def _init_beside(predict: Path) -> Path:
    """`predict_net.pb` has `init_net.pb`, perhaps in the other form."""
    if "predict" in predict.name:
        stem = predict.stem.replace("predict", "init")
        for suffix in (predict.suffix, ".pb", ".pbtxt"):
            if (predict.parent / (stem + suffix)).is_file():
                return predict.parent / (stem + suffix)
    raise ModelError(f"{predict} has no init net beside it", "name the init net: --weights")


def _info_beside(predict: Path) -> Path | None:
    beside = predict.parent / "value_info.json"
    return beside if beside.is_file() else None
