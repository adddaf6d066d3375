"""READ FIRST: ImageNet's tar files -> `val/<wnid>/*.JPEG`, `train/<wnid>/*.JPEG` and `val.txt`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from quantize.errors import DataError
from quantize.files import make_folder, write_atomic
from quantize.imagenet.labels import Labels, is_image_name, read_labels
from quantize.imagenet.placing import (
    Tally,
    missing_bytes,
    place,
    refuse_lack_of_space,
    refuse_strays,
    taken,
)
from quantize.imagenet.tarball import Member, Region, members, read_member
from quantize.plan import OnProgress, Progress

VAL_SHA1 = "5f3f73da3395154b60528b2b2a2caf2374f5f178"
"""Of ILSVRC2012_img_val.tar."""

TRAIN_SHA1 = "43eda4fe35c1705d6606a6a7a633bc965d194284"
"""Of ILSVRC2012_img_train.tar."""

MOST_IMAGE = 64 << 20
"""Bytes of one image; the largest of ImageNet has 15 MB."""

_CHUNK = 1 << 20
_MB = 1_000_000
_CLASS_TAR = re.compile(r"(n[0-9]{8})\.tar")


@dataclass(frozen=True)
class PreparedImages:
    """What was made.

    Attributes:
        output: the folder.
        classes: class folders of `val`.
        val: images in `val`.
        train: images in `train`; 0 where it was not asked for.
        written: files that were written now.
        kept: files that were there and right.
        numbered: class folders are called by their label, since no synset.txt was there.
    """

    output: Path
    classes: int
    val: int
    train: int
    written: int
    kept: int
    numbered: bool

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "output": str(self.output),
            "classes": self.classes,
            "val": self.val,
            "train": self.train,
            "written": self.written,
            "kept": self.kept,
            "numbered": self.numbered,
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"files      {self.output}/val, {self.output}/val.txt",
            f"images     {self.val} of {self.classes} classes",
            f"written    {self.written}, kept {self.kept}",
        ]
        if self.train:
            lines[1:1] = [f"           {self.output}/train: {self.train} images"]
        if self.numbered:
            lines.append("no synset.txt: the class folders are called by their labels, 0000 and on")
        return lines


def prepare_imagenet(
    tar: str | Path,
    labels: str | Path,
    output: str | Path,
    *,
    train: str | Path | None = None,
    synset: str | Path | None = None,
    checksum: bool = False,
    on_progress: OnProgress | None = None,
) -> PreparedImages:
    """Unpack ImageNet's images into class folders; what is there and right is kept.

    Args:
        tar: ILSVRC2012_img_val.tar.
        labels: the published map of its images, or a text file of `name label` lines.
        output: the folder; may hold what an earlier call has made.
        train: ILSVRC2012_img_train.tar, or None.
        synset: the classes' wnids, one a line, for labels that are numbers; None: the synset.txt
            beside `labels`. Without one the folders are called 0000 and on.
        checksum: compare the tar files with the published sha1 first.
        on_progress: told while it works.

    Returns:
        What was made.

    Raises:
        DataError: a tar is damaged, unsafe, or lacks images; the labels cannot be used.
        OutputError: the folder holds something else, or cannot be written.
    """
    known = read_labels(Path(labels), Path(synset) if synset else None)
    if train and known.numbered:
        raise DataError(
            f"{labels} does not tell the classes' names, which the training images need",
            "give --synset synset.txt",
        )
    job = _Job(Path(output), known, on_progress)
    try:
        return job.run(Path(tar), Path(train) if train else None, checksum=checksum)
    except OSError as error:  # those of writing are OutputErrors
        raise DataError(
            f"{error.filename or tar} cannot be read: {error.strerror or error}", "check the path"
        ) from error


@dataclass(frozen=True)
class _Job:
    """One call."""

    output: Path
    labels: Labels
    on_progress: OnProgress | None

    def run(self, tar: Path, train: Path | None, *, checksum: bool) -> PreparedImages:
        """Look at everything first, then write."""
        with _opened(tar) as (file, region):
            images = self._listed(members(file, region), region)
            if checksum:
                self._check_sha1(file, region, VAL_SHA1)
            if train is not None:
                self._check_train(train, checksum=checksum)
            refuse_strays(self.output / "val", set(self.labels.classes).__contains__)
            with taken(self.output) as scratch:
                tally = Tally()
                self._write_val(file, region, images, scratch, tally)
                many = self._write_train(train, scratch, tally) if train else 0
                os.sync()  # once, instead of 50,000 times
        return PreparedImages(
            self.output,
            len(self.labels.classes),
            len(images),
            many,
            tally.written,
            tally.kept,
            self.labels.numbered,
        )

    def _listed(self, found: Sequence[Member], region: Region) -> dict[Path, Member]:
        """Where each image goes; the tar holds those of the list, all of them, nothing else.

        Raises:
            DataError: it does not, or one is empty or too large.
        """
        folder_of, val = self.labels.folder_of, self.output / "val"
        for member in found:
            if member.name not in folder_of:
                raise DataError(
                    f"{region} holds {member.name[:100]!r}, of which the labels know nothing",
                    "tar and labels have to belong together",
                )
            _check_size(member, region)
        there = {member.name for member in found}
        lost = sorted(name for name in folder_of if name not in there)
        if lost:
            raise DataError(
                f"{region} lacks {len(lost)} of {len(folder_of)} images, such as {lost[0]}",
                "fetch it again, or give the labels that belong to it",
            )
        return {val / folder_of[member.name] / member.name: member for member in found}

    def _write_val(
        self,
        file: BinaryIO,
        region: Region,
        images: dict[Path, Member],
        scratch: Path,
        tally: Tally,
    ) -> None:
        val, folder_of = self.output / "val", self.labels.folder_of
        images_of: dict[str, set[str]] = {name: set() for name in self.labels.classes}
        for image, name in folder_of.items():
            images_of[name].add(image)
        for name in self.labels.classes:  # an empty one, too: it holds the rank of the others
            make_folder(val / name)
            refuse_strays(val / name, images_of[name].__contains__)
        sizes = {path: member.size for path, member in images.items()}
        refuse_lack_of_space(self.output, missing_bytes(sizes))
        by_offset = sorted(images.items(), key=lambda item: item[1].offset)
        for done, (path, member) in enumerate(by_offset, start=1):
            place(read_member(file, region, member), path, scratch, tally)
            self._tell("val", done, len(images))
        rank = {name: label for label, name in enumerate(self.labels.classes)}
        lines = [f"{folder_of[n]}/{n} {rank[folder_of[n]]}\n" for n in sorted(folder_of)]
        write_atomic(self.output / "val.txt", "".join(lines).encode())

    def _check_train(self, tar: Path, *, checksum: bool) -> None:
        """Refuse it before the first image is written."""
        with _opened(tar) as (file, region):
            classes = _classes_of(file, region, self.labels)
            if checksum:
                self._check_sha1(file, region, TRAIN_SHA1)
        refuse_strays(self.output / "train", classes.__contains__)

    def _write_train(self, tar: Path, scratch: Path, tally: Tally) -> int:
        """The tar of one tar for each class; returns how many images there are."""
        train, count = self.output / "train", 0
        with _opened(tar) as (file, region):
            classes = _classes_of(file, region, self.labels)
            if not train.exists():
                refuse_lack_of_space(self.output, region.end)
            for done, (name, member) in enumerate(classes.items(), start=1):
                count += _write_class(file, region.within(member), train / name, scratch, tally)
                self._tell("train", done, len(classes), "classes")
        return count

    def _check_sha1(self, file: BinaryIO, region: Region, expected: str) -> None:
        digest = hashlib.sha1(usedforsecurity=False)  # what ImageNet publishes
        file.seek(0)
        done = 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            self._tell("checksum", done // _MB, region.end // _MB, "MB")
        if digest.hexdigest() != expected:
            raise DataError(
                f"{region} has sha1 {digest.hexdigest()}, not the published {expected}",
                "fetch it again",
            )

    def _tell(self, stage: str, done: int, total: int, unit: str = "images") -> None:
        if self.on_progress:
            self.on_progress(Progress(stage, done, total, unit))


def _classes_of(file: BinaryIO, region: Region, labels: Labels) -> dict[str, Member]:
    """Class -> its tar within the training images' tar.

    Raises:
        DataError: it holds anything else, or a class is missing or unknown.
    """
    found, known = {}, set(labels.classes)
    for member in members(file, region):
        match = _CLASS_TAR.fullmatch(member.name)
        if match is None or match[1] not in known:
            raise DataError(
                f"{region} holds {member.name[:100]!r}, which is no class of the labels",
                "name ILSVRC2012_img_train.tar",
            )
        found[match[1]] = member
    lost = sorted(known - set(found))
    if lost:
        raise DataError(f"{region} lacks {len(lost)} classes, such as {lost[0]}", "fetch it again")
    return found


def _write_class(file: BinaryIO, region: Region, folder: Path, scratch: Path, tally: Tally) -> int:
    """The images of one class of the training set."""
    found = members(file, region)
    for member in found:
        if not is_image_name(member.name):
            raise DataError(
                f"{region} holds {member.name[:100]!r}, which is no name of an image",
                "name ILSVRC2012_img_train.tar",
            )
        _check_size(member, region)
    if not found:
        raise DataError(f"{region} holds no image", "fetch it again")
    make_folder(folder)
    refuse_strays(folder, {member.name for member in found}.__contains__)
    for member in sorted(found, key=lambda item: item.offset):
        place(read_member(file, region, member), folder / member.name, scratch, tally)
    return len(found)


def _check_size(member: Member, region: Region) -> None:
    if not 0 < member.size <= MOST_IMAGE:
        raise DataError(
            f"{region} holds {member.name} with {member.size} bytes, which is no image",
            "fetch it again",
        )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Region]]:
    """A tar file and all of it.

    Raises:
        DataError: it is no file; a pipe would be waited for.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is no file" if path.exists() else f"{path} does not exist",
            "name ImageNet's .tar",
        )
    with path.open("rb") as file:
        yield file, Region(path, 0, os.fstat(file.fileno()).st_size)
