"""One table of importers: which function reads which kind of source."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from quantize.conversion.source import KINDS, Kind, Source
from quantize.errors import ModelError

if TYPE_CHECKING:
    from quantize.conversion.imported import Imported

_IMPORTERS: dict[Kind, str] = {
    "onnx": "old.import_onnx",
    "mxnet": "mxnet.import_mxnet",
    "caffe2": "caffe2.import_caffe2",
    "torch": "torch.import_torch",
}
"""Kind -> function in this package; each is loaded when it is needed."""


def import_model(source: Source) -> Imported:
    """Read a model of any kind.

    Raises:
        QuantizeError: the files are damaged, or hold what has no counterpart in ONNX.
    """
    importer = _load(source.kind)
    if source.kind == "caffe2":
        return importer(source.path, source.weights, source.value_info)
    if source.kind == "mxnet":
        return importer(source.path, source.weights)
    return importer(source.path)


def _load(kind: Kind) -> Callable[..., Imported]:
    module, function = _IMPORTERS[kind].split(".")
    name = f"quantize.conversion.{module}"
    try:
        found: Callable[..., Imported] = getattr(import_module(name), function)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModelError(f"this version does not read {KINDS[kind]}", "update quantize") from error
    return found
