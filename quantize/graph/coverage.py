"""How much of a model's arithmetic is int8, and which layers stayed float."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from quantize.graph.shield import needs_shield
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
    nodes = [n for n in model.graph.node if _weight(view, n) is not None]
    known = shapes([node.output[0] for node in nodes])
    return Coverage(
        tuple(
            Layer(
                node.name or node.output[0],
                node.op_type,
                _multiply_adds(node, _weight(view, node), known[node.output[0]]),
                node.op_type in _INT8_OPS or is_qdq(view, node),
            )
            for node in nodes
        )
    )


def _weight(view: View, node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The constant that a layer multiplies by, or None."""
    position = _WEIGHT_INPUT.get(node.op_type)
    if position is None or len(node.input) <= position:
        return None
    name = node.input[position]
    source = view.producers.get(name)
    while source is not None and source.op_type in ("DequantizeLinear", "QuantizeLinear"):
        name = source.input[0]
        source = view.producers.get(name)
    tensor = view.initializers.get(name)
    if source is not None and source.op_type == "Constant":
        tensor = next((a.t for a in source.attribute if a.name == "value"), None)
    return tensor


def _multiply_adds(
    node: onnx.NodeProto, tensor: onnx.TensorProto | None, output: tuple[int, ...]
) -> int:
    """Output elements times the weights behind each: Conv [M,C/g,kH,kW], Gemm and MatMul [K,N]."""
    weight = tuple(int(side) for side in tensor.dims) if tensor is not None else ()
    if tensor is not None and "Conv" in node.op_type:
        rows, columns = _used(tensor)
        return math.prod(output) // max(1, weight[0]) * rows * columns * math.prod(weight[2:])
    return math.prod(output) * (math.prod(weight) // max(1, output[-1]))


def _used(tensor: onnx.TensorProto) -> tuple[int, int]:
    """Output and input channels of a convolution, without those of zeros that `widen` added."""
    if tensor.data_type != onnx.TensorProto.INT8:
        return int(tensor.dims[0]), int(tensor.dims[1])
    values = numpy_helper.to_array(tensor)
    live = values.reshape(*values.shape[:2], -1).any(axis=2)
    rows, columns = (np.flatnonzero(live.any(axis=axis)) for axis in (1, 0))
    return (int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else (0, 0)


def is_qdq(view: View, node: onnx.NodeProto) -> bool:
    """Onnxruntime computes on integers where DequantizeLinear feeds and QuantizeLinear takes.

    It then quantizes float weights of Conv and Gemm, too: see `quantize.graph.shield`. Gemm and
    MatMul of int8 weights may also give floats, if their bias is an integer too.
    """
    image, weight = (view.producers.get(name) for name in node.input[:2])
    if not _all_are([image], "DequantizeLinear"):
        return False
    float_weight = not _all_are([weight], "DequantizeLinear")
    if float_weight and not needs_shield(view, node):
        return False
    if _all_are(_readers(view, node), "QuantizeLinear"):
        return True
    activation = view.only_reader(node.output[0])
    if activation is not None and activation.op_type in _ABSORBED:
        takers = _readers(view, activation)
        if _all_are(takers, "QuantizeLinear"):
            return all(is_redundant(view, activation, taker) for taker in takers)
    bias = [view.producers.get(name) for name in node.input[2:3]]
    return (
        node.op_type != "Conv"
        and not float_weight
        and (not bias or _all_are(bias, "DequantizeLinear"))
    )


def _readers(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that read a node's result; none where it is also an output of the graph."""
    name = node.output[0]
    return [] if name in view.outputs else view.consumers.get(name, [])


def _all_are(nodes: Iterable[onnx.NodeProto | None], op_type: str) -> bool:
    found = list(nodes)
    return bool(found) and all(n is not None and n.op_type == op_type for n in found)


def is_redundant(view: View, activation: onnx.NodeProto, taker: onnx.NodeProto) -> bool:
    """Whether QuantizeLinear cuts off all that Relu or Clip does: then they vanish into it."""
    scale, zero = (view.constant(name) for name in (*taker.input[1:3], "")[:2])
    if scale is None or scale.size != 1:
        return False
    offset, kind = (0, np.dtype(np.uint8)) if zero is None else (int(zero.item()), zero.dtype)
    ends = (0, 255) if kind == np.uint8 else (-128, 127)
    lowest, highest = (np.float32(end - offset) * np.float32(scale.item()) for end in ends)
    if activation.op_type == "Relu":
        return bool(lowest >= 0)
    limits = [view.constant(name) for name in activation.input[1:3]]
    low, high = (None if v is None else np.float32(v.item()) for v in (*limits, None, None)[:2])
    slack = np.finfo(np.float32).eps
    return bool(
        (low is None or low - lowest <= slack) and (high is None or highest - high <= slack)
    )
