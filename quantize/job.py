"""One job's inputs, opened and checked: the float model, the images, and that they fit."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize.config import Config, DataLoader
from quantize.data.cache import ArrayCache
from quantize.data.datasets import ImageFolder, Imagenet, Item, as_samples, digest_samples
from quantize.data.loader import Unreadable, batches
from quantize.data.splits import Splits, split
from quantize.data.transforms import Pipeline
from quantize.deadline import NEVER, Deadline
from quantize.errors import ConfigError, DataError, ModelError
from quantize.files import sha256
from quantize.graph import io
from quantize.graph.head import expose_logits
from quantize.graph.prepare import OLDEST_OPSET
from quantize.graph.view import Signature, opset, refuse_quantized, signature
from quantize.journal import SAMPLES
from quantize.plan import NO_LABEL, Batch, OnProgress, Progress, Sample
from quantize.runtime import Session, cores

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_MOST_CACHE_BYTES = 8 << 30

Given = Iterable[tuple[Any, int | None]]
"""Images from Python: (path | uint8 [H,W,3] | prepared float32 [C,H,W], label | None)."""


@dataclass
class Tally:
    """How many images went through passes."""

    images: int = 0


@dataclass(frozen=True, eq=False)
class Images:
    """Samples with their preprocessing: iterate to get batches, again and again.

    Attributes:
        name: what they are for, such as `holdout`.
        samples: in order.
        pipeline: image -> float32 [C,H,W].
        batch_size: images per batch.
        workers: decoding threads.
        cache: keeps prepared images between passes, or None for images that are read once.
        max_unreadable: share of images that may be unreadable (a ratio).
        drop_last: whether a last, smaller batch is left out.
        label_shift: what was subtracted from the labels.
        on_progress: told after each batch.
        deadline: when a pass breaks off.
        done: images of the list that need no pass any more; they count as seen.
        tally: how many images went through passes, of this list and of parts of it.
        unreadable: what a pass could not use; of several passes, the one that lost the most.
    """

    name: str
    samples: tuple[Sample, ...]
    pipeline: Pipeline
    batch_size: int
    workers: int
    cache: ArrayCache | None = None
    max_unreadable: float = 0.01
    drop_last: bool = False
    label_shift: int = 0
    on_progress: OnProgress | None = None
    deadline: Deadline = NEVER
    done: frozenset[str] = frozenset()
    tally: Tally = field(default_factory=Tally)
    unreadable: Unreadable = field(default_factory=Unreadable)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of prepared images, decoded ahead in threads.

        Raises:
            DataError: more images than allowed are unreadable.
            BudgetError: the deadline passed.
        """
        seen, bad = len(self.done), Unreadable()
        for batch in batches(
            [sample for sample in self.samples if sample.digest not in self.done],
            self.pipeline,
            batch_size=self.batch_size,
            workers=self.workers,
            unreadable=bad,
            cache=self.cache,
            drop_last=self.drop_last,
        ):
            self.deadline.check()
            yield batch
            seen += len(batch.labels)
            self.tally.images += len(batch.labels)
            if self.on_progress:
                self.on_progress(Progress(self.name, seen + bad.count, len(self.samples)))
        if bad.count > self.unreadable.count:
            self.unreadable.count, self.unreadable.images = bad.count, bad.images
        bad.check(len(self.samples), self.max_unreadable)

    def arrays(self) -> Iterator[NDArray[np.float32]]:
        """The images alone, float32 [N,C,H,W]."""
        return (batch.images for batch in self)

    def without(self, done: frozenset[str]) -> Images:
        """The same list, of which these digests need no pass any more."""
        return replace(self, done=done.intersection(sample.digest for sample in self.samples))

    def only(self, digests: Iterable[str]) -> Images:
        """The samples with these digests, in the list's order."""
        wanted = frozenset(digests)
        chosen = tuple(sample for sample in self.samples if sample.digest in wanted)
        return replace(self, samples=chosen, drop_last=False)

    def first(self, count: int) -> Images:
        """The first `count` samples, with the same preprocessing."""
        return replace(self, samples=self.samples[:count], drop_last=False, on_progress=None)

    def spread(self, count: int) -> Images:
        """At most `count` samples, at equal distances: every class of a sorted list has a part.

        However many of these few are unreadable, the whole list decides about that.
        """
        total = len(self.samples)
        count = min(count, total)
        chosen = tuple(self.samples[i * total // count] for i in range(count))
        return replace(self, samples=chosen, max_unreadable=1.0, drop_last=False, on_progress=None)

    @cached_property
    def digest(self) -> str:
        """Sha256 over content, labels and preprocessing, in order."""
        lines = [f"{s.digest} {NO_LABEL if s.label is None else s.label}" for s in self.samples]
        return hashlib.sha256("\n".join([self.pipeline.key(), *lines]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class FloatModel:
    """The float classifier as its file has it.

    Attributes:
        path: the file.
        proto: its content; not to be edited.
        sha256: of the file.
        signature: what it declares to take and give.
        size: (C, H, W) that it is run with.
        classes: K.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str
    signature: Signature
    size: tuple[int, int, int]
    classes: int


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that `tune` starts from.

    Attributes:
        model: the float classifier.
        config: validated.
        splits: which image serves what.
        calibration: images that ranges are measured on.
        search: images that candidates are compared on.
        holdout: images that only the verdict sees.
        memory: folder of float answers beyond a run, or None to compute all.
    """

    model: FloatModel
    config: Config
    splits: Splits
    calibration: Images
    search: Images
    holdout: Images
    memory: Path | None = None

    def searching_until(self, deadline: Deadline) -> Job:
        """The same job whose calibration and search break off then; the verdict has its own."""
        calibration = replace(self.calibration, deadline=deadline)
        return replace(
            self, calibration=calibration, search=replace(self.search, deadline=deadline)
        )

    def key(self, versions: dict[str, str]) -> str:
        """Sha256 of all that decides the search: inputs, settings, versions; not the budget."""
        parts = {
            "model": self.model.sha256,
            "config": self.config.of_the_search().to_yaml(),
            "data": [self.calibration.digest, self.search.digest, self.holdout.digest],
            "versions": versions,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def open_cache(run: Path) -> ArrayCache:
    """A store for prepared images that leaves half of the free disk alone.

    A run that was cut short leaves it to the one that goes on.

    Raises:
        OutputError: the run folder cannot be written.
    """
    room = min(_MOST_CACHE_BYTES, shutil.disk_usage(run).free // 2)
    return ArrayCache(run / SAMPLES, room)


def open_job(
    model: Path,
    config: Config,
    cache: ArrayCache | None,
    *,
    calibration: Given | None = None,
    evaluation: Given | None = None,
    on_progress: OnProgress | None = None,
    deadline: Deadline = NEVER,
) -> Job:
    """Open and check all inputs of a tuning job.

    Args:
        model: the float ONNX file.
        config: validated configuration.
        cache: where prepared images are kept between passes.
        calibration: images from Python instead of the configured dataset.
        evaluation: likewise for search and verdict.
        on_progress: told while files are hashed and images are read.
        deadline: when every pass over the images breaks off.

    Raises:
        ModelError, DataError, ConfigError: whatever is wrong with the inputs.
    """
    proto = open_proto(model)
    quantization, accuracy = config.quantization, config.evaluation.accuracy
    splits = _divided(config, calibration, evaluation, on_progress)
    for note in splits.notes:
        log.warning("%s", note)
    holdout = config.evaluation.holdout
    judge_with = accuracy.dataloader or holdout or quantization.calibration.dataloader
    images = partial(_images, config=config, on_progress=on_progress, deadline=deadline)
    calibrate_with = quantization.calibration.dataloader
    calibrating = images("calibrate", splits.calibration, calibrate_with, cache=cache)
    searching = images("search", splits.search, judge_with, cache=cache)
    verifying = images("verify", splits.holdout, holdout or judge_with, cache=None)
    loaders = (calibrate_with, accuracy.dataloader, holdout)
    opened = open_model(model, proto, calibrating)
    for loader, given in zip(loaders, (calibration, evaluation, None), strict=True):
        check_classes(loader if given is None else None, opened.classes, config)
    used = (*splits.calibration, *splits.search, *splits.holdout)
    check_labels(used, opened.classes, config)
    if config.goal().kind != "agreement":
        check_labelled(splits.holdout)
    return Job(opened, config, splits, calibrating, searching, verifying)


def _divided(
    config: Config,
    calibration: Given | None,
    evaluation: Given | None,
    on_progress: OnProgress | None,
) -> Splits:
    """The images of the job, given or configured, divided by content."""
    quantization, accuracy = config.quantization, config.evaluation.accuracy
    calibrate_with = _samples(
        "calibration", calibration, quantization.calibration.dataloader, config, on_progress
    )
    holdout = config.evaluation.holdout
    evaluate_with = (
        []
        if holdout and evaluation is None and accuracy.dataloader is None
        else _samples("evaluation", evaluation, accuracy.dataloader, config, on_progress)
    )
    return split(
        calibrate_with,
        evaluate_with,
        sampling_size=max(quantization.calibration.sampling_size),
        seed=config.tuning.random_seed,
        search_share=config.evaluation.search_share,
        holdout=_samples("holdout", None, holdout, config, on_progress) if holdout else None,
    )


def open_images(
    config: Config, evaluation: Given | None = None, on_progress: OnProgress | None = None
) -> Images:
    """All images of evaluation.accuracy, for verbs that need no splits.

    Raises:
        ConfigError, DataError: there are none, or they cannot be used.
    """
    loader = config.evaluation.accuracy.dataloader
    samples = _samples("evaluation", evaluation, loader, config, on_progress)
    return _images("evaluate", samples, loader, config, None, on_progress, NEVER)


def open_proto(path: Path) -> onnx.ModelProto:
    """Read a float classifier and refuse what cannot be quantized.

    Raises:
        ModelError: not readable, quantized already, or an opset that onnxruntime cannot run.
    """
    proto = io.load(path)
    refuse_quantized(proto, f"model {path}")
    if opset(proto) < OLDEST_OPSET:
        raise ModelError(
            f"model {path} has opset {opset(proto)}, and onnxruntime runs {OLDEST_OPSET} or newer",
            "upgrade it first: quantize convert",
        )
    return proto


def open_model(path: Path, proto: onnx.ModelProto, images: Images) -> FloatModel:
    """Check that model and images fit, by running one image.

    Raises:
        ModelError: not an image classifier, or it fails on the image.
        DataError: the transform gives another shape than the model takes.
    """
    declared = signature(proto, f"model {path}")
    image = first_image(images)
    size = image.shape[1:]
    wanted = (declared.channels, declared.height, declared.width)
    if any(w is not None and w != s for w, s in zip(wanted, size, strict=True)):
        raise DataError(
            f"the transform of {images.name} gives images {list(size)}, but the model takes"
            f" {['any' if w is None else w for w in wanted]} at input {declared.input!r}",
            "mend the transform: Resize, CenterCrop and Transpose decide the shape",
        )
    session = Session(io.to_bytes(expose_logits(proto)), name=f"model {path}")
    classes = session.predict(image).shape[1]
    if classes < 2:
        raise ModelError(
            f"model {path} is not an image classifier: it gives one score, not one per class",
            "export the classifier with an output [N,K]",
        )
    return FloatModel(path, proto, sha256(path), declared, _size(size), classes)


def first_image(images: Images) -> NDArray[np.float32]:
    """The first readable image, float32 [1,C,H,W].

    Raises:
        DataError: none of the first hundred images is readable; names one, and the reason.
    """
    for batch in replace(images.first(100), batch_size=1, max_unreadable=1.0, workers=1):
        return batch.images
    name, reason = next(iter(images.unreadable.images), ("none", "there is no image"))
    raise DataError(
        f"no image of {images.name} is readable, such as {name}: {reason}", "check the data path"
    )


def check_readable(images: Images) -> None:
    """Read all images once, into the cache: whatever is wrong with one is known before the work.

    Raises:
        DataError: more than allowed are unreadable, or the preprocessing does not suit one.
    """
    for _ in replace(images, name="read"):
        pass


def check_classes(loader: DataLoader | None, classes: int, config: Config) -> None:
    """A class folder's labels are right only if there is a folder for each class.

    Raises:
        DataError: there is not, and the LabelShift does not explain the difference.
    """
    if loader is None or not isinstance(loader.dataset, ImageFolder | Imagenet):
        return
    found = len(loader.dataset.classes())
    if not found or found - config.evaluation.accuracy.label_shift == classes:
        return
    dataset = loader.dataset
    background = ", or set LabelShift: -1 if class 0 is the background" * (found == classes - 1)
    raise DataError(
        f"{type(dataset).__name__}.root {dataset.root or ''} has {found} class folders, but the"
        f" model has {classes} classes, so labels counted from the folders would be wrong",
        f"give every class its folder, or use ImagenetRaw with a label file{background}",
    )


def check_labels(samples: Sequence[Sample], classes: int, config: Config) -> None:
    """Every label is a class of the model.

    Raises:
        DataError: names an image and its label.
    """
    labels = [sample.label for sample in samples if sample.label is not None]
    if not labels or max(labels) < classes:
        return
    bad = next(s for s in samples if s.label is not None and s.label >= classes)
    shift = config.evaluation.accuracy.label_shift
    after = f" after LabelShift {shift}" if shift else ""
    fits = min(labels) >= 1 and max(labels) == classes
    raise DataError(
        f"image {bad.name} has label {bad.label}{after}, but the model has {classes} classes,"
        f" 0 to {classes - 1}",
        f"the labels count from 1: set LabelShift: {shift + 1}"
        if fits
        else "correct the label file, or give the dataset that the model was trained for",
    )


def check_labelled(holdout: Sequence[Sample]) -> None:
    """A goal on top-1 needs a label for every image of the verdict.

    Raises:
        DataError: some have none; names one.
    """
    bare = [sample for sample in holdout if sample.label is None]
    if bare:
        raise DataError(
            f"the goal is on top-1, but {len(bare)} of {len(holdout)} images to verify on have no"
            f" label, such as {bare[0].name}",
            "give labels, or set tuning.accuracy_criterion.agreement",
        )


def _images(
    name: str,
    samples: Sequence[Sample],
    loader: DataLoader | None,
    config: Config,
    cache: ArrayCache | None,
    on_progress: OnProgress | None,
    deadline: Deadline,
) -> Images:
    return Images(
        name,
        tuple(samples),
        Pipeline(loader.transforms if loader else ()),
        loader.batch_size if loader else 1,
        cores(),
        cache,
        config.evaluation.max_unreadable,
        drop_last=loader is not None
        and loader.last_batch == "discard"
        and name != "calibrate"
        and len(samples) >= loader.batch_size,
        label_shift=config.evaluation.accuracy.label_shift,
        on_progress=on_progress,
        deadline=deadline,
    )


def _samples(
    what: str,
    given: Given | None,
    loader: DataLoader | None,
    config: Config,
    on_progress: OnProgress | None,
) -> list[Sample]:
    # Not by a name of their own here, so that each goes as soon as it is digested.
    samples = digest_samples(
        _items(what, given, loader, config), workers=cores(), on_progress=on_progress
    )
    shift = config.evaluation.accuracy.label_shift
    if shift:
        samples = [s if s.label is None else replace(s, label=s.label - shift) for s in samples]
    negative = next((s for s in samples if s.label is not None and s.label < 0), None)
    if negative is not None:
        raise DataError(
            f"{what} image {negative.name} has label {negative.label} after LabelShift {shift}",
            "labels count from 0: correct LabelShift or the labels",
        )
    return samples


def _items(
    what: str, given: Given | None, loader: DataLoader | None, config: Config
) -> Iterable[Item]:
    if given is not None:
        return as_samples(given)
    if loader is None:
        raise ConfigError(f"there are no images for {what}", "give a dataloader in the config")
    items: list[Item] = loader.dataset.samples()
    batches_asked = config.evaluation.accuracy.iteration
    if what == "evaluation" and batches_asked > 0:
        return items[: batches_asked * loader.batch_size]
    return items


def _size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width
