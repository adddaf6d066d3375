"""The verb `verify` on a bundle: accuracy, drop, interval and speed again, on the user's images.

Everything but the images comes from the bundle: preprocessing, goal, timing. Nothing is read from
the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantize.bundle.alone import Alone, judge_alone
from quantize.bundle.contract import Contract
from quantize.bundle.elsewhere import alone_elsewhere
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
from quantize.plan import EXIT_CODES, Cpu, Evaluation, OnProgress, Verdict, worst
from quantize.portability import BUDGET_S, elsewhere, known_processors
from quantize.report.elsewhere import Elsewhere
from quantize.runtime import cores, cpu

_WORDS = {"met": "GOAL MET", "unmet": "GOAL NOT MET", "undecided": "UNDECIDED"}


@dataclass(frozen=True)
class Proof:
    """What `verify` found on a bundle.

    Attributes:
        rows: figures, expected against seen.
        verdict: on the drop, or None without the float model.
        alone: without the float model, what int8's accuracy shows; else None.
        images: how many were seen.
        same_images: whether they are the very images of the release, prepared alike.
        made_on: instruction set of the release.
        cpu: this one.
        digest: whether the published digest was given.
        elsewhere: the same on emulated processors.
    """

    rows: tuple[Row, ...]
    verdict: Verdict | None
    alone: Alone | None
    images: int
    same_images: bool
    made_on: str
    cpu: Cpu
    digest: bool
    elsewhere: tuple[Elsewhere[Verdict | Alone], ...] = ()

    @property
    def exit_code(self) -> int:
        """As for tune, of the worst processor."""
        proven = self.verdict or self.alone
        assert proven is not None  # one of them is there
        return EXIT_CODES[worst([proven.outcome, *(seen.outcome for seen in self.elsewhere)])]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, other processors under `cpus`."""
        content = asdict(replace(self, elsewhere=()))
        del content["elsewhere"]
        others = [seen.to_json() for seen in self.elsewhere]
        return {**content, "cpus": others, "exit_code": self.exit_code}

    def lines(self) -> list[str]:
        """A table, notes, and the result in the last line; then those of other processors."""
        width = max(len(row.name) for row in self.rows)
        table = [
            f"{row.name:<{width}}  {row.expected:>24}  {row.seen:>24}"
            for row in (Row("", "expected", "seen"), *self.rows)
        ]
        others = [line for seen in self.elsewhere for line in seen.lines()]
        return [*table, "", *self._notes(), "", self._result(), *others]

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
        assert self.alone is not None  # one of them is there
        return self.alone.line()


def verify_bundle(
    path: str | Path,
    images: str | Path,
    *,
    labels: str | Path | None = None,
    float_model: str | Path | None = None,
    digest: str | None = None,
    cpus: Sequence[str] = (),
    budget: float = BUDGET_S,
    on_progress: OnProgress | None = None,
) -> Proof:
    """Prove a bundle again.

    Args:
        path: its folder or its bundle archive.
        images: a folder of images: one sub-folder per class, or flat with `labels`.
        labels: a file of `name label` lines.
        float_model: the float model; without it the drop stays unproven.
        digest: the published sha256 of SHA256SUMS.
        cpus: further processors to emulate.
        budget: seconds for all of them together.
        on_progress: told while it works.

    Raises:
        BundleError: the bundle is unsafe, damaged or changed; names the file.
        EngineError: the emulator is missing or does not know a processor.
        QuantizeError: images, labels or the float model cannot be used.
    """
    names = known_processors(cpus)
    with opened(Path(path), digest) as bundle:
        manifest, contract = bundle.described()
        expected = expected_of(manifest)
        seen = _images(contract, Path(images), Path(labels) if labels else None, on_progress)
        same_images = seen.digest == expected.images_sha256
        verdict = alone = None
        others: tuple[Elsewhere[Verdict | Alone], ...]
        if float_model is None:
            answers = _answers(bundle, seen)
            figures = _figures_alone(bundle, expected, seen, answers)
            images_seen, right = answers.images, int(answers.right.sum())
            whole = same_images and images_seen == expected.images
            alone = judge_alone(expected, right, images_seen, same_images=whole)
            given = (expected, bundle.model, seen, alone, names, budget)
            others = alone_elsewhere(*given, same_images=same_images)
        else:
            verdict = _both(bundle, manifest, Path(float_model), seen, expected, on_progress)
            images_seen, figures = verdict.images, rows(expected, verdict)
            found = elsewhere(Path(float_model), bundle.model, seen, verdict, names, budget)
            others = found.elsewhere
        return Proof(
            rows=figures,
            verdict=verdict,
            alone=alone,
            images=images_seen,
            same_images=same_images,
            made_on=expected.isa,
            cpu=cpu(),
            digest=digest is not None,
            elsewhere=others,
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


def _answers(bundle: Bundle, images: Images) -> Evaluation:
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


def _figures_alone(
    bundle: Bundle, expected: Expected, images: Images, seen: Evaluation
) -> tuple[Row, ...]:
    milliseconds = single(bundle.model, np.asarray(first_image(images)), _timing(expected))
    return rows(expected, None, seen, milliseconds)
