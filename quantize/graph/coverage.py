"""How much of a model's arithmetic is int8, and which layers stayed float."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from quantize.graph.view import View

_WEIGHT_INPUT = {
    "Conv": 1,
    "Gemm": 1,
    "MatMul": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
}
_INT8_OPS = frozenset(op for op in _WEIGHT_INPUT if op.startswith("Q") or op.endswith("Integer"))
_ABSORBED = frozenset({"Relu", "Clip"})

Shapes = Callable[[list[str]], dict[str, tuple[int, ...]]]
"""Tensor names -> their shapes for one image."""


@dataclass(frozen=True)
class Layer:
    """One node that multiplies by constant weights.

    Attributes:
        name: of the node.
        op_type: its operator.
        multiply_adds: for one image.
        int8: whether it computes on integers.
    """

    name: str
    op_type: str
    multiply_adds: int
    int8: bool


@dataclass(frozen=True)
class Coverage:
    """All layers of a model, in graph order."""

    layers: tuple[Layer, ...]

    @property
    def int8_share(self) -> float:
        """Share of the multiply-adds that is int8 (a ratio, 0 to 1)."""
        total = sum(layer.multiply_adds for layer in self.layers)
        return sum(layer.multiply_adds for layer in self.layers if layer.int8) / max(1, total)

    @property
    def stayed_float(self) -> tuple[str, ...]:
        """Names of the layers that are not int8."""
        return tuple(layer.name for layer in self.layers if not layer.int8)

    def count(self, op_type: str) -> tuple[int, int]:
        """(int8, all) layers of an operator, where `Conv` also counts QLinearConv."""
        kind = [layer for layer in self.layers if op_type in layer.op_type]
        return sum(layer.int8 for layer in kind), len(kind)


def coverage(model: onnx.ModelProto, shapes: Shapes) -> Coverage:
    """Measure a model's int8 share.

    Args:
        model: float, QDQ or QOperator.
        shapes: how to learn the shapes of its tensors.
    """
    view = View(model.graph)
    nodes = [n for n in model.graph.node if _weight_shape(view, n) is not None]
    known = shapes([node.output[0] for node in nodes])
    return Coverage(
        tuple(
            Layer(
                node.name or node.output[0],
                node.op_type,
                _multiply_adds(node, _weight_shape(view, node) or (), known[node.output[0]]),
                node.op_type in _INT8_OPS or _is_qdq(view, node),
            )
            for node in nodes
        )
    )


def _weight_shape(view: View, node: onnx.NodeProto) -> tuple[int, ...] | None:
    position = _WEIGHT_INPUT.get(node.op_type)
    if position is None or len(node.input) <= position:
        return None
    name = node.input[position]
    source = view.producers.get(name)
    if source is not None and source.op_type == "DequantizeLinear":
        name = source.input[0]
    tensor = view.initializers.get(name)
    return None if tensor is None else tuple(tensor.dims)


def _multiply_adds(node: onnx.NodeProto, weight: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Output elements times the weights behind each: Conv [M,C/g,kH,kW], Gemm and MatMul [K,N]."""
    if "Conv" in node.op_type:
        return math.prod(output) * math.prod(weight[1:])
    return math.prod(output) * (math.prod(weight) // max(1, output[-1]))


def _is_qdq(view: View, node: onnx.NodeProto) -> bool:
    """Onnxruntime computes on integers where DequantizeLinear feeds and QuantizeLinear takes."""
    feeds = [view.producers.get(name) for name in node.input[:2]]
    if not all(f is not None and f.op_type == "DequantizeLinear" for f in feeds):
        return False
    readers = view.consumers.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type in _ABSORBED:
        readers = view.consumers.get(readers[0].output[0], [])
    return bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)
