"""The int8 graph of one candidate with the numbers of another.

Candidates that differ in scales, zero points, weights and biases alone have one graph, and
onnxruntime's quantizer goes through every channel of every weight in Python. Here each constant is
one array. What comes is byte for byte what the quantizer would write.
"""

from __future__ import annotations

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
    biases = all(_put_bias(filled, node, given) for node in copy.graph.node)
    return copy if biases else None


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


def _put_bias(filled: _Constants, node: onnx.NodeProto, given: Encodings) -> bool:
    """Fill in the node's bias, if it is one of those given; whether that could be done.

    It is rounded in steps of input scale times weight scale: two operands of a QLinear operator,
    or those of the nodes that a QDQ layer reads.
    """
    layer = node.name.removesuffix("_quant")
    if layer not in given.biases or node.op_type not in _OPERANDS:
        return True
    wanted = given.biases[layer]
    places = _OPERANDS[node.op_type]
    if max(places) >= len(node.input):
        return False
    bias, one, other = (node.input[place] for place in places)
    scale_name = ""  # a QLinear operator works it out itself
    if node.op_type in ("Conv", "Gemm"):
        behind = [filled.view.producers.get(name) for name in (bias, one, other)]
        if behind[0] is None:  # the layer stayed float
            return filled.put(bias, wanted)
        if any(node is None or node.op_type != "DequantizeLinear" for node in behind):
            return False
        (bias, scale_name), (_, one), (_, other) = (node.input[:2] for node in behind if node)
    steps = filled.value(one), filled.value(other)
    if steps[0] is None or steps[1] is None:
        return False
    scale = np.asarray(steps[0] * steps[1], np.float32)
    exact = np.rint(wanted.astype(np.float64) / scale.astype(np.float64))
    if np.abs(exact).max(initial=0) >= _MOST:  # the quantizer would change the weight's scale
        return False
    filled.put(scale_name, scale)
    return filled.put(bias, exact.astype(np.int32))
