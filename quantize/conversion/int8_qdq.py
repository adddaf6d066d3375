"""QOperator to QDQ: an operator on integers becomes an ordinary one between two conversions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from quantize.conversion.int8_names import (
    FLOAT_FORMS,
    MOVING,
    QUANTIZED,
    Names,
    copied_attributes,
    replace_nodes,
)
from quantize.errors import ModelError
from quantize.graph.nodes import attribute
from quantize.graph.order import sort_nodes
from quantize.graph.view import QUANTIZED_OPS, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CONVERSIONS = frozenset({"DequantizeLinear", "QuantizeLinear"})
_INTEGERS = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})
_INNER = frozenset({"channels_last"})
"""Attributes that only the form on integers has."""


def to_qdq(model: onnx.ModelProto) -> int:
    """Replace every operator on integers, in place.

    Returns:
        How many were replaced.

    Raises:
        ModelError: an operator's form in QDQ is not known: names it and its node.
    """
    sort_nodes(model.graph)
    rewriter = _Rewriter(model.graph)
    for node in model.graph.node:
        rewriter.take(node)
    replace_nodes(model.graph, rewriter.nodes)
    return rewriter.replaced


class _Rewriter:
    """Goes through the nodes in order; `nodes` is what they become.

    Attributes:
        scales: tensor of integers -> its scale and zero point.
        floats: the same -> the float tensor that a DequantizeLinear makes of it.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.view = View(graph)
        self.names = Names(graph)
        self.nodes: list[onnx.NodeProto] = []
        self.scales: dict[str, tuple[str, str]] = {}
        self.floats: dict[tuple[str, str, str], str] = {}
        self.replaced = 0

    def take(self, node: onnx.NodeProto) -> None:
        """Add a node, or what it becomes."""
        op = node.op_type
        if op == "QuantizeLinear":
            self.scales[node.output[0]] = (node.input[1], self._zero_of(node))
        if op == "DequantizeLinear":
            self.scales.setdefault(node.input[0], (node.input[1], self._zero_of(node)))
        if op in MOVING and node.input and node.input[0] in self.scales:
            self._moving(node)
        elif op not in QUANTIZED_OPS or op in _CONVERSIONS:
            self.nodes.append(node)
        elif op == "QLinearConv":
            self._conv(node)
        elif op == "QGemm":
            self._gemm(node)
        elif op == "QLinearMatMul":
            self._matmul(node)
        elif op == "QLinearConcat":
            parts = [list(node.input[i : i + 3]) for i in range(2, len(node.input), 3)]
            floats = [self._float(*part) for part in parts]
            self._emit(node, "Concat", floats, node.input[0], node.input[1])
        elif op in FLOAT_FORMS:
            self._plain(node)
        else:
            raise ModelError(
                f"the model's {op} ({node.name or node.output[0]!r}) has no form in QDQ that is"
                " known here",
                "make the int8 model again from the float one: framework onnxrt_qdq",
            )

    def _conv(self, node: onnx.NodeProto) -> None:
        x, weight = list(node.input[:3]), list(node.input[3:6])
        inputs = [self._float(*x), self._weight(*weight, axis=0)]
        if len(node.input) > 8 and node.input[8]:
            inputs.append(self._bias(node.input[8], x[1], weight[1]))
        self._emit(node, "Conv", inputs, node.input[6], node.input[7])

    def _gemm(self, node: onnx.NodeProto) -> None:
        """QGemm: x and weight with scale and zero point, bias, scale and zero point of the result.

        Without the last two it gives floats.
        """
        x, weight = list(node.input[:3]), list(node.input[3:6])
        bias, scale, zero = (*node.input[6:9], "", "", "")[:3]
        turned = attribute(node, "transB", 0)
        inputs = [self._float(*x), self._weight(*weight, axis=0 if turned else 1)]
        if bias:
            inputs.append(self._bias(bias, x[1], weight[1]))
        self._emit(node, "Gemm", inputs, scale, zero)

    def _matmul(self, node: onnx.NodeProto) -> None:
        x, other = list(node.input[:3]), list(node.input[3:6])
        constant = other[0] in self.view.initializers
        right = self._weight(*other, axis=1) if constant else self._float(*other)
        self._emit(node, "MatMul", [self._float(*x), right], node.input[6], node.input[7])

    def _plain(self, node: onnx.NodeProto) -> None:
        if any(a.name in _INNER and a.i for a in node.attribute):
            raise ModelError(
                f"the model's {node.op_type} ({node.name!r}) has its channels last",
                "give the model as it was quantized, not as onnxruntime optimized it",
            )
        given = list(node.input)
        parts = [given[i : i + 3] for i in range(0, len(given) - 2, 3)]
        floats = [self._float(*part) for part in parts]
        scale, zero = given[3 * len(parts)], (*given[3 * len(parts) + 1 :], "")[0]
        self._emit(node, FLOAT_FORMS[node.op_type], floats, scale, zero)

    def _moving(self, node: onnx.NodeProto) -> None:
        scale, zero = self.scales[node.input[0]]
        inputs = [self._float(node.input[0], scale, zero), *node.input[1:]]
        self._emit(node, node.op_type, inputs, scale, zero)

    def _emit(
        self, node: onnx.NodeProto, op: str, inputs: list[str], scale: str, zero: str
    ) -> None:
        """The ordinary operator, and the QuantizeLinear behind it unless it gives floats."""
        integers = node.output[0]
        output = self.names.new(f"{integers}.float") if scale else integers
        made = onnx.helper.make_node(op, inputs, [output], name=node.name.removesuffix(QUANTIZED))
        made.attribute.extend(copied_attributes(node, without=_INNER))
        self.nodes.append(made)
        self.replaced += 1
        if scale:
            ends = self._ends(scale, zero)
            name = f"{integers}.quantize"
            node = onnx.helper.make_node("QuantizeLinear", [output, *ends], [integers], name=name)
            self.nodes.append(node)
            self.scales[integers] = (scale, zero)

    def _float(self, integers: str, scale: str, zero: str = "") -> str:
        """The float tensor of an activation; made once for each scale."""
        key = (integers, scale, zero)
        if key not in self.floats:
            self.floats[key] = self._dequantized(integers, self._ends(scale, zero))
        return self.floats[key]

    def _weight(self, integers: str, scale: str, zero: str = "", *, axis: int) -> str:
        """The float tensor of a constant, with one scale or one for each index of an axis."""
        scales, zeros = self.view.constant(scale), self.view.constant(zero)
        if scales is None or scales.size == 1:
            return self._float(integers, scale, zero)
        if zeros is not None and zeros.shape != scales.shape:
            if zeros.size not in (1, scales.size):
                raise _odd(zero)
            spread = np.broadcast_to(zeros.ravel(), scales.ravel().shape).copy()
            zero = self.names.constant(f"{integers}.zero", spread)
        return self._dequantized(integers, [scale, zero] if zero else [scale], axis)

    def _bias(self, integers: str, x_scale: str, weight_scale: str) -> str:
        """The float tensor of an integer bias, whose scale is the product of two."""
        scales = [self._known(name) for name in (x_scale, weight_scale)]
        if scales[0].size != 1:
            raise _odd(x_scale)
        product = scales[0].reshape(()) * scales[1].ravel()
        if product.size == 1:
            product = product.reshape(())
        scale = self.names.constant(f"{integers}.scale", np.asarray(product, np.float32))
        return self._dequantized(integers, [scale], 0 if product.size > 1 else None)

    def _dequantized(self, integers: str, ends: list[str], axis: int | None = None) -> str:
        output = self.names.new(f"{integers}.dequantized")
        attributes = {} if axis is None else {"axis": axis}
        made = onnx.helper.make_node("DequantizeLinear", [integers, *ends], [output], name=output)
        made.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(made)
        return output

    def _ends(self, scale: str, zero: str) -> list[str]:
        """Scale and zero point as scalars, which the two conversions ask for."""
        return [self._scalar(name) for name in (scale, zero) if name]

    def _scalar(self, name: str) -> str:
        value = self.view.constant(name)
        if value is None or value.ndim == 0:
            return name
        if value.size != 1:
            raise _odd(name)
        wanted = f"{name}.scalar"
        if wanted not in self.names.taken:
            self.names.constant(wanted, value.reshape(()))
        return wanted

    def _known(self, name: str) -> NDArray[np.float32]:
        value = self.view.constant(name)
        if value is None:
            raise ModelError(f"the model's scale {name!r} is no constant", "quantize it again")
        return np.asarray(value, np.float32)

    def _zero_of(self, node: onnx.NodeProto) -> str:
        return node.input[2] if len(node.input) > 2 else ""


def _odd(name: str) -> ModelError:
    return ModelError(
        f"the model's scale or zero point {name!r} is of a wrong shape",
        "make the int8 model again from the float one",
    )
