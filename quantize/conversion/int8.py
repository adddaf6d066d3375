"""Int8 models in the other of their two forms: the same integers, written differently.

QDQ         DequantizeLinear, an ordinary operator, QuantizeLinear; ai.onnx alone
QOperator   operators on integers, many of them com.microsoft's
"""

from __future__ import annotations

from typing import Literal

import onnx

from quantize.conversion.int8_names import FLOAT_FORMS
from quantize.conversion.int8_qdq import to_qdq
from quantize.conversion.int8_qoperator import to_qoperator
from quantize.errors import ModelError
from quantize.graph.fold import unused_initializers
from quantize.graph.order import sort_nodes
from quantize.graph.view import QUANTIZED_OPS, opset

Format = Literal["qdq", "qoperator"]

_OPSET = 13
"""From there on a DequantizeLinear may have a scale per channel."""

# What opset 13 does not read otherwise than 10 to 12, as far as int8 models use it.
_SAME_IN_13 = frozenset(
    {
        "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Flatten",
        "Gemm", "GlobalAveragePool", "Identity", "MatMul", "MaxPool", "Mul", "Pad", "QLinearConv",
        "QLinearMatMul", "QuantizeLinear", "Relu", "Reshape", "Sigmoid", "Slice", "Transpose",
    }
)  # fmt: skip
_OLDEST = 10

# How many inputs an operator has at least: nothing else checks those of com.microsoft.
_LEAST = {
    "DequantizeLinear": 2, "QGemm": 6, "QLinearAdd": 7, "QLinearConcat": 5, "QLinearConv": 8,
    "QLinearMatMul": 8, "QLinearMul": 7, "QuantizeLinear": 2, "Conv": 2, "Gemm": 2, "MatMul": 2,
}  # fmt: skip
_LEAST_OF_REST = 4
"""Of the operators on integers of one activation."""


def change_format(model: onnx.ModelProto, form: Format) -> onnx.ModelProto:
    """Write an int8 model in the form that is asked for.

    Integer weights, integer biases, scales and zero points stay bit for bit what they are, and
    so do the names of all integer tensors. To QOperator, what has no form on integers (a layer
    left float, a Relu that cuts) stays between its DequantizeLinear and QuantizeLinear.

    Args:
        model: int8, in either form or in a mixture; not changed.
        form: the wanted one.

    Returns:
        The model; in the form already, with nothing changed but the order of its nodes.

    Raises:
        ModelError: it is no int8 model, or has an operator whose form in QDQ is not known.
    """
    if not any(node.op_type in QUANTIZED_OPS for node in model.graph.node):
        raise ModelError("the model is not int8", "quantize it first: quantize tune")
    for node in model.graph.node:
        _check_inputs(node)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _upgrade(copy)
    if form == "qdq":
        to_qdq(copy)
    else:
        to_qoperator(copy)
    unused_initializers(copy)
    sort_nodes(copy.graph)
    del copy.graph.value_info[:]
    _settle_domains(copy)
    return copy


def _check_inputs(node: onnx.NodeProto) -> None:
    least = _LEAST.get(node.op_type, _LEAST_OF_REST if node.op_type in FLOAT_FORMS else 0)
    given = len(node.input)
    uneven = node.op_type == "QLinearConcat" and given % 3 != 2
    if given < least or uneven or not all(node.input[:least]) or not node.output:
        raise ModelError(
            f"the model's {node.op_type} ({node.name or 'no name'}) has {given} inputs"
            f" and {len(node.output)} outputs, which is wrong",
            "make the int8 model again from the float one",
        )


def _upgrade(model: onnx.ModelProto) -> None:
    version = opset(model)
    if version >= _OPSET:
        return
    others = sorted(
        {n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx")} - _SAME_IN_13
    )
    if version < _OLDEST or others:
        what = f"its {others[0]} may mean something else" if others else "it is too old"
        raise ModelError(
            f"the model has opset {version}, and {what} in {_OPSET}",
            "make the int8 model again from the float one",
        )
    for used in model.opset_import:
        if used.domain in ("", "ai.onnx"):
            used.version = _OPSET


def _settle_domains(model: onnx.ModelProto) -> None:
    """Import com.microsoft where an operator of it is used, and only there."""
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain in ("", "ai.onnx") or o.domain in used]
    if "com.microsoft" in used and not any(o.domain == "com.microsoft" for o in kept):
        kept.append(onnx.helper.make_opsetid("com.microsoft", 1))
    copies = [onnx.OperatorSetIdProto.FromString(o.SerializeToString()) for o in kept]
    del model.opset_import[:]
    model.opset_import.extend(copies)
    model.ir_version = max(model.ir_version, 7)
