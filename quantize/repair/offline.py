"""Repairs that look at no image again: calibration's means tell what rounded weights change.

The mean of what a layer gives moves by (Q(W) - W) E[x], where E[x] is the mean of each channel of
what it reads; its bias takes that back (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction"). What the layers before lose, and padding, is left out; the walk
sees both, but computes every layer on images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from quantize.graph.layers import Layer, constants_of, layers
from quantize.repair.grids import units
from quantize.repair.portable import partners_of
from quantize.repair.scales import INT8, WeightForm, chosen, nearest
from quantize.repair.walk import Repaired

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from quantize.plan import Encoding
    from quantize.repair.walk import Array, Remedies


def offline(
    model: onnx.ModelProto,
    encodings: Mapping[str, Encoding],
    means: Mapping[str, NDArray[np.float64]],
    remedies: Remedies,
    *,
    floats: frozenset[str] = frozenset(),
    form: WeightForm = INT8,
) -> dict[str, Repaired]:
    """Round every int8 layer to nearest and correct its bias.

    Args:
        model: a prepared float model; a layer that can carry a bias has one.
        encodings: of the activations that int8 rounds.
        means: layer -> mean of each channel of what it reads, float64 [C].
        remedies: what to do; rounding by least squares needs the walk and is not done.
        floats: layers that stay float.
        form: what integers and scales weights may have.

    Returns:
        Layer name -> its repaired form.
    """
    values, held = constants_of(model), units(model, encodings)
    repaired: dict[str, Repaired] = {}
    for layer in (layer for layer in layers(model) if layer.name not in floats):
        weight = layer.matrix(np.asarray(values[layer.weight], np.float32))
        bias = np.zeros(len(weight), np.float32)
        if layer.bias is not None:
            bias = np.asarray(values[layer.bias], np.float32).reshape(-1)
        partners = partners_of(layer, weight.shape) if form.portable else None
        scale = chosen(
            weight,
            bias,
            held[layer.input],
            form,
            by_least_squares=remedies.scales,
            partners=partners,
        )
        integers = nearest(weight, scale, form.limit, partners)
        if remedies.bias and layer.bias is not None and layer.name in means:
            lost = weight - integers * scale[:, None]
            bias = np.asarray(bias + moved(layer, lost, means[layer.name]), np.float32)
        repaired[layer.name] = Repaired(integers, scale, bias)
    return repaired


def moved(layer: Layer, lost: Array, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much the mean of each output channel falls with its weights, float64 [M].

    Args:
        layer: whose weights changed.
        lost: float32 [M,K], what the weights had more before.
        mean: of each channel of what the layer reads, float64 [C].
    """
    of_input = mean.reshape(layer.group, 1, -1, 1)
    rows = lost.astype(np.float64).reshape(layer.group, -1, of_input.shape[2], _taps(layer))
    return np.asarray((rows * of_input).sum(axis=(2, 3)).reshape(-1))


def _taps(layer: Layer) -> int:
    return layer.kernel[0] * layer.kernel[1]
