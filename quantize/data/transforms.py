"""Preprocessing as a whole: the transforms by their YAML names, and the pipeline made of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.data import presets, steps
from quantize.data.images import DECODER
from quantize.data.levels import Levels, divide
from quantize.data.presets import Preset
from quantize.data.steps import Transform, refuse_random
from quantize.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["TRANSFORMS", "Pipeline", "Preset", "Transform"]

TRANSFORMS: Mapping[str, type[Transform]] = MappingProxyType(
    {
        "AlignImageChannel": steps.AlignImageChannel,
        "BilinearImagenet": steps.BilinearImagenet,
        "Cast": steps.Cast,
        "CenterCrop": steps.CenterCrop,
        "CropResize": steps.CropResize,
        "CropToBoundingBox": steps.CropToBoundingBox,
        "Normalize": steps.Normalize,
        "Preset": presets.Preset,
        "RandomCrop": steps.RandomCrop,
        "RandomHorizontalFlip": steps.RandomHorizontalFlip,
        "RandomResizedCrop": steps.RandomResizedCrop,
        "RandomVerticalFlip": steps.RandomVerticalFlip,
        "Rescale": steps.Rescale,
        "Resize": steps.Resize,
        "ResizeCropImagenet": steps.ResizeCropImagenet,
        "ResizeWithAspectRatio": steps.ResizeWithAspectRatio,
        "ToArray": steps.ToArray,
        "Transpose": steps.Transpose,
    }
)
"""YAML name -> class; its dataclass fields are the options."""

# Part of every key: raise it when a transform's arithmetic changes.
_ARITHMETIC = 1


@dataclass(frozen=True)
class Pipeline:
    """Transforms in order, from a decoded image to what the model takes.

    Attributes:
        steps: the transforms; none at all suits images that were prepared before.
        channels_last: whether the model takes [H,W,C]; else a result that looks so is refused.
    """

    steps: tuple[Transform, ...]
    channels_last: bool = False

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Prepare one image.

        Args:
            image: uint8 [H,W,3] RGB.

        Returns:
            float32 [C,H,W], contiguous ([H,W,C] with `channels_last`).

        Raises:
            UnfitImage: this image cannot go through.
            DataError: the recipe is at fault; names what came out and the transform to add.
        """
        begun = self.begin(image)
        result = np.empty(self.shape(begun), np.float32)
        self.finish(begun, result)
        return result

    def begin(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.float32]:
        """The part that takes long; its result is worth keeping.

        Args:
            image: uint8 [H,W,3] RGB.

        Returns:
            uint8 [H,W,C] where the rest is a table of levels, else float32 and ready; contiguous.

        Raises:
            UnfitImage, DataError: as for the whole.
        """
        if self._divided is None or image.dtype != np.uint8:
            return self._at_once(image)
        geometry, levels = self._divided
        pixels = image
        for step in geometry:
            pixels = step(pixels)
        if pixels.ndim != 3:
            return self._at_once(image)
        try:
            dtype = levels.table(pixels.shape[2]).dtype
        except DataError:  # its message would name the table's shape
            return self._at_once(image)
        self._check_result(levels.shape(pixels.shape), dtype)
        return np.ascontiguousarray(pixels)

    def shape(self, begun: NDArray[np.uint8] | NDArray[np.float32]) -> tuple[int, ...]:
        """That of the whole result."""
        if begun.dtype == np.float32 or self._divided is None:
            return begun.shape
        return self._divided[1].shape(begun.shape)

    def finish(
        self, begun: NDArray[np.uint8] | NDArray[np.float32], out: NDArray[np.float32]
    ) -> None:
        """The rest.

        Args:
            begun: from `begin`.
            out: float32 of the whole result's shape; written.
        """
        if begun.dtype == np.float32 or self._divided is None:
            out[...] = begun
        else:
            self._divided[1].fill(begun.view(np.uint8), out)

    @cached_property
    def _divided(self) -> tuple[tuple[Transform, ...], Levels] | None:
        return divide(self.steps)

    def _at_once(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        result: NDArray[Any] = image
        for step in self.steps:
            result = step(result)
        self._check_result(result.shape, result.dtype)
        return np.ascontiguousarray(result, dtype=np.float32)

    def check(self) -> None:
        """Find out before any image is read whether every step gives the same result each time.

        Raises:
            DataError: a transform is random; names it and what to use instead.
        """
        for step in self.steps:
            refuse_random(step)

    def describe(self) -> list[dict[str, Any]]:
        """One dictionary per step, its name to its options, as in the YAML file; JSON values."""
        described: list[dict[str, Any]] = json.loads(
            json.dumps([{type(step).__name__: asdict(step)} for step in self.steps])
        )
        return described

    def key(self) -> str:
        """Hex sha256 of the whole recipe: equal keys prepare equal images."""
        recipe = {"arithmetic": _ARITHMETIC, "steps": self.describe()}
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    @property
    def in_pixels(self) -> bool:
        """Whether what `begin` gives has a byte a value, for most images."""
        return self._divided is not None

    def begun_key(self) -> str:
        """Hex sha256 of what decides the result of `begin`, decoder too: recipes may share it."""
        parts: dict[str, Any] = {"decoder": DECODER}
        if self._divided is None:
            parts["whole"] = self.key()
        else:
            geometry = Pipeline(self._divided[0]).describe()
            parts |= {"pixels": geometry, "arithmetic": _ARITHMETIC}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _check_result(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Refuse what no image classifier takes."""
        if dtype.kind not in "fiub":
            problem, cure = "", "add the transform Cast: {dtype: float32} at the end"
        elif len(shape) != 3:
            problem = " where channels, rows and columns are needed"
            cure = "add the transform AlignImageChannel: {dim: 3} at the start"
        elif not self.channels_last and _looks_channels_last(shape):
            problem = ", so channels come last"
            cure = "add the transform Transpose: {perm: [2, 0, 1]}"
        else:
            return
        raise DataError(f"preprocessing ends with an array {list(shape)} of {dtype}{problem}", cure)


def _looks_channels_last(shape: tuple[int, ...]) -> bool:
    channels = (1, 3)
    return shape[2] in channels and shape[0] not in channels
