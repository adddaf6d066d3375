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
from models import _BRANCH_GAIN, _Builder, _StageNames
from quantize.graph.coverage import coverage

MOST_OF_SIZE = 0.26
"""What an int8 file may have of the float one's bytes."""

# Depth -> prefix of the zoo's names, whether blocks are bottlenecks, blocks of the four stages.
_RESNETS_V2 = {
    18: ("resnetv22", False, (2, 2, 2, 2)),
    34: ("resnetv23", False, (3, 4, 6, 3)),
    50: ("resnetv24", True, (3, 4, 6, 3)),
    101: ("resnetv25", True, (3, 4, 23, 3)),
    152: ("resnetv27", True, (3, 8, 36, 3)),
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
    prefix, bottleneck, stages = _RESNETS_V2[depth]
    net = _Builder(np.random.default_rng(seed), opset, spread=0.2)
    x = net.batchnorm(f"{prefix}_batchnorm0", "data", 3, 1.0)
    x = _conv(net, f"{prefix}_conv0", x, (64, 3, 7), stride=2)
    x = net.batchnorm(f"{prefix}_batchnorm1", x, 64, 1.0)
    x = net.relu(f"{prefix}_relu0_fwd", x)
    shape = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    x = net.node("MaxPool", f"{prefix}_pool0_fwd", [x], **shape)
    channels = 64
    for stage, blocks in enumerate(stages, start=1):
        width = 64 << (stage - 1)
        out = width * 4 if bottleneck else width
        names = _StageNames(f"{prefix}_stage{stage}")
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 1 else 1
            x = _block_v2(net, names, x, (channels, width, out), stride)
            channels = out
    x = net.batchnorm(f"{prefix}_batchnorm2", x, channels, 1.0)
    x = net.node("GlobalAveragePool", f"{prefix}_pool1_fwd", [net.relu(f"{prefix}_relu1_fwd", x)])
    flat = f"{prefix}_flatten0_reshape0"
    net.initializers.append(numpy_helper.from_array(np.array([0, -1]), f"{flat}_shape"))
    x = net.node("Reshape", flat, [x, f"{flat}_shape"])
    x = net.gemm(f"{prefix}_dense0", x, 1000, channels, f"{prefix}_dense0_fwd")
    model = net.model(
        "mxnet_converted_model",
        data=["N", 3, 224, 224],
        output=(x, ["N", 1000]),
        ir_version=3 if initializers_as_inputs else 4,
    )
    images = _images(seed) if images is None else images
    models.set_batch_statistics(model, images)
    _neutral(model, f"{prefix}_batchnorm0")
    models.spread_answers(model, images, seed)
    if initializers_as_inputs:  # the builder declares them float
        declared = next(value for value in model.graph.input if value.name == f"{flat}_shape")
        declared.type.tensor_type.elem_type = TensorProto.INT64
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
    net = _Builder(np.random.default_rng(seed), 9, spread=0.2)
    x = _caffe2_conv_bn(net, "conv1", "res_conv1_bn", "data", (64, 3, 7), stride=2)
    shape = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    x = net.node("MaxPool", "gpu_0/pool1_1", [net.relu("gpu_0/res_conv1_bn_2", x)], **shape)
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=2):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 2 else 1
            x = _caffe2_block(net, f"res{stage}_{block}", x, channels, 16 << stage, stride)
            channels = 64 << stage
    x = net.node("GlobalAveragePool", "gpu_0/pool5_1", [x])
    x = net.node("Flatten", "OC2_DUMMY_0", [x])
    weight = net.parameter("gpu_0/pred_w_0", net.rng.standard_normal((1000, 2048)))
    bias = net.parameter("gpu_0/pred_b_0", np.zeros(1000))
    logits = net.node("Gemm", "gpu_0/pred_1", [x, weight, bias], transB=1)
    model = net.model("resnet50", ["N", 3, 224, 224], (logits, ["N", 1000]), ir_version=4)
    images = _images(seed) if images is None else images
    models.set_batch_statistics(model, images)
    models.spread_answers(model, images, seed)
    return _caffe2_spelling(model, opset)


def _images(seed: int) -> NDArray[np.float32]:
    items = models.tiny_dataset(classes=16, per_class=1, size=224, seed=seed)
    return models.prepared(items)


def _conv(net: _Builder, name: str, x: str, shape: tuple[int, int, int], **options: int) -> str:
    """`_Builder.conv_bn` without what follows the convolution; a gain of 1."""
    net.conv_bn(name, "unused", x, shape, **options)
    net.nodes.pop()
    del net.initializers[-4:]
    return f"{name}_fwd"


def _block_v2(
    net: _Builder, names: _StageNames, x: str, channels: tuple[int, int, int], stride: int
) -> str:
    before, width, out = channels

    def active(x: str, count: int) -> str:
        y = net.batchnorm(names.next("batchnorm"), x, count, 1.0)
        return net.relu(names.next("activation"), y)

    first = active(x, before)
    if out == width:
        y = _conv(net, names.next("conv"), first, (width, before, 3), stride=stride)
    else:
        y = _conv(net, names.next("conv"), first, (width, before, 1))
        y = active(y, width)
        y = _conv(net, names.next("conv"), y, (width, width, 3), stride=stride)
    last = names.next("conv")
    y = _conv(net, last, active(y, width), (out, width, 3 if out == width else 1))
    _scale(net, f"{last}_weight", _BRANCH_GAIN)
    if before != out:
        x = _conv(net, names.next("conv"), first, (out, before, 1), stride=stride)
    return net.node("Add", names.next("_plus"), [y, x])


def _caffe2_conv_bn(
    net: _Builder,
    conv: str,
    bn: str,
    x: str,
    shape: tuple[int, int, int],
    stride: int = 1,
    gain: float = 1.0,
) -> str:
    """Convolution and BatchNormalization under Caffe2's names with their version numbers."""
    net.conv_bn(conv, bn, x, shape, stride, gain=gain)
    convolution, norm = net.nodes[-2:]
    names = {f"{conv}_weight": f"gpu_0/{conv}_w_0"}
    keys = {"gamma": "s", "beta": "b", "running_mean": "rm", "running_var": "riv"}
    names |= {f"{bn}_{key}": f"gpu_0/{bn}_{short}_0" for key, short in keys.items()}
    for tensor in net.initializers[-5:]:
        tensor.name = names[tensor.name]
    for node, output in ((convolution, f"gpu_0/{conv}_1"), (norm, f"gpu_0/{bn}_1")):
        node.input[1:] = [names[name] for name in node.input[1:]]
        node.name = node.output[0] = output
    norm.input[0] = convolution.output[0]
    return norm.output[0]


def _caffe2_block(net: _Builder, name: str, x: str, before: int, width: int, stride: int) -> str:
    y = x
    shapes = {"2a": (width, before, 1), "2b": (width, width, 3), "2c": (4 * width, width, 1)}
    for part, shape in shapes.items():
        branch = f"{name}_branch{part}"
        options = {"stride": stride if part == "2b" else 1}
        gain = _BRANCH_GAIN if part == "2c" else 1.0
        y = _caffe2_conv_bn(net, branch, f"{branch}_bn", y, shape, gain=gain, **options)
        if part != "2c":
            y = net.relu(f"gpu_0/{branch}_bn_2", y)
    if before != 4 * width:
        branch = f"{name}_branch1"
        x = _caffe2_conv_bn(net, branch, f"{branch}_bn", x, (4 * width, before, 1), stride)
    y = net.node("Sum", f"gpu_0/{name}_branch2c_bn_2", [y, x])
    return net.relu(f"gpu_0/{name}_branch2c_bn_3", y)


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
        _age(node, opset)
        node.name = ""
        node.input[:] = ["gpu_0/data_0" if name == "data" else name for name in node.input]
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    nodes.append(helper.make_node("Softmax", ["gpu_0/pred_1"], ["gpu_0/softmax_1"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.input[0].name = "gpu_0/data_0"
    output = helper.make_tensor_value_info("gpu_0/softmax_1", TensorProto.FLOAT, [1, 1000])
    model.graph.output[0].CopyFrom(output)
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in model.graph.initializer
    )
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


def _age(node: onnx.NodeProto, opset: int) -> None:
    """Give a node of opset 9 the attributes that it needed before."""
    old = {
        "BatchNormalization": [(7, "is_test", 1), (9, "spatial", 1)],
        "Gemm": [(7, "broadcast", 1)],
    }
    kept = [a for a in node.attribute if a.name != "spatial"]
    del node.attribute[:]
    node.attribute.extend(kept)
    for before, name, value in old.get(node.op_type, []):
        if opset < before:
            node.attribute.append(helper.make_attribute(name, value))
    consumed = {"Relu": [0], "Sum": [0, 0], "BatchNormalization": [0, 0, 0, 1, 1]}
    if opset < 6 and node.op_type in consumed:
        value = helper.make_attribute("consumed_inputs", consumed[node.op_type])
        node.attribute.append(value)


def _neutral(model: onnx.ModelProto, norm: str) -> None:
    """gamma 1 and beta 0: Gluon fixes both where the image comes in."""
    for tensor in model.graph.initializer:
        if tensor.name in (f"{norm}_gamma", f"{norm}_beta"):
            value = np.full(3, tensor.name.endswith("gamma"), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _scale(net: _Builder, name: str, factor: float) -> None:
    """Multiply a weight: what a branch adds must stay small, as in `models`."""
    tensor = next(tensor for tensor in reversed(net.initializers) if tensor.name == name)
    value = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


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
