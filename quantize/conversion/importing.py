"""The table of importers: each kind of source with what reads it, loaded when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quantize.conversion.source import Kind, Source

if TYPE_CHECKING:
    from quantize.conversion.imported import Imported


def import_model(source: Source) -> Imported:
    """Read a model of any kind.

    Raises:
        QuantizeError: the files are damaged, or hold what has no counterpart in ONNX.
    """
    return _IMPORTERS[source.kind](source)


def _onnx(source: Source) -> Imported:
    from quantize.conversion.old import import_onnx

    return import_onnx(source.path)


def _mxnet(source: Source) -> Imported:
    from quantize.conversion.mxnet import import_mxnet

    assert source.weights is not None  # source.find_source saw to it
    return import_mxnet(source.path, source.weights)


def _caffe2(source: Source) -> Imported:
    from quantize.conversion.caffe2 import import_caffe2

    assert source.weights is not None
    return import_caffe2(source.path, source.weights, source.value_info)


def _torch(source: Source) -> Imported:
    from quantize.conversion.torch import import_torch

    return import_torch(source.path)


_IMPORTERS: dict[Kind, Callable[[Source], Imported]] = {
    "onnx": _onnx,
    "mxnet": _mxnet,
    "caffe2": _caffe2,
    "torch": _torch,
}
