"""Where images and labels come from, by the names and options of the YAML files.

A dataset only lists: files stay closed until the loader decodes them. Nothing is ever downloaded,
and nothing is unpickled. Errors name the key at fault, such as `ImagenetRaw.data_path`.
"""

from __future__ import annotations

import hashlib
import logging
import operator
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quantize.data.binary import need_folder, read_cifar, read_mnist
from quantize.data.images import IMAGE_SUFFIXES
from quantize.errors import DataError
from quantize.files import is_file
from quantize.plan import Progress, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from quantize.plan import OnProgress

_log = logging.getLogger(__name__)

Item = tuple["Path | NDArray[Any]", int | None]
"""A file, or uint8 [H,W,C], or float32 [C,H,W] prepared before; and its class, if known."""

_MAX_LIST_BYTES = 1 << 28
_MAX_LABEL_DIGITS = 9
_DIGEST_CHUNK = 32
_SMALL = 1 << 16
"""Bytes of a file whose digest takes less time than to make room for pieces of a large one."""


class Dataset(Protocol):
    """A frozen dataclass of YAML options that lists images."""

    def samples(self) -> list[Item]:
        """All images with their labels, in the published order.

        Raises:
            DataError: files are missing or damaged; names the YAML key.
        """


# ----------------------------------------------------------------------------- files


@dataclass(frozen=True)
class ImagenetRaw:
    """A folder of images and a text file of `name label` lines.

    Attributes:
        data_path: folder that the names are relative to.
        image_list: the text file; `<data_path>/val.txt`, else `<data_path>/../val.txt`, where
            left out. A list of names alone is one without labels.
    """

    data_path: Path
    image_list: Path | None = None

    def samples(self) -> list[Item]:
        """The listed files that exist, in the order of the list."""
        need_folder(self.data_path, "ImagenetRaw.data_path")
        listed = self._find_list()
        items = [
            (self._inside(name, listed, number), label)
            for number, name, label in _read_list(listed)
        ]
        found: list[Item] = [item for item in items if is_file(item[0])]
        if not found:
            raise DataError(
                f"ImagenetRaw.image_list {listed}: none of its {len(items)} images lies in "
                f"ImagenetRaw.data_path {self.data_path}",
                "correct data_path, or the names in the list",
            )
        if len(found) < len(items):
            _log.warning(
                "%d of the %d images in %s are missing", len(items) - len(found), len(items), listed
            )
        return found

    def _find_list(self) -> Path:
        beside = (self.data_path / "val.txt", self.data_path.parent / "val.txt")
        candidates = (self.image_list,) if self.image_list is not None else beside
        for candidate in candidates:
            if is_file(candidate):
                return candidate
        where = " or ".join(str(candidate) for candidate in candidates)
        raise DataError(
            f"ImagenetRaw.image_list: no file {where}", "set it to a file of `name label` lines"
        )

    def _inside(self, name: str, listed: Path, number: int) -> Path:
        """The file of that name, which has to lie in `data_path`."""
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts:
            raise DataError(
                f"ImagenetRaw.image_list {listed}, line {number}: {name!r} leaves data_path",
                "list names relative to data_path",
            )
        return self.data_path / name


@dataclass(frozen=True)
class ImageFolder:
    """A folder with one sub-folder of images per class; labels follow the sorted names.

    Only sub-folders are classes, so that a stray file shifts no label. A folder that holds images
    and no sub-folders is a set without labels.

    Attributes:
        root: the folder.
    """

    root: Path

    def samples(self) -> list[Item]:
        """Images by class and file name."""
        return _list_folder(self.root, "ImageFolder.root")

    def classes(self) -> list[str]:
        """Names of the class folders, in the order of their labels; empty for a flat folder."""
        return _class_folders(self.root, "ImageFolder.root")


@dataclass(frozen=True)
class Imagenet:
    """Deprecated name for an `ImageFolder` at `<root>/val`.

    Attributes:
        root: folder that holds `val`; one of root and data_path is needed.
        data_path: another name for root.
        subset: the sub-folder to read.
        num_cores: ignored, as published.
    """

    root: Path | None = None
    data_path: Path | None = None
    subset: str = "val"
    num_cores: int = 28

    def __post_init__(self) -> None:
        if (self.root is None) == (self.data_path is None):
            raise ValueError("give exactly one of root and data_path")
        if self.subset in ("", ".", "..") or Path(self.subset).name != self.subset:
            raise ValueError(f"subset {self.subset!r} is no name of a sub-folder")

    def samples(self) -> list[Item]:
        """Images by class and file name."""
        return _list_folder(self._folder(), "Imagenet.root")

    def classes(self) -> list[str]:
        """Names of the class folders, in the order of their labels."""
        return _class_folders(self._folder(), "Imagenet.root")

    def _folder(self) -> Path:
        parent = self.root or self.data_path
        assert parent is not None  # __post_init__ saw to it
        return parent / self.subset


# ---------------------------------------------------------------------- arrays in files


@dataclass(frozen=True)
class _Published:
    """A set of small images in the few files that its authors published.

    Attributes:
        root: folder of the files, or the one that holds the folder they come in.
        train: the training images instead of the test images.
        download: read and ignored: nothing is downloaded.
    """

    root: Path
    train: bool = False
    download: bool = False

    def samples(self) -> list[Item]:
        """Images as uint8 [H,W,C] in the order of the files."""
        name = type(self).__name__
        if self.download:
            _log.warning("%s.download is ignored: nothing is downloaded", name)
        return list(self._read(name))

    def _read(self, name: str) -> Iterator[Item]:
        raise NotImplementedError


class CIFAR10(_Published):
    """CIFAR-10 in its "binary version": `data_batch_1.bin` to `_5.bin` and `test_batch.bin`.

    The python version is refused, because it is made of pickles. The folder that the files come in
    is `cifar-10-batches-bin`. 50,000 images to train, 10,000 to test, [32,32,3].
    """

    def _read(self, name: str) -> Iterator[Item]:
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] if self.train else ["test_batch.bin"]
        return read_cifar(self.root, names, f"{name}.root", classes=10)


class CIFAR100(_Published):
    """CIFAR-100 in its "binary version", `train.bin` and `test.bin`, with the fine labels.

    The folder that the files come in is `cifar-100-binary`; as many images as in CIFAR-10.
    """

    def _read(self, name: str) -> Iterator[Item]:
        names = ["train.bin" if self.train else "test.bin"]
        return read_cifar(self.root, names, f"{name}.root", classes=100)


class MNIST(_Published):
    """MNIST as its four idx files, plain or with `.gz`, in `MNIST/raw`, `MNIST` or `root` itself.

    60,000 images to train, 10,000 to test, [28,28,1].
    """

    def _read(self, name: str) -> Iterator[Item]:
        return read_mnist(self.root, name, train=self.train)


class FashionMNIST(MNIST):
    """Fashion-MNIST: the same files as `MNIST` under a folder of its own name."""


# ---------------------------------------------------------------------------- random data


@dataclass(frozen=True)
class Dummy:
    """Random tensors: loads, and is refused when a job uses it. The options are not looked at."""

    shape: Any
    low: Any = -128.0
    high: Any = 127.0
    dtype: Any = "float32"
    label: bool = True

    def samples(self) -> list[Item]:
        """Refuses."""
        raise _refuse_dummy("dummy")


@dataclass(frozen=True)
class DummyV2:
    """Random tensors: loads, and is refused when a job uses it. The options are not looked at."""

    input_shape: Any
    label_shape: Any = None
    low: Any = -128.0
    high: Any = 127.0
    dtype: Any = "float32"

    def samples(self) -> list[Item]:
        """Refuses."""
        raise _refuse_dummy("dummy_v2")


DATASETS: Mapping[str, type[Dataset]] = MappingProxyType(
    {
        "CIFAR10": CIFAR10,
        "CIFAR100": CIFAR100,
        "FashionMNIST": FashionMNIST,
        "ImageFolder": ImageFolder,
        "Imagenet": Imagenet,
        "ImagenetRaw": ImagenetRaw,
        "MNIST": MNIST,
        "dummy": Dummy,
        "dummy_v2": DummyV2,
    }
)
"""YAML name -> class; its dataclass fields are the options."""


# ------------------------------------------------------------------------ from the caller


def as_samples(items: Iterable[Any]) -> Iterator[Item]:
    """Check images that come from Python, one by one.

    Arrays are kept, not copied: the iterable must not overwrite one that it handed out.

    Args:
        items: pairs of an image (a path, uint8 [H,W,C] with 1 or 3 channels, or prepared float32
            [C,H,W]) and its class index or None.

    Yields:
        The same pairs, paths as `Path` and labels as int.

    Raises:
        DataError: an item is something else; names its index.
    """
    for index, item in enumerate(items):
        where = f"image {index} of the iterable"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"{where} is {_kind(item)}, not a pair", "yield (image, label), label None if none"
            )
        yield _checked_image(item[0], where), _checked_label(item[1], where)


def _checked_image(image: Any, where: str) -> Path | NDArray[Any]:
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if not isinstance(image, np.ndarray):
        raise DataError(f"{where} is {_kind(image)}", "give a path or a numpy array")
    what = f"{where} is an array {list(image.shape)} of {image.dtype}"
    if image.dtype not in (np.uint8, np.float32):
        raise DataError(what, "give uint8 [H,W,3] before or float32 [3,H,W] after preprocessing")
    if image.ndim != 3 or image.size == 0:
        raise DataError(what, "give one image at a time, with three axes")
    if image.dtype == np.uint8 and image.shape[2] not in (1, 3):
        raise DataError(what, "give uint8 images as [H,W,3] RGB, channels last")
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise DataError(f"{what} with NaN or infinite values", "correct its preprocessing")
    return image


def _checked_label(label: Any, where: str) -> int | None:
    if label is None:
        return None
    try:
        if isinstance(label, bool | np.bool_):
            raise TypeError
        index = operator.index(label)
    except TypeError:
        raise DataError(
            f"{where} has the label {label!r}", "give a class index (int) or None"
        ) from None
    if index < 0:
        raise DataError(f"{where} has the label {index}", "give a class index from 0, or None")
    return index


def _kind(thing: Any) -> str:
    return f"of type {type(thing).__name__}"


# -------------------------------------------------------------------------- lists and folders


def _read_list(path: Path) -> list[tuple[int, str, int | None]]:
    """(line number, name, label) of a list; all lines have a label or none has."""
    rows = [(n, line.split()) for n, line in enumerate(_lines(path), start=1) if line.strip()]
    labelled = any(len(fields) != 1 for _, fields in rows)
    parsed: list[tuple[int, str, int | None]] = []
    for number, fields in rows:
        if not labelled:
            parsed.append((number, fields[0], None))
        elif len(fields) == 2 and _is_label(fields[1]):
            parsed.append((number, fields[0], int(fields[1])))
        else:
            raise DataError(
                f"ImagenetRaw.image_list {path}, line {number}: {' '.join(fields)[:80]!r} is not "
                "`name label` with a label from 0",
                "give each line a name without blanks and a class index",
            )
    if not parsed:
        raise DataError(f"ImagenetRaw.image_list {path} is empty", "list one image a line")
    return parsed


def _is_label(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_LABEL_DIGITS


def _lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file of bounded size, whatever ends them."""
    try:
        size = path.stat().st_size
        if size > _MAX_LIST_BYTES:
            raise DataError(f"ImagenetRaw.image_list {path} has {size} bytes", "name a text file")
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"ImagenetRaw.image_list {path} cannot be read: {error.strerror}",
            "check its permissions",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"ImagenetRaw.image_list {path} is no UTF-8 text", "name the file of `name label` lines"
        ) from error


def _class_folders(root: Path, key: str) -> list[str]:
    """Sorted names of the sub-folders, without hidden ones such as .ipynb_checkpoints."""
    need_folder(root, key)
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{key} {root} cannot be read: {error.strerror}", "check it") from error


def _list_folder(root: Path, key: str) -> list[Item]:
    """Images of all class folders, or of a flat folder."""
    names = _class_folders(root, key)
    items: list[Item] = []
    skipped = 0
    for label, name in enumerate(names):
        images, others = _images_in(root / name, key)
        items += [(image, label) for image in images]
        skipped += others
    images, others = _images_in(root, key)
    if names:
        others += len(images)
    else:
        items = [(image, None) for image in images]
    if skipped + others:
        _log.info("%s %s: %d files that are no images of a class", key, root, skipped + others)
    if not items:
        raise DataError(
            f"{key} {root} holds no images", "give one sub-folder of images per class, or images"
        )
    return items


def _images_in(folder: Path, key: str) -> tuple[list[Path], int]:
    """Image files by name, and how many other files there are."""
    try:
        with os.scandir(folder) as entries:
            files = sorted(e.name for e in entries if not e.is_dir())
    except OSError as error:
        raise DataError(f"{key} {folder} cannot be read: {error.strerror}", "check it") from error
    images = [
        folder / name
        for name in files
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    ]
    return images, len(files) - len(images)


def _refuse_dummy(name: str) -> DataError:
    return DataError(
        f"dataset {name} makes random tensors, which prove nothing about accuracy",
        "give ImageFolder, ImagenetRaw or another dataset of images",
    )


# --------------------------------------------------------------------------------- digests


def digest_samples(
    items: Iterable[Item], workers: int, on_progress: OnProgress | None = None
) -> list[Sample]:
    """Fingerprint images, so that equal bytes are recognised wherever they lie.

    A file that cannot be read gets a digest of its path: decoding it later says what is wrong.

    Args:
        items: images and labels, as `samples()` or `as_samples()` give them.
        workers: threads.
        on_progress: told about every few dozen images.

    Returns:
        One sample per item, in order.
    """
    left = deque(items)
    del items  # its paths are larger than the samples, and go as those come
    total = len(left)
    chunks = (
        [left.popleft() for _ in range(min(_DIGEST_CHUNK, len(left)))]
        for _ in range(0, total, _DIGEST_CHUNK)
    )
    samples: list[Sample] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="digest")
    try:
        for done in pool.map(_digest_chunk, chunks):
            samples += done
            if on_progress is not None:
                on_progress(Progress("fingerprint", len(samples), total))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return samples


def _digest_chunk(items: list[Item]) -> list[Sample]:
    return [
        Sample(os.fspath(source) if isinstance(source, Path) else source, label, _digest(source))
        for source, label in items
    ]


def _digest(source: Path | NDArray[Any]) -> str:
    """Hex sha256 of a file's bytes, or of an array's dtype, shape and bytes."""
    if isinstance(source, Path):
        return _digest_file(source)
    header = f"{source.dtype.str} {source.shape} ".encode()
    return hashlib.sha256(header + np.ascontiguousarray(source).tobytes()).hexdigest()


def _digest_file(path: Path) -> str:
    try:
        if is_file(path):  # opening a pipe would wait for ever
            with path.open("rb", buffering=0) as file:
                start = file.read(_SMALL)
                if len(start) < _SMALL:
                    return hashlib.sha256(start).hexdigest()
                file.seek(0)
                return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        _log.debug("no digest of %s", path, exc_info=True)
    return hashlib.sha256(b"unreadable " + os.fsencode(path)).hexdigest()
