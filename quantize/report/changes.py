"""Which images changed their answer, and which classes lost: from both models' answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from quantize.plan import NO_LABEL

if TYPE_CHECKING:
    from quantize.evaluation import Comparison

Right = Literal["float", "int8", "neither"]


@dataclass(frozen=True)
class Change:
    """An image whose best class differs.

    Attributes:
        name: of its file, without folders.
        digest: sha256 of its bytes.
        label: its class, or None.
        float_: the float model's best class.
        int8: the int8 model's.
        right: which of the two is the label, or None without one.
    """

    name: str
    digest: str
    label: int | None
    float_: int
    int8: int
    right: Right | None


@dataclass(frozen=True)
class ClassDrop:
    """What one class lost.

    Attributes:
        label: the class.
        images: of that class.
        float_right: how many of them the float model has right; likewise int8_right.
        int8_right: by the int8 model.
        lost: images that only the float model has right.
        gained: images that only the int8 model has right.
    """

    label: int
    images: int
    float_right: int
    int8_right: int
    lost: int
    gained: int

    @property
    def drop_points(self) -> float:
        """Float top-1 minus int8 top-1 on the class, in points."""
        return 100 * (self.float_right - self.int8_right) / self.images


def changes(seen: Comparison, names: Mapping[str, str]) -> list[Change]:
    """The images with two answers, in their order.

    Args:
        seen: both models on the same images.
        names: digest -> name of the file.
    """
    one, two = seen.float_, seen.int8
    found = []
    for index in np.flatnonzero(one.predicted != two.predicted):
        digest, label = one.digests[index], int(one.labels[index])
        known = None if label == NO_LABEL else label
        pair = int(one.predicted[index]), int(two.predicted[index])
        name = names.get(digest, digest[:12])
        found.append(Change(name, digest, known, *pair, _right(known, *pair)))
    return found


def class_drops(seen: Comparison) -> list[ClassDrop] | None:
    """Every class that has images, the one that lost most points first; None without labels."""
    if not seen.float_.labelled:
        return None
    labels, float_, int8 = seen.float_.labels, seen.float_.right, seen.int8.right
    drops = []
    for label in np.unique(labels):
        one, two = float_[labels == label], int8[labels == label]
        lost, gained = int((one & ~two).sum()), int((two & ~one).sum())
        drops.append(ClassDrop(int(label), len(one), int(one.sum()), int(two.sum()), lost, gained))
    return sorted(drops, key=lambda d: (-d.drop_points, -d.lost, d.label))


def _right(label: int | None, float_: int, int8: int) -> Right | None:
    if label is None:
        return None
    return "float" if label == float_ else "int8" if label == int8 else "neither"
