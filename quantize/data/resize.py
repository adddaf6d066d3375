"""Resizing with OpenCV's arithmetic, in numpy: published figures were measured with it.

Coordinates are half-pixel centred and nothing is antialiased unless the method is `area`. Where
OpenCV has several code paths these functions follow the plain C++ one (`modules/imgproc/src/
resize.cpp` of 4.x); with Intel's IPP inside, OpenCV itself departs from it by a grey level at most.

An output pixel is a weighted sum over a few rows and columns, so each axis becomes `Taps`: which
source indices, with which weights. 8-bit images are computed in fixed point with 11-bit weights.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from quantize.errors import DataError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

Method = Literal["bilinear", "nearest", "bicubic", "area"]

MAX_RESIZED_PIXELS = 100_000_000
"""The largest result, in pixels; a very long image scaled by its short side can ask for more."""

_WEIGHT_BITS = 11
_ONE = np.float32(1)
_CHUNK = 1 << 22  # output samples computed at once, so that intermediates stay small


class UnfitImage(DataError):  # noqa: N818 - counted like an unreadable image, not always raised
    """One image cannot go through the preprocessing, although others may."""


@dataclass(frozen=True, eq=False)
class Taps:
    """What one axis of the output is made of.

    Attributes:
        index: int64 [T,n], source positions of the T contributions to each of n outputs.
        weight: float32 [T,n], their weights.
        fixed: whether 8-bit images are computed in fixed point with them: T is then 2 or 4.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float32]
    fixed: bool = True


def resize(image: NDArray[Any], height: int, width: int, method: Method) -> NDArray[Any]:
    """Resize an image as `cv2.resize` does.

    Args:
        image: uint8, float32 or float64 [H,W,C].
        height: rows wanted, at least 1.
        width: columns wanted, at least 1.
        method: `bilinear` (INTER_LINEAR), `nearest`, `bicubic` (INTER_CUBIC, a = -0.75) or `area`
            (INTER_AREA: averages when both axes shrink, a bilinear of its own kind otherwise).

    Returns:
        the image's dtype, [height,width,C].

    Raises:
        DataError: pixels of another type, or not three dimensions.
        UnfitImage: the result would have more than `MAX_RESIZED_PIXELS`.
    """
    if image.ndim != 3 or image.dtype not in (np.uint8, np.float32, np.float64):
        raise DataError(
            f"cannot resize an array {list(image.shape)} of {image.dtype}",
            "resize [H,W,C] images of uint8 or float, before Transpose and other casts",
        )
    if image.shape[:2] == (height, width):
        return image
    check_resized(height, width)
    scale_y, scale_x = _scale(image.shape[0], height), _scale(image.shape[1], width)
    shrinks = scale_x >= 1 and scale_y >= 1
    block = _block(scale_y, scale_x) if shrinks else None
    if block is not None and (method == "area" or (method == "bilinear" and block == (2, 2))):
        return _mean_of_blocks(image, height, width, block)
    if method == "nearest":
        return _nearest(image, height, width)
    rows, columns = _taps(image.shape, (height, width), method, average=shrinks)
    step = max(1, _CHUNK // (width * image.shape[2]))
    chunks = [
        Taps(rows.index[:, i : i + step], rows.weight[:, i : i + step], rows.fixed)
        for i in range(0, height, step)
    ]
    return np.concatenate([_weigh(image, chunk, columns) for chunk in chunks])


def check_resized(height: int, width: int) -> None:
    """Refuse a result that would not fit into memory.

    Raises:
        UnfitImage: it would have more than `MAX_RESIZED_PIXELS`.
    """
    if height * width > MAX_RESIZED_PIXELS:
        raise UnfitImage(
            f"resizing would give {width} x {height} pixels, as the image is very long",
            "remove the image, or resize to a fixed width and height",
        )


def _scale(source: int, target: int) -> float:
    """Source pixels per output pixel, rounded the way OpenCV rounds it."""
    return 1.0 / (target / source)


def _block(scale_y: float, scale_x: float) -> tuple[int, int] | None:
    """Rows and columns of the block behind each output pixel, where both are whole numbers."""
    block = round(scale_y), round(scale_x)
    whole = max(abs(scale_y - block[0]), abs(scale_x - block[1])) < sys.float_info.epsilon
    return block if whole else None


# --------------------------------------------------------------------- taps of one axis


def _taps(
    source: tuple[int, ...], target: tuple[int, int], method: Method, *, average: bool
) -> tuple[Taps, Taps]:
    """Taps of the rows and of the columns; `average` where `area` shrinks both axes."""
    sizes = list(zip(source, target, strict=False))
    if method == "bicubic":
        rows, columns = (_cubic_taps(*size) for size in sizes)
    elif method == "area" and average:
        rows, columns = (_area_taps(*size) for size in sizes)
    else:
        rows = _linear_taps(*sizes[0], area=method == "area", clamp=False)
        columns = _linear_taps(*sizes[1], area=method == "area", clamp=True)
    return rows, columns


def _linear_taps(source: int, target: int, *, area: bool, clamp: bool) -> Taps:
    """Two taps: at f = (d + 0.5) scale - 0.5, weights 1 - frac(f) and frac(f).

    With `area` the weight is the share of the output pixel beyond the first source pixel. `clamp`
    puts all weight on the first tap at the borders, as OpenCV does for columns; for rows it reads
    the border row twice instead, which rounds differently in fixed point.
    """
    scale = _scale(source, target)
    if area:
        first = np.floor(np.arange(target) * scale)
        beyond = (np.arange(1, target + 1) - (first + 1) * (target / source)).astype(np.float32)
        share = np.where(beyond <= 0, np.float32(0), beyond - np.floor(beyond))
    else:
        first, share = _half_pixel(source, target)
    if clamp:
        share = np.where((first < 0) | (first >= source - 1), np.float32(0), share)
    index = np.stack([first, first + 1]).astype(np.int64).clip(0, source - 1)
    return Taps(index, np.stack([_ONE - share, share]))


def _cubic_taps(source: int, target: int) -> Taps:
    """Four taps of the cubic convolution kernel with a = -0.75; the border pixel repeats."""
    first, x = _half_pixel(source, target)
    a, y = np.float32(-0.75), _ONE - x
    before = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a
    left = ((a + 2) * x - (a + 3)) * x * x + 1
    right = ((a + 2) * y - (a + 3)) * y * y + 1
    after = _ONE - before - left - right
    index = (first + np.arange(-1, 3)[:, np.newaxis]).astype(np.int64).clip(0, source - 1)
    return Taps(index, np.stack([before, left, right, after]).astype(np.float32))


def _area_taps(source: int, target: int) -> Taps:
    """All source pixels under an output pixel, weighted by the share of it that they cover.

    Slivers below a thousandth of a pixel are left out, as in OpenCV.
    """
    scale = _scale(source, target)
    low = np.arange(target) * scale
    high = low + scale
    cell = np.minimum(scale, source - low)
    stop = np.minimum(np.floor(high), source - 1)
    start = np.minimum(np.ceil(low), stop)
    position = start - 1 + np.arange(int((stop - start).max()) + 2)[:, np.newaxis]
    inside = (position >= start) & (position < stop)
    head = (position == start - 1) & (start - low > 1e-3)
    tail = (position == stop) & (high - stop > 1e-3)
    last = np.minimum(np.minimum(high - stop, 1.0), cell)
    weight = np.where(inside, 1.0, 0.0) + np.where(head, start - low, 0.0) + np.where(tail, last, 0)
    index = position.astype(np.int64).clip(0, source - 1)
    return Taps(index, (weight / cell).astype(np.float32), fixed=False)


def _half_pixel(source: int, target: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Source position of each output centre: its floor, float64 [n], and fraction, float32 [n]."""
    centre = ((np.arange(target) + 0.5) * _scale(source, target) - 0.5).astype(np.float32)
    first = np.floor(centre)
    return first.astype(np.float64), centre - first


# ------------------------------------------------------------------------- whole images


def _weigh(image: NDArray[Any], rows: Taps, columns: Taps) -> NDArray[Any]:
    """The output rows that `rows` describes: sums along the columns, then along the rows."""
    used, position = np.unique(rows.index, return_inverse=True)
    if len(used) < len(image):
        image = image.take(used, axis=0)
        rows = Taps(position.reshape(rows.index.shape), rows.weight, rows.fixed)
    if image.dtype == np.uint8 and rows.fixed:
        fixed_point = _bilinear_8_bit if len(rows.index) == 2 else _bicubic_8_bit
        return fixed_point(image, rows, columns)
    work = image.astype(np.float32) if image.dtype == np.uint8 else image
    across = _weighted(work, columns.index, columns.weight, axis=1)
    return _rounded(_weighted(across, rows.index, rows.weight, axis=0), image.dtype)


def _weighted(
    image: NDArray[Any], index: NDArray[np.int64], weight: NDArray[Any], axis: Literal[0, 1]
) -> NDArray[Any]:
    """Sum over t of weight[t] * image[index[t]] along one axis, in the image's dtype."""
    rows, columns, channels = image.shape
    taps, count = index.shape
    shape = (count, columns, channels) if axis == 0 else (rows, count, channels)
    # Two dimensions, so that numpy's inner loop runs over whole rows instead of three channels.
    factors = weight.reshape(taps, -1, 1) if axis == 0 else weight.repeat(channels, axis=1)
    total: NDArray[Any] = image.take(index[0], axis=axis).reshape(shape[0], -1)
    total *= factors[0]
    for positions, factor in zip(index[1:], factors[1:], strict=True):
        part = image.take(positions, axis=axis).reshape(shape[0], -1)
        part *= factor
        total += part
    return total.reshape(shape)


def _bilinear_8_bit(image: NDArray[np.uint8], rows: Taps, columns: Taps) -> NDArray[np.uint8]:
    """Bilinear in fixed point: (((b0 (s0 >> 4)) >> 16) + ((b1 (s1 >> 4)) >> 16) + 2) >> 2.

    s are sums along the columns with weights of 11 bits, b the weights of the two rows.
    """
    across = _weighted(image.astype(np.int32), columns.index, _fixed(columns.weight), axis=1)
    across >>= 4
    upper, lower = (
        (across.take(positions, axis=0) * weight.reshape(-1, 1, 1)) >> 16
        for positions, weight in zip(rows.index, _fixed(rows.weight), strict=True)
    )
    rounded: NDArray[np.uint8] = ((upper + lower + 2) >> 2).astype(np.uint8)
    return rounded


def _bicubic_8_bit(image: NDArray[np.uint8], rows: Taps, columns: Taps) -> NDArray[np.uint8]:
    """Bicubic with 11-bit weights; the rows are summed in float, as OpenCV's vector code does."""
    across = _weighted(image.astype(np.int32), columns.index, _fixed(columns.weight), axis=1)
    unit = np.float32(2.0 ** (-2 * _WEIGHT_BITS))
    weight = _fixed(rows.weight).astype(np.float32) * unit
    # OpenCV adds the last rows first; the order decides the rounding of halves.
    total = _weighted(across.astype(np.float32), rows.index[::-1], weight[::-1], axis=0)
    return _rounded(total, image.dtype)


def _fixed(weight: NDArray[np.float32]) -> NDArray[np.int32]:
    """Weights times 2^11, rounded to whole numbers (halves to even)."""
    fixed: NDArray[np.int32] = np.rint(weight * np.float32(1 << _WEIGHT_BITS)).astype(np.int32)
    return fixed


def _nearest(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """The pixel at floor(d * scale) of each axis."""
    rows, columns = (
        np.floor(np.arange(target) * _scale(source, target)).astype(np.int64).clip(0, source - 1)
        for source, target in zip(image.shape, (height, width), strict=False)
    )
    nearest: NDArray[Any] = image.take(rows, axis=0).take(columns, axis=1)
    return nearest


def _mean_of_blocks(
    image: NDArray[Any], height: int, width: int, block: tuple[int, int]
) -> NDArray[Any]:
    """Means of whole blocks; 8-bit halves are rounded up for 2 x 2 blocks, else to even."""
    integer = image.dtype == np.uint8
    tiles = image.reshape(height, block[0], width, block[1], -1)
    total = tiles.sum(axis=(1, 3), dtype=np.int32 if integer else image.dtype)
    if integer and block == (2, 2):
        mean: NDArray[np.uint8] = ((total + 2) >> 2).astype(np.uint8)
        return mean
    # Single precision on purpose: it decides which sums count as halves.
    work = total.astype(np.float32) if integer else total
    return _rounded(work * np.float32(1 / (block[0] * block[1])), image.dtype)


def _rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values as the image's dtype: 8-bit ones rounded (halves to even) and saturated."""
    if dtype == np.uint8:
        values = np.rint(values).clip(0, 255)
    return values.astype(dtype, copy=False)
