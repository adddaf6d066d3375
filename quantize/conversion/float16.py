"""`--float16`: weights and activations as float16, inputs and outputs as they were unless asked.

A node stays float32, between two Casts, where ONNX gives it no float16 form or where one of its
constants is beyond 65504, float16's largest. A tensor keeps its name in the type in which
it is made; in the other one it is called `<name>.float16` or `<name>.float32`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.errors import ModelError
from quantize.graph.order import sort_nodes
from quantize.graph.view import View, opset, refuse_quantized

Kind = int
"""TensorProto.FLOAT or TensorProto.FLOAT16"""

HALF: Kind = TensorProto.FLOAT16
SINGLE: Kind = TensorProto.FLOAT

_ENDING = {HALF: ".float16", SINGLE: ".float32"}
_LARGEST = 65504.0

_SINGLE_INPUTS = {"Resize": (2,), "Upsample": (1,)}
"""Operator -> inputs that are float32 whatever the others are."""

_WITH_VALUE = frozenset({"Constant", "ConstantOfShape"})
_UNTYPED = frozenset(
    {"EyeLike", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose result has the type of an attribute that may be missing: they stay."""


def to_float16(model: onnx.ModelProto, *, ports: bool = False) -> tuple[onnx.ModelProto, list[str]]:
    """A copy that computes in float16.

    Args:
        model: float32; not changed.
        ports: whether its inputs and outputs become float16, too.

    Returns:
        The copy, and the names of the nodes that stay float32.

    Raises:
        ModelError: quantized, or with subgraphs, or with types that cannot be inferred.
    """
    refuse_quantized(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(_inferred(model))
    sort_nodes(copy.graph)
    floats = _float_tensors(copy)
    kept = [node for node in copy.graph.node if _stays(node, copy, floats)]
    rewriting = _Rewriting(copy, floats, HALF if ports else SINGLE)
    stays = {id(node) for node in kept}
    for node in list(copy.graph.node):
        rewriting.take(node, SINGLE if id(node) in stays else HALF)
    rewriting.finish()
    return copy, [node.name or node.output[0] for node in kept]


class _Rewriting:
    """The nodes of one graph, each in its type, and Casts where types meet.

    Args:
        model: edited in place by `finish`.
        floats: names of its float32 tensors.
        port: the type of inputs and outputs.
    """

    def __init__(self, model: onnx.ModelProto, floats: set[str], port: Kind) -> None:
        self._graph = model.graph
        self._floats = floats
        self._port = port
        view = View(model.graph)
        self._constants = view.initializers
        self._ends = view.outputs
        self._taken = {*view.initializers, *view.producers, *(v.name for v in view.inputs)}
        self._nodes: list[onnx.NodeProto] = []
        self._added: list[TensorProto] = []
        self._known: dict[tuple[str, Kind], str] = {}  # what a tensor is called in a type
        self._known |= {(name, SINGLE): name for name in view.initializers}
        self._known |= {(value.name, port): value.name for value in view.inputs}

    def take(self, node: onnx.NodeProto, kind: Kind) -> None:
        """Add the next node, computing in `kind`."""
        single = _SINGLE_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name in self._floats:
                node.input[index] = self._read(name, SINGLE if index in single else kind)
        if kind == HALF:
            _halve_attributes(node)
        self._nodes.append(node)
        for index, name in enumerate(node.output):
            if name in self._floats:
                node.output[index] = self._made(name, kind)

    def finish(self) -> None:
        """Put nodes, constants and the types of inputs and outputs in place."""
        graph = self._graph
        self._keep_names()
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input} | self._ends
        added = {tensor.name for tensor in self._added}
        old = [t for t in graph.initializer if t.name not in added]
        kept = [t for t in (*old, *self._added) if t.name in read]
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
        for value in (*graph.input, *graph.output):
            if value.name in self._floats:
                value.type.tensor_type.elem_type = self._port
        del graph.value_info[:]

    def _keep_names(self) -> None:
        """A constant that nobody reads as float32 any more leaves its name to the float16 one."""
        read = {name for node in self._nodes for name in node.input} | self._ends
        halves = {self._known.get((name, HALF)): name for name in self._constants}
        renamed = {half: name for half, name in halves.items() if half and name not in read}
        for tensor in self._added:
            tensor.name = renamed.get(tensor.name, tensor.name)
        for node in self._nodes:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)

    def _read(self, name: str, kind: Kind) -> str:
        """The tensor in the type that is needed, with a Cast or another constant if it is new."""
        if (name, kind) not in self._known:
            wanted = self._unused(name + _ENDING[kind])
            if name in self._constants:
                half = numpy_helper.to_array(self._constants[name]).astype(np.float16)
                self._added.append(numpy_helper.from_array(half, wanted))
            else:
                self._cast(self._known[name, HALF if kind == SINGLE else SINGLE], wanted, kind)
            self._known[name, kind] = wanted
        return self._known[name, kind]

    def _made(self, name: str, kind: Kind) -> str:
        """What a node calls its result; an output of the graph keeps its name in its own type."""
        self._known[name, kind] = name
        if name in self._ends and kind != self._port:
            made = self._unused(name + _ENDING[kind])
            self._cast(made, name, self._port)
            self._known |= {(name, kind): made, (name, self._port): name}
        return self._known[name, kind]

    def _cast(self, source: str, target: str, kind: Kind) -> None:
        self._nodes.append(
            helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind)
        )

    def _unused(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors.

    Raises:
        ModelError: a node has a subgraph, or a type cannot be inferred.
    """
    graph = model.graph
    typed = (*graph.value_info, *graph.input, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            raise ModelError(
                f"node {node.name or node.output[0]!r} ({node.op_type}) holds a graph, which is"
                " not converted to float16",
                "drop --float16",
            )
        lost = next((name for name in node.output if name and not kinds.get(name)), None)
        if lost is not None:
            raise ModelError(
                f"the type of {lost!r}, which {node.op_type} makes, cannot be inferred",
                "drop --float16",
            )
    return {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}


def _stays(node: onnx.NodeProto, model: onnx.ModelProto, floats: set[str]) -> bool:
    """Whether a node cannot be float16, or its constants would overflow."""
    if not floats.intersection((*node.input, *node.output)):
        return False
    values = list(_values(node, View(model.graph), floats))
    untyped = node.op_type in _UNTYPED or (node.op_type in _WITH_VALUE and not values)
    return untyped or not _has_half(node, opset(model), floats) or not all(map(_fits, values))


def _values(node: onnx.NodeProto, view: View, floats: set[str]) -> Iterator[NDArray[Any]]:
    """The float32 constants of a node."""
    single = _SINGLE_INPUTS.get(node.op_type, ())
    for index, name in enumerate(node.input):
        value = view.constant(name) if name in floats and index not in single else None
        if value is not None:
            yield value
    for attribute in node.attribute:
        if attribute.type == attribute.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            yield numpy_helper.to_array(attribute.t)


def _has_half(node: onnx.NodeProto, version: int, floats: set[str]) -> bool:
    """Whether ONNX allows float16 wherever the node has float32 now."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return False
    single = _SINGLE_INPUTS.get(node.op_type, ())
    sides = ((node.input, schema.inputs, single), (node.output, schema.outputs, ()))
    for names, formals, left in sides:
        for index, name in enumerate(names):
            formal = formals[min(index, len(formals) - 1)]
            if name in floats and index not in left and "tensor(float16)" not in formal.types:
                return False
    return True


def _fits(values: NDArray[Any]) -> bool:
    """Whether nothing overflows; infinity is itself in float16, too."""
    size = np.abs(values)
    return not bool(np.any((size > _LARGEST) & np.isfinite(size)))


def _halve_attributes(node: onnx.NodeProto) -> None:
    """Constants and types that stand in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == attribute.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(value, attribute.t.name))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == SINGLE:
            attribute.i = HALF


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # inference raises whatever its C++ side does
        raise ModelError(f"types cannot be inferred: {error}", "drop --float16") from error
