"""Samples -> batches: decoding and preprocessing in threads, in order, ahead of the consumer.

Each thread writes its image into the batch where it belongs; the consumer copies nothing. To hand
an image to a thread takes as long as to prepare a small one, so those are handed over several at a
time.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from quantize.ahead import in_order
from quantize.data.images import UnreadableImage, decode
from quantize.data.resize import UnfitImage
from quantize.errors import DataError
from quantize.plan import NO_LABEL, Batch, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from quantize.data.cache import ArrayCache
    from quantize.data.transforms import Pipeline

    _Begun = NDArray[np.uint8] | NDArray[np.float32]

_Made = TypeVar("_Made")

_MAX_NAMES = 20
_MOST_AHEAD = 1 << 28
_LARGE = 1 << 20
"""Bytes; the allocator itself uses smaller pieces again."""

_MOST_KEPT = 16
_CHUNK_S = 0.004
"""How long a thread works at a time: enough that handing over is nothing."""

_BRIEF_S = 0.0005
_BRIEF_BYTES = 1 << 16
"""Images that take less than both are too small for two threads at once."""


class Unreadable:
    """The images of one pass that could not be used, counted and named.

    Attributes:
        count: how many.
        images: (name, reason) of the first few.
    """

    def __init__(self) -> None:
        self.count = 0
        self.images: list[tuple[str, str]] = []

    def add(self, name: str, reason: str) -> None:
        """Count an image; the first `_MAX_NAMES` are named."""
        self.count += 1
        if len(self.images) < _MAX_NAMES:
            self.images.append((name, reason))

    def check(self, total: int, share: float) -> None:
        """Decide whether the rest still stands for the whole.

        Args:
            total: images of the pass, with the unreadable ones.
            share: how many may be unreadable (a ratio, 0 to 1).

        Raises:
            DataError: more were; names the first and the reason.
        """
        if self.count > share * total:
            name, reason = self.images[0]
            raise DataError(
                f"{self.count} of {total} images cannot be used, such as {name}: {reason}",
                "mend or remove them, or raise evaluation.max_unreadable",
            )


def batches(
    samples: Sequence[Sample],
    pipeline: Pipeline,
    *,
    batch_size: int,
    workers: int,
    unreadable: Unreadable | None,
    cache: ArrayCache | None = None,
    drop_last: bool = False,
) -> Generator[Batch, None, None]:
    """Prepare images into batches, while the consumer works on earlier ones.

    Closing the generator ends its threads as soon as the images in their hands are done.

    Args:
        samples: what to prepare; float32 arrays are taken as they are.
        pipeline: the preprocessing.
        batch_size: images per batch; the last batch may have fewer.
        workers: threads that decode and preprocess.
        unreadable: collects images that cannot be used, which are left out; None: they raise.
        cache: keeps prepared images for the next pass.
        drop_last: leave out a last batch that is not full.

    Yields:
        Batches in the order of the samples.

    Raises:
        UnreadableImage: an image cannot be used and `unreadable` is None.
        DataError: the preprocessing is at fault, or images of one batch differ in shape.
    """
    prepare = _Preparation(pipeline, pipeline.begun_key(), cache)
    prepared = _usable(_slots(samples, batch_size), prepare, workers, batch_size, unreadable)
    with closing(prepared):
        while group := list(itertools.islice(prepared, batch_size)):
            if drop_last and len(group) < batch_size:
                return
            yield _batch(group)


class _Memory:
    """The memory of batches, used again when nobody looks at it any more.

    The kernel clears what is new, and that takes a fifth of the time of a pass from the cache.
    """

    def __init__(self) -> None:
        self._kept: list[NDArray[np.float32]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array of this shape with any values, which nobody else holds or has a view of."""
        if 4 * math.prod(shape) < _LARGE:
            return np.empty(shape, np.float32)
        with self._lock:
            for index in range(len(self._kept)):
                if self._kept[index].shape == shape and _holders(self._kept, index) == _NOBODY:
                    return self._kept[index]
            made = np.empty(shape, np.float32)
            self._kept = [*self._kept[1 - _MOST_KEPT :], made]
            return made


def _holders(arrays: list[NDArray[np.float32]], index: int) -> int:
    """How many hold an array of a list: each view and each buffer of it does."""
    return sys.getrefcount(arrays[index])


_NOBODY = _holders([np.empty(0, np.float32)], 0)
"""What is counted where nothing but the list holds it."""


class _Block:
    """The memory of one batch, taken when its first image is prepared.

    Args:
        count: images of the batch.
        memory: where it is taken from.
    """

    def __init__(self, count: int, memory: _Memory) -> None:
        self.images: NDArray[np.float32] | None = None
        self._count = count
        self._memory = memory
        self._lock = threading.Lock()

    def place(self, position: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Where an image of this shape goes: into the block, or beside it if it does not fit."""
        with self._lock:
            if self.images is None:
                self.images = self._memory.take((self._count, *shape))
        fits = self.images.shape[1:] == shape
        return self.images[position] if fits else np.empty(shape, np.float32)


@dataclass(frozen=True, eq=False)
class _Slot:
    """A sample and where its image should go, if all before it are readable."""

    sample: Sample
    block: _Block
    position: int


def _slots(samples: Sequence[Sample], batch_size: int) -> Iterator[_Slot]:
    memory = _Memory()
    for start in range(0, len(samples), batch_size):
        block = _Block(min(batch_size, len(samples) - start), memory)
        for position, sample in enumerate(samples[start : start + batch_size]):
            yield _Slot(sample, block, position)


class _Preparation:
    """From a sample to float32 [C,H,W] in its place, by way of the cache.

    Args:
        pipeline: the preprocessing.
        recipe: key of its part before the cache, so that one cache serves several recipes.
        cache: images half way, or None.

    Attributes:
        largest: bytes of the largest image so far, 0 before there is one.
        pace: seconds of an image of the last few, infinite before there is one.
        stopped: whether nobody wants the rest of what is in work.
    """

    def __init__(self, pipeline: Pipeline, recipe: str, cache: ArrayCache | None) -> None:
        self.largest = 0
        self.pace = math.inf
        self.stopped = False
        self._turn = threading.Lock()
        self._pipeline = pipeline
        self._recipe = recipe
        self._cache = cache

    def __call__(self, slots: Sequence[_Slot]) -> list[NDArray[np.float32] | DataError]:
        """Prepare images in order, up to an error of the recipe's; an unreadable one is its error.

        Of small ones threads prepare some in turn: nearly all of that is Python's own work, which
        one thread does at a time, and two that fight for it take half as long again.
        """
        brief = self.pace < _BRIEF_S and self.largest < _BRIEF_BYTES
        with self._turn if brief else nullcontext():
            return self._prepared(slots)

    def _prepared(self, slots: Sequence[_Slot]) -> list[NDArray[np.float32] | DataError]:
        """The same: all decoded before the first is looked up, as each code fills the caches."""
        started = time.perf_counter()
        begun: list[_Begun | DataError] = []
        for slot in slots:
            if self.stopped:
                break
            begun.append(_attempt(self._begun, slot))
            if isinstance(begun[-1], DataError) and not isinstance(begun[-1], UnreadableImage):
                break
        images = [
            one if isinstance(one, DataError) else _attempt(self._finished, slot, one)
            for slot, one in zip(slots, begun, strict=False)
        ]
        self.pace = (time.perf_counter() - started) / len(slots)
        return images

    def _begun(self, slot: _Slot) -> _Begun:
        sample = slot.sample
        if isinstance(sample.kept, np.ndarray) and sample.kept.dtype == np.float32:
            return sample.kept
        if self._cache is None:
            return self._pipeline.begin(_pixels(sample))
        name = f"{self._recipe[:32]}-{sample.digest}"
        known = self._cache.get(name)
        if known is None:
            known = self._pipeline.begin(_pixels(sample))
            self._cache.put(name, known)
        return known

    def _finished(self, slot: _Slot, begun: _Begun) -> NDArray[np.float32]:
        place = slot.block.place(slot.position, self._pipeline.shape(begun))
        self._pipeline.finish(begun, place)
        self.largest = max(self.largest, place.nbytes)
        return place


def _attempt(work: Callable[..., _Made], slot: _Slot, *given: Any) -> _Made | DataError:
    """What the work gives, or the error that it ends with, which names the image."""
    try:
        return work(slot, *given)
    except UnfitImage as error:
        return UnreadableImage(slot.sample.name, str(error))
    except MemoryError:
        return UnreadableImage(slot.sample.name, "not enough memory to prepare it")
    except UnreadableImage as error:
        return error
    except DataError as error:
        return DataError(f"image {slot.sample.name}: {error.message}", error.cure)


def _pixels(sample: Sample) -> NDArray[np.uint8]:
    source = sample.source
    return decode(source) if isinstance(source, Path) else source.astype(np.uint8, copy=False)


def _usable(
    slots: Iterator[_Slot],
    prepare: _Preparation,
    workers: int,
    batch_size: int,
    unreadable: Unreadable | None,
) -> Generator[tuple[_Slot, NDArray[np.float32]], None, None]:
    """Usable images in order: the next batch and two chunks a thread are prepared or in work.

    They are fewer where that would take more than `_MOST_AHEAD` bytes.
    """
    most = max(1, batch_size // (2 * workers))  # so that all threads have a part of each batch

    def at_once() -> int:
        return max(1, min(most, int(_CHUNK_S / (prepare.pace or _CHUNK_S))))

    def ahead() -> int:
        if not prepare.largest:  # the first ones tell
            return workers
        size = at_once()
        images = min(2 * workers * size + batch_size, _MOST_AHEAD // prepare.largest)
        return max(workers, images // size)

    made = in_order(prepare, _chunks(slots, at_once), threads=workers, ahead=ahead, name="prepare")
    with closing(made):
        try:
            for chunk, future in made:
                for slot, image in zip(chunk, future.result(), strict=False):
                    if isinstance(image, np.ndarray):
                        yield slot, image
                    elif unreadable is None or not isinstance(image, UnreadableImage):
                        raise image
                    else:
                        unreadable.add(image.name, image.reason)
        finally:
            prepare.stopped = True


def _chunks(slots: Iterator[_Slot], at_once: Callable[[], int]) -> Iterator[list[_Slot]]:
    while chunk := list(itertools.islice(slots, at_once())):
        yield chunk


def _batch(group: list[tuple[_Slot, NDArray[np.float32]]]) -> Batch:
    """One batch of images of equal shape: their block, or a copy if one before was unreadable."""
    samples = [slot.sample for slot, _ in group]
    first = group[0][1]
    for sample, (_, image) in zip(samples, group, strict=True):
        if image.shape != first.shape:
            raise DataError(
                f"image {sample.name} is prepared as {list(image.shape)} and {samples[0].name}, "
                f"in the same batch, as {list(first.shape)}",
                "resize all images to one size, or set batch_size to 1",
            )
    whole = group[0][0].block
    in_place = all(
        slot.block is whole and slot.position == index and image.base is whole.images
        for index, (slot, image) in enumerate(group)
    )
    if in_place and whole.images is not None:
        images = whole.images[: len(group)]
    else:
        images = np.stack([image for _, image in group])
    labels = [NO_LABEL if sample.label is None else sample.label for sample in samples]
    return Batch(images, np.asarray(labels, np.int64), tuple(s.digest for s in samples))
