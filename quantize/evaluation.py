"""What models answer: top-1, top-5, and how close int8 is to float."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.errors import DataError, ModelError
from quantize.plan import TOP_K, Batch, Evaluation, Fidelity
from quantize.runtime import Predict


@dataclass(frozen=True, eq=False)
class Reference:
    """The float model's answers, kept so that each candidate runs only itself.

    Attributes:
        evaluation: its top-5.
        logits: float32 [N,K].
    """

    evaluation: Evaluation
    logits: NDArray[np.float32]

    def first(self, count: int) -> Reference:
        """The answers to the first `count` images."""
        whole = self.evaluation
        few = Evaluation(whole.digests[:count], whole.top5[:count], whole.labels[:count])
        return Reference(few, self.logits[:count])


@dataclass(frozen=True, eq=False)
class Comparison:
    """Both models on the same images.

    Attributes:
        float_: the float model's answers.
        int8: the int8 model's answers.
        fidelity: how close the second is to the first.
    """

    float_: Evaluation
    int8: Evaluation
    fidelity: Fidelity


def top_classes(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The best classes of each image, best first, ties to the lower index.

    Args:
        logits: float32 [N,K].

    Returns:
        int64 [N, min(5,K)].
    """
    return np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K].astype(np.int64)


def reference(predict: Predict, batches: Iterable[Batch]) -> Reference:
    """Run the float model and keep its logits: for sets small enough to hold, 4 N K bytes."""
    kept: list[NDArray[np.float32]] = []

    def keep(images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = predict(images)
        kept.append(logits)
        return logits

    evaluation = evaluate(keep, batches)
    return Reference(evaluation, np.concatenate(kept))


def evaluate(predict: Predict, batches: Iterable[Batch]) -> Evaluation:
    """Run one model over all batches.

    Raises:
        DataError: there is no image, or a label is not a class of the model.
        ModelError: the model gives NaN.
    """
    tally = _Answers()
    for batch in batches:
        tally.add(batch, predict(batch.images))
    return tally.evaluation()


def against(base: Reference, predict: Predict, batches: Iterable[Batch]) -> Comparison:
    """Run the int8 model on the reference's images and compare.

    Raises:
        DataError: the batches are not the reference's images.
        ModelError: the int8 model gives NaN or has other classes.
    """
    tally, closeness, start = _Answers(), _Closeness(), 0
    for batch in batches:
        logits = predict(batch.images)
        end = start + len(logits)
        if batch.digests != base.evaluation.digests[start:end]:
            raise _other_images()
        tally.add(batch, logits)
        closeness.add(base.logits[start:end], logits)
        start = end
    if start != base.evaluation.images:
        raise _other_images()
    return Comparison(base.evaluation, tally.evaluation(), closeness.fidelity())


def _other_images() -> DataError:
    return DataError("the images changed while the models were compared", "run it again")


def compare(predict_float: Predict, predict_int8: Predict, batches: Iterable[Batch]) -> Comparison:
    """Run both models in one pass: each image is decoded once and no logits are kept.

    Raises:
        DataError: there is no image, or a label is not a class of the model.
        ModelError: a model gives NaN, or the two have not the same classes.
    """
    floats, ints, closeness = _Answers(), _Answers(), _Closeness()
    for batch in batches:
        a, b = predict_float(batch.images), predict_int8(batch.images)
        floats.add(batch, a)
        ints.add(batch, b)
        closeness.add(a, b)
    return Comparison(floats.evaluation(), ints.evaluation(), closeness.fidelity())


class _Answers:
    """Gathers one model's answers batch by batch."""

    def __init__(self) -> None:
        self._top: list[NDArray[np.int64]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._digests: list[str] = []

    def add(self, batch: Batch, logits: NDArray[np.float32]) -> None:
        classes = logits.shape[1]
        if (batch.labels >= classes).any():
            bad = int(np.argmax(batch.labels >= classes))
            raise DataError(
                f"label {batch.labels[bad]} of image {batch.digests[bad][:12]} is not one of the"
                f" model's {classes} classes",
                "check the label file, LabelShift and the class folders",
            )
        unusable = np.isnan(logits).any(axis=1)
        if unusable.any():
            raise ModelError(
                f"the model's scores of image {batch.digests[int(np.argmax(unusable))][:12]} are"
                " NaN",
                "check the preprocessing and the model's weights",
            )
        self._top.append(top_classes(logits))
        self._labels.append(batch.labels)
        self._digests.extend(batch.digests)

    def evaluation(self) -> Evaluation:
        if not self._top:
            raise DataError("there is no image to evaluate", "check the data path")
        return Evaluation(
            tuple(self._digests), np.concatenate(self._top), np.concatenate(self._labels)
        )


class _Closeness:
    """Sums for SQNR and agreement, in float64."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._equal = self._images = 0

    def add(self, exact: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        if exact.shape != other.shape:
            raise ModelError(
                f"one model has {exact.shape[1]} classes and the other {other.shape[1]}",
                "compare a float model with the int8 model made from it",
            )
        f, q = exact.astype(np.float64), other.astype(np.float64)
        # One image at a time, so that the sums do not depend on the batch size.
        for signal, noise in zip((f * f).sum(axis=1), ((f - q) ** 2).sum(axis=1), strict=True):
            self._signal += float(signal)
            self._noise += float(noise)
        self._equal += int((top_classes(exact)[:, 0] == top_classes(other)[:, 0]).sum())
        self._images += len(exact)

    def fidelity(self) -> Fidelity:
        return Fidelity(sqnr_db(self._signal, self._noise), self._equal / self._images)


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), in dB; infinite without noise, minus infinity where undefined."""
    if not math.isfinite(noise) or not math.isfinite(signal) or signal <= 0:
        return -math.inf
    return math.inf if noise <= 0 else 10 * math.log10(signal / noise)
