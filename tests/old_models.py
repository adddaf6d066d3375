"""Classifiers as files of their time had them: ResNet-18 in opsets 3 to 12, and onnx's `light_*`.

All weights are random but seeded, and the same for each opset: what one age computes the others
must compute.
"""

from __future__ import annotations

import math
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import topologies
from graphs import answers
from models import normalising_by_batch, prepared, tiny_dataset
from onnx_nets import MAX_POOL, conv_attributes, old_attributes
from quantize.conversion.old import upgrade
from quantize.graph.batch import free_batch
from quantize.graph.expose import with_outputs
from topologies import Block, Layer, Names

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
AGES = (3, 4, 5, 6, 7, 8, 9, 12)


class _Age:
    """Writes nodes as one opset spells them; half the sums are Sum, half are Add."""

    def __init__(self, opset: int, seed: int) -> None:
        self.sums = cycle(("Sum", "Add"))
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray[np.generic]] = {}

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        attributes |= old_attributes(op, len(inputs), self.opset)
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, value: NDArray[np.floating]) -> str:
        self.weights[name] = np.asarray(value, np.float32)
        return name

    def conv(self, name: str, x: str, layer: Layer, gain: float = 1.0) -> str:
        shape = (layer.given, layer.taken, layer.kernel, layer.kernel)
        values = gain * self.rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        inputs = [x, self.weight(f"{name}_w", values)]
        return self.node("Conv", inputs, f"{name}_1", **conv_attributes(layer))

    def norm(self, name: str, x: str, channels: int, gain: float = 1.0) -> str:
        inputs = [
            x,
            self.weight(f"{name}_s", gain * self.rng.uniform(0.7, 1.3, channels)),
            self.weight(f"{name}_b", self.rng.normal(0, 0.2, channels)),
            self.weight(f"{name}_rm", self.rng.normal(0, 0.2, channels)),
            self.weight(f"{name}_riv", self.rng.uniform(0.5, 1.5, channels)),
        ]
        return self.node("BatchNormalization", inputs, f"{name}_2", epsilon=1e-5)

    def relu(self, name: str, x: str) -> str:
        return self.node("Relu", [x], name)

    def add(self, name: str, branch: str, x: str) -> str:
        return self.node(next(self.sums), [branch, x], name)

    def along_channels(self, op: str, x: str, name: str, values: NDArray[np.floating]) -> str:
        """An operand [C] laid along axis 1, as each age has it."""
        if self.opset < 7:
            inputs = [x, self.weight(name, values)]
            return self.node(op, inputs, f"{name}_1", broadcast=1, axis=1)
        return self.node(op, [x, self.weight(name, values.reshape(-1, 1, 1))], f"{name}_1")

    def head(self, x: str, channels: int, size: int, classes: int, batch: int) -> None:
        x = self.along_channels("Mul", x, "scale", self.rng.uniform(0.5, 1.5, channels))
        x = self.along_channels("Add", x, "shift", self.rng.normal(0, 0.2, channels))
        x = self.node("AveragePool", [x], "pooled", kernel_shape=[size, size], strides=[1, 1])
        if self.opset < 5:
            x = self.node("Reshape", [x], "flat", shape=[batch, channels])
        else:
            self.weights["flat_shape"] = np.array([batch, channels])
            x = self.node("Reshape", [x, "flat_shape"], "flat")
        if self.opset < 12:
            x = self.node("Dropout", [x], "dropped", ratio=0.5)
        else:
            self.weight("ratio", np.array(0.5))
            x = self.node("Dropout", [x, "ratio"], "dropped")
        weight = self.rng.normal(0, 8 / math.sqrt(channels), (classes, channels))
        inputs = [x, self.weight("pred_w", weight), self.weight("pred_b", np.zeros(classes))]
        self.node("Gemm", inputs, "pred", transB=1)
        self.node("Softmax", ["pred"], "prob", **({} if self.opset < 9 else {"axis": 1}))

    def model(self, size: int, classes: int, batch: int | str) -> onnx.ModelProto:
        listed = self.opset < 9
        inputs = [
            helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [batch, 3, size, size])
        ]
        constants = []
        for name, value in self.weights.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            if listed:  # constants among the inputs, and in float_data
                inputs.insert(0, helper.make_tensor_value_info(name, kind, value.shape))
                constants.append(helper.make_tensor(name, kind, value.shape, value.reshape(-1)))
            else:
                constants.append(numpy_helper.from_array(value, name))
        outputs = [helper.make_tensor_value_info("prob", TensorProto.FLOAT, [batch, classes])]
        graph = helper.make_graph(self.nodes, "old", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=3 if listed else 4 + listed
        )


def old_resnet18(
    opset: int, *, declared: int | str = 1, width: int = 8, size: int = 32, seed: int = 0
) -> onnx.ModelProto:
    """ResNet-18, narrow, as a Caffe2 exporter of that opset wrote it.

    Its Reshape is constant for one image. Half the blocks join by Sum, half by Add.

    Args:
        opset: 3 to 12.
        declared: the batch axis of input and output.
        width: channels of the first stage.
        size: of the image.
        seed: of the weights.
    """
    net = _Age(opset, seed)
    x = net.norm("conv1", net.conv("conv1", "data_0", Layer(3, width, 3)), width)
    x = net.node("MaxPool", [net.relu("conv1_3", x)], "pool1", **MAX_POOL)
    for block in topologies.blocks(18, width):
        names = _names(block)
        x = topologies.block_v1(net, names, x, block.branch, block.shortcut, gain=0.5)
    net.head(x, topologies.channels_of(18, width), size // 16, 10, 1)
    return net.model(size, 10, declared)


def _names(block: Block) -> Names:
    """Convolutions and their normalizations are a and b, beside them c."""
    name = f"res{block.stage - 1}_{block.number}"
    words = {
        "conv": f"{name}_{{}}",
        "norm": f"{name}_{{}}",
        "relu": f"{name}_{{}}_3",
        "add": f"{name}_sum",
        "activation": f"{name}_out",
    }
    return Names(lambda kind, number: words[kind].format("abc"[number]))


# ------------------------------------------------------------- the graphs that onnx ships


def striped(count: int = 8, size: int = 224) -> NDArray[np.float32]:
    """Images that differ, float32 [count,3,size,size]."""
    return prepared(tiny_dataset(classes=count, per_class=1, size=size))


def light(name: str, seed: int = 0) -> onnx.ModelProto:
    """One of onnx's `light_*` graphs with random weights, and answers that differ.

    As shipped all weights are one constant, and so most outputs are uniform: no test could fail.

    Args:
        name: without `light_` and `.onnx`.
        seed: of the weights.
    """
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    rng = np.random.default_rng(seed)
    readers = _readers(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = numpy_helper.to_array(tensors[node.input[0]])
        value = _random(rng, shape, *_role(node.output[0], readers))
        model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    for name, tensor in tensors.items():
        if tensor.data_type == TensorProto.FLOAT and name in readers:
            value = _random(rng, tensor.dims, *_role(name, readers))
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    _spread(model)
    return model


def _readers(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    return {name: (n, i) for n in reversed(model.graph.node) for i, name in enumerate(n.input)}


def _role(name: str, readers: dict[str, tuple[onnx.NodeProto, int]]) -> tuple[str, int]:
    """Which operator reads a constant in the end, and as which input."""
    node, position = readers[name]
    through = node.op_type in ("Reshape", "Unsqueeze")
    return _role(node.output[0], readers) if through else (node.op_type, position)


def _random(rng, shape, op: str, position: int) -> NDArray[np.float32]:
    """Weights that neither blow activations up nor let them vanish."""
    if op in ("Conv", "Gemm") and position == 1:
        value = rng.standard_normal(tuple(shape), dtype=np.float32)
        value *= np.float32(math.sqrt(2 / math.prod(shape[1:])))
        return value
    positive = op == "Mul" or (op == "BatchNormalization" and position in (1, 4))
    value = rng.uniform(0.7, 1.3, shape) if positive else rng.normal(0, 0.1, shape)
    return value.astype(np.float32)


def _spread(model: onnx.ModelProto) -> None:
    """Running statistics from images, and a last layer under which images differ, in place."""
    images = striped()
    newer = upgrade(model)[0]
    tensors = {t.name: t for t in model.graph.initializer}
    newer = free_batch(newer, 1, lambda _, x: np.zeros((len(x), 1), np.float32), (3, 224, 224))[0]
    parameters = {t.name: t for t in newer.graph.initializer}
    soften = {n.input[0] for n in model.graph.node if n.op_type == "Sum"}
    for node in newer.graph.node:  # residual branches at full strength are chaotic
        if node.op_type == "BatchNormalization" and node.output[0] in soften:
            value = numpy_helper.to_array(parameters[node.input[1]]) * np.float32(0.1)
            for known in (tensors, parameters):
                known[node.input[1]].CopyFrom(numpy_helper.from_array(value, node.input[1]))
    if any(node.op_type == "BatchNormalization" for node in newer.graph.node):
        probe, moments = normalising_by_batch(newer)
        del probe.graph.output[:]
        found = answers(with_outputs(probe, list(moments)), images)
        for (_, name), value in zip(moments.items(), found, strict=True):
            for known in (tensors, parameters):
                known[name].CopyFrom(numpy_helper.from_array(value.reshape(-1), name))
    last = next(n for n in reversed(newer.graph.node) if n.op_type in ("Gemm", "Conv"))
    only = with_outputs(newer, [last.output[0]])
    del only.graph.output[:-1]
    scores = answers(only, images)[0]
    centre = scores.mean(axis=tuple(i for i in range(scores.ndim) if i != 1))
    factor = np.float32(4 / np.abs(scores - scores.mean(axis=0)).max())
    made = {n.output[0]: n.input[0] for n in newer.graph.node if n.op_type == "Reshape"}
    names = [made.get(name, name) for name in last.input[1:3]]
    weight, bias = (numpy_helper.to_array(tensors[name]) for name in names)
    for name, value in zip(names, (weight * factor, (bias - centre) * factor), strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))
