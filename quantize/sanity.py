"""Is the float model any good on these labels? If not, every comparison would pass.

Wrong labels and wrong preprocessing look alike, so the usual mistakes are tried on a few images
and those that would have helped are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from quantize.data.steps import Normalize, Rescale, Transform, Transpose
from quantize.data.transforms import Pipeline
from quantize.errors import DataError, QuantizeError
from quantize.evaluation import evaluate
from quantize.job import Images, Job
from quantize.paired import above_chance
from quantize.plan import Evaluation
from quantize.runtime import Predict

_GLANCED, _TRIED = 32, 200
_NAMED = 3
_IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_HALF = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def check_float(job: Job, seen: Evaluation, predict: Predict) -> None:
    """Refuse a float model that guesses, before anything is searched.

    A goal on agreement asks nothing of labels. Few search images prove nothing against the model.
    A sample of the holdout clears it, a small one as a rule; where none does, all of it decides.

    Args:
        job: the inputs.
        seen: the float model's answers on the search images.
        predict: the float model.

    Raises:
        DataError: as `check_above_chance`.
    """
    if job.config.goal().kind == "agreement":
        return
    classes = job.model.classes
    if seen.images >= _TRIED:
        check_above_chance(seen, job.search, predict, classes)
    for count in (_GLANCED, _TRIED):
        if above_chance(evaluate(predict, job.holdout.spread(count)), classes):
            return
    check_above_chance(evaluate(predict, job.holdout), job.holdout, predict, classes)


def check_above_chance(seen: Evaluation, images: Images, predict: Predict, classes: int) -> None:
    """Refuse a float model that guesses.

    Args:
        seen: the float model's answers; images without labels are not judged.
        images: the images behind it, to try variants on.
        predict: the float model.
        classes: K.

    Raises:
        DataError: top-1 is no better than 1/K; names what would have helped.
    """
    if not seen.labelled or above_chance(seen, classes):
        return
    if above_chance(replace(seen, labels=seen.predicted), classes):
        helped = ", or ".join(_helpful(images.spread(_TRIED), predict, classes))
        hint = f"it would be right {helped}" if helped else "no usual mistake explains it"
    else:
        hint = "even all right would prove nothing on so few images"
    raise DataError(
        f"the float model is no better than chance: top-1 {100 * seen.accuracy():.1f} % of"
        f" {seen.images} images with {classes} classes; {hint}",
        "mend labels or transform in the config, or give more images",
    )


def _helpful(few: Images, predict: Predict, classes: int) -> list[str]:
    """What would have helped and how much, the best first."""
    found = sorted(_tried(few, predict, classes), key=lambda tried: -tried[1].accuracy())
    return [f"{name} (top-1 {100 * seen.accuracy():.0f} %)" for name, seen in found[:_NAMED]]


def _tried(few: Images, predict: Predict, classes: int) -> Iterator[tuple[str, Evaluation]]:
    """The usual mistakes that explain it, each with the answers without it."""
    plain = _answers(few, predict)
    if plain is not None:
        for shift in (-1, 1):
            labels = plain.labels - shift
            shifted = replace(plain, labels=labels)
            if labels.min() >= 0 and labels.max() < classes and above_chance(shifted, classes):
                yield f"with LabelShift {few.label_shift + shift}", shifted
    swapped = _answers(few, lambda batch: predict(np.ascontiguousarray(batch[:, ::-1])))
    if swapped is not None and above_chance(swapped, classes):
        yield "with BGR instead of RGB", swapped
    for name, pipeline in _variants(few.pipeline):
        seen = _answers(replace(few, pipeline=pipeline, cache=None), predict)
        if seen is not None and above_chance(seen, classes):
            yield name, seen


def _variants(pipeline: Pipeline) -> Iterator[tuple[str, Pipeline]]:
    steps = pipeline.steps
    bare = tuple(s for s in steps if not isinstance(s, Normalize))
    if len(bare) < len(steps):
        yield "without Normalize", Pipeline(bare)
    unscaled = tuple(s for s in bare if not isinstance(s, Rescale))
    scaled = len(unscaled) < len(bare)
    if scaled:
        yield "without Rescale and Normalize", Pipeline(unscaled)
    else:
        yield "with Rescale first", Pipeline((Rescale(), *steps))
    for name, step in (("ImageNet's", _IMAGENET), ("0.5 / 0.5 as", _HALF)):
        if step not in steps:
            yield f"with {name} mean and std in Normalize", Pipeline(_normalised(bare, step))
        if not scaled:
            both = (Rescale(), *_normalised(bare, step))
            yield f"with Rescale first and {name} mean and std in Normalize", Pipeline(both)


def _normalised(bare: tuple[Transform, ...], step: Normalize) -> tuple[Transform, ...]:
    """The steps with Normalize where the channels are still last."""
    at = next((i for i, s in enumerate(bare) if isinstance(s, Transpose)), len(bare))
    return (*bare[:at], step, *bare[at:])


def _answers(images: Images, predict: Predict) -> Evaluation | None:
    """The answers, or None where the variant does not run."""
    try:
        return evaluate(predict, images)
    except QuantizeError:
        return None
