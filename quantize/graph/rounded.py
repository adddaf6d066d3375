"""What an int8 file holds of each layer, in the float model's terms: either format, either engine.

An engine renames nodes and may write a Gemm as MatMul and Add, but the integers of a weight `w`
are called `w_quantized` by all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.graph.nodes import attribute
from quantize.graph.view import View

_SUFFIX = "_quantized"
_BIAS = {"QLinearConv": 8, "QGemm": 6, "Conv": 2, "Gemm": 2}
_ON_INTEGERS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul"})
_ON_FLOATS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class Rounded:
    """One layer as the int8 file has it.

    Attributes:
        node: its name in the int8 file.
        weight: float32 in the shape of the float layer's weight, scale times integer.
        bias: float32 [M], or None where the float layer has none and got none.
        scale: of the input, real numbers.
        zero_point: the integer of 0.0.
        lowest: integer that the input's type can hold; likewise highest.
        highest: 255 for uint8.
    """

    node: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    scale: float
    zero_point: int
    lowest: int
    highest: int

    @property
    def limits(self) -> tuple[float, float]:
        """Between which real numbers the input is not cut off: half a step beyond the ends."""
        low = (self.lowest - self.zero_point - 0.5) * self.scale
        return low, (self.highest - self.zero_point + 0.5) * self.scale


@dataclass(frozen=True, eq=False)
class _Found:
    """A layer of the int8 file: one row of the weight per output channel."""

    node: onnx.NodeProto
    tensor: NDArray[np.float32]
    rows: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    scale: float
    zero_point: NDArray[np.integer[Any]]


def rounded_layers(model: onnx.ModelProto, int8_model: onnx.ModelProto) -> dict[str, Rounded]:
    """The layers that hold integers and read integers, by the name of the float model's node.

    Args:
        model: the prepared float model.
        int8_model: QDQ or QOperator, made from it.

    Returns:
        Node of the float model -> what the int8 file computes with. A weight that several layers
        share is left out unless all of them are in the int8 file.
    """
    view, other = View(model.graph), View(int8_model.graph)
    found: dict[str, list[_Found]] = {}
    for node in int8_model.graph.node:
        for stem, seen in _read(other, node):
            found.setdefault(stem, []).append(seen)
    known: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type in _ON_FLOATS and node.input[1] in view.initializers:
            known.setdefault(node.input[1], []).append(node)
    result: dict[str, Rounded] = {}
    for weight, nodes in known.items():
        there = found.get(weight, [])
        for node, seen in zip(nodes, there, strict=False) if len(nodes) == len(there) else ():
            tensor = _in_shape(view, node, seen)
            if tensor is not None:
                result[node.name] = _rounded(view, other, node, seen, tensor)
    return result


def rows_of(node: onnx.NodeProto, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A float layer's weight as [M,K]: one row per output channel."""
    moved = np.moveaxis(weight, _axis(node), 0)
    return moved.reshape(len(moved), -1)


def _axis(node: onnx.NodeProto) -> int:
    """Of the weight, along which the output channels lie."""
    return 0 if attribute(node, "transB", 0) or "Conv" in node.op_type else 1


def _in_shape(view: View, node: onnx.NodeProto, seen: _Found) -> NDArray[np.float32] | None:
    """The weight as the float layer has it; None where it is not of that layer.

    Channels of zeros that were added for the kernels' sake are cut off.
    """
    shape, axis = tuple(view.initializers[node.input[1]].dims), _axis(node)
    if len(shape) <= axis:
        return None
    if "Conv" in seen.node.op_type and seen.tensor.ndim == len(shape):
        cut = seen.tensor[tuple(slice(side) for side in shape)]
        return np.ascontiguousarray(cut) if cut.shape == shape else None
    rows = seen.rows
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    if len(rows) != moved[0] or rows.size != np.prod(moved):
        return None
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, axis))


def _rounded(
    view: View, other: View, node: onnx.NodeProto, seen: _Found, weight: NDArray[np.float32]
) -> Rounded:
    bias, name = seen.bias, (*node.input[2:3], "")[0]
    if bias is None and name:  # written as an Add of its own
        bias = _constant(other, name)
    if bias is None and name:
        bias = _named(other, name)
    if bias is None and name:
        bias = np.asarray(view.constant(name), np.float32)
    ends = np.iinfo(seen.zero_point.dtype)
    return Rounded(
        seen.node.name,
        weight,
        None if bias is None else bias.reshape(-1)[: weight.shape[_axis(node)]],
        seen.scale,
        int(seen.zero_point),
        int(ends.min),
        int(ends.max),
    )


def _read(view: View, node: onnx.NodeProto) -> Iterator[tuple[str, _Found]]:
    """The weight's name in the float model, and the layer; nothing if the node is none."""
    if node.op_type in _ON_INTEGERS and len(node.input) >= 6:
        image, weight = list(node.input[:3]), list(node.input[3:6])
    elif node.op_type in _ON_FLOATS:
        sources = [view.producers.get(name) for name in node.input[:2]]
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            return
        image, weight = ([*source.input, ""][:3] for source in sources if source is not None)
    else:
        return
    axis = _axis(node)
    tensor, scale = _real(view, weight, axis), view.constant(image[1])
    if tensor is None or tensor.ndim <= axis or scale is None or scale.size != 1:
        return
    point: NDArray[Any] | None = view.constant(image[2]) if image[2] else np.zeros((), np.uint8)
    if point is None or point.size != 1:
        return
    rows = rows_of(node, tensor)
    inputs = float(np.asarray(scale).reshape(())), point.reshape(())
    found = _Found(node, tensor, rows, _bias(view, node, inputs[0], weight[1], len(rows)), *inputs)
    yield weight[0].removesuffix(_SUFFIX), found


def _bias(
    view: View, node: onnx.NodeProto, input_scale: float, weight_scale: str, outputs: int
) -> NDArray[np.float32] | None:
    """A bias that the node itself reads; integers of QOperator have the scale of the product."""
    position = _BIAS.get(node.op_type)
    name = node.input[position] if position and len(node.input) > position else ""
    if not name:
        return None
    if node.op_type in _ON_INTEGERS:
        integers, scale = view.constant(name), view.constant(weight_scale)
        if integers is None or scale is None:
            return None
        step = np.float32(input_scale) * np.asarray(scale, np.float32).reshape(-1)
        return np.asarray(integers.astype(np.float32) * step, np.float32)
    source = view.producers.get(name)
    if source is not None and source.op_type == "DequantizeLinear":
        return _real(view, [*source.input, ""][:3], 0)
    found = _constant(view, name)
    return None if found is None or found.size != outputs else found


def _named(view: View, name: str) -> NDArray[np.float32] | None:
    """The value of a float model's constant whose integers the int8 file holds."""
    for scale in (f"{name}_scale", f"{name}{_SUFFIX}_scale"):
        if scale in view.initializers:
            point = scale.removesuffix("_scale") + "_zero_point"
            return _real(view, [f"{name}{_SUFFIX}", scale, point], 0)
    return None


def _constant(view: View, name: str) -> NDArray[np.float32] | None:
    value = view.constant(name)
    return None if value is None else np.asarray(value, np.float32)


def _real(view: View, names: list[str], axis: int) -> NDArray[np.float32] | None:
    """The real numbers scale (q - zero_point) of constants; None where one is missing."""
    integers, scale = view.constant(names[0]), view.constant(names[1])
    if integers is None or scale is None:
        return None
    point = view.constant(names[2])
    shape = [1] * integers.ndim
    if scale.size > 1:
        shape[axis] = -1
    along = np.asarray(scale, np.float32).reshape(shape)
    shifted = integers.astype(np.float32)
    if point is not None:
        shifted = shifted - point.astype(np.float32).reshape(shape if point.size > 1 else -1)
    return np.asarray(shifted * along, np.float32)
