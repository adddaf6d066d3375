"""The two ends of a graph: logits before a final Softmax, and the declared signature."""

from __future__ import annotations

import onnx

from quantize.errors import ModelError
from quantize.graph.view import View


def expose_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose output is the logits: a final Softmax is cut off.

    Probabilities squeeze differences, so closeness is measured before Softmax; the order of the
    classes is the same on both sides of it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    view = View(copy.graph)
    output = copy.graph.output[0]
    last = view.producers.get(output.name)
    while last is not None and last.op_type in ("Identity", "DequantizeLinear", "QuantizeLinear"):
        last = view.producers.get(last.input[0])
    if last is None or last.op_type != "Softmax":
        return copy
    output.name = last.input[0]
    return copy


def restore_signature(quantized: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Give the int8 model the inputs and outputs that the float file declares, in place.

    Raises:
        ModelError: a name of the original is missing in the int8 model.
    """
    view = View(original.graph)
    for made, declared in (
        (quantized.graph.input, view.inputs),
        (quantized.graph.output, list(original.graph.output)),
    ):
        names, wanted = [v.name for v in made], [v.name for v in declared]
        if names != wanted:
            raise ModelError(
                f"the int8 model has {', '.join(names)} where the float one has {', '.join(wanted)}"
            )
        copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in declared]
        del made[:]
        made.extend(copies)
