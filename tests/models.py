"""Models and images that tests build for themselves: small ones, and the model zoo's ResNet v1.

All weights are random but seeded; running statistics come from images, so that activations keep
the scale of a trained network. Networks read `prepared(...)` images: RGB / 255, normalised with
ImageNet's mean and standard deviation.
"""

from __future__ import annotations

import colorsys
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import topologies
from onnx_nets import EPSILON, OnnxNet
from topologies import Layer

Item = tuple[NDArray[np.uint8], int]
"""An image, uint8 [H,W,3] RGB, and its class."""

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)

# Depth -> prefix of the zoo's names.
_RESNETS = {
    18: "resnetv15",
    34: "resnetv16",
    50: "resnetv17",
    101: "resnetv18",
    152: "resnetv19",
}


# ------------------------------------------------------------------------------ images


def tiny_dataset(
    classes: int = 4, per_class: int = 10, size: int = 16, seed: int = 0
) -> list[Item]:
    """Noisy striped images whose tint, direction and spacing tell their class.

    The classes look alike for every seed; only the images differ. Classes take turns in the list.
    """
    rng = np.random.default_rng(seed)
    return [
        (_texture(label, classes, size, rng), label)
        for _ in range(per_class)
        for label in range(classes)
    ]


def prepared(items: list[Item]) -> NDArray[np.float32]:
    """Images of equal size -> float32 [N,3,H,W] as the networks here read them."""
    pixels = np.stack([image for image, _ in items]).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(0, 3, 1, 2))


def labels_of(items: list[Item]) -> NDArray[np.int64]:
    """int64 [N]."""
    return np.array([label for _, label in items], dtype=np.int64)


def write_image_folder(root: Path, items: list[Item]) -> Path:
    """Write `root/<class, three digits>/<position, five digits>.png`; returns the root."""
    for position, (image, label) in enumerate(items):
        folder = root / f"{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{position:05d}.png")
    return root


def write_imagenet_raw(folder: Path, items: list[Item]) -> Path:
    """Write `folder/image_<position>.png` and `folder/val.txt`; returns the list file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for position, (image, label) in enumerate(items):
        name = f"image_{position:05d}.png"
        Image.fromarray(image).save(folder / name)
        lines.append(f"{name} {label}\n")
    list_file = folder / "val.txt"
    list_file.write_text("".join(lines))
    return list_file


def _texture(label: int, classes: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    tint = np.array(colorsys.hsv_to_rgb(label / classes, 1, 1)) - 0.5
    angle = math.pi * (label + rng.normal(0, 0.25)) / classes
    waves = 2 + label % 3 + rng.uniform(-0.5, 0.5)
    y, x = np.mgrid[:size, :size] / size
    along = x * math.cos(angle) + y * math.sin(angle)
    stripes = np.sin(2 * math.pi * (waves * along + rng.uniform()))
    noise = rng.normal(0, 20, (size, size, 3)) + rng.normal(0, 15, 3)
    image = 128 + rng.uniform(20, 60) * stripes[:, :, None] + rng.uniform(30, 90) * tint + noise
    return image.clip(0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------ models


def tiny_resnet(
    channels: int = 8,
    size: int = 16,
    classes: int = 4,
    seed: int = 0,
    opset: int = 13,
    batch: int | str = "N",
    initializers_as_inputs: bool = False,
    softmax: bool = False,
) -> onnx.ModelProto:
    """A stem and one residual block, BatchNormalization unfused, channels of unequal scale.

    Args:
        channels: of every feature map.
        size: height and width of the input `data`, [batch,3,size,size].
        classes: of the output `logits` (`probabilities` with softmax), [batch,classes].
        seed: of the weights.
        opset: 7 or more.
        batch: first dimension of input and output, a name or a number.
        initializers_as_inputs: as files of IR version 3 have it.
        softmax: end with Softmax.
    """
    net = OnnxNet(np.random.default_rng(seed), opset, spread=0.5)

    def conv_norm(number: int, x: str, taken: int = channels) -> str:
        x = net.conv(f"conv{number}", x, Layer(taken, channels, 3))
        return net.norm(f"bn{number}", x, channels)

    x = net.relu("relu0", conv_norm(0, "data", 3))
    y = conv_norm(2, net.relu("relu1", conv_norm(1, x)))
    x = net.average_pool("pool", net.relu("relu2", net.add("add", y, x)))
    x = net.node("Flatten", "flatten", [x])
    output = net.dense("fc", x, channels, classes, "fc_out" if softmax else "logits")
    if softmax:
        output = net.node("Softmax", "softmax", [output], "probabilities", axis=1)
    model = net.model(
        "tiny_resnet",
        data=[batch, 3, size, size],
        output=(output, [batch, classes]),
        ir_version=3 if initializers_as_inputs else 8,
    )
    images = prepared(tiny_dataset(classes, 16, size, seed))
    set_batch_statistics(model, images)
    spread_answers(model, images)
    return model


def resnet50_v1(
    seed: int = 0, opset: int = 12, images: NDArray[np.float32] | None = None
) -> onnx.ModelProto:
    """The model zoo's `resnet50-v1-12` with random weights: see `resnet_v1`."""
    return resnet_v1(50, seed, opset, images)


def resnet_v1(
    depth: int,
    seed: int = 0,
    opset: int = 12,
    images: NDArray[np.float32] | None = None,
    initializers_as_inputs: bool = False,
) -> onnx.ModelProto:
    """The model zoo's MXNet ResNet v1, node by node and name by name, with random weights.

    In bottlenecks the stride sits on the first 1x1 convolution, and both 1x1 convolutions have a
    bias; 3x3 and downsampling ones have none.

    Args:
        depth: 18, 34, 50, 101 or 152.
        seed: of the weights.
        opset: 7 or more.
        images: prepared float32 [N,3,H,W] of any one size, for the running statistics and for a
            classifier whose answers differ; striped ones by default. A dozen is enough.
        initializers_as_inputs: as the zoo's files of opset 7 have it.
    """
    prefix = _RESNETS[depth]
    net = OnnxNet(np.random.default_rng(seed), opset, spread=0.2)
    x = topologies.gluon_v1(net, prefix, "data", depth)
    x = net.node("Flatten", "flatten_473", [x])
    features = topologies.channels_of(depth)
    model = gluon_file(net, f"{prefix}_dense0", x, features, initializers_as_inputs)
    images = striped(seed) if images is None else images
    set_batch_statistics(model, images)
    spread_answers(model, images, seed)
    return model


def gluon_file(
    net: OnnxNet, dense: str, x: str, features: int, initializers_as_inputs: bool
) -> onnx.ModelProto:
    """The file of a Gluon network whose last layer `dense` reads x, [N,features]."""
    x = net.dense(dense, x, features, 1000, f"{dense}_fwd")
    return net.model(
        "mxnet_converted_model",
        data=["N", 3, 224, 224],
        output=(x, ["N", 1000]),
        ir_version=3 if initializers_as_inputs else 4,
    )


def striped(seed: int = 0) -> NDArray[np.float32]:
    """Sixteen images of 224x224 for a network's running statistics, float32 [16,3,224,224]."""
    return prepared(tiny_dataset(classes=16, per_class=1, size=224, seed=seed))


# ----------------------------------------------------------- weights that follow images


def run(
    model: onnx.ModelProto, images: NDArray[np.float32], outputs: list[str] | None = None
) -> list[NDArray[np.float32]]:
    """What onnxruntime answers: the model's outputs, or the tensors named, for images [N,3,H,W]."""
    if outputs is not None:
        model = with_outputs(model, outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(outputs, {"data": images})


def set_batch_statistics(model: onnx.ModelProto, images: NDArray[np.float32]) -> None:
    """Set the running statistics of every BatchNormalization to those of these images, in place.

    One pass: a copy of the model normalises by each batch's own mean and variance, computed by
    ordinary operators whose results are fetched.
    """
    probe, moments = normalising_by_batch(model)
    values = dict(zip(moments, run(probe, images, list(moments)), strict=True))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor, parameter in moments.items():
        array = values[tensor].reshape(-1)
        tensors[parameter].CopyFrom(numpy_helper.from_array(array, parameter))


def spread_answers(model: onnx.ModelProto, images: NDArray[np.float32], seed: int = 0) -> None:
    """Give the last Gemm weights under which images get different answers, in place.

    Up to eight classes stand for the two ends of the directions in which the features of these
    images vary most, each scaled to variance 1; the others hardly ever win.
    """
    gemm = _last_gemm(model)
    rng = np.random.default_rng(seed)
    features = run(model, images, [gemm.input[0]])[0].astype(np.float64)
    classes = _parameter(model, gemm.input[1]).shape[0]
    mean = features.mean(axis=0)
    _, lengths, axes = np.linalg.svd(features - mean, full_matrices=False)
    count = min(4, classes // 2, len(images) - 1)
    directions = axes[:count] * (math.sqrt(len(images)) / lengths[:count, None])
    weight = rng.standard_normal((classes, features.shape[1]))
    weight *= 0.1 / np.linalg.norm(features - mean, axis=1).mean()
    weight[rng.permutation(classes)[: 2 * count]] = np.concatenate([directions, -directions])
    _set_classifier(model, weight, -weight @ mean)


def fit_head(
    model: onnx.ModelProto, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> onnx.ModelProto:
    """A copy whose last Gemm is the least-squares fit of the labels by the features it reads.

    Args:
        model: any classifier whose input is `data` and whose last Gemm has transB = 1.
        images: prepared float32 [N,3,H,W]; more images than features make it generalise.
        labels: int64 [N].
    """
    fitted = onnx.ModelProto()
    fitted.CopyFrom(model)
    gemm = _last_gemm(fitted)
    features = run(fitted, images, [gemm.input[0]])[0].astype(np.float64)
    classes = _parameter(fitted, gemm.input[1]).shape[0]
    mean = features.mean(axis=0)
    centred = features - mean
    ridge = 1e-3 * np.trace(centred.T @ centred) / centred.shape[1] * np.eye(centred.shape[1])
    target = 10.0 * np.eye(classes)[labels]
    weight = np.linalg.solve(centred.T @ centred + ridge, centred.T @ target).T
    _set_classifier(fitted, weight, target.mean(axis=0) - weight @ mean)
    return fitted


def normalising_by_batch(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The model with batch statistics, and its tensors of moments -> running parameters."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.opset_import[0].version = 13
    nodes: list[onnx.NodeProto] = []
    moments: dict[str, str] = {}
    for node in probe.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        x, gamma, beta, mean, var = node.input
        name = node.output[0]
        moments |= {f"{name}/mean": mean, f"{name}/var": var}
        for parameter in (gamma, beta):
            column = _parameter(model, parameter).reshape(-1, 1, 1)
            probe.graph.initializer.append(numpy_helper.from_array(column, f"{name}/{parameter}"))
        steps = [
            ("ReduceMean", [x], "mean", {"axes": [0, 2, 3]}),
            ("Sub", [x, f"{name}/mean"], "centred", {}),
            ("Mul", [f"{name}/centred", f"{name}/centred"], "square", {}),
            ("ReduceMean", [f"{name}/square"], "var", {"axes": [0, 2, 3]}),
            ("Add", [f"{name}/var", "epsilon"], "stable", {}),
            ("Sqrt", [f"{name}/stable"], "deviation", {}),
            ("Div", [f"{name}/centred", f"{name}/deviation"], "normal", {}),
            ("Mul", [f"{name}/normal", f"{name}/{gamma}"], "scaled", {}),
        ]
        nodes += [
            helper.make_node(op, inputs, [f"{name}/{step}"], **attributes)
            for op, inputs, step, attributes in steps
        ]
        nodes.append(helper.make_node("Add", [f"{name}/scaled", f"{name}/{beta}"], [name]))
    probe.graph.initializer.append(numpy_helper.from_array(np.float32(EPSILON), "epsilon"))
    del probe.graph.node[:]
    probe.graph.node.extend(nodes)
    return probe, moments


def with_outputs(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """A copy with these tensors as outputs, for images of any number and size."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs
    )
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, "H", "W"])
    copy.graph.input[0].CopyFrom(data)
    return copy


def _last_gemm(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")


def _parameter(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return numpy_helper.to_array(tensor)


def _set_classifier(
    model: onnx.ModelProto, weight: NDArray[np.floating], bias: NDArray[np.floating]
) -> None:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    gemm = _last_gemm(model)
    for name, array in zip(gemm.input[1:], (weight, bias), strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
