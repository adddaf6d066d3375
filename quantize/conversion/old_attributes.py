"""Opsets 3 to 6 written as opset 7: what later became inputs, defaults or plain broadcasting.

`onnx.version_converter` cannot do this: it knows no shapes before opset 5, and none with a free
batch. Each operator that changed on the way has a rule here, or is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from quantize.conversion.old_ranks import ranks
from quantize.errors import ModelError
from quantize.graph.nodes import add_constant, attribute, called, drop, give, replace_nodes
from quantize.graph.view import View

OLDEST = 3
TARGET = 7

_REFUSED = frozenset({"GRU", "LSTM", "RNN", "Tile"})
"""They changed in ways that no image classifier of that age asks for."""

_DROPPED = frozenset(
    {
        "ATen", "Affine", "ConstantFill", "Crop", "FC", "GRUUnit", "GivenTensorFill", "ImageScaler",
        "ParametricSoftplus", "Scale", "ScaledTanh",
    }
)  # fmt: skip
"""Experimental operators that left the standard."""


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a node stands.

    Attributes:
        graph: takes new constants.
        ranks: of tensors, as far as known.
        view: of the graph as it was.
    """

    graph: onnx.GraphProto
    ranks: Mapping[str, int]
    view: View


_Nodes = tuple[onnx.NodeProto, ...]
_Rule = Callable[[onnx.NodeProto, _Place], _Nodes]


def to_seven(model: onnx.ModelProto) -> None:
    """Rewrite a model of opset 3 to 6 as opset 7, in place.

    Raises:
        ModelError: an operator has no form in opset 7, or its ranks are not known.
    """
    graph = model.graph
    place = _Place(graph, ranks(graph), View(graph))
    nodes: list[onnx.NodeProto] = []
    for node in list(graph.node):
        if node.op_type in _REFUSED | _DROPPED:
            raise ModelError(
                f"operator {called(node)} of an opset below {TARGET} cannot be converted",
                "export the model again with opset 13 or newer",
            )
        drop(node, "consumed_inputs")
        rule = _RULES.get(node.op_type)
        nodes += rule(node, place) if rule else (node,)
    replace_nodes(graph, nodes)
    for known in model.opset_import:
        if known.domain in ("", "ai.onnx"):
            known.version = TARGET


def _binary(node: onnx.NodeProto, place: _Place) -> _Nodes:
    """Before opset 7 the second operand was laid along the first's axes from `axis` on."""
    axis = attribute(node, "axis")
    broadcast = attribute(node, "broadcast", 0)
    drop(node, "axis", "broadcast")
    if not broadcast or axis is None:  # equal shapes, or aligned at the last axis as ever since
        return (node,)
    first, second = (place.ranks.get(name) for name in node.input[:2])
    if first is None or second is None:
        raise ModelError(
            f"{called(node)} is broadcast along axis {axis}, but how many axes its inputs have is"
            " not known",
            "export the model again with opset 13 or newer",
        )
    behind = first - (axis + first if axis < 0 else axis) - second
    if behind < 0:
        raise ModelError(
            f"{called(node)} is broadcast along axis {axis}, where {second} axes do not fit into"
            f" {first}",
            "export the model again",
        )
    return _padded(node, second, behind, place) if behind else (node,)


def _padded(node: onnx.NodeProto, rank: int, behind: int, place: _Place) -> _Nodes:
    """The node with axes of length 1 behind those of its second operand."""
    value = place.view.constant(node.input[1])
    if value is not None:
        longer = np.asarray(value).reshape(*value.shape, *[1] * behind)
        node.input[1] = add_constant(place.graph, f"{node.input[1]}.aligned", longer)
        return (node,)
    name = f"{node.output[0]}.aligned"
    axes = list(range(rank, rank + behind))
    unsqueeze = helper.make_node("Unsqueeze", [node.input[1]], [name], name=name, axes=axes)
    node.input[1] = name
    return unsqueeze, node


def _normalization(node: onnx.NodeProto, _place: _Place) -> _Nodes:
    drop(node, "is_test")
    if any(node.output[1:]):
        raise ModelError(
            f"{called(node)} trains: it gives running statistics", "export the model for inference"
        )
    return (node,)


def _dropout(node: onnx.NodeProto, place: _Place) -> _Nodes:
    drop(node, "is_test")
    mask = node.output[1] if len(node.output) > 1 else ""
    if mask in place.view.consumers or mask in place.view.outputs:
        raise ModelError(
            f"{called(node)} trains: its mask is read", "export the model for inference"
        )
    del node.output[1:]
    return (node,)


def _cast(node: onnx.NodeProto, _place: _Place) -> _Nodes:
    """The type was a word before opset 6."""
    to = attribute(node, "to")
    if isinstance(to, str):
        try:
            kind = TensorProto.DataType.Value(to.upper())
        except ValueError as error:
            raise ModelError(f"{called(node)} casts to {to!r}, which is no type") from error
        give(node, to=kind)
    return (node,)


def _concat(node: onnx.NodeProto, _place: _Place) -> _Nodes:
    """The axis may be left out, and is then 1, before opset 4."""
    give(node, axis=attribute(node, "axis", 1))
    return (node,)


def _gemm(node: onnx.NodeProto, _place: _Place) -> _Nodes:
    drop(node, "broadcast")
    return (node,)


def _prelu(node: onnx.NodeProto, place: _Place) -> _Nodes:
    """Slopes for each channel were [C]; since opset 7 they are laid along the last axes."""
    first, second = (place.ranks.get(name) for name in node.input[:2])
    tensor = place.view.initializers.get(node.input[1])
    if second != 1 or (tensor is not None and list(tensor.dims) == [1]):
        return (node,)
    if first is None:
        raise ModelError(f"how many axes the input of {called(node)} has is not known")
    return _padded(node, 1, max(0, first - 2), place)


def _reshape(node: onnx.NodeProto, place: _Place) -> _Nodes:
    """The shape was an attribute before opset 5."""
    shape = attribute(node, "shape")
    if shape is None:
        return (node,)
    drop(node, "shape")
    constant = np.asarray(shape, np.int64)
    del node.input[1:]
    node.input.append(add_constant(place.graph, f"{node.output[0]}.shape", constant))
    return (node,)


def _upsample(node: onnx.NodeProto, _place: _Place) -> _Nodes:
    height, width = attribute(node, "height_scale"), attribute(node, "width_scale")
    if height is not None and width is not None:
        drop(node, "height_scale", "width_scale")
        give(node, scales=[1.0, 1.0, height, width])
    return (node,)


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"), _binary
    ),
    "BatchNormalization": _normalization,
    "Cast": _cast,
    "Concat": _concat,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "PRelu": _prelu,
    "Reshape": _reshape,
    "Upsample": _upsample,
}
