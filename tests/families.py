"""The model zoo's other ResNets, node by node and name by name, with random weights.

Gluon's v2 (pre-activation) of all depths and Caffe2's ResNet-50, in the spelling of their own
opset: Caffe2's files go back to 3. ResNet v1 stands in `models`. The pairs of topology and opset
that the zoo publishes are `ZOO`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import models
import topologies
from onnx_nets import CAFFE2, OnnxNet, listed, old_attributes
from quantize.graph.coverage import coverage
from topologies import Block, Layer, Names

MOST_OF_SIZE = 0.26
"""What an int8 file may have of the float one's bytes."""

# Depth -> prefix of the zoo's names.
_RESNETS_V2 = {
    18: "resnetv22",
    34: "resnetv23",
    50: "resnetv24",
    101: "resnetv25",
    152: "resnetv27",
}

# Topology -> float parameters, Conv, BatchNormalization, Relu, Add or Sum, initializers, nodes.
COUNTS = {
    "18-v1": (11_699_112, 20, 20, 17, 8, 102, 69),
    "34-v1": (21_814_696, 36, 36, 33, 16, 182, 125),
    "50-v1": (25_629_032, 53, 53, 49, 16, 299, 175),
    "101-v1": (44_695_144, 104, 104, 100, 33, 588, 345),
    "152-v1": (60_404_072, 155, 155, 151, 50, 877, 515),
    "18-v2": (11_695_796, 20, 19, 18, 8, 98, 69),
    "34-v2": (21_811_380, 36, 35, 34, 16, 178, 125),
    "50-v2": (25_595_060, 53, 51, 50, 16, 259, 174),
    "101-v2": (44_639_412, 104, 102, 101, 33, 514, 344),
    "152-v2": (60_329_140, 155, 153, 152, 50, 769, 514),
    "50-caffe2": (25_610_152, 53, 53, 49, 16, 267, 176),
}


@dataclass(frozen=True)
class Member:
    """One file of the zoo.

    Attributes:
        topology: key of `COUNTS`.
        opset: of the file.
    """

    topology: str
    opset: int

    @property
    def name(self) -> str:
        """As the zoo calls the file, without `resnet`."""
        return f"{self.topology.replace('caffe2', 'caffe2-v1')}-{self.opset}"

    def make(self, seed: int = 0, images: NDArray[np.float32] | None = None) -> onnx.ModelProto:
        """The file's model with random weights; images are for its running statistics."""
        return make(self.topology, self.opset, seed, images)


ZOO = (
    *(Member(f"{depth}-{v}", 7) for v in ("v1", "v2") for depth in _RESNETS_V2),
    Member("50-v1", 12),
    *(Member("50-caffe2", opset) for opset in (3, 6, 7, 8, 9)),
)


def make(
    topology: str, opset: int, seed: int = 0, images: NDArray[np.float32] | None = None
) -> onnx.ModelProto:
    """A topology of `COUNTS` in an opset; v1 and v2 go back to 7, Caffe2's to 3."""
    depth, version = topology.split("-")
    if version == "caffe2":
        return resnet50_caffe2(seed, opset, images)
    build: Callable[..., onnx.ModelProto] = models.resnet_v1 if version == "v1" else resnet_v2
    return build(int(depth), seed, opset, images, initializers_as_inputs=opset < 9)


def resnet_v2(
    depth: int,
    seed: int = 0,
    opset: int = 7,
    images: NDArray[np.float32] | None = None,
    initializers_as_inputs: bool = False,
) -> onnx.ModelProto:
    """The zoo's MXNet ResNet v2: BatchNormalization and Relu stand before each convolution.

    The image is normalised first, with gamma 1 and beta 0. No convolution has a bias, the stride
    sits on the 3x3 one, and a downsampling convolution reads what the first Relu of its block
    gives. The arguments are those of `models.resnet_v1`.
    """
    prefix = _RESNETS_V2[depth]
    net = _Measured(np.random.default_rng(seed), opset, spread=0.2)
    x = net.norm(f"{prefix}_batchnorm0", "data", 3)
    x = topologies.gluon_v2(net, prefix, x, depth)
    flat = f"{prefix}_flatten0_reshape0"
    net.initializers.append(numpy_helper.from_array(np.array([0, -1]), f"{flat}_shape"))
    x = net.node("Reshape", flat, [x, f"{flat}_shape"])
    features = topologies.channels_of(depth)
    model = models.gluon_file(net, f"{prefix}_dense0", x, features, initializers_as_inputs)
    images = models.striped(seed) if images is None else images
    models.set_batch_statistics(model, images)
    _neutral(model, f"{prefix}_batchnorm0")
    models.spread_answers(model, images, seed)
    return model


def resnet50_caffe2(
    seed: int = 0, opset: int = 9, images: NDArray[np.float32] | None = None
) -> onnx.ModelProto:
    """The zoo's `resnet50-caffe2-v1`, which takes one image at a time and gives probabilities.

    Args:
        seed: of the weights.
        opset: 3 to 12; below 7 in a spelling that nothing runs any more.
        images: see `models.resnet_v1`.
    """
    net = OnnxNet(np.random.default_rng(seed), 9, spread=0.2, spelling=CAFFE2, sum_op="Sum")
    x = net.norm("res_conv1_bn", net.conv("conv1", "data", Layer(3, 64, 7, 2)), 64)
    x = net.max_pool("gpu_0/pool1_1", net.relu("gpu_0/res_conv1_bn_2", x))
    for block in topologies.blocks(50):
        x = topologies.block_v1(net, _caffe2_names(block), x, block.branch, block.shortcut)
    x = net.node("Flatten", "OC2_DUMMY_0", [net.average_pool("gpu_0/pool5_1", x)])
    logits = net.dense("pred", x, topologies.channels_of(50), 1000, "gpu_0/pred_1")
    model = net.model("resnet50", ["N", 3, 224, 224], (logits, ["N", 1000]), ir_version=4)
    images = models.striped(seed) if images is None else images
    models.set_batch_statistics(model, images)
    models.spread_answers(model, images, seed)
    return _caffe2_spelling(model, opset)


class _Measured(OnnxNet):
    """Draws what v1 draws for the normalization behind each convolution, though none stands there.

    The published figures are of the weights that come out then. How many raw numbers a normal one
    takes is random itself, so the generator cannot skip them instead.
    """

    def conv(self, name: str, x: str, layer: Layer, gain: float = 1.0) -> str:
        output = super().conv(name, x, layer, gain)
        self.rng.standard_normal(2 * layer.given)
        return output


def _caffe2_names(block: Block) -> Names:
    """Those of a block: its branch is 2a, 2b, 2c, its shortcut 1."""
    name = f"res{block.stage + 1}_{block.number}_branch"
    parts = ("2a", "2b", "2c", "1")
    words = {
        "conv": f"{name}{{}}",
        "norm": f"{name}{{}}_bn",
        "relu": f"gpu_0/{name}{{}}_bn_2",
        "add": f"gpu_0/{name}2c_bn_2",
        "activation": f"gpu_0/{name}2c_bn_3",
    }
    return Names(lambda kind, number: words[kind].format(parts[number]))


def _caffe2_spelling(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same network as onnx-caffe2 wrote it: constant batch, pooled by 7x7, Softmax, old words.

    Nodes have no names, as there.
    """
    nodes = []
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool":
            shape = {"kernel_shape": [7, 7], "strides": [1, 1]}
            node = helper.make_node("AveragePool", node.input, node.output, **shape)
        elif node.op_type == "Flatten":
            node = _reshape(model, node, opset)
        older = old_attributes(node.op_type, len(node.input), opset)
        node.attribute.extend(helper.make_attribute(*item) for item in older.items())
        node.name = ""
        node.input[:] = ["gpu_0/data_0" if name == "data" else name for name in node.input]
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    nodes.append(helper.make_node("Softmax", ["gpu_0/pred_1"], ["gpu_0/softmax_1"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.input[0].name = "gpu_0/data_0"
    output = helper.make_tensor_value_info("gpu_0/softmax_1", TensorProto.FLOAT, [1, 1000])
    model.graph.output[0].CopyFrom(output)
    model.graph.input.extend(listed(model.graph.initializer))
    model.ir_version = 3
    model.producer_name = "onnx-caffe2"
    model.opset_import[0].version = opset
    return model


def _reshape(model: onnx.ModelProto, flatten: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    if opset < 5:
        return helper.make_node("Reshape", flatten.input, flatten.output, shape=[1, 2048])
    shape = numpy_helper.from_array(np.array([1, 2048]), "OC2_DUMMY_1")
    model.graph.initializer.append(shape)
    return helper.make_node("Reshape", [*flatten.input, "OC2_DUMMY_1"], flatten.output)


def _neutral(model: onnx.ModelProto, norm: str) -> None:
    """gamma 1 and beta 0: Gluon fixes both where the image comes in."""
    for tensor in model.graph.initializer:
        if tensor.name in (f"{norm}_gamma", f"{norm}_beta"):
            value = np.full(3, tensor.name.endswith("gamma"), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


# ------------------------------------------------------------------ what int8 must be


def faults(before: onnx.ModelProto, made: onnx.ModelProto) -> list[str]:
    """What is wrong with the structure of an int8 file, one line each; QDQ or QOperator.

    Args:
        before: the float file that it was made of.
        made: the int8 file.
    """
    seen = coverage(made, lambda names: dict.fromkeys(names, (1, 1, 1, 1)))
    convolutions, whole = seen.count("Conv")
    relus = sum(node.op_type == "Relu" for node in made.graph.node)
    ratio = made.ByteSize() / before.ByteSize()
    checks = [
        (convolutions < whole, f"{whole - convolutions} of {whole} Conv are float"),
        (whole < sum(n.op_type == "Conv" for n in before.graph.node), "Conv are missing"),
        (relus > 0, f"{relus} Relu are left"),
        (ratio > MOST_OF_SIZE, f"{ratio:.4f} of the float file's size"),
        (_ports(before) != _ports(made), "inputs or outputs changed"),
    ]
    return [text for wrong, text in checks if wrong]


def _ports(model: onnx.ModelProto) -> list[bytes]:
    """The true inputs and the outputs, as declared."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    return [value.SerializeToString() for value in (*inputs, *model.graph.output)]
