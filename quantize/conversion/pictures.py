"""What conversions are proven on: the user's images, else synthetic ones; and always noise."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from quantize.bundle.contract import expanded
from quantize.config import load_config
from quantize.data.datasets import ImageFolder
from quantize.data.images import decode
from quantize.data.presets import IMAGENET_MEAN, IMAGENET_STD, Preset, PresetName
from quantize.data.steps import Cast, Normalize, Rescale, Resize, Transform, Transpose
from quantize.data.transforms import Pipeline
from quantize.errors import DataError, ModelError, QuantizeError

Size = tuple[int, int, int]
"""(C, H, W)"""

MOST = 100
"""Images for a proof by agreement, at most; 99 % of them is all but one."""

FEW = 2
"""Images where every tensor is compared: the source's own arithmetic is slow."""

NOISE = 2

_LARGEST = 3 * 4096 * 4096
_MOST_ELEMENTS = 100_000_000
"""Of all images together, 400 MB."""

_CELLS = 7


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images to compare two models on.

    Attributes:
        kind: `named` by the user, or `synthetic`.
        decoded: uint8 [H,W,3] each; none where the model does not take three channels.
        prepared: float32 [N,C,H,W], the same images as the model takes them.
        noise: float32 [M,C,H,W], normally distributed.
    """

    kind: Literal["named", "synthetic"]
    decoded: tuple[NDArray[np.uint8], ...]
    prepared: NDArray[np.float32]
    noise: NDArray[np.float32]

    def few(self) -> NDArray[np.float32]:
        """The first images and the noise, float32 [N,C,H,W]."""
        return np.concatenate([self.prepared[:FEW], self.noise])

    def all(self) -> NDArray[np.float32]:
        """All images and the noise, float32 [N,C,H,W]."""
        return np.concatenate([self.prepared, self.noise])


def pictures(size: Size, folder: Path | None, recipe: Pipeline | None, count: int) -> Pictures:
    """Images for models of one size.

    Args:
        size: (C, H, W) that the model takes.
        folder: of the user's images, or None.
        recipe: the preprocessing; None: squashed to the size, with ImageNet's mean and deviation.
        count: how many, at most; fewer where they are large.

    Raises:
        ModelError: images are too large to prove anything on them.
        DataError: the folder or an image cannot be read, or the recipe gives another size.
    """
    elements = math.prod(size)
    if elements > _LARGEST:
        raise ModelError(
            f"the model takes images of {size[0]} x {size[1]} x {size[2]}, too large to prove",
            "convert a classifier of photographs",
        )
    count = max(1, min(count, _MOST_ELEMENTS // elements))
    noise = np.random.default_rng(0).standard_normal((NOISE, *size), dtype=np.float32)
    if size[0] != 3:
        if folder is not None:
            raise DataError(f"the model takes {size[0]} channels, images have 3", "drop --images")
        return Pictures("synthetic", (), noise[:0], noise)
    if folder is None:
        sides = _sides(size, recipe)
        decoded = tuple(_synthetic(*sides, seed) for seed in range(count))
    else:
        decoded = tuple(decode(path) for path in _listed(folder, count))
    prepare = recipe or _plain(size)
    prepared = [prepare(image) for image in decoded]
    for image in prepared:
        if image.shape != size:
            raise DataError(
                f"the preprocessing gives images {list(image.shape)}, but the model takes"
                f" {list(size)}",
                "give a preprocessing of that size: --preprocessing",
            )
    kind: Literal["named", "synthetic"] = "synthetic" if folder is None else "named"
    return Pictures(kind, decoded, np.stack(prepared), noise)


def recipe_of(asked: str | Path | Pipeline | None, size: Size) -> Pipeline | None:
    """The preprocessing that was asked for.

    Args:
        asked: the name of a preset, a YAML file, the transforms themselves, or None.
        size: (C, H, W) that the model takes.

    Raises:
        ConfigError: the YAML file cannot be used.
        ModelError: no preset gives this size.
        DataError: the file has no dataloader.
    """
    if asked is None or isinstance(asked, Pipeline):
        return asked
    name = next((n for n in get_args(PresetName) if n == str(asked)), None)
    if name is not None:
        if size[1] != size[2]:
            raise ModelError(
                f"preset {name} gives square images, but the model takes {list(size)}",
                "give a YAML file with a transform instead",
            )
        return Pipeline((Preset(name, size=size[1]),))
    config = load_config(asked)
    loader = config.evaluation.accuracy.dataloader or config.quantization.calibration.dataloader
    if loader is None:
        raise DataError(
            f"{asked} has no dataloader, so the preprocessing is unknown",
            f"give one with its transform, or a preset: {', '.join(get_args(PresetName))}",
        )
    return Pipeline(loader.transforms)


def steps_of(recipe: Pipeline) -> tuple[Transform, ...]:
    """The transforms, a preset as those it consists of."""
    return expanded(recipe)


def grey_level(recipe: Pipeline, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What one step of an 8-bit pixel is after the preprocessing, float32 [C,1,1]."""
    black, white = (recipe(np.full_like(image, value)) for value in (0, 255))
    step: NDArray[np.float32] = np.abs(white - black).max(axis=(1, 2), keepdims=True) / 255
    return step


def _plain(size: Size) -> Pipeline:
    squashed: tuple[Any, ...] = (
        Resize((size[2], size[1])),
        Rescale(),
        Normalize(IMAGENET_MEAN, IMAGENET_STD),
        Transpose((2, 0, 1)),
        Cast("float32"),
    )
    return Pipeline(squashed)


def _sides(size: Size, recipe: Pipeline | None) -> tuple[int, int]:
    """Height and width to make: larger and not square where the recipe resizes, so that it does."""
    height, width = size[1] * 5 // 4, size[2] * 3 // 2
    if recipe is not None:
        with suppress(QuantizeError):
            if recipe(_synthetic(height, width, 0)).shape == size:
                return height, width
    return size[1], size[2]


def _listed(folder: Path, count: int) -> list[Path]:
    """Images of the folder, taken evenly from all of it."""
    try:
        missing = not folder.is_dir()
    except OSError as error:
        raise DataError(f"--images {folder}: {error.strerror}", "check the path") from error
    if missing:
        raise DataError(f"--images {folder} is no folder", "name a folder of images")
    paths = [path for path, _ in ImageFolder(folder).samples() if isinstance(path, Path)]
    return [paths[i * len(paths) // count] for i in range(count)] if len(paths) > count else paths


def _synthetic(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """uint8 [H,W,3]: coloured tiles, brighter to one side, and noise."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 200, (_CELLS, _CELLS, 3))
    rows, columns = (np.arange(n) * _CELLS // n for n in (height, width))
    slope = (np.arange(width) * 55 // width)[None, :, None]
    pixels = tiles[rows][:, columns] + slope + rng.integers(-20, 21, (height, width, 3))
    picture: NDArray[np.uint8] = pixels.clip(0, 255).astype(np.uint8)
    return picture
