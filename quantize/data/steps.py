"""The preprocessing transforms of the YAML files, with the arithmetic of the published figures.

Each is a frozen dataclass whose fields are the YAML options and which maps an image to an image.
An image is [H,W,C]: uint8 RGB as decoded, float once a step made it so. Wrong options raise
ValueError on construction; an image that a step cannot take raises `UnfitImage`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from quantize.data.resize import UnfitImage, resize
from quantize.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Size = int | tuple[int, int]
Interpolation = Literal["bilinear", "nearest", "bicubic"]
DType = Literal[
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]

LEAST_STD = 1e-6


class Transform(Protocol):
    """A frozen dataclass that maps an image to an image."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """The image after this step."""


# ---------------------------------------------------------------------------- pixel values


@dataclass(frozen=True)
class Rescale:
    """x / 255 in float32."""

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Any dtype -> float32, in [0, 1] for 8-bit images."""
        scaled: NDArray[np.float32] = image.astype(np.float32)
        scaled /= np.float32(255)
        return scaled


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std per channel (the last axis), in float64 as published.

    Attributes:
        mean: one value, or one per channel.
        std: likewise, each at least `LEAST_STD`; left out where only means were subtracted.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        _check_mean_and_std(self.mean, self.std)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[..., C] of any dtype -> float64."""
        centred = _per_channel(image, self.mean, "mean", np.subtract)
        return _per_channel(centred, self.std, "std", np.divide)


@dataclass(frozen=True)
class Cast:
    """Convert to another dtype; fractions are cut off, nothing saturates."""

    dtype: DType = "float32"

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Any dtype -> `dtype`."""
        # Out-of-range values are the recipe's affair; numpy's warning names nobody.
        with np.errstate(invalid="ignore", over="ignore"):
            return image.astype(self.dtype)


# ---------------------------------------------------------------------------------- layout


@dataclass(frozen=True)
class Transpose:
    """Reorder the axes: [2, 0, 1] turns [H,W,C] into [C,H,W]."""

    perm: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.perm) != list(range(len(self.perm))):
            raise ValueError(
                f"perm {list(self.perm)} is no order of the axes 0 to {len(self.perm) - 1}"
            )

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """An image of as many axes as `perm` has."""
        if image.ndim != len(self.perm):
            raise DataError(
                f"Transpose of {len(self.perm)} axes meets an image {list(image.shape)}",
                "give perm one entry per axis",
            )
        return image.transpose(self.perm)


@dataclass(frozen=True)
class AlignImageChannel:
    """Make the number of channels `dim`: grey to any, RGBA to RGB, RGB to grey."""

    dim: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= 4:
            raise ValueError(f"dim {self.dim} is outside 1 to 4")

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W] or [H,W,C] -> [H,W,dim]."""
        if image.ndim == 2:
            return np.repeat(image[:, :, np.newaxis], self.dim, axis=2)
        channels = image.shape[-1]
        if channels == self.dim:
            return image
        if (channels, self.dim) == (4, 3):
            return image[:, :, :3]
        if (channels, self.dim) == (3, 1):
            return _grey(image)
        raise DataError(
            f"AlignImageChannel cannot make {self.dim} channels from {channels}",
            "use dim 3 or 1, before Transpose",
        )


@dataclass(frozen=True)
class ToArray:
    """Nothing: images are arrays already. Kept so that published files load."""

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """The image itself."""
        return image


# -------------------------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Resize:
    """Resize to a fixed size with OpenCV's arithmetic, whatever the image's proportions.

    Attributes:
        size: one side for a square, or (width, height): OpenCV's order, as published.
        interpolation: none of them is antialiased.
    """

    size: Size
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,C] -> [height,width,C], same dtype."""
        width, height = _pair(self.size)
        return resize(image, height, width, self.interpolation)


@dataclass(frozen=True)
class CenterCrop:
    """Cut out the middle: rows from (H - height) // 2, columns from (W - width) // 2.

    Attributes:
        size: one side for a square, or (height, width).
    """

    size: Size

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,C] -> [height,width,C], same dtype."""
        return _centre(image, *_pair(self.size))


@dataclass(frozen=True)
class CropToBoundingBox:
    """Cut out a given box."""

    offset_height: int
    offset_width: int
    target_height: int
    target_width: int

    def __post_init__(self) -> None:
        _check_not_negative(offset_height=self.offset_height, offset_width=self.offset_width)
        _check_positive(target_height=self.target_height, target_width=self.target_width)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,C] -> [target_height,target_width,C], same dtype."""
        bottom = self.offset_height + self.target_height
        right = self.offset_width + self.target_width
        if bottom > image.shape[0] or right > image.shape[1]:
            raise UnfitImage(
                f"CropToBoundingBox reaches to row {bottom} and column {right} of an image of "
                f"{_rows_and_columns(image)}",
                "put Resize before it",
            )
        return image[self.offset_height : bottom, self.offset_width : right]


@dataclass(frozen=True)
class CropResize:
    """Cut out a box, as far as it lies in the image, and resize it.

    Attributes:
        x: left column of the box.
        y: top row.
        width: columns of the box.
        height: rows of the box.
        size: of the result, as in `Resize`.
        interpolation: as in `Resize`.
    """

    x: int
    y: int
    width: int
    height: int
    size: Size
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        _check_not_negative(x=self.x, y=self.y)
        _check_positive(width=self.width, height=self.height)
        _check_size(self.size)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,C] -> the size asked for, same dtype."""
        box = image[self.y : self.y + self.height, self.x : self.x + self.width]
        if box.size == 0:
            raise UnfitImage(
                f"CropResize from row {self.y} and column {self.x} lies outside an image of "
                f"{_rows_and_columns(image)}",
                "put Resize before it",
            )
        width, height = _pair(self.size)
        return resize(box, height, width, self.interpolation)


# ------------------------------------------------------------------------- whole recipes


@dataclass(frozen=True)
class ResizeShortSideSwapped:
    """Short side to `size`, lengths cut off, then squeezed; see `ResizeCropImagenet`."""

    size: int

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,C] -> rows as many as the columns should be, and columns as the rows."""
        scale = self.size / min(image.shape[:2])
        swapped = int(image.shape[1] * scale), int(image.shape[0] * scale)
        return resize(image, *swapped, "bilinear")


@dataclass(frozen=True)
class ResizeCropImagenet:
    """Short side to `resize_side`, centre crop, /255, normalise, channels first.

    The published code hands OpenCV (height, width) where it takes (width, height), so an image
    that is not square comes out squeezed into its transposed proportions. Published figures were
    measured so, and so it stays here.

    Attributes:
        height: rows of the result.
        width: columns of the result.
        random_crop: training only; refused when a job uses it.
        resize_side: length of the short side before the crop; lengths are cut off, not rounded.
        mean_value: subtracted after /255.
        std_value: divided by.
        resize_method: read and ignored, as published; likewise data_format and subpixels.
        data_format: ignored.
        subpixels: ignored.
    """

    height: int
    width: int
    random_crop: bool = False
    resize_side: int = 256
    mean_value: tuple[float, ...] = (0.0, 0.0, 0.0)
    std_value: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize_method: str = "bilinear"
    data_format: str = "channels_last"
    subpixels: str = "RGB"

    def __post_init__(self) -> None:
        _check_positive(height=self.height, width=self.width, resize_side=self.resize_side)
        _check_mean_and_std(self.mean_value, self.std_value)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,3] -> float32 [3,height,width]."""
        if self.random_crop:
            raise _random(self)
        # Cropped before the division, which costs less and changes no value.
        for step in self.geometry:
            image = step(image)
        values = image / 255.0
        for step in self.standardize:
            values = step(values)
        return values

    @property
    def geometry(self) -> tuple[Transform, ...]:
        """The steps before the division."""
        return ResizeShortSideSwapped(self.resize_side), CenterCrop((self.height, self.width))

    @property
    def standardize(self) -> tuple[Transform, ...]:
        """The steps behind it."""
        by = Normalize(self.mean_value, self.std_value)
        return by, Cast("float32"), Transpose((2, 0, 1))


@dataclass(frozen=True)
class ResizeWithAspectRatio:
    """Resize by area so that a centre crop of `scale` per cent gives height x width.

    Attributes:
        height: rows after the crop that follows.
        width: columns after the crop that follows.
        scale: per cent of the short side that the crop keeps.
    """

    height: int
    width: int
    scale: float = 87.5

    def __post_init__(self) -> None:
        _check_positive(height=self.height, width=self.width, scale=self.scale)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,C] -> short side int(100 side / scale), proportions kept, same dtype."""
        rows, columns = image.shape[:2]
        height = int(100.0 * self.height / self.scale)
        width = int(100.0 * self.width / self.scale)
        if rows > columns:
            height = int(height * rows / columns)
        else:
            width = int(width * columns / rows)
        return resize(image, height, width, "area")


@dataclass(frozen=True)
class BilinearImagenet:
    """/255, central crop, resize, ((x - 0.5) * 2 - mean) * scale; channels stay last.

    Attributes:
        height: rows of the result.
        width: columns of the result.
        central_fraction: share of either side that the crop keeps.
        mean_value: subtracted from values in [-1, 1].
        scale: factor at the end.
    """

    height: int
    width: int
    central_fraction: float = 0.875
    mean_value: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(height=self.height, width=self.width)
        if not 0 < self.central_fraction <= 1:
            raise ValueError(f"central_fraction {self.central_fraction} is outside 0 to 1")

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """[H,W,3] -> float32 [height,width,3]."""
        top, left = (int((side - side * self.central_fraction) / 2) for side in image.shape[:2])
        middle = image[top : image.shape[0] - top, left : image.shape[1] - left]
        values = resize(Rescale()(middle), self.height, self.width, "bilinear")
        values = (values - np.float32(0.5)) * np.float32(2)
        centred = _per_channel(values, self.mean_value, "mean_value", np.subtract)
        return (centred * self.scale).astype(np.float32)


# ------------------------------------------------------------------------- training only


@dataclass(frozen=True)
class RandomCrop:
    """Training only: loads, and is refused when a job uses it."""

    size: Size

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Refuses."""
        raise _random(self)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Training only: loads, and is refused when a job uses it."""

    size: Size
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        _check_size(self.size)
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] is not least and greatest above 0")

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Refuses."""
        raise _random(self)


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Training only: loads, and is refused when a job uses it."""

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Refuses."""
        raise _random(self)


@dataclass(frozen=True)
class RandomVerticalFlip:
    """Training only: loads, and is refused when a job uses it."""

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Refuses."""
        raise _random(self)


RANDOM = (RandomCrop, RandomResizedCrop, RandomHorizontalFlip, RandomVerticalFlip)


def refuse_random(step: Transform) -> None:
    """Stop a job whose preprocessing differs from pass to pass.

    Raises:
        DataError: the step draws random numbers.
    """
    if isinstance(step, RANDOM) or getattr(step, "random_crop", False):
        raise _random(step)


# --------------------------------------------------------------------------------- helpers


def _random(step: Transform) -> DataError:
    name = type(step).__name__
    what = f"{name} with random_crop" if hasattr(step, "random_crop") else name
    return DataError(
        f"transform {what} is random, so nothing measured with it could be verified",
        "use Resize and CenterCrop instead",
    )


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _rows_and_columns(image: NDArray[Any]) -> str:
    return f"{image.shape[0]} rows and {image.shape[1]} columns"


def _centre(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows, columns = image.shape[:2]
    if height > rows or width > columns:
        raise UnfitImage(
            f"a centre crop of {height} rows and {width} columns does not fit into an image of "
            f"{_rows_and_columns(image)}",
            "put Resize before CenterCrop",
        )
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[top : top + height, left : left + width]


def _per_channel(
    image: NDArray[Any], values: tuple[float, ...], name: str, operation: np.ufunc
) -> NDArray[Any]:
    """Apply `operation(image, values)` along the last axis in float64."""
    channels = image.shape[-1]
    if len(values) not in (1, channels):
        raise DataError(
            f"{name} has {len(values)} values for an image {list(image.shape)}",
            "give one value per channel, and put Normalize before Transpose",
        )
    # One long row instead of a short last axis: numpy's inner loop then pays.
    repeated = np.resize(np.asarray(values, np.float64), math.prod(image.shape[1:]))
    result: NDArray[np.float64] = operation(image.reshape(image.shape[0], -1), repeated)
    return result.reshape(image.shape)


def _grey(image: NDArray[Any]) -> NDArray[Any]:
    """0.299 R + 0.587 G + 0.114 B; 8-bit images with weights of 15 bits, as OpenCV."""
    if image.dtype == np.uint8:
        weights = np.array([9798, 19235, 3735], np.int32)
        grey = ((image.astype(np.int32) * weights).sum(axis=2) + (1 << 14)) >> 15
    else:
        grey = (image * np.array([0.299, 0.587, 0.114], image.dtype)).sum(axis=2)
    aligned: NDArray[Any] = grey.astype(image.dtype)[:, :, np.newaxis]
    return aligned


def _check_size(size: Size) -> None:
    height, width = _pair(size)
    _check_positive(size=min(height, width))


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} {value} is not above 0")


def _check_not_negative(**values: int) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name} {value} is below 0")


def _check_mean_and_std(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if not mean or not std:
        raise ValueError("mean and std need a value per channel")
    if not all(math.isfinite(value) for value in (*mean, *std)):
        raise ValueError(f"mean {list(mean)} and std {list(std)} must be finite")
    if min(std) < LEAST_STD:
        raise ValueError(f"std {list(std)} must be at least {LEAST_STD:g}")
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise ValueError(f"mean has {len(mean)} values and std {len(std)}")
