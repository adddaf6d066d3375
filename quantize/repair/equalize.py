"""Cross-layer equalization: the same function with channels that use their integers better.

Between layer A, a Relu or Clip, and layer B that alone reads it, channel c of A may be multiplied
by s_c > 0 and B's weights for it divided by s_c (Nagel et al., "Data-Free Quantization through
Weight Equalization and Bias Correction", 2019): relu(s x) = s relu(x). One scale serves all
channels of the activation, so that small channels drown in its rounding; A's weights have a scale
per output channel and do not mind s.

Here s_c = (M / m_c)^a, with m_c the largest value of channel c on the calibration images and M the
largest of all: the activation's range stays, and Clip(0, b) stays right, since s_c m_c <= M <= b.
Of a few exponents a, each pair takes the one with the least expected noise at B's output,

    sum_c |W_:c|^2 (D / s_c)^2 / 12  +  sum_m d_m^2 / 12 sum_c s_c^2 E[x_c^2],

the rounding of the activation (step D = M / 255) and that of B's weights (step d_m =
max_c |W_mc / s_c| / 127). The second part is a guess about weights that other remedies round
better, so an ordinary B has to gain half of the noise at least.

Other images exceed m_c, and a channel with s_c m_c = M has no room for them: m_c is therefore the
larger maximum of two halves of the images plus their difference, as in the jackknife's estimate of
an end point (Quenouille, "Notes on bias in estimation", 1956).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = 4096.0
_LEAST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Channels:
    """What the channels of one activation did on the calibration images.

    Attributes:
        high: largest value of each, float64 [C].
        square: mean square of each, float64 [C].
    """

    high: NDArray[np.float64]
    square: NDArray[np.float64]

    def with_room(self, other: Channels) -> Channels:
        """Of two halves of the images: maxima with room for those that neither holds."""
        high = np.maximum(self.high, other.high)
        room = np.minimum(high + np.abs(self.high - other.high), high.max())
        return Channels(room, (self.square + other.square) / 2)

    def merge(self, other: Channels, weight: float) -> Channels:
        """Both together; `weight` is the share of the images that `other` stands for."""
        return Channels(
            np.maximum(self.high, other.high),
            (1 - weight) * self.square + weight * other.square,
        )


@dataclass(frozen=True, eq=False)
class Equalized:
    """One pair of layers.

    Attributes:
        exponent: a, 0 where equalization does not help.
        factors: s float64 [C].
    """

    exponent: float
    factors: NDArray[np.float64]


def equalize(seen: Channels, weight: NDArray[np.float32], *, depthwise: bool) -> Equalized:
    """Choose the factors of one pair.

    Args:
        seen: the activation between the layers, not negative.
        weight: of layer B, float32 [M,C,...], or [C,1,...] where each channel has its own filter.
        depthwise: the latter; then s costs B nothing.
    """
    live = seen.high > 0
    if not live.any():
        return Equalized(0.0, np.ones_like(seen.high))
    full = np.ones_like(seen.high)
    most = seen.high.max()
    full[live] = most / np.maximum(seen.high[live], most / _MOST)
    choices = [Equalized(exponent, full**exponent) for exponent in _EXPONENTS]
    noise = [_noise(seen, weight, choice.factors, depthwise) for choice in choices]
    best = int(np.argmin(noise))
    return choices[best if depthwise or noise[best] < _LEAST_SHARE * noise[0] else 0]


def _noise(
    seen: Channels, weight: NDArray[np.float32], factors: NDArray[np.float64], depthwise: bool
) -> float:
    """The expected noise of the formula above."""
    taps = weight.astype(np.float64).reshape(*weight.shape[:2], -1)
    energy = (taps**2).sum(axis=2)
    per_channel = energy[:, 0] if depthwise else energy.sum(axis=0)
    step = float(seen.high.max()) / 255
    activation = float((per_channel * (step / factors) ** 2).sum()) / 12
    if depthwise:
        return activation
    scaled = np.abs(taps / factors[None, :, None]).max(axis=(1, 2)) / 127
    power = float((factors**2 * seen.square).sum()) * taps.shape[2]
    return activation + float((scaled**2).sum()) / 12 * power


def scaled_constants(
    factors: NDArray[np.float64],
    first: tuple[NDArray[np.float32], NDArray[np.float32] | None],
    second: NDArray[np.float32],
    *,
    axes: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32]]:
    """The constants of a pair after equalization.

    Args:
        factors: s float64 [C].
        first: weight and bias of A.
        second: weight of B.
        axes: A's output channels in its weight, and the activation's channels in B's weight.

    Returns:
        A's weight and bias times s, B's weight divided by s; float32.
    """
    weight, bias = first
    grown = np.asarray(weight * _shaped(factors, weight.ndim, axes[0]), np.float32)
    shrunk = np.asarray(second / _shaped(factors, second.ndim, axes[1]), np.float32)
    moved = None if bias is None else np.asarray(bias * factors, np.float32)
    return grown, moved, shrunk


def _shaped(values: NDArray[np.float64], dimensions: int, axis: int) -> NDArray[np.float64]:
    shape = [1] * dimensions
    shape[axis] = -1
    return values.reshape(shape)


def chosen(pairs: Mapping[str, Equalized]) -> dict[str, float]:
    """Activation -> exponent, for the report."""
    return {name: pair.exponent for name, pair in pairs.items() if pair.exponent > 0}
