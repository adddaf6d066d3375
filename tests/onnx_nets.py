"""ONNX as the dialect of test networks: seeded weights, names and words of an exporter's time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from topologies import Layer

EPSILON = 1e-5
MAX_POOL = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
_IN_PLACE = ("Relu", "Sum", "Add", "Mul", "Dropout", "BatchNormalization")


def old_attributes(op: str, inputs: int, opset: int) -> dict[str, object]:
    """What a node needs in an older opset besides the attributes that it has in opset 9.

    Args:
        op: its operator.
        inputs: how many it has.
        opset: 1 or more.
    """
    extra: dict[str, object] = {}
    if opset < 6 and op in _IN_PLACE:
        extra["consumed_inputs"] = [int(i > 2) for i in range(inputs)]
    if opset < 7 and op in ("BatchNormalization", "Dropout"):
        extra["is_test"] = 1
    if opset < 7 and op == "Gemm":
        extra["broadcast"] = 1
    if opset < 9 and op == "BatchNormalization":
        extra["spatial"] = 1
    return extra


def conv_attributes(layer: Layer) -> dict[str, list[int]]:
    """Kernel, padding and strides of a convolution."""
    return {
        "kernel_shape": [layer.kernel] * 2,
        "pads": [layer.kernel // 2] * 4,
        "strides": [layer.stride] * 2,
    }


@dataclass(frozen=True)
class Spelling:
    """How an exporter calls what belongs to a layer; `{}` is the layer.

    Attributes:
        output: of a convolution or a normalization, and the node.
        parameter: with the parameter's own word as a second `{}`.
        words: those words, where they are not ours.
        gemm: defaults that it writes at the last layer all the same.
    """

    output: str
    parameter: str
    words: dict[str, str] = field(default_factory=dict)
    gemm: dict[str, float] = field(default_factory=dict)


GLUON = Spelling("{}_fwd", "{}_{}", gemm={"alpha": 1.0, "beta": 1.0})
CAFFE2 = Spelling(
    "gpu_0/{}_1",
    "gpu_0/{}_{}_0",
    {
        "weight": "w",
        "bias": "b",
        "gamma": "s",
        "beta": "b",
        "running_mean": "rm",
        "running_var": "riv",
    },
)


@dataclass
class OnnxNet:
    """Collects nodes and seeded parameters: a `topologies.Dialect`.

    Attributes:
        rng: where weights come from.
        opset: of the model.
        spread: standard deviation of ln(gamma), how unequal the channels' scales are.
        spelling: of names.
        sum_op: what joins a branch and its shortcut.
    """

    rng: np.random.Generator
    opset: int
    spread: float
    spelling: Spelling = GLUON
    sum_op: str = "Add"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op: str, name: str, inputs: list[str], output: str = "", **attributes) -> str:
        output = output or name
        attributes |= old_attributes(op, len(inputs), self.opset)
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def parameter(self, layer: str, word: str, array: NDArray[np.floating]) -> str:
        name = self.spelling.parameter.format(layer, self.spelling.words.get(word, word))
        self.initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(self, name: str, x: str, layer: Layer, gain: float = 1.0) -> str:
        shape = (layer.given, layer.taken, layer.kernel, layer.kernel)
        weight = self.rng.standard_normal(shape, dtype=np.float32)
        weight *= np.float32(math.sqrt(2 / math.prod(shape[1:])))
        inputs = [x, self.parameter(name, "weight", weight * np.float32(gain))]
        if layer.biased:
            inputs.append(self.parameter(name, "bias", self.rng.normal(0, 0.1, layer.given)))
        output = self.spelling.output.format(name)
        attributes = {"dilations": [1, 1], "group": 1, **conv_attributes(layer)}
        return self.node("Conv", output, inputs, **attributes)

    def norm(self, name: str, x: str, channels: int, gain: float = 1.0) -> str:
        statistics = {
            "gamma": gain * np.exp(self.rng.normal(0, self.spread, channels)),
            "beta": gain * self.rng.normal(0, 0.2, channels),
            "running_mean": np.zeros(channels),
            "running_var": np.ones(channels),
        }
        inputs = [x, *(self.parameter(name, key, value) for key, value in statistics.items())]
        output = self.spelling.output.format(name)
        return self.node("BatchNormalization", output, inputs, epsilon=EPSILON, momentum=0.9)

    def relu(self, name: str, x: str) -> str:
        return self.node("Relu", name, [x])

    def add(self, name: str, branch: str, x: str) -> str:
        return self.node(self.sum_op, name, [branch, x])

    def max_pool(self, name: str, x: str) -> str:
        return self.node("MaxPool", name, [x], **MAX_POOL)

    def average_pool(self, name: str, x: str) -> str:
        return self.node("GlobalAveragePool", name, [x])

    def dense(self, name: str, x: str, features: int, classes: int, output: str) -> str:
        weight = self.rng.standard_normal((classes, features))
        inputs = [
            x,
            self.parameter(name, "weight", weight),
            self.parameter(name, "bias", np.zeros(classes)),
        ]
        return self.node("Gemm", output, inputs, transB=1, **self.spelling.gemm)

    def model(
        self, name: str, data: list[int | str], output: tuple[str, list[int | str]], ir_version: int
    ) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, data)]
        if ir_version < 4:
            inputs += listed(self.initializers)
        outputs = [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def listed(constants: list[onnx.TensorProto]) -> list[onnx.ValueInfoProto]:
    """Constants as the inputs that they are in files of IR version 3."""
    return [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in constants
    ]
