"""What models answer: top-1, top-5, and how close int8 is to float."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.ahead import in_order
from quantize.answers import Answers, Rows
from quantize.errors import DataError, ModelError
from quantize.plan import TOP_K, Batch, Evaluation, Fidelity
from quantize.remembered import Remembered
from quantize.runtime import Predict, Streams

_MANY_CLASSES = 64


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
    if logits.shape[1] < _MANY_CLASSES or not np.isfinite(logits).all():
        return np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K].astype(np.int64)
    # To sort all of a thousand scores takes thirty times as long as to look for the best five.
    rest, each = logits.copy(), np.arange(len(logits))
    best = np.empty((len(logits), TOP_K), np.int64)
    for place in range(TOP_K):
        best[:, place] = rest.argmax(axis=1)  # the first of equals
        rest[each, best[:, place]] = -np.inf
    return best


def reference(
    predict: Predict | Remembered, batches: Iterable[Batch], answers: Answers | None = None
) -> Reference:
    """Run the float model and keep its logits: for sets small enough to hold, 4 N K bytes.

    Args:
        predict: images float32 [N,C,H,W] -> logits float32 [N,K].
        batches: the images.
        answers: keeps a row for each image; may hold those of images that are not in `batches`.

    Raises:
        DataError: there is no image, or a label is not a class of the model.
        ModelError: the model gives NaN.
    """
    answers = answers or Answers()
    for batch, (logits,) in answered(batches, predict):
        rows = _rows(batch, logits_row(logits.shape[1]))
        rows["logits"] = logits
        answers.add(rows)
    rows = _all(answers)
    logits = np.ascontiguousarray(rows["logits"])
    return Reference(_evaluation(rows, top_classes(logits), answers), logits)


def evaluate(predict: Predict, batches: Iterable[Batch]) -> Evaluation:
    """Run one model over all batches.

    Raises:
        DataError: there is no image, or a label is not a class of the model.
        ModelError: the model gives NaN.
    """
    answers = Answers()
    for batch, (logits,) in answered(batches, predict):
        rows = _rows(batch, PAIR_ROW)
        rows["float"] = _filled(top_classes(logits))
        answers.add(rows)
    rows = _all(answers)
    return _evaluation(rows, rows["float"], answers)


def against(
    base: Reference, predict: Predict, batches: Iterable[Batch], answers: Answers | None = None
) -> Comparison:
    """Run the int8 model on the reference's images and compare.

    Args:
        base: the float model's answers.
        predict: the int8 model.
        batches: the reference's images, in the same order.
        answers: as for `reference`.

    Raises:
        DataError: the batches are not the reference's images.
        ModelError: the int8 model gives NaN or has other classes.
    """
    answers = answers or Answers()
    place = {digest: index for index, digest in enumerate(base.evaluation.digests)}
    for batch, (logits,) in answered(batches, predict):
        if not all(digest in place for digest in batch.digests):
            raise _other_images()
        exact = base.logits[[place[digest] for digest in batch.digests]]
        answers.add(_pair_rows(batch, exact, logits))
    rows = _all(answers)
    asked = [str(digest, "ascii") in place for digest in rows["digest"].tolist()]
    seen = _comparison(rows[asked], answers)
    if seen.float_.digests != base.evaluation.digests:
        raise _other_images()
    return seen


def _other_images() -> DataError:
    return DataError("the images changed while the models were compared", "run it again")


def compare(
    predict_float: Predict | Remembered,
    predict_int8: Predict,
    batches: Iterable[Batch],
    answers: Answers | None = None,
) -> Comparison:
    """Run both models in one pass: each image is decoded once and no logits are kept.

    Args:
        predict_float: the float model.
        predict_int8: the int8 model.
        batches: the images.
        answers: as for `reference`.

    Raises:
        DataError: there is no image, or a label is not a class of the model.
        ModelError: a model gives NaN, or the two have not the same classes.
    """
    answers = answers or Answers()
    for batch, (a, b) in answered(batches, predict_float, predict_int8):
        answers.add(_pair_rows(batch, a, b))
    return _comparison(_all(answers), answers)


def answered(
    batches: Iterable[Batch], *models: Predict | Remembered
) -> Generator[tuple[Batch, list[NDArray[np.float32]]], None, None]:
    """Batches with the logits of each model, float32 [N,K], in order.

    As many batches are in work at once as all models let ask; the next one is ready by then.

    Raises:
        DataError: a label is not a class of a model.
        ModelError: a model gives NaN.
    """

    def run(batch: Batch) -> list[NDArray[np.float32]]:
        return [checked(batch, _asked(model, batch)) for model in models]

    several = (Remembered, Streams)
    at_once = min(model.at_once if isinstance(model, several) else 1 for model in models)
    if at_once == 1:
        yield from ((batch, run(batch)) for batch in batches)
        return
    made = in_order(run, batches, threads=at_once, ahead=lambda: at_once, name="infer")
    with closing(made):
        for batch, future in made:
            yield batch, future.result()


def _asked(model: Predict | Remembered, batch: Batch) -> NDArray[np.float32]:
    return model.of(batch) if isinstance(model, Remembered) else model(batch.images)


# ------------------------------------------------------------------------------- rows


PAIR_ROW = np.dtype(
    [
        ("digest", "S64"),
        ("label", "<i8"),
        ("float", "<i8", (TOP_K,)),
        ("int8", "<i8", (TOP_K,)),
        ("signal", "<f8"),
        ("noise", "<f8"),
    ]
)
"""One image through both models: best classes, -1 behind the last, sum f^2 and sum (f - q)^2."""

_NONE = -1


def logits_row(classes: int) -> np.dtype[Any]:
    """One image through the float model: its K logits."""
    return np.dtype([("digest", "S64"), ("label", "<i8"), ("logits", "<f4", (classes,))])


def checked(batch: Batch, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits, float32 [N,K].

    Raises:
        DataError: a label is not one of the K classes.
        ModelError: a score is NaN.
    """
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
            f"the model's scores of image {batch.digests[int(np.argmax(unusable))][:12]} are NaN",
            "check the preprocessing and the model's weights",
        )
    return logits


def _rows(batch: Batch, row: np.dtype[Any]) -> Rows:
    rows: Rows = np.zeros(len(batch.labels), row)
    rows["digest"] = [digest.encode() for digest in batch.digests]
    rows["label"] = batch.labels
    return rows


def _pair_rows(batch: Batch, exact: NDArray[np.float32], other: NDArray[np.float32]) -> Rows:
    if exact.shape != other.shape:
        raise ModelError(
            f"one model has {exact.shape[1]} classes and the other {other.shape[1]}",
            "compare a float model with the int8 model made from it",
        )
    rows = _rows(batch, PAIR_ROW)
    f, q = exact.astype(np.float64), other.astype(np.float64)
    rows["float"], rows["int8"] = _filled(top_classes(exact)), _filled(top_classes(other))
    rows["signal"], rows["noise"] = (f * f).sum(axis=1), ((f - q) ** 2).sum(axis=1)
    return rows


def _filled(top: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N,TOP_K], with -1 where there are fewer classes."""
    filled = np.full((len(top), TOP_K), _NONE, np.int64)
    filled[:, : top.shape[1]] = top
    return filled


def _all(answers: Answers) -> Rows:
    rows = answers.rows()
    if rows is None:
        raise DataError("there is no image to evaluate", "check the data path")
    return rows


def _evaluation(rows: Rows, top: NDArray[np.int64], answers: Answers) -> Evaluation:
    return Evaluation(answers.digests_of(rows), _trimmed(top), rows["label"].astype(np.int64))


def _trimmed(top: NDArray[np.int64]) -> NDArray[np.int64]:
    """The inverse of `_filled`."""
    return np.ascontiguousarray(top[:, : int((top[0] != _NONE).sum())], np.int64)


def _comparison(rows: Rows, answers: Answers) -> Comparison:
    equal = rows["float"][:, 0] == rows["int8"][:, 0]
    # Exact sums: they depend neither on the batches nor on the order.
    signal, noise = (_sum(rows[name].tolist()) for name in ("signal", "noise"))
    fidelity = Fidelity(sqnr_db(signal, noise), float(equal.mean()))
    exact = _evaluation(rows, rows["float"], answers)
    # One tuple of digests for both: of many images it is not small.
    return Comparison(exact, replace(exact, top5=_trimmed(rows["int8"])), fidelity)


def _sum(values: list[float]) -> float:
    """Their sum, rounded once; NaN where one of them is not finite."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), in dB; infinite without noise, minus infinity where undefined."""
    if not math.isfinite(noise) or not math.isfinite(signal) or signal <= 0:
        return -math.inf
    return math.inf if noise <= 0 else 10 * math.log10(signal / noise)
