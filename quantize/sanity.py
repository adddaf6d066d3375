"""Is the float model any good on these labels? If not, every comparison would pass.

Wrong labels and wrong preprocessing look alike, so the usual mistakes are tried on a few images
and those that would have helped are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from quantize.data.steps import Normalize, Rescale, Transpose
from quantize.data.transforms import Pipeline
from quantize.errors import DataError, QuantizeError
from quantize.evaluation import evaluate
from quantize.job import Images
from quantize.paired import above_chance
from quantize.plan import Evaluation
from quantize.runtime import Predict

_TRIED = 200
_IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_HALF = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


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
    helped = list(_helpful(images, predict, classes))
    hint = f"it would be right {', or '.join(helped)}" if helped else "no usual mistake explains it"
    raise DataError(
        f"the float model is no better than chance: top-1 {100 * seen.accuracy():.1f} % of"
        f" {seen.images} images with {classes} classes; {hint}",
        "mend labels or transform in the config",
    )


def _helpful(images: Images, predict: Predict, classes: int) -> Iterator[str]:
    few = images.first(_TRIED)
    plain = _answers(few, predict)
    if plain is not None:
        for shift in (-1, 1):
            labels = plain.labels - shift
            shifted = replace(plain, labels=labels)
            if labels.min() >= 0 and labels.max() < classes and above_chance(shifted, classes):
                yield f"with LabelShift {shift} ({_percent(shifted)})"
    swapped = _answers(few, lambda batch: predict(np.ascontiguousarray(batch[:, ::-1])))
    if swapped is not None and above_chance(swapped, classes):
        yield f"with BGR instead of RGB ({_percent(swapped)})"
    for name, pipeline in _variants(few.pipeline):
        found = _answers(replace(few, pipeline=pipeline, cache=None), predict)
        if found is not None and above_chance(found, classes):
            yield f"{name} ({_percent(found)})"


def _variants(pipeline: Pipeline) -> Iterator[tuple[str, Pipeline]]:
    steps = pipeline.steps
    bare = tuple(s for s in steps if not isinstance(s, Normalize))
    if len(bare) < len(steps):
        yield "without Normalize", Pipeline(bare)
    at = next((i for i, s in enumerate(bare) if isinstance(s, Transpose)), len(bare))
    for name, step in (("ImageNet's", _IMAGENET), ("0.5 / 0.5 as", _HALF)):
        if step not in steps:
            changed = (*bare[:at], step, *bare[at:])
            yield f"with {name} mean and std in Normalize", Pipeline(changed)
    unscaled = tuple(s for s in bare if not isinstance(s, Rescale))
    if len(unscaled) < len(bare):
        yield "without Rescale and Normalize", Pipeline(unscaled)
    else:
        yield "with Rescale first", Pipeline((Rescale(), *steps))


def _answers(images: Images, predict: Predict) -> Evaluation | None:
    """The answers, or None where the variant does not run."""
    try:
        return evaluate(predict, images)
    except QuantizeError:
        return None


def _percent(seen: Evaluation) -> str:
    return f"top-1 {100 * seen.accuracy():.0f} %"
