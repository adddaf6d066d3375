"""The verb `verify` on a bundle: accuracy, drop, interval and speed again, on the user's images.

Everything but the images comes from the bundle: preprocessing, goal, timing. Nothing is read from
the environment.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantize.bundle.contract import Contract
from quantize.bundle.expected import Expected, Row, expected_of, rows
from quantize.bundle.opening import Bundle, opened
from quantize.bundle.parent import check_parent
from quantize.checked_json import Value
from quantize.errors import BundleError, DataError
from quantize.evaluation import evaluate
from quantize.job import (
    Images,
    check_classes,
    check_labels,
    first_image,
    open_images,
    open_model,
    open_proto,
)
from quantize.latency import Timing, single
from quantize.measure import predictor, verify_files
from quantize.paired import agreement_interval
from quantize.plan import Cpu, Evaluation, OnProgress, Verdict
from quantize.runtime import cores, cpu

_WORDS = {"met": "GOAL MET", "unmet": "GOAL NOT MET", "undecided": "UNDECIDED"}


@dataclass(frozen=True)
class Proof:
    """What `verify` found on a bundle.

    Attributes:
        rows: figures, expected against seen.
        verdict: on the drop, or None without the float model.
        accuracy: (top-1, low, high) of int8 with Wilson's 95 % interval, ratios; None without
            labels.
        worse: without the float model, whether the whole interval lies below the one expected.
        images: how many were seen.
        same_images: whether they are the very images of the release, prepared alike.
        made_on: instruction set of the release.
        cpu: this one.
        digest: whether the published digest was given.
    """

    rows: tuple[Row, ...]
    verdict: Verdict | None
    accuracy: tuple[float, float, float] | None
    worse: bool
    images: int
    same_images: bool
    made_on: str
    cpu: Cpu
    digest: bool

    @property
    def exit_code(self) -> int:
        """As for tune; without the float model 0, or 3 where int8 is worse than expected."""
        return self.verdict.exit_code if self.verdict else 3 * self.worse

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "exit_code": self.exit_code}

    def lines(self) -> list[str]:
        """A table, notes, and the result in the last line."""
        width = max(len(row.name) for row in self.rows)
        table = [
            f"{row.name:<{width}}  {row.expected:>24}  {row.seen:>24}"
            for row in (Row("", "expected", "seen"), *self.rows)
        ]
        return [*table, "", *self._notes(), "", self._result()]

    def _notes(self) -> list[str]:
        same = "the images of the release" if self.same_images else "other images than the release"
        notes = [f"images     {self.images}, {same}"]
        if self.made_on != self.cpu.isa:
            notes.append(
                f"note       released on {self.made_on}, this is {self.cpu.isa}: int8 answers may"
                " differ" + (", products saturate here" if self.cpu.saturates else "")
            )
        if not self.digest:
            notes.append("note       without --digest only accidents are found, no tampering")
        return notes

    def _result(self) -> str:
        if self.verdict is not None:
            seen = self.verdict
            word = _WORDS[seen.outcome]
            return f"{word}: {seen.reason}; seen on {seen.images} images, {seen.cpu.isa}"
        assert self.accuracy is not None  # refused before otherwise
        top1, low, high = (100 * value for value in self.accuracy)
        word = "WORSE THAN EXPECTED" if self.worse else "NOT WORSE THAN EXPECTED"
        return (
            f"{word}: int8 top-1 {top1:.2f} % (95 % interval {low:.2f} to {high:.2f}); the drop is"
            " unproven without --float"
        )


def verify_bundle(
    path: str | Path,
    images: str | Path,
    *,
    labels: str | Path | None = None,
    float_model: str | Path | None = None,
    digest: str | None = None,
    on_progress: OnProgress | None = None,
) -> Proof:
    """Prove a bundle again.

    Args:
        path: its folder or its bundle archive.
        images: a folder of images: one sub-folder per class, or flat with `labels`.
        labels: a file of `name label` lines.
        float_model: the float model; without it the drop stays unproven.
        digest: the published sha256 of SHA256SUMS.
        on_progress: told while it works.

    Raises:
        BundleError: the bundle is unsafe, damaged or changed; names the file.
        QuantizeError: images, labels or the float model cannot be used.
    """
    with opened(Path(path), digest) as bundle:
        manifest, contract = bundle.described()
        expected = expected_of(manifest)
        seen = _images(contract, Path(images), Path(labels) if labels else None, on_progress)
        verdict = answers = None
        if float_model is None:
            answers = _alone(bundle, contract, seen)
            figures = _figures_alone(bundle, expected, seen, answers)
        else:
            verdict = _both(bundle, manifest, Path(float_model), seen, expected, on_progress)
            figures = rows(expected, verdict)
        accuracy = _interval(answers) if answers else None
        return Proof(
            rows=figures,
            verdict=verdict,
            accuracy=accuracy,
            worse=bool(accuracy and expected.low is not None and accuracy[2] < expected.low),
            images=verdict.images if verdict else answers.images if answers else 0,
            same_images=seen.digest == expected.images_sha256,
            made_on=expected.isa,
            cpu=cpu(),
            digest=digest is not None,
        )


def _images(
    contract: Contract, folder: Path, labels: Path | None, on_progress: OnProgress | None
) -> Images:
    if not contract.steps:
        raise BundleError(
            "the bundle's preprocessing is unknown: its images came prepared",
            "verify the two models with your own configuration: quantize verify FLOAT INT8",
        )
    place = str(folder.absolute())
    dataset = (
        {"ImagenetRaw": {"data_path": place, "image_list": str(labels.absolute())}}
        if labels
        else {"ImageFolder": {"root": place}}
    )
    config = contract.config(dataset)
    opened_images = open_images(config, None, on_progress)
    if not labels:
        check_classes(config.evaluation.accuracy.dataloader, contract.classes, config)
    check_labels(opened_images.samples, contract.classes, config)
    shape = first_image(opened_images).shape[1:]
    if shape != contract.size:
        raise BundleError(
            f"preprocess.json gives images {list(shape)}, but says {list(contract.size)}",
            "fetch the bundle again",
        )
    return opened_images


def _alone(bundle: Bundle, contract: Contract, images: Images) -> Evaluation:
    """The int8 model's answers."""
    found = evaluate(predictor(bundle.model), images)
    if not found.labelled:
        raise DataError(
            "the images have no labels, so without the float model nothing can be proven",
            "give class folders or --labels, or --float for the agreement",
        )
    return found


def _both(
    bundle: Bundle,
    manifest: Value,
    path: Path,
    images: Images,
    expected: Expected,
    on_progress: OnProgress | None,
) -> Verdict:
    check_parent(path, manifest, "the bundle", "name the one that the bundle was made from")
    model = open_model(path, open_proto(path), images)
    verified = verify_files(
        model, bundle.model, images, expected.goal, _timing(expected), on_progress
    )
    return verified.verdict


def _timing(expected: Expected) -> Timing:
    asked, warm_up, rounds = expected.timing
    return Timing(min(asked, cores()), asked, warm_up, rounds)


def _interval(seen: Evaluation) -> tuple[float, float, float]:
    top1 = seen.accuracy(1)
    limits = agreement_interval(top1, seen.images)
    return top1, limits.low, limits.high


def _figures_alone(
    bundle: Bundle, expected: Expected, images: Images, seen: Evaluation
) -> tuple[Row, ...]:
    milliseconds = single(bundle.model, np.asarray(first_image(images)), _timing(expected))
    return rows(expected, None, seen, milliseconds)
