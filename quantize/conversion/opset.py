"""`--opset`: newer operators by ONNX's own converter, older ones by our table."""

from __future__ import annotations

import onnx
from onnx import version_converter

from quantize.conversion.old import downgrade
from quantize.errors import ModelError
from quantize.graph.view import opset

OLDEST = 7
"""What onnxruntime still runs, and so what can be proven."""


def check_opset(wanted: int) -> None:
    """Raise ModelError unless the opset is one that can be written."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= wanted <= newest:
        raise ModelError(f"opset {wanted} is not from {OLDEST} to {newest}", "give another --opset")


def with_opset(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    """A copy with the operators of another opset.

    Raises:
        ModelError: an operator has no form there; names it.
    """
    if wanted < opset(model):
        return downgrade(model, wanted)
    try:
        return version_converter.convert_version(model, wanted)
    except Exception as error:  # the converter raises whatever its C++ side does
        raise ModelError(
            f"the model's opset {opset(model)} cannot be converted to {wanted}: {error}",
            "give another --opset",
        ) from error
