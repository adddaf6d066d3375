"""A recipe as geometry on 8-bit pixels, then a table of what becomes of each of 256 grey levels.

Most recipes move and mix 8-bit pixels first, and then do the same arithmetic with each of them. The
pixels are a quarter of the size of the floats, so they are what is worth keeping; and to look a
value up takes a tenth of the time of computing it. Both give the very bits of the steps themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.data import steps
from quantize.data.presets import Preset, ResizeShortSide, UnitRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from quantize.data.steps import Transform

_GEOMETRY = (
    ResizeShortSide,
    steps.AlignImageChannel,
    steps.CenterCrop,
    steps.CropResize,
    steps.CropToBoundingBox,
    steps.Resize,
    steps.ResizeShortSideSwapped,
    steps.ResizeWithAspectRatio,
    steps.ToArray,
)
"""What makes 8-bit images of 8-bit images, [H,W,C] both."""

_ARITHMETIC = (UnitRange, steps.Cast, steps.Normalize, steps.Rescale, steps.ToArray)
"""What does the same with all values of a channel, the last axis."""

_ANYWHERE = (UnitRange, steps.Cast, steps.Rescale, steps.ToArray)
"""What does the same with all values, wherever the channels are."""

_AXES = 3


@dataclass(frozen=True, eq=False)
class Levels:
    """Arithmetic on each value of an 8-bit image, and then an order of the axes.

    Attributes:
        steps: the arithmetic.
        perm: the axes of the result, as for numpy's transpose.
    """

    steps: tuple[Transform, ...]
    perm: tuple[int, ...]
    _tables: dict[int, NDArray[Any]] = field(default_factory=dict)
    _columns: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def table(self, channels: int) -> NDArray[Any]:
        """What becomes of the levels 0 to 255 of each channel: [256,C] of any dtype.

        Raises:
            DataError: a step does not suit so many channels.
        """
        known = self._tables.get(channels)
        if known is None:
            levels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1)
            result: NDArray[Any] = levels.repeat(channels, axis=2)
            for step in self.steps:
                result = step(result)
            known = self._tables[channels] = result[:, 0]
        return known

    def shape(self, pixels: tuple[int, ...]) -> tuple[int, ...]:
        """That of the result for an image of this shape."""
        return tuple(pixels[axis] for axis in self.perm)

    def fill(self, pixels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write the result for [H,W,C] into an array of its shape."""
        columns = self._float_columns(pixels.shape[2])
        image = out.transpose(self._back)
        for channel, column in enumerate(columns):
            # No value is outside the table, and `clip` spares numpy a copy of the result.
            column.take(pixels[:, :, channel], out=image[:, :, channel], mode="clip")

    @cached_property
    def _back(self) -> tuple[int, ...]:
        """The order of the axes that undoes `perm`."""
        return tuple(self.perm.index(axis) for axis in range(_AXES))

    def _float_columns(self, channels: int) -> NDArray[np.float32]:
        """The table a channel at a time, [C,256]: made once, as small images are many."""
        known = self._columns.get(channels)
        if known is None:
            table = self.table(channels).astype(np.float32, copy=False)
            known = self._columns[channels] = np.ascontiguousarray(table.T)
        return known


def divide(recipe: Sequence[Transform]) -> tuple[tuple[Transform, ...], Levels] | None:
    """The geometry of a recipe, and its levels; None where it is not of this form."""
    flat = [step for one in recipe for step in _parts(one)]
    first = next((i for i, s in enumerate(flat) if not isinstance(s, _GEOMETRY)), len(flat))
    arithmetic: list[Transform] = []
    perm: tuple[int, ...] = tuple(range(_AXES))
    moved = False
    for step in flat[first:]:
        if isinstance(step, steps.Transpose) and len(step.perm) == _AXES:
            perm = tuple(perm[axis] for axis in step.perm)
            moved = True
        elif isinstance(step, _ANYWHERE if moved else _ARITHMETIC):
            arithmetic.append(step)
        else:
            return None
    return tuple(flat[:first]), Levels(tuple(arithmetic), perm)


def _parts(step: Transform) -> tuple[Transform, ...]:
    """The steps that a recipe of several consists of."""
    if isinstance(step, Preset):
        return step.steps
    if isinstance(step, steps.ResizeCropImagenet) and not step.random_crop:
        return (*step.geometry, UnitRange(), *step.standardize)
    return (step,)
