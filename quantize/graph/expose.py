"""Copies of a model that also give inner tensors, or what their channels do, as outputs."""

from __future__ import annotations

import numpy as np
import onnx

from quantize.graph.view import View, opset


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy of the model that also gives the named tensors, types left to the runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    declared = View(copy.graph).outputs
    wanted = [name for name in dict.fromkeys(names) if name not in declared]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return copy


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the float32 tensors that depend on the image, the input first."""
    view = View(model.graph)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.output)
    }
    made = [name for node in model.graph.node for name in node.output if name]
    return [view.inputs[0].name] + [n for n in made if kinds.get(n) == onnx.TensorProto.FLOAT]


def with_channel_extremes(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """A copy that also gives max and mean square of each channel of the named [N,C,H,W] tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index, name in enumerate(tensors):
        high, square, power = channel_high_of(index), mean_square_of(index), f"quantize.sq.{index}"
        copy.graph.node.append(onnx.helper.make_node("Mul", [name, name], [power], name=power))
        for op, read, output in (("ReduceMax", name, high), ("ReduceMean", power, square)):
            copy.graph.node.append(_over_channels(copy, op, read, output))
            copy.graph.output.append(onnx.ValueInfoProto(name=output))
    return copy


def _over_channels(model: onnx.ModelProto, op: str, read: str, output: str) -> onnx.NodeProto:
    """A reduction to [C]; its axes became an input with opset 18."""
    if opset(model) < 18:
        return onnx.helper.make_node(op, [read], [output], name=output, axes=[0, 2, 3], keepdims=0)
    axes = onnx.numpy_helper.from_array(np.asarray([0, 2, 3], np.int64), f"{output}.axes")
    model.graph.initializer.append(axes)
    return onnx.helper.make_node(op, [read, axes.name], [output], name=output, keepdims=0)


def channel_high_of(index: int) -> str:
    """Name of the [C] maxima of the index-th tensor."""
    return f"quantize.channel.high.{index}"


def mean_square_of(index: int) -> str:
    """Name of the [C] mean squares of the index-th tensor."""
    return f"quantize.channel.square.{index}"
