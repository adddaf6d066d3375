"""A float model that also answers with one layer rounded, for several layers at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.graph.apart import Apart, place
from quantize.graph.rounded import Rounded
from quantize.graph.view import captures


def with_variants(model: Apart, layers: Mapping[str, Rounded]) -> tuple[Apart, dict[str, str]]:
    """A copy of the model with one more output per layer: the scores with only that layer rounded.

    What stands before a layer is shared with the float path, and so are all other constants.

    Args:
        model: a prepared float model, its large constants apart; not changed.
        layers: name of a node -> what the int8 file computes with there.

    Returns:
        The copy, which has the layers' weights apart as well, and layer -> name of its output; a
        layer that the scores do not depend on has none, nor has one whose result a subgraph reads.
    """
    float_, scores = model.model, model.model.graph.output[0].name
    copy = Apart(onnx.ModelProto(), dict(model.constants))
    copy.model.CopyFrom(float_)
    outputs: dict[str, str] = {}
    for index, (name, rounded) in enumerate(layers.items()):
        tag = f"quantize.only.{index}"
        made = _downstream(float_, name, rounded, tag, copy)
        output = f"{scores}.{tag}"
        if not any(output in node.output for node in made):
            continue
        copy.model.graph.node.extend(made)
        copy.model.graph.output.append(onnx.ValueInfoProto(name=output))
        outputs[name] = output
    return copy, outputs


def _downstream(
    model: onnx.ModelProto, layer: str, rounded: Rounded, tag: str, copy: Apart
) -> list[onnx.NodeProto]:
    """The layer, rounded, and all that depends on it, under names of their own."""
    renamed: dict[str, str] = {}
    made: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name != layer and not renamed.keys() & {*node.input, *captures(node)}:
            continue
        if renamed.keys() & set(captures(node)):
            return []
        own = onnx.NodeProto()
        own.CopyFrom(node)
        own.name = f"{node.name}.{tag}"
        own.input[:] = [renamed.get(name, name) for name in node.input]
        if node.name == layer:
            made += _round(own, rounded, tag, copy)
        renamed.update({name: f"{name}.{tag}" for name in node.output if name})
        own.output[:] = [renamed.get(name, "") for name in node.output]
        made.append(own)
    return made


def _round(layer: onnx.NodeProto, rounded: Rounded, tag: str, copy: Apart) -> list[onnx.NodeProto]:
    """Give the layer its constants in place; the nodes that round its input.

    Plain arithmetic says the same as QuantizeLinear and DequantizeLinear, and no optimizer takes
    it for a reason to compute on integers.
    """

    def constant(what: str, value: float | NDArray[Any]) -> str:
        name = f"{tag}.{what}"
        place(copy, name, np.asarray(value, np.float32))
        return name

    low, high = rounded.lowest - rounded.zero_point, rounded.highest - rounded.zero_point
    scale, ends = constant("scale", rounded.scale), [constant("low", low), constant("high", high)]
    nothing: list[str] = []
    nodes, value = [], layer.input[0]
    for op_type, more in (("Div", [scale]), ("Round", nothing), ("Clip", ends), ("Mul", [scale])):
        name = f"{tag}.{op_type}"
        nodes.append(onnx.helper.make_node(op_type, [value, *more], [name], name=name))
        value = name
    inputs = [value, constant("weight", rounded.weight)]
    if rounded.bias is not None and layer.op_type != "MatMul":
        inputs.append(constant("bias", rounded.bias))
    layer.input[:] = inputs
    return nodes
