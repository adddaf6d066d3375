"""Images for the test data: what the user names, else synthetic ones, made from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantize.data.images import decode
from quantize.data.transforms import Pipeline
from quantize.errors import DataError, QuantizeError

SETS = 3
MOST_SETS = 100
_CELLS = 9
_NOISE = 24


@dataclass(frozen=True, eq=False)
class Samples:
    """Prepared images and where they come from.

    Attributes:
        kind: `named` by the user, or `synthetic`.
        images: float32 [C,H,W] each.
        sha256: of each image before preprocessing: of the file, or of the uint8 pixels.
    """

    kind: str
    images: list[NDArray[np.float32]]
    sha256: list[str]


def named(paths: Sequence[Path], pipeline: Pipeline, size: tuple[int, ...]) -> Samples:
    """The user's images through the run's preprocessing.

    Raises:
        DataError: too many, one cannot be read, or the preprocessing does not suit it.
    """
    if len(paths) > MOST_SETS:
        raise DataError(f"{len(paths)} samples are too many", f"name at most {MOST_SETS}")
    if not pipeline.steps:
        raise DataError(
            "the run's images were prepared before it saw them, so its preprocessing is unknown",
            "leave out --samples",
        )
    images = [pipeline(decode(path)) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != size:
            raise DataError(
                f"sample {path.name} is prepared as {list(image.shape)}, but the model takes"
                f" {list(size)}",
                "name images like those of the run",
            )
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return Samples("named", images, digests)


def synthetic(pipeline: Pipeline, size: tuple[int, ...], count: int = SETS) -> Samples:
    """Seeded images with smooth areas, edges and noise, through the run's preprocessing.

    Where images came prepared, the samples are noise of the model's size.

    Raises:
        DataError: the preprocessing takes none of the sizes tried.
    """
    if not pipeline.steps:
        noise = [
            np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
            for seed in range(count)
        ]
        return Samples("synthetic", noise, [hashlib.sha256(n.tobytes()).hexdigest() for n in noise])
    for height, width in _sizes(size):
        pixels = [_picture(height, width, seed) for seed in range(count)]
        try:
            images = [pipeline(image) for image in pixels]
        except QuantizeError:
            continue
        if all(image.shape == size for image in images):
            digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
            return Samples("synthetic", images, digests)
    raise DataError(
        "no synthetic image suits the run's preprocessing", "name images with --samples"
    )


def _sizes(size: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Rows and columns to try: not square first, so that a resize has something to do."""
    height, width = size[1:]
    yield height * 5 // 4, width * 3 // 2
    yield height, width
    for factor in (2, 4):
        yield height * factor, width * factor


def _picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """uint8 [H,W,3]: a coarse grid, interpolated in whole numbers, and noise."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, (_CELLS, _CELLS, 3), np.int64)
    rows, columns = (_ramp(length) for length in (height, width))
    (top, down), (left, right) = rows, columns
    upper = grid[top][:, left] * (256 - right)[:, None] + grid[top][:, left + 1] * right[:, None]
    lower = (
        grid[top + 1][:, left] * (256 - right)[:, None]
        + grid[top + 1][:, left + 1] * right[:, None]
    )
    smooth = (upper * (256 - down)[:, None, None] + lower * down[:, None, None]) >> 16
    noise = rng.integers(-_NOISE, _NOISE + 1, smooth.shape, np.int64)
    pixels: NDArray[np.uint8] = (smooth + noise).clip(0, 255).astype(np.uint8)
    return pixels


def _ramp(length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cell of each position, and how far into it in 256ths."""
    along = np.arange(length, dtype=np.int64) * (_CELLS - 1) * 256 // length
    return along >> 8, along & 255
