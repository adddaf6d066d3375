"""The layers that hold weights, seen as matrices, and copies of a model with other constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from quantize.graph.view import View

WEIGHTY = ("Conv", "Gemm", "MatMul")
"""Operators of layers that hold weights."""


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul with a constant weight that nothing else reads.

    Attributes:
        name: of the node.
        op_type: its operator.
        input: the activation that it reads.
        output: the activation that it makes.
        weight: name of the weight.
        bias: name of the bias, or None.
        axis: of the weight, along which the output channels lie.
        group: groups of a Conv, else 1.
        kernel: (height, width) of a Conv, else (1, 1).
        strides: of a Conv; likewise dilations.
        dilations: of a Conv.
        pads: (top, left, bottom, right) of a Conv.
    """

    name: str
    op_type: str
    input: str
    output: str
    weight: str
    bias: str | None
    axis: int
    group: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    def matrix(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """The weight as [M,K]: one row per output channel."""
        moved = np.moveaxis(weight, self.axis, 0)
        return np.ascontiguousarray(moved.reshape(len(moved), -1))

    def tensor(self, matrix: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The inverse of `matrix` for a weight of that shape."""
        moved = tuple(np.moveaxis(np.empty(shape, np.int8), self.axis, 0).shape)
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(moved), 0, self.axis))


def layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """All such layers, in graph order; a Conv that is not over two dimensions is left out."""
    view = View(model.graph)
    found = (_layer(view, node) for node in model.graph.node if node.op_type in WEIGHTY)
    return tuple(layer for layer in found if layer is not None)


def _layer(view: View, node: onnx.NodeProto) -> Layer | None:
    weight = view.initializers.get(node.input[1])
    if weight is None or len(view.consumers[node.input[1]]) != 1:
        return None
    if weight.data_type != onnx.TensorProto.FLOAT:
        return None
    known: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    conv = node.op_type == "Conv"
    if len(weight.dims) != (4 if conv else 2) or known.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    if known.get("transA") or known.get("alpha", 1.0) != 1.0 or known.get("beta", 1.0) != 1.0:
        return None
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if bias is not None and (bias not in view.initializers or len(view.consumers[bias]) != 1):
        return None
    return Layer(
        name=node.name,
        op_type=node.op_type,
        input=node.input[0],
        output=node.output[0],
        weight=node.input[1],
        bias=bias,
        axis=0 if conv or known.get("transB") else 1,
        group=int(known.get("group", 1)),
        kernel=(weight.dims[2], weight.dims[3]) if conv else (1, 1),
        strides=_pair(known.get("strides")),
        dilations=_pair(known.get("dilations")),
        pads=tuple(known.get("pads") or (0, 0, 0, 0)),
    )


def _pair(values: list[int] | None) -> tuple[int, int]:
    return (int(values[0]), int(values[1])) if values else (1, 1)


def with_constants(
    model: onnx.ModelProto,
    constants: Mapping[str, NDArray[np.float32]],
    biases: Mapping[str, NDArray[np.float32]],
) -> onnx.ModelProto:
    """A copy of the model with other values for some constants and for some layers' biases.

    Args:
        model: a prepared model.
        constants: name of an initializer -> value of the same shape.
        biases: name of a Conv or Gemm -> bias float32 [M]; it gets one if it has none.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {layer.name: layer for layer in layers(model)}
    values = dict(constants)
    added: dict[str, str] = {}
    taken = {t.name for t in model.graph.initializer} | {*View(model.graph).producers}
    for name, value in biases.items():
        bias = known[name].bias
        if bias is None:
            bias = f"{name}.bias"
            while bias in taken:
                bias += ".0"
            added[name] = bias
            taken.add(bias)
            copy.graph.initializer.append(numpy_helper.from_array(value, bias))
        values[bias] = value
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    for node in copy.graph.node:
        if node.name in added:
            node.input[:] = [node.input[0], node.input[1], added[node.name]]
    return copy


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """All constants of a model by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def alone(model: onnx.ModelProto, node: onnx.NodeProto, given: set[str]) -> onnx.ModelProto:
    """One node as a model of its own.

    Args:
        model: where it stands.
        node: the node.
        given: which of its inputs are fed, float32 of any shape; the others are constants.
    """
    view = View(model.graph)
    fed = [name for name in dict.fromkeys(node.input) if name in given]
    constants = [view.initializers[n] for n in dict.fromkeys(node.input) if n and n not in given]
    inputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in fed]
    graph = onnx.helper.make_graph(
        [node], "alone", inputs, [onnx.ValueInfoProto(name=n) for n in node.output if n], constants
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def absorbed(model: onnx.ModelProto) -> dict[str, str]:
    """Activation before a Relu or Clip -> the one behind it, where nothing else reads the first.

    The int8 model rounds only the second: the Relu or Clip is the end of the integers' range.
    """
    view = View(model.graph)
    return {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type in ("Relu", "Clip")
        and node.input[0] in view.producers
        and len(view.producers[node.input[0]].output) == 1
        and view.only_reader(node.input[0]) is not None
    }


def absorbed_limits(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Activation before such a Relu or Clip -> its two limits."""
    view = View(model.graph)
    found = {
        before: clip_limits(view, view.producers[behind])
        for before, behind in absorbed(model).items()
    }
    return {before: limits for before, limits in found.items() if limits is not None}


def clip_limits(view: View, node: onnx.NodeProto) -> tuple[float, float] | None:
    """Between which constants a node clips; None where it does not, or not by constants.

    The upper one wins where they cross, as in onnxruntime.
    """
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip" or node.attribute:  # limits were attributes before opset 11
        return None
    limits = [-math.inf, math.inf]
    for index, name in enumerate(node.input[1:3]):
        value = view.constant(name) if name else None
        if name and (value is None or value.size != 1):
            return None
        if value is not None:
            limits[index] = float(np.asarray(value).reshape(()))
    return limits[0], limits[1]
