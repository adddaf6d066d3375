"""A small Caffe2 in numpy: one workspace of blobs, operators that overwrite them in order.

It knows nothing of the ONNX model, and least of all how tensors are told apart there: a blob is
simply what was written to it last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.conversion import arithmetic
from quantize.conversion.arithmetic import Array
from quantize.conversion.caffe2_net import Net, Operator
from quantize.conversion.caffe2_operators import DEFAULT_EPSILON
from quantize.conversion.caffe2_windows import window
from quantize.conversion.imported import Tensors


def run_net(
    net: Net, weights: Mapping[str, NDArray[Any]], image: str, images: NDArray[np.float32]
) -> Tensors:
    """Run a predict net whose operators are known to be supported.

    Args:
        net: the predict net.
        weights: blob -> value, before it runs.
        image: the input blob.
        images: float32 [N,C,H,W].

    Returns:
        Every value of every blob that an operator made; the n-th of a blob is `blob_n`.
    """
    blobs: dict[str, Array] = {image: images}
    writes: Counter[str] = Counter()
    made: dict[str, Array] = {}
    for op in net.operators:
        for name in op.inputs:
            if name not in blobs:
                blobs[name] = weights[name]
        blob = op.outputs[0]
        with np.errstate(over="ignore", invalid="ignore"):  # infinity is an answer, too
            blobs[blob] = _COMPUTE[op.type](op, [blobs[name] for name in op.inputs])
        writes[blob] += 1
        made[f"{blob}_{writes[blob]}"] = blobs[blob]
    return made


def _convolution(op: Operator, read: list[Array]) -> Array:
    moved = window(op)
    bias = read[2] if len(read) > 2 else None
    given = {"stride": moved.stride, "pads": moved.pads, "dilation": moved.dilation}
    return arithmetic.convolve(read[0], read[1], bias, group=op.integer("group", 1), **given)  # type: ignore[arg-type]


def _normalization(op: Operator, read: list[Array]) -> Array:
    images, gain, bias, mean, variance = read
    epsilon = op.number("epsilon", DEFAULT_EPSILON)
    return arithmetic.normalize(images, gain, bias, mean, variance, epsilon)


def _maximum(op: Operator, read: list[Array]) -> Array:
    moved = window(op)
    if moved.everything:
        return np.asarray(read[0].max(axis=(2, 3), keepdims=True), np.float32)
    return arithmetic.max_pool(read[0], moved.kernel, moved.stride, moved.pads, ceil=moved.ceil)


def _average(op: Operator, read: list[Array]) -> Array:
    moved = window(op)
    if moved.everything:
        whole = read[0].mean(axis=(2, 3), keepdims=True, dtype=np.float64)
        return np.asarray(whole, np.float32)
    counted = bool(op.integer("count_include_pad", 0))
    return arithmetic.average_pool(
        read[0], moved.kernel, moved.stride, moved.pads, ceil=moved.ceil, count_pads=counted
    )


def _sum(op: Operator, read: list[Array]) -> Array:
    return np.asarray(sum(term.astype(np.float64) for term in read), np.float32)


def _fully_connected(op: Operator, read: list[Array]) -> Array:
    return arithmetic.fully_connected(read[0].reshape(len(read[0]), -1), read[1], read[2])


def _softmax(op: Operator, read: list[Array]) -> Array:
    """Over everything behind the batch axis, as Caffe2 does from its axis on."""
    flat = read[0].reshape(len(read[0]), -1)
    return arithmetic.softmax(flat).reshape(read[0].shape)


def _local_response(op: Operator, read: list[Array]) -> Array:
    """Each x / (bias + alpha / size * sum of x^2 over `size` channels around) ^ beta."""
    images, size = read[0].astype(np.float64), op.integer("size", 0)
    around = ((0, 0), (size // 2, size // 2), (0, 0), (0, 0))
    squares = np.pad(images**2, around)
    sums = sum(squares[:, i : i + images.shape[1]] for i in range(size))
    scale = op.number("bias", 1.0) + op.number("alpha", 0.0) / size * sums
    return np.asarray(images * scale ** -op.number("beta", 0.0), np.float32)


_COMPUTE: Mapping[str, Callable[[Operator, list[Array]], Array]] = {
    "Add": _sum,
    "AveragePool": _average,
    "Concat": lambda op, read: np.concatenate(read, axis=1),
    "Conv": _convolution,
    "Dropout": lambda op, read: read[0],
    "FC": _fully_connected,
    "LRN": _local_response,
    "MaxPool": _maximum,
    "Relu": lambda op, read: np.maximum(read[0], np.float32(0)),
    "Softmax": _softmax,
    "SpatialBN": _normalization,
    "Sum": _sum,
}
