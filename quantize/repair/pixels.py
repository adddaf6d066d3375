"""The input on its own grid: pixels are integers before they are normalised, and can stay exact.

An image of 8 bits has at most 256 values per channel, x = s_c (k - z_c) with k = 0..255, where s_c
and the real number z_c follow from the normalisation. Rounding x to a uint8 grid with another step,
or with the same step and values between its integers, loses what need not be lost. Times 1 / s_c
and plus a constant per channel each pixel is an integer. The first convolution makes up for both:
with x' = f x + t,

    sum W x + b = sum (W / f) x' + b - sum (W / f) t.

Its zero padding stands for x = 0, which is t now. Where one zero point serves all channels to
within half a step nothing is to be done about it; else the padding is done before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.plan import Encoding

_LEVELS = 256
_OFF = 0.01
"""Share of a step that a value may lie beside the grid."""

_SAME = 1e-5
"""Relative difference of steps that are one."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The values of each channel: step (k - zero) for k = 0..last.

    Attributes:
        step: float64 [C].
        zero: where 0.0 lies, in steps from the least value, float64 [C]; no integer as a rule.
        last: index of the largest value, int64 [C], below 256.
    """

    step: NDArray[np.float64]
    zero: NDArray[np.float64]
    last: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Exact:
    """How each value becomes an integer: times `factor`, plus `shift`, then as `encoding` says.

    Attributes:
        factor: float64 [C], or None where all channels have one step.
        shift: float64 [C], or None where 0 is an integer already.
        encoding: of the result.
    """

    factor: NDArray[np.float64] | None
    shift: NDArray[np.float64] | None
    encoding: Encoding


def grid_of(images: NDArray[np.float32]) -> Grid | None:
    """The grid that images lie on, or None where they do not.

    Args:
        images: float32 [N,C,H,W].
    """
    found = []
    for channel in range(images.shape[1]):
        values: NDArray[np.float32] = np.unique(images[:1, channel])
        if len(values) <= _LEVELS:
            values = np.unique(images[:, channel])
        one = _line(values.astype(np.float64))
        if one is None:
            return None
        found.append(one)
    if not found:
        return None
    step, zero, last = zip(*found, strict=True)
    return Grid(np.asarray(step), np.asarray(zero), np.asarray(last, np.int64))


def _line(values: NDArray[np.float64]) -> tuple[float, float, int] | None:
    """Step, place of zero and last index of ascending values, if they are evenly spaced."""
    if not 2 <= len(values) <= _LEVELS:
        return None
    step = float(np.diff(values).min())
    places = np.rint((values - values[0]) / step)
    if not np.isfinite(places).all() or places[-1] >= _LEVELS:
        return None
    step, least = np.polyfit(places, values, 1)
    if np.abs(least + step * places - values).max() > _OFF * step:
        return None
    return float(step), float(-least / step), int(places[-1])


def exact(grid: Grid, *, padded: bool) -> Exact:
    """How the values of a grid become integers.

    Levels that no image had are added at both ends alike. The integer of 0 is chosen near the
    channels' zeros, which lie in the middle of what they hold: rounded weights multiply less then.

    Args:
        grid: of the images.
        padded: whether the convolution pads, so that one zero point for all channels is worth it.
    """
    whole = np.rint(grid.zero)
    least, most = whole.max(), (_LEVELS - 1) - (grid.last - whole).max()
    if padded and least <= most:
        point = int((least + most) // 2)
        moved = grid.zero - whole
    else:
        room = (_LEVELS - 1 - grid.last) // 2
        point = int(np.clip(np.rint((grid.zero + room).mean()), 0, _LEVELS - 1))
        moved = grid.zero + room - point
    mean = float(grid.step.mean())
    alike = bool(np.abs(grid.step / mean - 1).max() < _SAME)
    scale = mean if alike else 1.0
    return Exact(
        None if alike else 1 / grid.step,
        None if np.abs(moved).max() < _OFF else moved * scale,
        Encoding(np.asarray(scale, np.float32), point),
    )


def compensated(
    done: Exact, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The first convolution's weight [M,C,kH,kW] and bias [M] for what it reads then; float32."""
    divided = weight.astype(np.float64)
    if done.factor is not None:
        divided = divided / done.factor[:, None, None]
    moved = bias.astype(np.float64)
    if done.shift is not None:
        moved = moved - np.tensordot(divided.sum(axis=(2, 3)), done.shift, 1)
    return divided.astype(np.float32), moved.astype(np.float32)
