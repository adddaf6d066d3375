"""Trains the demo's network and packs its digits: `python -m quantize.demo.train --output DIR`.

The result is committed, so nobody needs to run this; it needs `pip install 'quantize[train]'`.

Data: scikit-learn's bundled digits, 1797 images of 8x8. The first half trains and calibrates, the
second half evaluates. Neighbours in that file are often of the same hand, so halves by order are
a harder test than halves at random. An evaluation image whose pixels were trained on is dropped.

Recipe, chosen on the last 248 images of the training half, then run once on all of it: 60 epochs
of AdamW in batches of 50, one-cycle learning rate up to 0.01, weight decay 0.01, labels smoothed
by 0.1, each image turned, sheared, scaled and shifted a little. The seed fixes every choice; equal
bytes follow on one machine with the same package versions.
"""

from __future__ import annotations

import argparse
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
import sklearn.datasets
from onnx import TensorProto, helper, numpy_helper
from scipy.ndimage import affine_transform

from quantize.demo.files import CLASSES, SIDE, Digits, enlarge
from quantize.files import make_folder, write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

Arrays = dict[str, Any]
"""Tensor name -> float32 array, of numpy or of jax."""

SEED = 0
EPOCHS = 60
BATCH = 50
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.1
BATCHNORM_MOMENTUM = 0.9
EPSILON = 1e-5

# The most that an image is changed by: degrees, share, natural logarithm of the factor, pixels.
MAX_TURN, MAX_SHEAR, MAX_LOG_SCALE, MAX_SHIFT = 12.0, 0.15, 0.12, 3.0

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


# --------------------------------------------------------------------------- network


@dataclass(frozen=True)
class Layer:
    """One node of the network; its output is called `<name>_out`.

    Attributes:
        op: the ONNX operator.
        name: of the node, and before the dot in the names of its parameters.
        inputs: tensors that it reads, parameters apart.
        shape: of its weight, or (channels,) for BatchNormalization.
        stride: of a convolution; its padding keeps the size at stride 1.
    """

    op: Literal["Conv", "BatchNormalization", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"]
    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...] = ()
    stride: int = 1

    @property
    def output(self) -> str:
        """Name of the tensor that it writes."""
        return "logits" if self.op == "Gemm" else f"{self.name}_out"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters, in the operator's order."""
        kinds = {
            "Conv": ("weight",),
            "BatchNormalization": ("scale", "bias", "mean", "var"),
            "Gemm": ("weight", "bias"),
        }
        return tuple(f"{self.name}.{kind}" for kind in kinds.get(self.op, ()))


def residual_network() -> list[Layer]:
    """Three residual blocks: two of 32 channels at 32x32, one of 64 at 16x16."""
    layers: list[Layer] = []

    def add(op: Any, name: str, *inputs: str, shape: tuple[int, ...] = (), stride: int = 1) -> str:
        layers.append(Layer(op, name, inputs, shape, stride))
        return layers[-1].output

    def conv_bn(name: str, x: str, shape: tuple[int, ...], stride: int = 1) -> str:
        x = add("Conv", f"{name}_conv", x, shape=shape, stride=stride)
        return add("BatchNormalization", f"{name}_bn", x, shape=shape[:1])

    x = add("Relu", "stem_relu", conv_bn("stem", "image", (32, 3, 3, 3)))
    channels = 32
    for number, (width, stride) in enumerate([(32, 1), (32, 1), (64, 2)], start=1):
        block = f"block{number}"
        y = conv_bn(f"{block}_first", x, (width, channels, 3, 3), stride)
        y = conv_bn(f"{block}_second", add("Relu", f"{block}_first_relu", y), (width, width, 3, 3))
        if stride > 1:
            x = conv_bn(f"{block}_shortcut", x, (width, channels, 1, 1), stride)
        x = add("Relu", f"{block}_relu", add("Add", f"{block}_add", y, x))
        channels = width
    x = add("Flatten", "flatten", add("GlobalAveragePool", "pool", x))
    add("Gemm", "classifier", x, shape=(CLASSES, channels))
    return layers


def initial_parameters(layers: list[Layer], rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Learnt parameters (He's normal weights, a small classifier) and running statistics."""
    learnt: Arrays = {}
    running: Arrays = {}
    for layer in layers:
        if layer.op == "Conv":
            deviation = np.sqrt(2 / np.prod(layer.shape[1:]))
            learnt[f"{layer.name}.weight"] = rng.standard_normal(layer.shape) * deviation
        elif layer.op == "Gemm":
            learnt[f"{layer.name}.weight"] = rng.standard_normal(layer.shape) * 0.01
            learnt[f"{layer.name}.bias"] = np.zeros(layer.shape[0])
        elif layer.op == "BatchNormalization":
            learnt[f"{layer.name}.scale"] = np.ones(layer.shape)
            learnt[f"{layer.name}.bias"] = np.zeros(layer.shape)
            running[f"{layer.name}.mean"] = np.zeros(layer.shape)
            running[f"{layer.name}.var"] = np.ones(layer.shape)
    return _float32(learnt), _float32(running)


def forward(layers: list[Layer], learnt: Arrays, running: Arrays, images: Any) -> Any:
    """Logits [N,10] of images float32 [N,3,32,32], with the running statistics."""
    return _forward(layers, learnt, running, images, training=False)[0]


def _forward(
    layers: list[Layer], learnt: Arrays, running: Arrays, images: Any, *, training: bool
) -> tuple[Any, Arrays]:
    """Logits, and the running statistics after this batch (unchanged outside training)."""
    values = {"image": images}
    updated = dict(running)
    for layer in layers:
        x = values[layer.inputs[0]]
        if layer.op == "Conv":
            y = _convolve(x, learnt[f"{layer.name}.weight"], layer.stride)
        elif layer.op == "BatchNormalization":
            moments = _moments(layer.name, running, x if training else None)
            mean, var = moments.values()
            if training:
                updated |= _moved(running, moments)
            scale = learnt[f"{layer.name}.scale"] / jnp.sqrt(var + EPSILON)
            bias = learnt[f"{layer.name}.bias"] - mean * scale
            y = x * scale[:, None, None] + bias[:, None, None]
        elif layer.op == "Relu":
            y = jax.nn.relu(x)
        elif layer.op == "Add":
            y = x + values[layer.inputs[1]]
        elif layer.op == "GlobalAveragePool":
            y = x.mean((2, 3), keepdims=True)
        elif layer.op == "Flatten":
            y = x.reshape(x.shape[0], -1)
        else:
            y = x @ learnt[f"{layer.name}.weight"].T + learnt[f"{layer.name}.bias"]
        values[layer.output] = y
    return values["logits"], updated


def _convolve(x: Any, weight: Any, stride: int) -> Any:
    border = (weight.shape[2] // 2, weight.shape[2] // 2)
    return jax.lax.conv_general_dilated(x, weight, (stride, stride), [border, border])


def _moments(name: str, running: Arrays, x: Any | None) -> Arrays:
    """Mean and variance of a batch x [N,C,H,W], or without one the running ones."""
    names = (f"{name}.mean", f"{name}.var")
    if x is None:
        return {key: running[key] for key in names}
    return dict(zip(names, (x.mean((0, 2, 3)), x.var((0, 2, 3))), strict=True))


def _moved(running: Arrays, seen: Arrays) -> Arrays:
    """Running statistics after a step towards the ones seen in a batch."""
    keep = BATCHNORM_MOMENTUM
    return {key: keep * running[key] + (1 - keep) * value for key, value in seen.items()}


# ------------------------------------------------------------------------------ data


def split_digits() -> Digits:
    """Scikit-learn's digits, halved by order, without copies across the halves."""
    bunch = sklearn.datasets.load_digits()
    images = bunch.images.astype(np.uint8)
    half = len(images) // 2
    trained = {image.tobytes() for image in images[:half]}
    kept = [i < half or image.tobytes() not in trained for i, image in enumerate(images)]
    evaluation = np.arange(len(images)) >= half
    return Digits(images[kept], bunch.target.astype(np.uint8)[kept], evaluation[kept])


def _large(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [N,8,8] -> uint8 [N,32,32], one channel of what the demo's images hold."""
    return np.stack([enlarge(digit)[:, :, 0] for digit in digits])


def _normalised(grey: NDArray[Any]) -> NDArray[np.float32]:
    """Grey values 0 to 255, [N,32,32] -> what the network reads, float32 [N,3,32,32]."""
    scaled = grey[:, None].astype(np.float32) / np.float32(255)
    normalised: NDArray[np.float32] = (scaled - MEAN[:, None, None]) / STD[:, None, None]
    return normalised


def _varied(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Each image [32,32] under an affine map of its own about its centre, bilinear."""
    centre = np.full(2, (SIDE - 1) / 2)
    out = np.empty(images.shape, dtype=np.float32)
    for i, image in enumerate(images):
        angle = np.deg2rad(rng.uniform(-MAX_TURN, MAX_TURN))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1.0, rng.uniform(-MAX_SHEAR, MAX_SHEAR)], [0.0, 1.0]])
        scale = np.diag(np.exp(rng.uniform(-MAX_LOG_SCALE, MAX_LOG_SCALE, size=2)))
        shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, size=2)
        matrix = turn @ shear @ scale
        offset = centre - matrix @ (centre + shift)
        out[i] = affine_transform(image.astype(np.float32), matrix, offset=offset, order=1)
    return out


# -------------------------------------------------------------------------- training


def train(layers: list[Layer], digits: Digits) -> tuple[Arrays, Arrays]:
    """Learnt parameters and running statistics after the recipe of this module's docstring."""
    rng = np.random.default_rng(SEED)
    images, labels = _large(digits.images[~digits.evaluation]), digits.labels[~digits.evaluation]
    batches = len(images) // BATCH
    schedule = optax.cosine_onecycle_schedule(EPOCHS * batches, LEARNING_RATE)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY, mask=_decayed)

    def loss(learnt: Arrays, running: Arrays, x: Any, y: Any) -> tuple[Any, Arrays]:
        logits, running = _forward(layers, learnt, running, x, training=True)
        target = optax.smooth_labels(jax.nn.one_hot(y, CLASSES), LABEL_SMOOTHING)
        return optax.softmax_cross_entropy(logits, target).mean(), running

    def step(learnt: Arrays, running: Arrays, state: Any, x: Any, y: Any) -> Any:
        (value, running), gradient = jax.value_and_grad(loss, has_aux=True)(learnt, running, x, y)
        updates, state = optimizer.update(gradient, state, learnt)
        return optax.apply_updates(learnt, updates), running, state, value

    fast_step = jax.jit(step)
    learnt, running = initial_parameters(layers, rng)
    state = optimizer.init(learnt)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))[: batches * BATCH].reshape(batches, BATCH)
        for chosen in order:
            x = _normalised(_varied(images[chosen], rng))
            learnt, running, state, value = fast_step(learnt, running, state, x, labels[chosen])
        _log.info("epoch %d of %d: loss of the last batch %.4f", epoch + 1, EPOCHS, float(value))
    return _float32(learnt), _float32(running)


def accuracy(layers: list[Layer], learnt: Arrays, running: Arrays, digits: Digits) -> float:
    """Top-1 on the evaluation half (a ratio)."""
    images = _normalised(_large(digits.images[digits.evaluation]))
    logits = jax.jit(lambda x: forward(layers, learnt, running, x))(images)
    return float((np.argmax(logits, axis=1) == digits.labels[digits.evaluation]).mean())


def _decayed(learnt: Arrays) -> dict[str, bool]:
    """Which parameters decay: weights, not biases and scales."""
    return {name: name.endswith(".weight") for name in learnt}


def _float32(arrays: Arrays) -> Arrays:
    return {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()}


# ---------------------------------------------------------------------------- result


def to_onnx(layers: list[Layer], parameters: Arrays) -> onnx.ModelProto:
    """The network as an ONNX model, opset 13, BatchNormalization left as it is."""
    graph = helper.make_graph(
        [_node(layer) for layer in layers],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [
            numpy_helper.from_array(parameters[name], name)
            for layer in layers
            for name in layer.parameters
        ],
    )
    opset = helper.make_opsetid("", 13)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="quantize")
    onnx.checker.check_model(model, full_check=True)
    return model


def _node(layer: Layer) -> onnx.NodeProto:
    attributes: dict[str, Any] = {}
    if layer.op == "Conv":
        kernel = layer.shape[2]
        attributes = {
            "kernel_shape": [kernel, kernel],
            "pads": [kernel // 2] * 4,
            "strides": [layer.stride, layer.stride],
        }
    elif layer.op == "BatchNormalization":
        attributes = {"epsilon": EPSILON, "momentum": BATCHNORM_MOMENTUM}
    elif layer.op == "Flatten":
        attributes = {"axis": 1}
    elif layer.op == "Gemm":
        attributes = {"transB": 1}
    inputs = [*layer.inputs, *layer.parameters]
    return helper.make_node(layer.op, inputs, [layer.output], name=layer.name, **attributes)


def _packed(digits: Digits) -> bytes:
    """The digits as the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez_compressed(
        file, images=digits.images, labels=digits.labels, evaluation=digits.evaluation
    )
    return file.getvalue()


def main() -> None:
    """Train and write `digits.onnx` and `digits.npz`."""
    parser = argparse.ArgumentParser(description="Train the demo's network.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files")
    folder = parser.parse_args().output
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make_folder(folder)
    digits, layers = split_digits(), residual_network()
    learnt, running = train(layers, digits)
    _log.info("float top-1 on the evaluation half: %.4f", accuracy(layers, learnt, running, digits))
    write_atomic(folder / "digits.onnx", to_onnx(layers, learnt | running).SerializeToString())
    write_atomic(folder / "digits.npz", _packed(digits))


if __name__ == "__main__":
    main()
