"""One table of importers: which function reads which kind of source; each loads when needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
"""Kind -> function in this package."""


def import_model(source: Source) -> Imported:
    """Read a model of any kind.

    Raises:
        QuantizeError: the files are damaged, or hold what has no counterpart in ONNX.
    """
    importer = load_part(_IMPORTERS[source.kind], KINDS[source.kind])
    files = {
        "caffe2": (source.path, source.weights, source.value_info),
        "mxnet": (source.path, source.weights),
    }
    imported: Imported = importer(*files.get(source.kind, (source.path,)))
    return imported


def load_part(name: str, what: str) -> Any:
    """A function of this package, which may stand in a module that is not part of this version.

    Args:
        name: `module.function`.
        what: it is for, for the message.

    Raises:
        ModelError: the module is not there.
    """
    module, function = name.split(".")
    path = f"quantize.conversion.{module}"
    try:
        return getattr(import_module(path), function)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise ModelError(f"this version does not handle {what}", "update quantize") from error
