"""A few nodes of a graph as a model of their own, with uint8 at its borders where int8 rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.graph.view import View, captures
from quantize.plan import Encoding

Borders = Mapping[str, Encoding | None]
"""Tensor -> how it is rounded there, or None for float32."""


class Fragments:
    """Cuts fragments out of one model.

    Args:
        model: a prepared float model; valid as long as it is not edited.

    Attributes:
        view: of its graph.
        types: tensor -> its type, where it is known.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.view = View(model.graph)
        graph = model.graph
        self.types = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version

    def cut(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Borders,
        outputs: Borders,
        constants: Mapping[str, NDArray[Any]] | None = None,
    ) -> bytes:
        """The nodes as a serialized model.

        Args:
            nodes: in order; not changed.
            inputs: tensors that are fed; one with an encoding is uint8 and dequantized first.
            outputs: tensors that are given, in this order; one with an encoding as uint8.
            constants: values that replace or complete the model's own.
        """
        own = dict(constants or {})
        made = {name for node in nodes for name in node.output}
        captured = dict.fromkeys(name for node in nodes for name in captures(node))
        read = dict.fromkeys(name for node in nodes for name in node.input if name)
        read |= dict.fromkeys(name for name in captured if name in self.view.initializers)
        initializers = [numpy_helper.from_array(value, name) for name, value in own.items()]
        initializers += [
            self.view.initializers[name]
            for name in read
            if name not in inputs and name not in made and name not in own
        ]
        border = _Border(initializers)
        before = [border.real(name, encoding) for name, encoding in inputs.items() if encoding]
        before += [
            helper.make_node("Identity", [f"{name}.real"], [name])
            for name in captured
            if inputs.get(name) is not None
        ]
        after = [border.rounded(name, encoding) for name, encoding in outputs.items() if encoding]
        graph = helper.make_graph(
            [*before, *(_renamed(node, inputs) for node in nodes), *after],
            "fragment",
            [self._declared(name, encoding) for name, encoding in inputs.items()],
            [onnx.ValueInfoProto(name=_at(name, e)) for name, e in outputs.items()],
            initializers,
        )
        made_model = helper.make_model(
            graph, opset_imports=self._opsets, ir_version=self._ir_version
        )
        return bytes(made_model.SerializeToString(deterministic=True))

    def _declared(self, name: str, encoding: Encoding | None) -> onnx.ValueInfoProto:
        """An input of the fragment: sizes and shapes in a graph are integers, not images."""
        known = self.types.get(name)
        if encoding is not None:
            return helper.make_tensor_value_info(_at(name, encoding), TensorProto.UINT8, None)
        if known is not None and known.WhichOneof("value") not in (None, "tensor_type"):
            return helper.make_value_info(name, known)
        kind = known.tensor_type.elem_type if known is not None else 0
        return helper.make_tensor_value_info(name, kind or TensorProto.FLOAT, None)


class _Border:
    """Makes the nodes at the border, and their constants in `initializers`."""

    def __init__(self, initializers: list[TensorProto]) -> None:
        self._initializers = initializers

    def real(self, name: str, encoding: Encoding) -> onnx.NodeProto:
        grid = self._grid(name, encoding)
        return helper.make_node("DequantizeLinear", [_at(name, encoding), *grid], [f"{name}.real"])

    def rounded(self, name: str, encoding: Encoding) -> onnx.NodeProto:
        grid = self._grid(name, encoding)
        return helper.make_node("QuantizeLinear", [name, *grid], [_at(name, encoding)])

    def _grid(self, name: str, encoding: Encoding) -> list[str]:
        names = [f"{name}.scale", f"{name}.point"]
        point = helper.make_tensor(names[1], TensorProto.UINT8, [], [encoding.zero_point])
        self._initializers += [numpy_helper.from_array(encoding.scale, names[0]), point]
        return names


def _at(name: str, encoding: Encoding | None) -> str:
    return name if encoding is None else f"{name}.integer"


def _renamed(node: onnx.NodeProto, inputs: Borders) -> onnx.NodeProto:
    """The node, reading dequantized tensors."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for index, name in enumerate(node.input):
        if inputs.get(name) is not None:
            copy.input[index] = f"{name}.real"
    return copy
