"""Samples -> batches: decoding and preprocessing in threads, in order, ahead of the consumer."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantize.data.images import UnreadableImage, decode
from quantize.data.resize import UnfitImage
from quantize.errors import DataError
from quantize.plan import NO_LABEL, Batch, Sample

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from quantize.data.cache import ArrayCache
    from quantize.data.transforms import Pipeline

_MAX_NAMES = 20


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
    samples: Iterable[Sample],
    pipeline: Pipeline,
    *,
    batch_size: int,
    workers: int,
    unreadable: Unreadable | None,
    cache: ArrayCache | None = None,
    drop_last: bool = False,
) -> Generator[Batch, None, None]:
    """Prepare images and stack them, while the consumer works on earlier ones.

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
    prepare = _Preparation(pipeline, pipeline.key(), cache)
    ahead = 2 * workers + batch_size
    prepared = _prepared(samples, prepare, workers, ahead, unreadable)
    try:
        while True:
            group = list(itertools.islice(prepared, batch_size))
            if not group or (drop_last and len(group) < batch_size):
                return
            yield _stack(group)
    finally:
        prepared.close()


@dataclass(frozen=True, eq=False)
class _Preparation:
    """From a sample to float32 [C,H,W], by way of the cache.

    Attributes:
        pipeline: the preprocessing.
        recipe: its key, so that one cache serves several recipes.
        cache: prepared images, or None.
    """

    pipeline: Pipeline
    recipe: str
    cache: ArrayCache | None

    def __call__(self, sample: Sample) -> NDArray[np.float32]:
        """Prepare one image; every error names it."""
        try:
            return self._prepare(sample)
        except UnfitImage as error:
            raise UnreadableImage(sample.name, str(error)) from error
        except MemoryError as error:
            raise UnreadableImage(sample.name, "not enough memory to prepare it") from error
        except UnreadableImage:
            raise
        except DataError as error:
            raise DataError(f"image {sample.name}: {error.message}", error.cure) from error

    def _prepare(self, sample: Sample) -> NDArray[np.float32]:
        source = sample.source
        if isinstance(source, np.ndarray) and source.dtype == np.float32:
            return np.ascontiguousarray(source, dtype=np.float32)
        name = f"{self.recipe}/{sample.digest}"
        known = self.cache.get(name) if self.cache is not None else None
        if known is not None:
            return known
        image = decode(source) if isinstance(source, Path) else source.astype(np.uint8, copy=False)
        array = self.pipeline(image)
        if self.cache is not None:
            self.cache.put(name, array)
        return array


def _prepared(
    samples: Iterable[Sample],
    prepare: _Preparation,
    workers: int,
    ahead: int,
    unreadable: Unreadable | None,
) -> Generator[tuple[Sample, NDArray[np.float32]], None, None]:
    """Usable images in order, with up to `ahead` of them prepared or in work."""
    todo = iter(samples)
    waiting: deque[tuple[Sample, Future[NDArray[np.float32]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")

    def refill() -> None:
        for sample in itertools.islice(todo, ahead - len(waiting)):
            waiting.append((sample, pool.submit(prepare, sample)))

    try:
        refill()
        while waiting:
            sample, future = waiting.popleft()
            try:
                array = future.result()
            except UnreadableImage as error:
                if unreadable is None:
                    raise
                unreadable.add(error.name, error.reason)
                continue
            finally:
                refill()
            yield sample, array
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _stack(group: list[tuple[Sample, NDArray[np.float32]]]) -> Batch:
    """One batch of images of equal shape."""
    samples, arrays = zip(*group, strict=True)
    for sample, array in group:
        if array.shape != arrays[0].shape:
            raise DataError(
                f"image {sample.name} is prepared as {list(array.shape)} and {samples[0].name}, "
                f"in the same batch, as {list(arrays[0].shape)}",
                "resize all images to one size, or set batch_size to 1",
            )
    labels = [NO_LABEL if sample.label is None else sample.label for sample in samples]
    return Batch(np.stack(arrays), np.asarray(labels, np.int64), tuple(s.digest for s in samples))
