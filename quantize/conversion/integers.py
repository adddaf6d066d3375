"""`--format`: int8 models as QDQ or QOperator, and the proof that their integers are the same."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from quantize.conversion.int8 import change_format
from quantize.errors import ConversionError, ModelError
from quantize.graph.view import QUANTIZED_OPS

Format = Literal["qdq", "qoperator"]


def with_format(model: onnx.ModelProto, wanted: Format) -> onnx.ModelProto:
    """A copy of an int8 model in the other form.

    Raises:
        ModelError: it is a float model, or has an operator without a counterpart.
    """
    if not {node.op_type for node in model.graph.node} & QUANTIZED_OPS:
        raise ModelError("the model is not int8, so it has no format", "quantize it first: tune")
    return change_format(model, wanted)


def check_integers(before: onnx.ModelProto, after: onnx.ModelProto) -> int:
    """Find out whether two models hold the same int8 weights, bit for bit.

    A matrix may be transposed: Gemm and QLinearMatMul want it the other way round.

    Returns:
        How many there are.

    Raises:
        ConversionError: a weight is lost or changed; names it.
    """
    ours, theirs = _weights(before), _weights(after)
    left = list(theirs.values())
    for name, weight in ours.items():
        found = next((i for i, other in enumerate(left) if _same(weight, other)), None)
        if found is None:
            raise ConversionError(
                f"format: the integers of weight {name!r} are not those of the source",
                "nothing was written; please report this model's operators",
            )
        del left[found]
    return len(ours)


def _weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The 8-bit constants of two axes or more."""
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type in kinds and len(tensor.dims) > 1
    }


def _same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    if left.dtype != right.dtype:
        return False
    return np.array_equal(left, right) or (left.ndim == 2 and np.array_equal(left.T, right))
