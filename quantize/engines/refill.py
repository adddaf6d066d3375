"""The int8 graph of one candidate with the numbers of another.

Candidates that differ in scales, zero points, weights and biases alone have one graph, and
onnxruntime's quantizer goes through every channel of every weight in Python. Here each constant is
one array. What comes is byte for byte what the quantizer would write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantize.graph.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantize.plan import Encodings

_MOST = 2.0**31 / 1.001
_OPERANDS = {"Conv": (2, 0, 1), "Gemm": (2, 0, 1), "QLinearConv": (8, 1, 4), "QGemm": (6, 1, 4)}
"""Operator -> which inputs are the bias, and the input and weight or their scales."""


def shape_of(encodings: Encodings) -> tuple[frozenset[str], ...]:
    """What two candidates' encodings have in common where their graphs may be the same."""
    given = encodings.tensors, encodings.constants, encodings.biases
    return tuple(frozenset(part) for part in given)


def refilled(made: onnx.ModelProto, given: Encodings) -> onnx.ModelProto | None:
    """A copy of an int8 model with other encodings of the same tensors.

    Args:
        made: what onnxruntime's quantizer wrote for encodings of the same `shape_of`, which give
            each weight that it rounds.
        given: the other encodings.

    Returns:
        The model, or None where the quantizer would do more than fill in numbers.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    filled = _Constants(copy)
    for name, encoding in given.tensors.items():
        weight = name in given.constants
        filled.put(f"{name}_scale", np.asarray(encoding.scale, np.float32))
        if not weight:
            filled.put(f"{name}_zero_point", np.asarray(encoding.zero_point, np.uint8))
        elif not filled.put(f"{name}_quantized", integers(given.constants[name], encoding)):
            return None
    for name in given.constants.keys() - given.tensors.keys():
        filled.put(name, given.constants[name])
    for node in copy.graph.node:
        if node.op_type not in _OPERANDS or not _has_bias(node):
            continue
        place = _place_of_bias(filled.view, node)
        bias = given.biases.get(_layer_of(node))
        if place is None or (bias is None and place.steps is not None):
            return None  # of a layer that no repair knows: it is in steps of the other input scale
        if bias is not None and not _put_bias(filled, place, bias):
            return None
    return copy


def _has_bias(node: onnx.NodeProto) -> bool:
    place = _OPERANDS[node.op_type][0]
    return len(node.input) > place and bool(node.input[place])


def _layer_of(node: onnx.NodeProto) -> str:
    """Name of the float node that the quantizer made this one of."""
    made_anew = node.op_type.startswith("Q")
    return str(node.name).removesuffix("_quant") if made_anew else str(node.name)


def integers(weight: NDArray[np.float32], encoding: Any) -> NDArray[np.int8]:
    """clip(rint(w / s), -128, 127) with the scale of each channel, int8 shaped as the weight."""
    shape = [1] * weight.ndim
    if encoding.axis is not None:
        shape[encoding.axis] = -1
    scale = np.asarray(encoding.scale, np.float32).reshape(shape)
    return np.clip(np.rint(weight / scale), -128, 127).astype(np.int8)


class _Constants:
    """The initializers of a model, to be replaced by others of the same shape and type."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.view = View(model.graph)
        self._found = {tensor.name: tensor for tensor in model.graph.initializer}

    def value(self, name: str) -> NDArray[Any] | None:
        found = self._found.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def put(self, name: str, value: NDArray[Any]) -> bool:
        """Replace one, in the form that the quantizer gave it; whether it is there."""
        found = self._found.get(name)
        if found is None:
            return False
        flat = np.ascontiguousarray(value.reshape(tuple(found.dims))).reshape(-1)
        if found.HasField("raw_data"):
            found.raw_data = numpy_helper.from_array(flat).raw_data
        else:
            field = helper.tensor_dtype_to_field(found.data_type)
            made = helper.make_tensor(name, found.data_type, flat.shape, flat)
            getattr(found, field)[:] = getattr(made, field)
        return True


@dataclass(frozen=True)
class _Place:
    """Where the bias of a layer lies.

    Attributes:
        bias: name of its constant.
        steps: names of the scales of input and weight, or None where the layer stayed float.
        scale: name of the bias's own scale; empty where the operator works it out itself.
    """

    bias: str
    steps: tuple[str, str] | None
    scale: str = ""


def _place_of_bias(view: View, node: onnx.NodeProto) -> _Place | None:
    """Among the operands of a QLinear operator, or those of the nodes that a QDQ layer reads."""
    bias, one, other = (node.input[place] for place in _OPERANDS[node.op_type])
    if node.op_type not in ("Conv", "Gemm"):
        return _Place(bias, (one, other))
    behind = [view.producers.get(name) for name in (bias, one, other)]
    if behind[0] is None:
        return _Place(bias, None)
    if any(node is None or node.op_type != "DequantizeLinear" for node in behind):
        return None
    (bias, scale), (_, one), (_, other) = (node.input[:2] for node in behind if node)
    return _Place(bias, (one, other), scale)


def _put_bias(filled: _Constants, place: _Place, bias: NDArray[np.float32]) -> bool:
    """Fill in a bias, rounded in steps of input scale times weight scale; whether that went."""
    if place.steps is None:
        return filled.put(place.bias, bias)
    one, other = map(filled.value, place.steps)
    if one is None or other is None:
        return False
    scale = np.asarray(one * other, np.float32)
    exact = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    if np.abs(exact).max(initial=0) >= _MOST:  # the quantizer would change the weight's scale
        return False
    filled.put(place.scale, scale)
    return filled.put(place.bias, exact.astype(np.int32))
