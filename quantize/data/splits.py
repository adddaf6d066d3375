"""Which images calibrate, which choose among candidates, and which alone give the verdict.

Images are told apart by the hash of their bytes, so copies under other names cannot leak from one
set into another, and the choice depends on nothing but the bytes and the seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantize.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from quantize.plan import Sample

MAX_SEARCH = 2_000
"""The most images that candidates are compared on."""

LEAST_POOL = 1_000
"""The least evaluation images of which a share may go to the search."""


@dataclass(frozen=True)
class Splits:
    """Three lists of images; search and holdout share none, calibration and holdout neither.

    Attributes:
        calibration: the first images of the calibration dataset, in its order.
        search: what candidates are compared on, shuffled by the seed: any prefix is a random
            sample. Equal to `calibration` where nothing else was left.
        holdout: what the verdict rests on, in the order of its dataset.
        duplicates: images left out because the same bytes came before in the same dataset.
        search_is_calibration: whether the search has no images of its own.
        notes: what a reader of the report should know, one sentence each.
    """

    calibration: tuple[Sample, ...]
    search: tuple[Sample, ...]
    holdout: tuple[Sample, ...]
    duplicates: int
    search_is_calibration: bool
    notes: tuple[str, ...]


def split(
    calibration: Sequence[Sample],
    evaluation: Sequence[Sample],
    *,
    sampling_size: int,
    seed: int,
    search_share: float = 0.2,
    holdout: Sequence[Sample] | None = None,
) -> Splits:
    """Divide the images of a job.

    Calibration takes the first `sampling_size` images of its dataset. The search takes, at most
    `MAX_SEARCH` of: what is left of the calibration dataset outside the evaluation dataset; else
    `search_share` of the evaluation images, where there are `LEAST_POOL`; else the calibration
    images again. The holdout is every evaluation image in neither.

    With a holdout of its own, all other evaluation images outside calibration are the search's.

    Args:
        calibration: in the order of its dataset; likewise evaluation.
        evaluation: images with what is to be judged.
        sampling_size: how many images calibrate.
        seed: decides which images the search gets.
        search_share: share of the evaluation images (a ratio, 0 to 1).
        holdout: a dataset of its own for the verdict.

    Raises:
        DataError: too few images to calibrate, or none left for the verdict.
    """
    datasets = [calibration, evaluation, evaluation if holdout is None else holdout]
    calibrating, evaluating, verifying = (_first_of_each(dataset) for dataset in datasets)
    chosen = _calibration_images(calibrating, sampling_size)
    used = _digests(chosen)
    rest = _without(calibrating, used | _digests(evaluating) | _digests(verifying))
    pool = _without(evaluating, used)
    if holdout is not None:
        search = _draw(_without(pool, _digests(verifying)) or rest, MAX_SEARCH, seed)
    elif rest or len(pool) < LEAST_POOL:
        search = _draw(rest, MAX_SEARCH, seed)
    else:
        search = _draw(pool, min(round(search_share * len(pool)), MAX_SEARCH), seed)
    held = _without(verifying, used | _digests(search))
    if not held:
        raise DataError(
            f"no image is left for the verdict: all {len(verifying)} images to verify on also "
            "calibrate or choose among candidates",
            "give the evaluation images of its own, or lower sampling_size",
        )
    return Splits(
        calibration=tuple(chosen),
        search=tuple(search or chosen),
        holdout=tuple(held),
        duplicates=_count_duplicates(datasets),
        search_is_calibration=not search,
        notes=(
            *_note_one_class(chosen),
            *_note_overlap(used, verifying),
            *_note_conflicts(datasets),
        ),
    )


def _calibration_images(unique: list[Sample], sampling_size: int) -> list[Sample]:
    if len(unique) < sampling_size:
        raise DataError(
            f"calibration asks for {sampling_size} images and its dataset has {len(unique)} "
            "different ones",
            f"lower quantization.calibration.sampling_size to {len(unique)}, or add images",
        )
    return unique[:sampling_size]


def _first_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """The first sample of each digest, in order."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.digest, sample)
    return list(first.values())


def _digests(samples: Iterable[Sample]) -> set[str]:
    return {sample.digest for sample in samples}


def _without(samples: list[Sample], digests: set[str]) -> list[Sample]:
    return [sample for sample in samples if sample.digest not in digests]


def _draw(samples: list[Sample], most: int, seed: int) -> list[Sample]:
    """At most so many samples, ordered by a hash of the seed and their bytes."""

    def rank(sample: Sample) -> bytes:
        return hashlib.sha256(f"{seed} {sample.digest}".encode()).digest()

    return sorted(samples, key=rank)[:most]


def _count_duplicates(datasets: list[Sequence[Sample]]) -> int:
    """Repeats within a dataset; those of an image that stands in several count once."""
    repeats: Counter[str] = Counter()
    for samples in datasets:
        counts = Counter(sample.digest for sample in samples)
        repeats |= Counter({digest: count - 1 for digest, count in counts.items() if count > 1})
    return repeats.total()


def _note_one_class(calibration: list[Sample]) -> Iterator[str]:
    labels = {sample.label for sample in calibration}
    if len(calibration) > 1 and len(labels) == 1 and None not in labels:
        yield f"all {len(calibration)} calibration images are of class {labels.pop()}"


def _note_overlap(used: set[str], verifying: list[Sample]) -> Iterator[str]:
    shared = len(used & _digests(verifying))
    if shared:
        yield (
            f"{shared} of the {len(verifying)} images to verify on also calibrate and are left "
            "out of the verdict"
        )


def _note_conflicts(datasets: list[Sequence[Sample]]) -> Iterator[str]:
    """Equal bytes under different labels: at most one of them can be right."""
    first: dict[str, Sample] = {}
    conflicts: dict[str, tuple[Sample, Sample]] = {}
    for samples in datasets:
        for sample in samples:
            if sample.label is None:
                continue
            known = first.setdefault(sample.digest, sample)
            if known.label != sample.label:
                conflicts.setdefault(sample.digest, (known, sample))
    if conflicts:
        one, other = next(iter(conflicts.values()))
        yield (
            f"{len(conflicts)} images occur with different labels, such as {one.name} "
            f"({one.label}) and {other.name} ({other.label}); the first label of each dataset "
            "counts"
        )
