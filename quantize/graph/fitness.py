"""Graphs of which no int8 file can be made: named before anything is measured."""

from __future__ import annotations

import onnx

from quantize.errors import ModelError
from quantize.graph.fold import RANDOM, trains
from quantize.graph.layers import WEIGHTY
from quantize.graph.nodes import called
from quantize.graph.view import View

_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def check_fit(model: onnx.ModelProto) -> None:
    """Refuse what no quantizer takes.

    Args:
        model: simplified, with inferred shapes.

    Raises:
        ModelError: layers in 16 bits or of unknown type, nodes in training mode or at random.
    """
    view, kinds = View(model.graph), _kinds(model.graph)
    unknown = next((n for n in model.graph.node if not kinds.get(n.output[0])), None)
    for node in model.graph.node:
        if trains(node, view) or node.op_type in RANDOM:
            raise ModelError(
                f"the model's {called(node)} is in training mode or draws at random, so that the"
                " same image gives different answers",
                "export the model for inference",
            )
        if node.op_type not in WEIGHTY:
            continue
        if kinds.get(node.output[0]) in _HALF:
            raise ModelError(
                f"the model's {called(node)} computes in 16 bits, and int8 is made of float32",
                "give the float32 model that this one was made of",
            )
        if unknown is not None and not (kinds.get(node.input[0]) and kinds.get(node.output[0])):
            domain = f" of {unknown.domain}" if unknown.domain else ""
            raise ModelError(
                f"types cannot be inferred behind the model's {called(unknown)}{domain}",
                "export the model with ai.onnx operators alone, not optimised",
            )


def _kinds(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensor name -> its type, 0 or missing where nobody knows."""
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return known | {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
