"""The walk: layer by layer, each repaired on what the quantized layers before it really give.

A few images go through the model with every activation rounded as the int8 model rounds it. At each
layer they say what goes in, and the means of the float model say what should come out; weights are
rounded for that input, and the bias takes up the difference of the means: b_m += mean(y_m) -
mean(y'_m) per output channel m. Where only a Relu or Clip reads the layer, the means behind it
count, since what it cuts off reaches nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.deadline import NEVER, Deadline
from quantize.repair.gram import Grams
from quantize.repair.portable import Partners
from quantize.repair.rounding import round_by_least_squares
from quantize.repair.scales import INT8, WeightForm, chosen, nearest

POSITIONS = 1 << 12
"""Values of each channel that its mean is taken over, of all images together."""

_NEWTON_STEPS = 6
_LEAST_SHARE = 0.05
_NEAR = 1e-6

Array = NDArray[np.float32]
Tensor = NDArray[Any]
"""An activation: uint8 where the int8 model rounds it, else float32."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Remedies:
    """What the walk does at each layer.

    Attributes:
        scales: weight scales by least squares instead of max|w|.
        rounding: least-squares rounding instead of the nearest integer.
        bias: correct the bias.
    """

    scales: bool = False
    rounding: bool = False
    bias: bool = False


@dataclass(frozen=True, eq=False)
class Plain:
    """A node, or several, of the walk that holds nothing to repair.

    Attributes:
        inputs: activations that it reads.
        outputs: activations that it makes.
        run: all activations by name -> its outputs, rounded.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Tensors], Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Repairable:
    """A layer of the walk that becomes int8.

    Attributes:
        layer: its name.
        inputs: the activation that it reads, alone.
        outputs: the activation that it makes, behind the Relu or Clip that alone reads it.
        weight: float32 [M,K].
        bias: float32 [M], zeros where it has none.
        run: (activations, weight, bias) -> the result before the Relu or Clip, float32 [N,M,...],
            as pieces of a few images.
        finish: (those pieces, float32 [M] to add to each channel) -> the output, rounded.
        groups: into how many parts rows and inputs are divided.
        grams: input -> the Gram matrix of each group's columns, for rounding, or None.
        has_bias: whether the operator can carry a bias.
        limits: of the Relu or Clip, infinite where there is none.
        unit: scale of the input's integers, 0 where it has none.
        partners: of the columns, int64 [K,L] as in `quantize.pairs`, or None where products are
            not added in pairs.
    """

    layer: str
    inputs: tuple[str]
    outputs: tuple[str]
    weight: Array
    bias: Array
    run: Callable[[Tensors, Array, Array], list[Array]]
    finish: Callable[[list[Array], Array], Tensor]
    groups: int = 1
    grams: Callable[[Tensor], Grams] | None = None
    has_bias: bool = True
    limits: tuple[float, float] = (-math.inf, math.inf)
    unit: float = 0.0
    partners: Partners | None = None


@dataclass(frozen=True, eq=False)
class Repaired:
    """One layer after the walk.

    Attributes:
        integers: int8 [M,K].
        scale: float32 [M].
        bias: float32 [M].
    """

    integers: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def matrix(self) -> Array:
        """The weight that the integers stand for, float32 [M,K]."""
        return self.integers.astype(np.float32) * self.scale[:, None]


def walk(
    images: Tensors,
    steps: Sequence[Plain | Repairable],
    means: Mapping[str, NDArray[np.float64]],
    remedies: Remedies,
    form: WeightForm = INT8,
    deadline: Deadline = NEVER,
) -> dict[str, Repaired]:
    """Repair every int8 layer in order.

    Args:
        images: the model's input by name, [N,C,H,W], uint8 where it is rounded.
        steps: the model's nodes, in order.
        means: layer -> what the float model gives, `clipped_mean` of each channel, float64 [M].
        remedies: what to do.
        form: what integers and scales weights may have.
        deadline: when the walk breaks off.

    Returns:
        Layer name -> its repaired form.

    Raises:
        BudgetError: the deadline passed.
    """
    tensors: dict[str, Tensor] = dict(images)
    last_use = {name: index for index, step in enumerate(steps) for name in step.inputs}
    repaired: dict[str, Repaired] = {}
    for index, step in enumerate(steps):
        deadline.check()
        if isinstance(step, Plain):
            made = step.run(tensors)
        else:
            repaired[step.layer], output = _repair(step, tensors, means, remedies, form)
            made = [output]
        tensors.update(zip(step.outputs, made, strict=True))
        for name in (*step.inputs, *step.outputs):
            if last_use.get(name, -1) <= index:
                tensors.pop(name, None)
    return repaired


def _repair(
    step: Repairable,
    tensors: Tensors,
    means: Mapping[str, NDArray[np.float64]],
    remedies: Remedies,
    form: WeightForm,
) -> tuple[Repaired, Tensor]:
    """The layer's repaired form and the activation that it makes."""
    partners = step.partners if form.portable else None
    scale = chosen(
        step.weight,
        step.bias,
        step.unit,
        form,
        by_least_squares=remedies.scales,
        partners=partners,
    )
    if remedies.rounding and step.grams is not None:
        grams = step.grams(tensors[step.inputs[0]])
        integers = _rounded(step, grams, scale, form.limit, partners)
    else:
        integers = nearest(step.weight, scale, form.limit, partners)
    done = Repaired(integers, scale, step.bias)
    given = step.run(tensors, done.matrix, step.bias)
    shift = np.zeros(len(scale))
    if remedies.bias and step.has_bias:
        count = sum(len(piece) for piece in given)
        sample = np.concatenate([sampled(piece, count) for piece in given])
        shift = bias_shift(means[step.layer], sample, step.limits)
        done = Repaired(integers, scale, np.asarray(step.bias + shift, np.float32))
    return done, step.finish(given, np.asarray(shift, np.float32))


def _rounded(
    step: Repairable, grams: Grams, scale: Array, limit: int, partners: Partners | None
) -> NDArray[np.int8]:
    """The weight's integers for these inputs, int8 [M,K]."""
    integers = np.empty(step.weight.shape, np.int8)
    width, rows = step.weight.shape[1], len(step.weight) // step.groups
    for groups, gram in grams:
        own = slice(groups.start * rows, groups.stop * rows)
        chosen = round_by_least_squares(
            step.weight[own].reshape(-1, rows, width),
            scale[own].reshape(-1, rows),
            gram,
            limit,
            partners,
        )
        integers[own] = chosen.reshape(-1, width)
    return integers


def sampled(values: Array, count: int) -> Array:
    """Every k-th position, so that about `POSITIONS` values of each channel are left of all images.

    k has no divisor in common with the width, so that all columns are seen.

    Args:
        values: float32 [n,C] or [n,C,...] of some of the images.
        count: images in all.

    Returns:
        float32 [n,C,P], the same positions of each image.
    """
    flat = values.reshape(*values.shape[:2], -1)
    return np.ascontiguousarray(flat[:, :, :: stride_of(count, values.shape)])


def stride_of(count: int, shape: Sequence[int]) -> int:
    """The k of `sampled` for `count` images of shape [n,C,...]."""
    step = max(1, count * math.prod(shape[2:]) // POSITIONS)
    while math.gcd(step, shape[-1] if len(shape) > 2 else 1) > 1:
        step += 1
    return step


def clipped_mean(sample: Array, limits: tuple[float, float]) -> NDArray[np.float64]:
    """Mean of each channel between the limits, float64 [C], for float32 [N,C,P]."""
    inside = sample if limits == (-math.inf, math.inf) else np.clip(sample, *limits)
    return np.asarray(inside.mean(axis=(0, 2), dtype=np.float64))


def bias_shift(
    wanted: NDArray[np.float64],
    given: Array,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> NDArray[np.float64]:
    """What to add to a layer's bias so that each channel's mean between the limits is right.

    Without limits that is wanted - mean(given). With them the mean of clip(given + b) grows
    with b as fast as the share of values between the limits, so Newton's method finds b; channels
    that the limits cut off nearly always take small steps, and those cut off wholly none.

    Args:
        wanted: the means between the limits, float64 [C].
        given: float32 [N,C,P].
        limits: low and high.

    Returns:
        float64 [C].
    """
    if limits == (-math.inf, math.inf):
        return wanted - clipped_mean(given, limits)
    channels = np.ascontiguousarray(given.transpose(1, 0, 2)).reshape(len(wanted), -1)
    shift = np.zeros_like(wanted)
    for _ in range(_NEWTON_STEPS):
        moved = channels + shift.astype(np.float32)[:, None]
        inside = ((moved > limits[0]) & (moved < limits[1])).mean(axis=1)
        missing = wanted - np.clip(moved, *limits, out=moved).mean(axis=1, dtype=np.float64)
        steps = np.where(inside > 0, missing / np.maximum(inside, _LEAST_SHARE), 0.0)
        shift += steps
        if np.abs(steps).max() <= _NEAR * max(1.0, float(np.abs(wanted).max())):
            break
    return shift
