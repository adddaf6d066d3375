"""Older opsets, down to 7: a table of the operators of float classifiers.

`onnx.version_converter` goes down for few operators and leaves others as they are, wrong. Here
each operator says what it needs to be itself at the older opset; one that is not in the table, or
that uses what the older opset cannot say, is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quantize.errors import ModelError
from quantize.graph.nodes import (
    add_constant,
    attribute,
    called,
    constants_out_of_inputs,
    drop,
    give,
    replace_nodes,
)
from quantize.graph.order import sort_nodes
from quantize.graph.upgrade import inferred_shapes
from quantize.graph.view import View, opset

OLDEST = 7
_MOST_BYTES = 64 << 20
_IR_WITHOUT_INPUTS = 4
"""From this version of the file format on, constants need not be listed as inputs."""


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a node stands.

    Attributes:
        graph: takes new constants.
        view: of the graph as it was.
        shapes: of tensors, as far as inference knows; None for open sizes.
        version: the opset that it has.
        opset: the one wanted.
    """

    graph: onnx.GraphProto
    view: View
    shapes: dict[str, list[int | None] | None]
    version: int
    opset: int

    def shape(self, name: str) -> list[int | None] | None:
        """Shape of a tensor, or None if even its rank is unknown."""
        tensor = self.view.initializers.get(name)
        return list(tensor.dims) if tensor is not None else self.shapes.get(name)

    def sure_shape(self, node: onnx.NodeProto) -> list[int | None]:
        """Shape of what a node reads first."""
        shape = self.shape(node.input[0])
        if shape is None:
            raise self.refuse(node, "how many axes its input has is not known")
        return shape

    def constant(self, node: onnx.NodeProto, position: int) -> NDArray[np.generic] | None:
        """The value of an input that has to be constant; None if it is not given."""
        if len(node.input) <= position or not node.input[position]:
            return None
        value = self.view.constant(node.input[position])
        if value is None:
            raise self.refuse(node, f"its input {node.input[position]!r} is not constant")
        return value

    def refuse(self, node: onnx.NodeProto, why: str) -> ModelError:
        """The error for a node that the older opset cannot say."""
        return ModelError(
            f"{called(node)} cannot be written in opset {self.opset}: {why}",
            "choose a newer opset",
        )


_Rule = Callable[[onnx.NodeProto, _Place], bool]
"""Rewrites a node in place; whether it stays."""


def downgrade(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A copy of the model in an older opset, computing the same.

    Constants become initializers. Below opset 9 the file is of IR version 3, which lists them
    among the inputs, as its readers expect.

    Args:
        model: of a newer opset than `target`, or of the same; not changed.
        target: 7 or more.

    Raises:
        ModelError: an operator is not in the table or cannot be said so: names the node.
    """
    version = opset(model)
    if target < OLDEST or target > version:
        raise ModelError(
            f"opset {version} cannot be written as opset {target}",
            f"choose one from {OLDEST} to {version}" if version > OLDEST else "upgrade it first",
        )
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    constants_out_of_inputs(lowered.graph)
    sort_nodes(lowered.graph)
    lift_constants(lowered.graph)
    _lower(lowered, target)
    del lowered.graph.value_info[:]
    del lowered.functions[:]
    del lowered.opset_import[:]
    lowered.opset_import.append(helper.make_opsetid("", target))
    lowered.ir_version = helper.find_min_ir_version_for(lowered.opset_import)
    _drop_unread(lowered.graph)
    if lowered.ir_version < _IR_WITHOUT_INPUTS:
        lowered.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
            for t in lowered.graph.initializer
        )
    return lowered


def lift_constants(graph: onnx.GraphProto) -> int:
    """Make Constant nodes initializers, in place; those of forms other than a tensor stay.

    Returns:
        How many were.
    """
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is None or node.output[0] in outputs:
            kept.append(node)
            continue
        lifted = graph.initializer.add()
        lifted.CopyFrom(value)
        lifted.name = node.output[0]
    count = len(graph.node) - len(kept)
    if count:
        replace_nodes(graph, kept)
    return count


def _lower(model: onnx.ModelProto, target: int) -> None:
    graph = model.graph
    place = _Place(graph, View(graph), inferred_shapes(model), opset(model), target)
    kept = []
    for node in list(graph.node):
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            raise place.refuse(node, "only operators of float classifiers can")
        if rule(node, place):
            kept.append(node)
    replace_nodes(graph, kept)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """What became an attribute is read by nobody any more."""
    read = {name for node in graph.node for name in node.input}
    read.update(value.name for value in graph.output)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)


# ------------------------------------------------------------------------------ rules


def _as_it_is(_node: onnx.NodeProto, _place: _Place) -> bool:
    return True


def _only(**defaults: object) -> _Rule:
    """Attributes that the older form lacks go, if they say what it means anyway."""

    def rule(node: onnx.NodeProto, place: _Place) -> bool:
        for name, usual in defaults.items():
            value = attribute(node, name, usual)
            if (list(value) if isinstance(usual, list) else value) != usual:
                raise place.refuse(node, f"{name} is {value}")
        drop(node, *defaults)
        return True

    return rule


def _pool(node: onnx.NodeProto, place: _Place) -> bool:
    if place.opset < 10 or (place.opset < 19 and node.op_type == "AveragePool"):
        if set(attribute(node, "dilations", [1])) != {1}:
            raise place.refuse(node, "it is dilated")
        drop(node, "dilations")
    if place.opset < 10:
        _only(ceil_mode=0)(node, place)
    if place.opset < 8 and node.op_type == "MaxPool":
        if any(node.output[1:]):
            raise place.refuse(node, "it gives indices")
        drop(node, "storage_order")
    return True


def _normalization(node: onnx.NodeProto, place: _Place) -> bool:
    if any(node.output[1:]):
        raise place.refuse(node, "it trains")
    if place.opset < 14:
        _only(training_mode=0)(node, place)
    return True


def _dropout(node: onnx.NodeProto, place: _Place) -> bool:
    if place.opset >= 12:
        return True
    ratio, training = place.constant(node, 1), place.constant(node, 2)
    mask = node.output[1] if len(node.output) > 1 else ""
    if (training is not None and bool(training)) or mask in place.view.consumers:
        raise place.refuse(node, "it trains")
    drop(node, "seed")
    del node.input[1:]
    del node.output[1:]
    if ratio is not None:
        give(node, ratio=float(np.asarray(ratio, np.float64)))
    return True


def _clip(node: onnx.NodeProto, place: _Place) -> bool:
    if place.opset < 11 and len(node.input) > 1:
        low, high = place.constant(node, 1), place.constant(node, 2)
        if low is not None:
            give(node, min=float(np.asarray(low, np.float64).reshape(())))
        if high is not None:
            give(node, max=float(np.asarray(high, np.float64).reshape(())))
        del node.input[1:]
    return True


def _pad(node: onnx.NodeProto, place: _Place) -> bool:
    if attribute(node, "mode", "constant") == "wrap" and place.opset < 19:
        raise place.refuse(node, "it wraps around")
    if place.opset < 18 and len(node.input) > 3 and node.input[3]:
        raise place.refuse(node, "it names axes")
    if place.opset < 11 and len(node.input) > 1:
        pads, value = place.constant(node, 1), place.constant(node, 2)
        give(node, pads=[int(n) for n in np.asarray(pads, np.int64)])
        if value is not None:
            give(node, value=float(np.asarray(value, np.float64).reshape(())))
        del node.input[1:]
    return True


def _reshape(node: onnx.NodeProto, place: _Place) -> bool:
    if place.opset < 14:
        _only(allowzero=0)(node, place)
    return True


def _softmax(node: onnx.NodeProto, place: _Place) -> bool:
    """Before opset 13 all axes from `axis` on were one: the same only if the others are 1 long."""
    coerced = place.version < 13
    axis = attribute(node, "axis", 1 if coerced else -1)
    if place.opset >= 13 or (coerced and axis >= 0):
        return True
    shape = place.sure_shape(node)
    axis = axis + len(shape) if axis < 0 else axis
    if not coerced and any(size != 1 for size in shape[axis + 1 :]):
        raise place.refuse(node, f"it goes along axis {axis} of {len(shape)} alone")
    give(node, axis=axis)
    return True


def _axes_of(since: int) -> _Rule:
    """Axes are an input from opset `since` on, and may be negative from 11 on."""

    def rule(node: onnx.NodeProto, place: _Place) -> bool:
        axes = attribute(node, "axes")
        if place.opset < since and len(node.input) > 1:
            given = place.constant(node, 1)
            axes = None if given is None else [int(n) for n in np.asarray(given, np.int64)]
            del node.input[1:]
            if axes is None and attribute(node, "noop_with_empty_axes", 0):
                raise place.refuse(node, "it reduces nothing")
            if axes is not None:
                give(node, axes=axes)
        if place.opset < since:
            drop(node, "noop_with_empty_axes")
        if place.opset < 11 and axes and min(axes) < 0:
            rank = len(place.sure_shape(node)) + (len(axes) if node.op_type == "Unsqueeze" else 0)
            give(node, axes=sorted(axis % rank for axis in axes))
        return True

    return rule


def _positive_axis(node: onnx.NodeProto, place: _Place) -> bool:
    axis = attribute(node, "axis", 1)
    if place.opset < 11 and axis < 0:
        give(node, axis=axis + len(place.sure_shape(node)))
    return True


def _gemm(node: onnx.NodeProto, place: _Place) -> bool:
    """What is added may be left out from opset 11 on."""
    if place.opset < 11 and (len(node.input) < 3 or not node.input[2]):
        zero = add_constant(place.graph, f"{node.output[0]}.zero", np.zeros(1, np.float32))
        del node.input[2:]
        node.input.append(zero)
    return True


def _of_equal_shapes(node: onnx.NodeProto, place: _Place) -> bool:
    """Broadcast from opset 8 on only."""
    shapes = [place.shape(name) for name in node.input]
    known = [shape for shape in shapes if shape is not None]
    if place.opset < 8 and (len(known) < len(shapes) or any(s != known[0] for s in known)):
        raise place.refuse(node, "its inputs may differ in shape")
    return True


def _filled(node: onnx.NodeProto, place: _Place) -> bool:
    """ConstantOfShape came with opset 9; before, its value has to stand in the file."""
    if place.opset >= 9:
        return True
    wanted = [int(n) for n in np.asarray(place.constant(node, 0), np.int64)]
    given = attribute(node, "value")
    value = np.zeros(1, np.float32) if given is None else numpy_helper.to_array(given)
    if min(wanted, default=0) < 0 or math.prod(wanted) * value.itemsize > _MOST_BYTES:
        raise place.refuse(node, f"a constant of shape {wanted} is too large for the file")
    filled = np.full(wanted, value.reshape(-1)[0], value.dtype)
    place.graph.initializer.append(numpy_helper.from_array(filled, node.output[0]))
    return False


def _whole_shape(node: onnx.NodeProto, place: _Place) -> bool:
    if place.opset < 15 and any(attribute(node, name) is not None for name in ("start", "end")):
        raise place.refuse(node, "it gives a part of the shape")
    return True


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (
            "Abs", "Add", "Conv", "Div", "Elu", "Exp", "GlobalAveragePool", "GlobalMaxPool",
            "Identity", "LRN", "LeakyRelu", "Log", "MatMul", "Mul", "Neg", "PRelu", "Pow", "Relu",
            "Sigmoid", "Sqrt", "Sub", "Tanh", "Transpose",
        ),
        _as_it_is,
    ),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _of_equal_shapes),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _axes_of(13)),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin"), _axes_of(18)),
    "AveragePool": _pool,
    "BatchNormalization": _normalization,
    "Clip": _clip,
    "Concat": _positive_axis,
    "ConstantOfShape": _filled,
    "Dropout": _dropout,
    "Flatten": _positive_axis,
    "Gemm": _gemm,
    "LogSoftmax": _softmax,
    "MaxPool": _pool,
    "Pad": _pad,
    "ReduceSum": _axes_of(13),
    "Reshape": _reshape,
    "Shape": _whole_shape,
    "Softmax": _softmax,
}  # fmt: skip
