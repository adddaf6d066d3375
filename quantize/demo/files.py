"""The demo's files: packed digits become folders of PNG images beside a model and a YAML file.

`digits.npz` holds scikit-learn's bundled digits as they are (8x8 pixels, values 0 to 16) and the
half each belongs to; `digits.onnx` was trained on the one half alone (`quantize.demo.train`).
"""

from __future__ import annotations

import filecmp
import io
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantize.data.images import encode_png
from quantize.data.resize import resize
from quantize.errors import OutputError
from quantize.files import cannot_write, make_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 32
"""Height and width of the demo's images, in pixels."""

CLASSES = 10
CALIBRATION_PER_CLASS = 50

_BRIGHTEST = 16


@dataclass(frozen=True)
class DemoFiles:
    """Where the demo's files are.

    Attributes:
        model: float ONNX model, input `image` float32 [N,3,32,32], output `logits` [N,10].
        config: YAML file that names both folders of images, relative to itself.
        calibration_root: `<class>/*.png`, 50 images of each class, of the half trained on.
        evaluation_root: `<class>/*.png`, every image of the other half.
    """

    model: Path
    config: Path
    calibration_root: Path
    evaluation_root: Path


@dataclass(frozen=True, eq=False)
class Digits:
    """Handwritten digits in scikit-learn's order.

    Attributes:
        images: uint8 [N,8,8], 0 (paper) to 16 (ink).
        labels: uint8 [N], the digit.
        evaluation: bool [N], whether the image was kept out of training.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    evaluation: NDArray[np.bool_]


def load_digits() -> Digits:
    """The digits that ship with the package."""
    packed = io.BytesIO(_shipped("digits.npz"))
    with np.load(packed, allow_pickle=False) as arrays:
        return Digits(arrays["images"], arrays["labels"], arrays["evaluation"])


def enlarge(digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a digit's values by 255/16, rounded, and its sides bilinearly to 32 pixels.

    Args:
        digit: uint8 [8,8], values 0 to 16.

    Returns:
        uint8 [32,32,3], three equal channels.
    """
    grey = (digit.astype(np.uint16) * 255 + _BRIGHTEST // 2) // _BRIGHTEST
    large: NDArray[np.uint8] = resize(grey.astype(np.uint8)[:, :, None], SIDE, SIDE, "bilinear")
    return np.repeat(large, 3, axis=2)


def write_files(folder: Path) -> DemoFiles:
    """Write the demo's model, YAML and images into a folder, which may exist.

    Each of the four is written under a temporary name and then renamed, so that it is whole or
    absent. What is there already with the same content stays.

    Args:
        folder: created where missing; other files in it are left alone.

    Returns:
        the paths written.

    Raises:
        OutputError: the folder cannot be written, or holds other content under a name of ours.
    """
    files = DemoFiles(
        model=folder / "digits.onnx",
        config=folder / "digits.yaml",
        calibration_root=folder / "calibration",
        evaluation_root=folder / "evaluation",
    )
    digits = load_digits()
    make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".demo.") as name:
            new = Path(name)
            for target in (files.model, files.config):
                (new / target.name).write_bytes(_shipped(target.name))
            _write_images(new / files.calibration_root.name, digits, calibration_images(digits))
            evaluation = np.flatnonzero(digits.evaluation)
            _write_images(new / files.evaluation_root.name, digits, evaluation)
            for finished in sorted(new.iterdir()):
                _settle(finished, folder / finished.name)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return files


def calibration_images(digits: Digits) -> NDArray[np.int64]:
    """int64 [500], positions of the first 50 images of each class that were trained on."""
    return np.concatenate(
        [
            np.flatnonzero((digits.labels == label) & ~digits.evaluation)[:CALIBRATION_PER_CLASS]
            for label in range(CLASSES)
        ]
    )


def _write_images(root: Path, digits: Digits, positions: NDArray[np.int64]) -> None:
    """Write `root/<class>/<position>.png`, positions as four digits."""
    for label in range(CLASSES):
        (root / str(label)).mkdir(parents=True)
    for position in positions:
        path = root / str(digits.labels[position]) / f"{position:04d}.png"
        encode_png(enlarge(digits.images[position]), path)


def _settle(new: Path, target: Path) -> None:
    """Give a finished file or folder its name, unless the same content has it already."""
    if not target.exists():
        new.rename(target)
    elif not _same(new, target):
        raise OutputError(
            f"{target} is there already with other content", "remove it or name another folder"
        )


def _same(new: Path, old: Path) -> bool:
    """Whether a file, or a folder with all below it, holds the same; hidden files do not count."""
    if new.is_file() or not old.is_dir():
        return old.is_file() and new.is_file() and filecmp.cmp(new, old, shallow=False)
    names = sorted(path.name for path in new.iterdir())
    if names != sorted(path.name for path in old.iterdir() if not path.name.startswith(".")):
        return False
    return all(_same(new / name, old / name) for name in names)


def _shipped(name: str) -> bytes:
    """The bytes of a file that ships beside this module."""
    return resources.files("quantize.demo").joinpath(name).read_bytes()
