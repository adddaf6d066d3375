"""Readers of the binary files that CIFAR and MNIST are published in; no pickles."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from quantize.errors import DataError
from quantize.files import is_folder, is_there

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

    LabelledArray = tuple[NDArray[np.uint8], int]

_MAX_BYTES = 1 << 28  # the largest published file has 154 MB
_CIFAR_CURE = 'unpack the "binary version" of the dataset there (the python version is pickles)'
_MNIST_CLASSES = 10


def need_folder(path: Path, key: str) -> None:
    """Make sure that a folder exists.

    Raises:
        DataError: it does not; names the YAML key.
    """
    if not is_folder(path):
        problem = "is no folder" if is_there(path) else "does not exist"
        raise DataError(f"{key} {path} {problem}", f"set {key} to the folder of the images")


def read_cifar(root: Path, names: list[str], key: str, *, classes: int) -> Iterator[LabelledArray]:
    """Read CIFAR's records: label bytes, the last of them the label, then 3 x 32 x 32 pixels.

    Args:
        root: folder of the files, or the one that holds the published folder.
        names: the files, in order.
        key: YAML key for messages.
        classes: 10, with one label byte, or 100, with two (coarse and fine).

    Yields:
        uint8 [32,32,3] and its label.

    Raises:
        DataError: a file is missing or damaged.
    """
    need_folder(root, key)
    inner = "cifar-10-batches-bin" if classes == 10 else "cifar-100-binary"
    candidates = (
        folder
        for folder in (root, root / inner)
        if all((folder / name).is_file() for name in names)
    )
    folder = next(candidates, None)
    if folder is None:
        raise DataError(f"{key} {root} has no {', '.join(names)}", _CIFAR_CURE)
    for name in names:
        yield from _read_cifar_file(folder / name, key, classes)


def _read_cifar_file(path: Path, key: str, classes: int) -> Iterator[LabelledArray]:
    label_bytes = 1 if classes == 10 else 2
    record = label_bytes + 3 * 32 * 32
    data = np.frombuffer(_read_bounded(path, key), np.uint8)
    if data.size == 0 or data.size % record:
        raise DataError(
            f"{key}: {path} has {data.size} bytes, no multiple of {record}", _CIFAR_CURE
        )
    records = data.reshape(-1, record)
    labels = records[:, label_bytes - 1]
    _check_labels(labels, classes, f"{key}: {path}")
    planes = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    yield from zip(images, labels.tolist(), strict=True)


def read_mnist(root: Path, name: str, *, train: bool) -> Iterator[LabelledArray]:
    """Read an image and a label file in idx format, plain or with `.gz`.

    Args:
        root: folder of the files, or the one that holds `<name>` or `<name>/raw`.
        name: the dataset, which is also the YAML key's.
        train: the training files instead of the test files.

    Yields:
        uint8 [28,28,1] and its label.

    Raises:
        DataError: a file is missing or damaged.
    """
    key = f"{name}.root"
    need_folder(root, key)
    part = "train" if train else "t10k"
    files = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    for folder in (root, root / name, root / name / "raw"):
        image_file, label_file = (_plain_or_gzip(folder / file) for file in files)
        if image_file is not None and label_file is not None:
            break
    else:
        raise DataError(f"{key} {root} has no {' and '.join(files)}", "put the idx files there")
    images = _read_idx(image_file, key, axes=3)
    labels = _read_idx(label_file, key, axes=1)
    if len(images) != len(labels):
        raise DataError(
            f"{key}: {image_file} has {len(images)} images and {label_file} {len(labels)} labels",
            "replace the files",
        )
    _check_labels(labels, _MNIST_CLASSES, f"{key}: {label_file}")
    yield from zip(images[:, :, :, np.newaxis], labels.tolist(), strict=True)


def _check_labels(labels: NDArray[np.uint8], classes: int, where: str) -> None:
    greatest = int(labels.max())
    if greatest >= classes:
        raise DataError(f"{where} has a label {greatest} of {classes} classes", "replace the file")


def _plain_or_gzip(path: Path) -> Path | None:
    candidates = (path, path.with_name(f"{path.name}.gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_idx(path: Path, key: str, *, axes: int) -> NDArray[np.uint8]:
    """An idx file: 0, 0, type 8 (uint8), number of axes, big-endian sizes, then the values."""
    data = _read_bounded(path, key)
    header = 4 + 4 * axes
    if len(data) < header or data[:4] != bytes((0, 0, 8, axes)):
        raise DataError(f"{key}: {path} is no idx file of {axes} axes", "replace the file")
    shape = struct.unpack(f">{axes}I", data[4:header])
    values = np.frombuffer(data, np.uint8, offset=header)
    if values.size != math.prod(shape) or values.size == 0:
        raise DataError(
            f"{key}: {path} announces {' x '.join(map(str, shape))} values and has {values.size}",
            "replace the file",
        )
    return values.reshape(shape)


def _read_bounded(path: Path, key: str) -> bytes:
    """A whole file, decompressed if its name ends in .gz, up to a bound on its size."""
    try:
        with path.open("rb") as file:
            source: IO[bytes] | gzip.GzipFile = file
            if path.suffix == ".gz":
                source = gzip.GzipFile(fileobj=file)
            data = source.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{key}: {path} cannot be read: {reason}", "replace the file") from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{key}: {path} has more than {_MAX_BYTES} bytes", "replace the file")
    return data
