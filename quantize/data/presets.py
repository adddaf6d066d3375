"""The five published recipes for ImageNet classifiers, by name. They are not the same.

All end in ((x / 255) - mean) / std per channel, float32 [3,H,W]; they differ in how the image comes
to its size, which moves accuracy more than int8 does. Mean and standard deviation are options;
so are the sizes, which is an extension of the published recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quantize.data.images import pillow_bilinear
from quantize.data.resize import check_resized
from quantize.data.steps import Cast, CenterCrop, Normalize, Resize, Transform, Transpose
from quantize.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PresetName = Literal["zoo_snippet", "short_side", "squash224", "squash256", "published"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Steps = tuple[Transform, ...]


@dataclass(frozen=True)
class UnitRange:
    """x / 255 in float64."""

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Any dtype -> float64, in [0, 1] for 8-bit images."""
        values: NDArray[np.float64] = image / np.float64(255)
        return values


@dataclass(frozen=True)
class ResizeShortSide:
    """Scale to a short side of `size`, the other one rounded; Pillow's antialiased bilinear."""

    size: int

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """uint8 [H,W,3] -> uint8, proportions kept."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(
                f"preset short_side needs uint8 [H,W,3] images, got {image.dtype} "
                f"{list(image.shape)}",
                "make the preset the first transform",
            )
        rows, columns = image.shape[:2]
        ratio = self.size / min(rows, columns)
        height = self.size if rows <= columns else round(ratio * rows)
        width = self.size if columns <= rows else round(ratio * columns)
        check_resized(height, width)
        return pillow_bilinear(image, height, width)


def zoo_snippet(mean: tuple[float, ...], std: tuple[float, ...]) -> Steps:
    """The snippet of the zoo's page: no resize and no crop, the caller's images have the size."""
    return (UnitRange(), *_standardize(mean, std))


def short_side(mean: tuple[float, ...], std: tuple[float, ...], size: int, resize: int) -> Steps:
    """`preprocess()` of the zoo since 2023: antialiased short side, then the centre."""
    return (ResizeShortSide(resize), CenterCrop(size), UnitRange(), *_standardize(mean, std))


def squash224(mean: tuple[float, ...], std: tuple[float, ...], size: int) -> Steps:
    """`preprocess_mxnet()`: squashed to a square of the final size, 8-bit bilinear, no crop."""
    return (Resize(size), UnitRange(), *_standardize(mean, std))


def squash256(mean: tuple[float, ...], std: tuple[float, ...], size: int, resize: int) -> Steps:
    """The zoo's notebooks: squashed to a square in 8 bits, then the centre."""
    return (Resize(resize), CenterCrop(size), UnitRange(), *_standardize(mean, std))


def published(mean: tuple[float, ...], std: tuple[float, ...], size: int, resize: int) -> Steps:
    """The inference notebook, behind 74.97 % for ResNet-50: /255 first, so nothing is rounded."""
    return (UnitRange(), Resize(resize), CenterCrop(size), *_standardize(mean, std))


@dataclass(frozen=True)
class Preset:
    """One of the published recipes as a single transform.

    Attributes:
        name: which one.
        mean: three values in [0, 1]; ImageNet's where left out.
        std: three values in [0, 1]; ImageNet's where left out.
        size: side of the square that the model takes; unused by `zoo_snippet`.
        resize: side before the centre crop, for `short_side`, `squash256` and `published`; where
            left out, `size` times 256 / 224, so 256 at 224.
    """

    name: PresetName
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int = 224
    resize: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size {self.size} is not above 0")
        if self._resize < self.size:
            raise ValueError(f"resize {self._resize} is smaller than size {self.size}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != 3:
                raise ValueError(f"{name} has {len(values)} values, RGB needs three")
        Normalize(self.mean or IMAGENET_MEAN, self.std or IMAGENET_STD)

    @property
    def steps(self) -> Steps:
        """The transforms that the recipe consists of."""
        mean, std = self.mean or IMAGENET_MEAN, self.std or IMAGENET_STD
        if self.name == "zoo_snippet":
            return zoo_snippet(mean, std)
        if self.name == "squash224":
            return squash224(mean, std, self.size)
        cropped = {"short_side": short_side, "squash256": squash256, "published": published}
        return cropped[self.name](mean, std, self.size, self._resize)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """uint8 [H,W,3] -> float32 [3,size,size] (`zoo_snippet`: [3,H,W])."""
        for step in self.steps:
            image = step(image)
        return image

    @property
    def _resize(self) -> int:
        return round(self.size * 256 / 224) if self.resize is None else self.resize


def _standardize(mean: tuple[float, ...], std: tuple[float, ...]) -> Steps:
    return (Normalize(mean, std), Transpose((2, 0, 1)), Cast("float32"))
