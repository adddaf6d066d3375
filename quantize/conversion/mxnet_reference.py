"""What MXNet's operators compute, in plain numpy and from the symbol alone.

The attributes are read here a second time, defaults included, and on purpose: what this says is
held against the ONNX model, and a default that only one of the two has wrong would show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from quantize.conversion import arithmetic
from quantize.conversion.mxnet_attributes import Attributes
from quantize.conversion.mxnet_symbol import VARIABLE, Symbol
from quantize.errors import ModelError

Array = NDArray[np.float32]
Compute = Callable[[Attributes, list[Array]], Array]
"""(attributes, inputs) -> the node's first output."""

_ANY = 1 << 30


def forward(
    symbol: Symbol, values: Mapping[int, Array], needed: Collection[str]
) -> dict[str, Array]:
    """Compute a symbol's nodes, one after the other.

    Args:
        symbol: the graph.
        values: place -> value, float32, of the parameters and of the image.
        needed: names of the tensors that are asked for.

    Returns:
        Those of `needed` that are computed, in the symbol's order.

    Raises:
        ModelError: the images are of another size than the network takes.
    """
    held = dict(values)
    found: dict[str, Array] = {}
    for index, node in enumerate(symbol.nodes):
        if node.operator == VARIABLE:
            continue
        # Labels have no value; whatever else reads nothing was refused before.
        inputs = [held[i] for i in node.inputs if i in held]
        try:
            with np.errstate(all="ignore"):
                result = COMPUTATIONS[node.operator](node.attributes, inputs)
        except ValueError as error:  # shapes that do not suit: numpy says no more than that
            shape = list(inputs[0].shape)
            raise ModelError(
                f"{node.attributes.place} fails on {shape}: {error}",
                "give images of the size that the network was trained on",
            ) from error
        held[index] = np.asarray(result, np.float32)
        if node.name in needed:
            found[node.name] = held[index]
    return found


def _convolution(a: Attributes, inputs: list[Array]) -> Array:
    data, weight, *bias = inputs
    up, left = a.pair("pad", (0, 0), 0, _ANY)
    return arithmetic.convolve(
        data,
        weight,
        None if a.flag("no_bias", False) else bias[0],
        stride=a.pair("stride", (1, 1), 1, _ANY),
        pads=(up, left, up, left),
        dilation=a.pair("dilate", (1, 1), 1, _ANY),
        group=a.integer("num_group", 1, 1, _ANY),
    )


def _batch_norm(a: Attributes, inputs: list[Array]) -> Array:
    data, gamma, beta, mean, variance = inputs
    if a.flag("fix_gamma", True):
        gamma = np.ones_like(gamma)
    return arithmetic.normalize(data, gamma, beta, mean, variance, a.number("eps", 0.001))


def _pooling(a: Attributes, inputs: list[Array]) -> Array:
    [data] = inputs
    largest = a.text("pool_type", "max") == "max"
    if a.flag("global_pool", False):
        if largest:
            return np.asarray(data.max(axis=(2, 3), keepdims=True), np.float32)
        return np.asarray(data.mean(axis=(2, 3), keepdims=True, dtype=np.float64), np.float32)
    kernel = a.pair("kernel", None, 1, _ANY)
    stride = a.pair("stride", (1, 1), 1, _ANY)
    up, left = a.pair("pad", (0, 0), 0, _ANY)
    pads, ceil = (up, left, up, left), a.text("pooling_convention", "valid") == "full"
    if largest:
        return arithmetic.max_pool(data, kernel, stride, pads, ceil=ceil)
    counted = a.flag("count_include_pad", True)
    return arithmetic.average_pool(data, kernel, stride, pads, ceil=ceil, count_pads=counted)


def _mean_of_all(a: Attributes, inputs: list[Array]) -> Array:
    return np.asarray(inputs[0].mean(axis=(2, 3), keepdims=True, dtype=np.float64), np.float32)


def _fully_connected(a: Attributes, inputs: list[Array]) -> Array:
    data, weight, *bias = inputs
    rows = data.reshape(len(data), -1)
    return arithmetic.fully_connected(rows, weight, None if a.flag("no_bias", False) else bias[0])


def _flatten(a: Attributes, inputs: list[Array]) -> Array:
    return inputs[0].reshape(len(inputs[0]), -1)


def _reshape(a: Attributes, inputs: list[Array]) -> Array:
    wanted = a.integers("shape") or a.integers("target_shape")
    had = inputs[0].shape
    return inputs[0].reshape([had[i] if size == 0 else size for i, size in enumerate(wanted)])


def _expand(a: Attributes, inputs: list[Array]) -> Array:
    return np.expand_dims(inputs[0], a.integer("axis", None, 1, 4))


def _squeeze(a: Attributes, inputs: list[Array]) -> Array:
    return np.squeeze(inputs[0], axis=a.integers("axis"))


def _mean(a: Attributes, inputs: list[Array]) -> Array:
    axes, keep = a.integers("axis"), a.flag("keepdims", False)
    return np.asarray(inputs[0].mean(axis=axes, keepdims=keep, dtype=np.float64), np.float32)


def _concat(a: Attributes, inputs: list[Array]) -> Array:
    return np.concatenate(inputs, axis=a.integer("dim", 1, 1, 3))


def _pad(a: Attributes, inputs: list[Array]) -> Array:
    widths = a.integers("pad_width")
    pairs = list(zip(widths[::2], widths[1::2], strict=True))
    mode = a.text("mode", "constant")
    if mode == "constant":
        return np.pad(inputs[0], pairs, constant_values=a.number("constant_value", 0.0))
    return np.pad(inputs[0], pairs, mode="edge" if mode == "edge" else "reflect")


def _response_norm(a: Attributes, inputs: list[Array]) -> Array:
    data, size = inputs[0].astype(np.float64), a.integer("nsize", None, 1, _ANY)
    half = size // 2
    squares = np.pad(data**2, ((0, 0), (half, half), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + data.shape[1]] for i in range(size))
    divisor = (a.number("knorm", 2.0) + a.number("alpha", 1e-4) / size * total) ** a.number(
        "beta", 0.75
    )
    return np.asarray(data / divisor, np.float32)


def _activation(a: Attributes, inputs: list[Array]) -> Array:
    return _FUNCTIONS[a.text("act_type", "")](inputs[0])


def _leaky(a: Attributes, inputs: list[Array]) -> Array:
    data, kind, slope = inputs[0], a.text("act_type", "leaky"), a.number("slope", 0.25)
    if kind == "prelu":
        slopes = inputs[1].reshape(1, -1, *[1] * (data.ndim - 2))
        return np.where(data > 0, data, data * slopes)
    if kind == "leaky":
        return np.where(data > 0, data, data * np.float32(slope))
    below = np.expm1(np.minimum(data, 0).astype(np.float64))
    if kind == "elu":
        return np.asarray(np.where(data > 0, data, slope * below), np.float32)
    return np.asarray(
        1.0507009873554805 * np.where(data > 0, data, 1.6732632423543772 * below), np.float32
    )


def _hard_sigmoid(a: Attributes, inputs: list[Array]) -> Array:
    line = inputs[0] * a.number("alpha", 0.2) + a.number("beta", 0.5)
    return np.asarray(np.clip(line, 0, 1), np.float32)


def _clip(a: Attributes, inputs: list[Array]) -> Array:
    return np.clip(inputs[0], a.number("a_min", None), a.number("a_max", None))


def _softmax_output(a: Attributes, inputs: list[Array]) -> Array:
    if a.flag("multi_output", False):
        return arithmetic.softmax(inputs[0], axis=1)
    if a.flag("preserve_shape", False):
        return arithmetic.softmax(inputs[0], axis=-1)
    return arithmetic.softmax(_flatten(a, inputs), axis=1)


def _softmax_activation(a: Attributes, inputs: list[Array]) -> Array:
    if a.text("mode", "instance") == "channel":
        return arithmetic.softmax(inputs[0], axis=1)
    return arithmetic.softmax(_flatten(a, inputs), axis=1)


def _softmax(a: Attributes, inputs: list[Array]) -> Array:
    return arithmetic.softmax(inputs[0], axis=a.integer("axis", -1, -3, 3))


def _log_softmax(a: Attributes, inputs: list[Array]) -> Array:
    data, axis = inputs[0].astype(np.float64), a.integer("axis", -1, -3, 3)
    shifted = data - data.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)), np.float32)


def _sum(a: Attributes, inputs: list[Array]) -> Array:
    return np.asarray(sum(value.astype(np.float64) for value in inputs), np.float32)


def _same(a: Attributes, inputs: list[Array]) -> Array:
    return inputs[0]


def _of_one(function: Callable[[Array], Array]) -> Compute:
    return lambda a, inputs: function(inputs[0])


def _of_two(function: Callable[[Array, Array], Array]) -> Compute:
    return lambda a, inputs: function(inputs[0], inputs[1])


def _with_scalar(function: Callable[[Array, np.float32], Array]) -> Compute:
    return lambda a, inputs: function(inputs[0], np.float32(a.number("scalar", None)))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: np.asarray(1 / (1 + np.exp(-x.astype(np.float64))), np.float32),
    "tanh": np.tanh,
    "softrelu": lambda x: np.logaddexp(np.float32(0), x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "negative": np.negative,
}

_OF_TWO: tuple[tuple[Callable[[Array, Array], Array], tuple[str, ...]], ...] = (
    (np.add, ("_Plus", "_add", "_grad_add", "_plus", "elemwise_add")),
    (np.add, ("broadcast_add", "broadcast_plus")),
    (np.subtract, ("_Minus", "_minus", "_sub", "elemwise_sub")),
    (np.subtract, ("broadcast_minus", "broadcast_sub")),
    (np.multiply, ("_Mul", "_mul", "elemwise_mul", "broadcast_mul")),
    (np.divide, ("_Div", "_div", "elemwise_div", "broadcast_div")),
)
_WITH_SCALAR: tuple[tuple[Callable[[Array, np.float32], Array], tuple[str, ...]], ...] = (
    (np.add, ("_PlusScalar", "_plus_scalar")),
    (np.subtract, ("_MinusScalar", "_minus_scalar")),
    (np.multiply, ("_MulScalar", "_mul_scalar")),
    (np.divide, ("_DivScalar", "_div_scalar")),
    (lambda x, s: s - x, ("_RMinusScalar", "_rminus_scalar")),
    (lambda x, s: s / x, ("_RDivScalar", "_rdiv_scalar")),
)

COMPUTATIONS: dict[str, Compute] = {
    "Activation": _activation,
    "BatchNorm": _batch_norm,
    "BatchNorm_v1": _batch_norm,
    "BlockGrad": _same,
    "Cast": _same,
    "Concat": _concat,
    "Convolution": _convolution,
    "Convolution_v1": _convolution,
    "CuDNNBatchNorm": _batch_norm,
    "Dropout": _same,
    "ElementWiseSum": _sum,
    "Flatten": _flatten,
    "FullyConnected": _fully_connected,
    "IdentityAttachKLSparseReg": _same,
    "LRN": _response_norm,
    "LeakyReLU": _leaky,
    "LinearRegressionOutput": _same,
    "LogisticRegressionOutput": _of_one(_FUNCTIONS["sigmoid"]),
    "MAERegressionOutput": _same,
    "MakeLoss": _same,
    "Pad": _pad,
    "Pooling": _pooling,
    "Pooling_v1": _pooling,
    "Reshape": _reshape,
    "SVMOutput": _same,
    "Softmax": _softmax_output,
    "SoftmaxActivation": _softmax_activation,
    "SoftmaxOutput": _softmax_output,
    "SyncBatchNorm": _batch_norm,
    "_contrib_AdaptiveAvgPooling2D": _mean_of_all,
    "_contrib_SyncBatchNorm": _batch_norm,
    "_copy": _same,
    "add_n": _sum,
    "amp_cast": _same,
    "cast": _same,
    "clip": _clip,
    "concat": _concat,
    "expand_dims": _expand,
    "flatten": _flatten,
    "hard_sigmoid": _hard_sigmoid,
    "identity": _same,
    "log_softmax": _log_softmax,
    "make_loss": _same,
    "mean": _mean,
    "pad": _pad,
    "reshape": _reshape,
    "softmax": _softmax,
    "squeeze": _squeeze,
    "stop_gradient": _same,
    **{name: _of_one(_FUNCTIONS[name]) for name in ("abs", "exp", "negative", "relu", "sigmoid")},
    **{name: _of_one(_FUNCTIONS[name]) for name in ("softsign", "sqrt", "tanh")},
    **{name: _of_two(function) for function, names in _OF_TWO for name in names},
    **{name: _with_scalar(function) for function, names in _WITH_SCALAR for name in names},
}
"""MXNet's operator -> what it computes."""
