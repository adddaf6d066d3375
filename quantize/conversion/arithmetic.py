"""The operators of classifiers in plain numpy: what conversions are checked against.

Slow and obvious on purpose, and nothing here knows ONNX. Images are [N,C,H,W], float32; sums are
taken in float64, so that a difference is the other side's.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]
Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""(top, left, bottom, right)"""


def convolve(
    images: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    group: int = 1,
) -> Array:
    """Cross-correlation, as every framework calls convolution.

    Args:
        images: float32 [N,C,H,W].
        weight: float32 [M,C/group,kH,kW].
        bias: float32 [M].
        stride: vertical, horizontal.
        pads: zeros around.
        dilation: distance between the kernel's taps.
        group: into how many parts channels are divided.

    Returns:
        float32 [N,M,H',W'] with H' = (H + top + bottom - dilation (kH - 1) - 1) // stride + 1.
    """
    kernel = weight.shape[2], weight.shape[3]
    windows = _windows(_padded(images, pads, 0.0), kernel, stride, dilation)
    count, channels, height, width = windows.shape[:4]
    outputs, taken = len(weight) // group, channels // group
    parts = []
    for part in range(group):
        rows = windows[:, part * taken : (part + 1) * taken].transpose(0, 2, 3, 1, 4, 5)
        matrix = weight[part * outputs : (part + 1) * outputs].reshape(outputs, -1)
        flat = rows.reshape(count * height * width, -1).astype(np.float64)
        product = flat @ matrix.astype(np.float64).T
        parts.append(product.reshape(count, height, width, outputs).transpose(0, 3, 1, 2))
    result = np.concatenate(parts, axis=1)
    if bias is not None:
        result = result + bias.astype(np.float64).reshape(1, -1, 1, 1)
    return np.asarray(result, np.float32)


def normalize(
    images: Array, gain: Array, bias: Array, mean: Array, variance: Array, epsilon: float
) -> Array:
    """Batch normalization at inference: gain (x - mean) / sqrt(variance + epsilon) + bias.

    Args:
        images: float32 [N,C,...].
        gain: float32 [C]; so are bias, mean and variance.
        bias: added last.
        mean: running mean.
        variance: running variance, not its inverse or root.
        epsilon: added to the variance.
    """
    shape = (1, -1, *[1] * (images.ndim - 2))
    slope = gain.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    offset = bias.astype(np.float64) - mean.astype(np.float64) * slope
    return np.asarray(images * slope.reshape(shape) + offset.reshape(shape), np.float32)


def max_pool(
    images: Array, kernel: Pair, stride: Pair, pads: Pads = (0, 0, 0, 0), *, ceil: bool = False
) -> Array:
    """The largest of each window; padding never wins.

    Args:
        images: float32 [N,C,H,W].
        kernel: window height and width.
        stride: vertical, horizontal.
        pads: how far windows reach over the border.
        ceil: whether a last window that starts inside but ends beyond the border counts.
    """
    padded = _padded(images, _grown(images, kernel, stride, pads) if ceil else pads, -np.inf)
    return np.asarray(_windows(padded, kernel, stride, (1, 1)).max(axis=(4, 5)), np.float32)


def average_pool(
    images: Array,
    kernel: Pair,
    stride: Pair,
    pads: Pads = (0, 0, 0, 0),
    *,
    ceil: bool = False,
    count_pads: bool = False,
) -> Array:
    """The mean of each window; see `max_pool`.

    Args:
        images: float32 [N,C,H,W].
        kernel: window height and width.
        stride: vertical, horizontal.
        pads: how far windows reach over the border.
        ceil: whether a last window that ends beyond the border counts.
        count_pads: whether padding counts in the mean; what `ceil` adds never does.
    """
    grown = _grown(images, kernel, stride, pads) if ceil else pads
    counted = np.ones((1, 1, *images.shape[2:]), np.float32)
    if count_pads:
        counted = _padded(counted, pads, 1.0)
        extra = tuple(one - other for one, other in zip(grown, pads, strict=True))
        counted = _padded(counted, (extra[0], extra[1], extra[2], extra[3]), 0.0)
    else:
        counted = _padded(counted, grown, 0.0)
    sums = _windows(_padded(images, grown, 0.0), kernel, stride, (1, 1))
    total = sums.sum(axis=(4, 5), dtype=np.float64)
    number = _windows(counted, kernel, stride, (1, 1)).sum(axis=(4, 5), dtype=np.float64)
    return np.asarray(total / number, np.float32)


def fully_connected(rows: Array, weight: Array, bias: Array | None = None) -> Array:
    """Rows [N,K] times weight [M,K] transposed, plus bias [M] -> float32 [N,M]."""
    result = rows.astype(np.float64) @ weight.astype(np.float64).T
    return np.asarray(result if bias is None else result + bias, np.float32)


def softmax(scores: Array, axis: int = -1) -> Array:
    """exp(x - max) / sum along one axis."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True), np.float32)


def _windows(images: Array, kernel: Pair, stride: Pair, dilation: Pair) -> Array:
    """[N,C,H',W',kH,kW], a view."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    windows: Array = sliding_window_view(images, tuple(reach), axis=(2, 3))  # type: ignore[call-overload]
    return windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def _padded(images: Array, pads: Pads, value: float) -> Array:
    top, left, bottom, right = pads
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    return np.pad(images, around, constant_values=np.float32(value))


def _grown(images: Array, kernel: Pair, stride: Pair, pads: Pads) -> Pads:
    """The pads with what the last, partial window needs below and to the right."""
    top, left, bottom, right = pads
    more = []
    for size, k, step, before, after in zip(
        images.shape[2:], kernel, stride, (top, left), (bottom, right), strict=True
    ):
        free = size + before + after - k
        count = -(-free // step) + 1
        if (count - 1) * step >= size + before:  # it would start beyond the image
            count -= 1
        more.append(max(0, (count - 1) * step + k - (size + before + after)))
    return top, left, bottom + more[0], right + more[1]
