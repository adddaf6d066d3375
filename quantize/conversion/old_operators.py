"""The operators of opsets 3 to 6 in numpy, each as its own text defines it.

No runtime runs these opsets any more. Slow and obvious on purpose; it reads the old attributes
itself and takes nothing from the rewriting that it checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.conversion import arithmetic
from quantize.errors import ModelError
from quantize.graph.nodes import attribute, called

Array = NDArray[Any]
Operator = Callable[[onnx.NodeProto, list[Array]], Array]
"""(node, its inputs) -> its first output."""

_MOST_ELEMENTS = 1 << 28


def _convolution(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    images, weight = inputs[:2]
    kernel = (weight.shape[2], weight.shape[3])
    stride, dilation = _pair(node, "strides"), _pair(node, "dilations")
    return arithmetic.convolve(
        images,
        weight,
        inputs[2] if len(inputs) > 2 else None,
        stride=stride,
        pads=_pads(node, images, kernel, stride, dilation),
        dilation=dilation,
        group=attribute(node, "group", 1),
    )


def _max_pool(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    kernel, stride = _pair(node, "kernel_shape"), _pair(node, "strides")
    pads = _pads(node, inputs[0], kernel, stride)
    return arithmetic.max_pool(inputs[0], kernel, stride, pads)


def _average_pool(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    kernel, stride = _pair(node, "kernel_shape"), _pair(node, "strides")
    pads = _pads(node, inputs[0], kernel, stride)
    return arithmetic.average_pool(inputs[0], kernel, stride, pads)


def _normalization(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    images, gamma, beta, mean, var = inputs
    epsilon = attribute(node, "epsilon", 1e-5)
    if gamma.ndim == 1:
        return arithmetic.normalize(images, gamma, beta, mean, var, epsilon)
    deviation = np.sqrt(var.astype(np.float64) + epsilon)
    return np.asarray((images - mean.astype(np.float64)) / deviation * gamma + beta)


def _response(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    """Give x / (bias + alpha / size * sum of squares over `size` channels around) ^ beta."""
    size = attribute(node, "size")
    before, after = (size - 1) // 2, size // 2
    images = inputs[0].astype(np.float64)
    around = np.pad(images**2, ((0, 0), (before, after), (0, 0), (0, 0)))
    sums = sum(around[:, i : i + images.shape[1]] for i in range(size))
    factor = attribute(node, "alpha", 1e-4) / size
    power = attribute(node, "beta", 0.75)
    return np.asarray(images / (attribute(node, "bias", 1.0) + factor * sums) ** power)


def _gemm(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    first, second = (value.astype(np.float64) for value in inputs[:2])
    first = first.T if attribute(node, "transA", 0) else first
    second = second.T if attribute(node, "transB", 0) else second
    product = attribute(node, "alpha", 1.0) * (first @ second)
    return np.asarray(product + attribute(node, "beta", 1.0) * inputs[2])


def _binary(work: Callable[[Array, Array], Array]) -> Operator:
    def run(node: onnx.NodeProto, inputs: list[Array]) -> Array:
        first, second = inputs
        axis = attribute(node, "axis")
        if not attribute(node, "broadcast", 0) and first.shape != second.shape:
            raise ValueError(f"shapes {first.shape} and {second.shape} differ")
        if axis is not None and attribute(node, "broadcast", 0):
            start = axis % first.ndim
            behind = first.ndim - start - second.ndim
            second = second.reshape(*second.shape, *[1] * behind)
        result = work(first, second)
        if result.shape != first.shape:
            raise ValueError(f"{second.shape} does not fit into {first.shape}")
        return result

    return run


def _reshape(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    shape = attribute(node, "shape")
    wanted = [int(n) for n in (inputs[1] if shape is None else shape)]
    return inputs[0].reshape([inputs[0].shape[i] if n == 0 else n for i, n in enumerate(wanted)])


def _flat(node: onnx.NodeProto, value: Array) -> Array:
    axis = attribute(node, "axis", 1)
    return value.reshape(math.prod(value.shape[:axis]), -1)


def _softmax(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    """Over all axes from `axis` on together."""
    return arithmetic.softmax(_flat(node, inputs[0])).reshape(inputs[0].shape)


def _log_softmax(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    flat = _flat(node, inputs[0]).astype(np.float64)
    shifted = flat - flat.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.asarray(logs.reshape(inputs[0].shape))


def _pad(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    pads = attribute(node, "pads")
    half = len(pads) // 2
    around = list(zip(pads[:half], pads[half:], strict=True))
    _check_size([n + before + after for n, (before, after) in zip(inputs[0].shape, around)])  # noqa: B905 - np.pad complains
    mode = attribute(node, "mode", "constant")
    if mode == "constant":
        return np.pad(inputs[0], around, constant_values=attribute(node, "value", 0.0))
    return np.pad(inputs[0], around, mode="reflect" if mode == "reflect" else "edge")


def _prelu(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    value, slope = inputs
    if slope.size > 1:
        slope = slope.reshape(-1, *[1] * (value.ndim - 2))
    return np.where(value < 0, value * slope, value)


def _leaky(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    return np.where(inputs[0] < 0, inputs[0] * attribute(node, "alpha", 0.01), inputs[0])


def _elu(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    low = np.expm1(np.minimum(inputs[0], 0))
    return np.where(inputs[0] < 0, attribute(node, "alpha", 1.0) * low, inputs[0])


def _clip(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    return np.clip(inputs[0], attribute(node, "min", -np.inf), attribute(node, "max", np.inf))


def _mean_of(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    axes = tuple(attribute(node, "axes", range(inputs[0].ndim)))
    keep = bool(attribute(node, "keepdims", 1))
    return np.asarray(inputs[0].mean(axis=axes, keepdims=keep, dtype=np.float64))


def _squeeze(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    axes = attribute(node, "axes")
    return inputs[0].squeeze(axis=None if axes is None else tuple(axes))


def _upsample(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    if attribute(node, "mode", "nearest") != "nearest":
        raise ValueError("only the nearest pixel is known here")
    sizes, scales = (
        inputs[0].shape[2:],
        (attribute(node, "height_scale"), attribute(node, "width_scale")),
    )
    _check_size([*inputs[0].shape[:2], *(int(n * s) for n, s in zip(sizes, scales, strict=True))])
    rows, columns = (np.arange(int(n * s)) / s for n, s in zip(sizes, scales, strict=True))
    return inputs[0][:, :, rows.astype(int)[:, None], columns.astype(int)]


def _cast(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    to = attribute(node, "to")
    kind = TensorProto.DataType.Value(to.upper()) if isinstance(to, str) else to
    return inputs[0].astype(helper.tensor_dtype_to_np_dtype(kind))


def _constant(node: onnx.NodeProto, _inputs: list[Array]) -> Array:
    return numpy_helper.to_array(attribute(node, "value"))


def _each(work: Callable[[Array], Array]) -> Operator:
    return lambda _node, inputs: work(inputs[0])


def _together(work: Callable[..., Array]) -> Operator:
    def run(_node: onnx.NodeProto, inputs: list[Array]) -> Array:
        if len({value.shape for value in inputs}) != 1:
            raise ValueError("its inputs differ in shape")
        return work(np.stack(inputs).astype(np.float64), axis=0)

    return run


OPERATORS: dict[str, Operator] = {
    "Abs": _each(np.abs),
    "Add": _binary(np.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda node, inputs: np.concatenate(inputs, axis=attribute(node, "axis", 1)),
    "Constant": _constant,
    "Conv": _convolution,
    "Div": _binary(np.divide),
    "Dropout": _each(lambda value: value),
    "Elu": _elu,
    "Exp": _each(np.exp),
    "Flatten": lambda node, inputs: _flat(node, inputs[0]),
    "Gemm": _gemm,
    "GlobalAveragePool": _each(lambda x: x.mean(axis=(2, 3), keepdims=True, dtype=np.float64)),
    "GlobalMaxPool": _each(lambda x: x.max(axis=(2, 3), keepdims=True)),
    "Identity": _each(lambda value: value),
    "LRN": _response,
    "LeakyRelu": _leaky,
    "Log": _each(np.log),
    "LogSoftmax": _log_softmax,
    "MatMul": lambda _node, inputs: inputs[0].astype(np.float64) @ inputs[1],
    "Max": _together(np.max),
    "MaxPool": _max_pool,
    "Mean": _together(np.mean),
    "Min": _together(np.min),
    "Mul": _binary(np.multiply),
    "Neg": _each(np.negative),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _binary(np.power),
    "ReduceMean": _mean_of,
    "Relu": _each(lambda value: np.maximum(value, 0)),
    "Reshape": _reshape,
    "Shape": _each(lambda value: np.asarray(value.shape, np.int64)),
    "Sigmoid": _each(lambda value: 1 / (1 + np.exp(-value.astype(np.float64)))),
    "Softmax": _softmax,
    "Sqrt": _each(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Sum": _together(np.sum),
    "Tanh": _each(np.tanh),
    "Transpose": lambda node, inputs: inputs[0].transpose(attribute(node, "perm")),
    "Unsqueeze": lambda node, inputs: np.expand_dims(inputs[0], tuple(attribute(node, "axes"))),
    "Upsample": _upsample,
}


def evaluate(node: onnx.NodeProto, inputs: list[Array]) -> Array:
    """The first output of a node; float32 where its numbers are real.

    Raises:
        ModelError: the operator is not among `OPERATORS`, or fails on these inputs.
    """
    operator = OPERATORS.get(node.op_type)
    if operator is None:
        raise ModelError(
            f"operator {called(node)} of an opset below 7 is not known, so that its conversion"
            " cannot be proven",
            "export the model again with opset 13 or newer",
        )
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(operator(node, inputs))
    except Exception as error:  # whatever numpy says to operands that do not fit
        raise ModelError(f"{called(node)} cannot be computed: {error}") from error
    return value.astype(np.float32) if value.dtype == np.float64 else value


def _pair(node: onnx.NodeProto, name: str) -> tuple[int, int]:
    height, width = attribute(node, name, [1, 1])
    if min(height, width) < 1:
        raise ValueError(f"{name} is [{height}, {width}]")
    return height, width


def _pads(
    node: onnx.NodeProto,
    images: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> arithmetic.Pads:
    """(top, left, bottom, right), worked out from the sizes where `auto_pad` asks for it."""
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        if min(top, left, bottom, right) < 0:
            raise ValueError("its pads are negative")
        height, width = images.shape[2] + top + bottom, images.shape[3] + left + right
        _check_size([*images.shape[:2], height, width])
        return top, left, bottom, right
    before, after = [], []
    for size, taps, step, apart in zip(images.shape[2:], kernel, stride, dilation, strict=True):
        outputs = -(-size // step)
        total = max(0, (outputs - 1) * step + (taps - 1) * apart + 1 - size)
        less, more = total // 2, total - total // 2
        before.append(less if mode == "SAME_UPPER" else more)
        after.append(more if mode == "SAME_UPPER" else less)
    return before[0], before[1], after[0], after[1]


def _check_size(shape: list[int]) -> None:
    """A file may ask for any padding: no memory is taken for what is no image any more."""
    if math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"a tensor of shape {shape} is too large")
