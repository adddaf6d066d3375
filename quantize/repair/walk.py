"""The walk: layer by layer, each repaired on what the quantized layers before it really give.

Two copies of the same few images go through the model side by side, one in float, one with every
activation rounded as the int8 model rounds it. At each layer the float copy says what should come
out and the quantized copy what goes in; weights are rounded for that input, and the bias takes up
the difference of the means: b_m += mean(y_m) - mean(y'_m) per output channel m. Where only a Relu
or Clip reads the layer, the means behind it count, since what it cuts off reaches nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.deadline import NEVER, Deadline
from quantize.plan import Encoding
from quantize.repair.rounding import round_by_least_squares
from quantize.repair.scales import largest, least_squares, nearest

_POSITIONS = 1 << 15
_NEWTON_STEPS = 6
_LEAST_SHARE = 0.05

Array = NDArray[np.float32]
Columns = Callable[[Array], Iterator[tuple[slice, NDArray[np.float64]]]]
"""A layer's input [N,...] -> (rows of the weight matrix, their input columns float64 [P,K])."""


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
class Step:
    """One node of the walk, in graph order.

    Attributes:
        inputs: activations that it reads.
        outputs: activations that it makes.
        run: activations by name -> outputs; a layer's weight and bias replace its own if given.
        layer: name of the layer that it is, or None.
        weight: matrix float32 [M,K] of a layer that becomes int8, else None.
        bias: float32 [M], zeros where it has none.
        columns: input columns for rounding.
        has_bias: whether the operator can carry a bias.
        limits: of the Relu or Clip that alone reads the result, infinite where there is none.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Mapping[str, Array], Array | None, Array | None], list[Array]]
    layer: str | None = None
    weight: Array | None = None
    bias: Array | None = None
    columns: Columns | None = None
    has_bias: bool = True
    limits: tuple[float, float] = (-math.inf, math.inf)


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
    images: Mapping[str, Array],
    steps: list[Step],
    encodings: Mapping[str, Encoding],
    remedies: Remedies,
    limit: int = 127,
    deadline: Deadline = NEVER,
) -> dict[str, Repaired]:
    """Repair every int8 layer in order.

    Args:
        images: the model's input by name, float32 [N,C,H,W].
        steps: the model's nodes.
        encodings: activations that are rounded, per tensor.
        remedies: what to do.
        limit: largest absolute integer of a weight.
        deadline: when the walk breaks off.

    Returns:
        Layer name -> its repaired form.

    Raises:
        BudgetError: the deadline passed.
    """
    exact: dict[str, Array] = dict(images)
    rough = {name: _rounded(name, value, encodings) for name, value in images.items()}
    grid = {name: _step_of(name, encodings) for name in images}
    last_use = {name: index for index, step in enumerate(steps) for name in step.inputs}
    repaired: dict[str, Repaired] = {}
    for index, step in enumerate(steps):
        deadline.check()
        wanted = step.run(exact, None, None)
        if step.layer is not None and step.weight is not None:
            least = _least_scale(step, grid)
            done, given = _repair(step, wanted[0], rough, remedies, (limit, least))
            repaired[step.layer] = done
        else:
            given = step.run(rough, None, None)
        exact.update(zip(step.outputs, wanted, strict=True))
        for name, value in zip(step.outputs, given, strict=True):
            rough[name] = _rounded(name, value, encodings)
            passed_on = grid.get(step.inputs[0], 0.0) if step.inputs else 0.0
            grid[name] = _step_of(name, encodings) or passed_on
        for name in (*step.inputs, *step.outputs):
            if last_use.get(name, -1) <= index:
                exact.pop(name, None)
                rough.pop(name, None)
    return repaired


def _repair(
    step: Step,
    wanted: Array,
    rough: Mapping[str, Array],
    remedies: Remedies,
    bounds: tuple[int, Array],
) -> tuple[Repaired, list[Array]]:
    """The layer's repaired form and what it gives, before the activation's rounding.

    `bounds` are the largest integer of a weight and the least scale of each row.
    """
    weight, bias, (limit, least) = step.weight, step.bias, bounds
    if weight is None or bias is None:
        raise ValueError(f"step {step.outputs} is no layer")
    scale = least_squares(weight, limit) if remedies.scales else largest(weight, limit)
    scale = np.maximum(scale, least)
    integers = nearest(weight, scale, limit)
    if remedies.rounding and step.columns is not None:
        for rows, columns in step.columns(rough[step.inputs[0]]):
            moments = columns.T @ columns
            integers[rows] = round_by_least_squares(weight[rows], scale[rows], moments, limit)
    done = Repaired(integers, scale, bias)
    given = step.run(rough, done.matrix, bias)
    if remedies.bias and step.has_bias:
        shift = bias_shift(wanted, given[0], step.limits)
        done = Repaired(integers, scale, np.asarray(bias + shift, np.float32))
        given = [given[0] + _along(shift, wanted.ndim)]
    return done, given


def bias_shift(
    wanted: Array, given: Array, limits: tuple[float, float] = (-math.inf, math.inf)
) -> NDArray[np.float64]:
    """What to add to a layer's bias so that each channel's mean between the limits is right.

    Without limits that is mean(wanted) - mean(given). With them the mean of clip(given + b) grows
    with b as fast as the share of values between the limits, so Newton's method finds b; channels
    that the limits cut off nearly always take small steps, and those cut off wholly none. Large
    activations are thinned out: both are seen at the same positions, so their difference stays.

    Args:
        wanted: float32 [N,C] or [N,C,H,W].
        given: likewise.
        limits: low and high.

    Returns:
        float64 [C].
    """
    if limits == (-math.inf, math.inf):
        return _mean(wanted) - _mean(given)
    wanted, given = _thinned(wanted), _thinned(given)
    target = _mean(np.clip(wanted, *limits))
    shift = np.zeros_like(target)
    for _ in range(_NEWTON_STEPS):
        moved = np.clip(given + _along(shift, given.ndim), *limits)
        missing = target - _mean(moved)
        inside = _mean(((moved > limits[0]) & (moved < limits[1])).astype(np.float32))
        shift += np.where(inside > 0, missing / np.maximum(inside, _LEAST_SHARE), 0.0)
    return shift


def _thinned(values: Array) -> Array:
    """Every k-th position, so that about `_POSITIONS` values of each channel are left.

    k has no divisor in common with the width, so that all columns are seen.
    """
    if values.ndim != 4:
        return values
    count, channels, height, width = values.shape
    step = max(1, count * height * width // _POSITIONS)
    while math.gcd(step, width) > 1:
        step += 1
    flat = values.reshape(count, channels, height * width)[:, :, ::step]
    return np.ascontiguousarray(flat)[..., None]


def _along(shift: NDArray[np.float64], dimensions: int) -> Array:
    """One number per channel, shaped for [N,C] or [N,C,H,W]; float32."""
    return shift.astype(np.float32).reshape(-1, *[1] * (dimensions - 2))


def _least_scale(step: Step, grid: Mapping[str, float]) -> Array:
    """The least weight scale for which the bias fits int32, float32 [M] or [1].

    Its unit is input scale times weight scale: |b_m| / (s_x s_m) stays below 2^30. A channel
    whose weights are all but 0 would lose its bias otherwise.
    """
    unit = grid.get(step.inputs[0], 0.0)
    if step.bias is None or not unit:
        return np.zeros(1, np.float32)
    return np.asarray(np.abs(step.bias).reshape(-1) / (unit * 2.0**30), np.float32)


def _step_of(name: str, encodings: Mapping[str, Encoding]) -> float:
    return float(encodings[name].scale) if name in encodings else 0.0


def _mean(values: Array) -> NDArray[np.float64]:
    """Mean of each channel, float64 [C], for [N,C] or [N,C,H,W]."""
    axes = (0, *range(2, values.ndim))
    return np.asarray(values.mean(axis=axes, dtype=np.float64))


def _rounded(name: str, value: Array, encodings: Mapping[str, Encoding]) -> Array:
    """What uint8 leaves of an activation: scale (clip(rint(x / scale) + z, 0, 255) - z)."""
    encoding = encodings.get(name)
    if encoding is None:
        return value
    scale, zero = np.float32(encoding.scale), np.float32(encoding.zero_point)
    integers: Array = np.rint(value / scale)
    integers += zero
    np.clip(integers, 0, 255, out=integers)
    integers -= zero
    integers *= scale
    return integers
