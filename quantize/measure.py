"""The verbs that measure files: verify, evaluate, benchmark."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantize.answers import AnswerFolder, Answers
from quantize.config import Config
from quantize.errors import ConfigError
from quantize.evaluation import PAIR_ROW, Comparison, compare
from quantize.evaluation import evaluate as run_evaluation
from quantize.files import sha256
from quantize.graph import io
from quantize.graph.head import expose_logits
from quantize.graph.view import signature
from quantize.job import (
    FloatModel,
    Given,
    Images,
    check_classes,
    check_labels,
    first_image,
    open_images,
    open_job,
    open_model,
)
from quantize.latency import Timing, measure, single
from quantize.plan import Cpu, Evaluation, Goal, Latency, OnProgress, Verdict
from quantize.probe import noise_image
from quantize.remembered import Remembered, memory_folder
from quantize.runtime import Streams, cores, cpu
from quantize.sanity import check_above_chance
from quantize.verdict import judge
from quantize.versions import facts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alone:
    """Batch-1 time of one file.

    Attributes:
        model: file name.
        milliseconds: median of one image.
        timing: threads, warm-up and rounds.
        cpu: where it was measured.
    """

    model: str
    milliseconds: float
    timing: Timing
    cpu: Cpu

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people, with the throughput that follows."""
        fewer = f" ({self.timing.asked} asked)" if self.timing.threads < self.timing.asked else ""
        return [
            f"Latency: {self.milliseconds:.3f} ms",
            f"Throughput: {1e3 / self.milliseconds:.3f} images/sec",
            f"batch 1, {self.timing.threads} threads{fewer}, {self.cpu.name}, {self.cpu.isa}",
        ]


@dataclass(frozen=True, eq=False)
class Verified:
    """The verdict with the answers behind it."""

    verdict: Verdict
    comparison: Comparison


def verify(
    float_model: str | Path,
    int8_model: str | Path,
    config: Config,
    *,
    calibration: Given | None = None,
    evaluation: Given | None = None,
    fresh: bool = False,
    on_progress: OnProgress | None = None,
) -> Verdict:
    """Compare two files on the holdout that `tune` would use, and time them.

    Args:
        float_model: the float file.
        int8_model: the int8 file.
        config: data, goal and performance settings; the calibration images are excluded.
        calibration: images from Python instead of the configured ones.
        evaluation: likewise.
        fresh: compute the float model's answers even where they are known.
        on_progress: told while it works.

    Returns:
        Met, unmet or undecided, with the figures.

    Raises:
        QuantizeError: model, data or configuration cannot be used.
    """
    job = open_job(
        Path(float_model),
        config,
        None,
        calibration=calibration,
        evaluation=evaluation,
        on_progress=on_progress,
    )
    return verify_files(
        job.model,
        Path(int8_model),
        job.holdout,
        config.goal(),
        timing_of(config),
        on_progress,
        memory=None if fresh else memory_folder(),
    ).verdict


def verify_files(
    model: FloatModel,
    int8_model: Path,
    images: Images,
    goal: Goal,
    timing: Timing,
    on_progress: OnProgress | None = None,
    answers: AnswerFolder | None = None,
    *,
    memory: Path | None = None,
) -> Verified:
    """The same on opened images: both files are read again from disk.

    Args:
        model: the float classifier.
        int8_model: the int8 file.
        images: the holdout; its deadline holds for the timing, too.
        goal: what is asked.
        timing: threads, warm-up and rounds.
        on_progress: told while it works.
        answers: keeps each image's answers as they come, and gives back those of a run that was
            cut short; None: nothing is kept.
        memory: folder of the float model's answers to these images, beyond a run; None: all are
            computed, as the int8 model's always are.

    Raises:
        DataError: the float model is no better than chance on the labels.
        ModelError: a file does not load, or the two do not take and give the same.
        BudgetError: the images' deadline passed.
    """
    check_same_signature(model, int8_model)
    predict = predictor(model.path)
    known = remembering(predict, model, images, memory)
    with pairs("verify", answers, model, int8_model, images) as kept:
        todo = images.without(kept.done)
        comparison = compare(known or predict, predictor(int8_model), todo, kept)
    if goal.kind != "agreement":
        check_above_chance(comparison.float_, images, predict, model.classes)
    latency = time_files(
        model.path, int8_model, images, timing, floor=goal.speed_floor, on_progress=on_progress
    )
    verdict = judge(comparison, goal, latency, cpu())
    return Verified(replace(verdict, reused=known.reused if known else 0), comparison)


def remembering(
    predict: Streams, model: FloatModel, images: Images, memory: Path | None
) -> Remembered | None:
    """The float model with the answers that it gave before, or None without a folder for them."""
    if memory is None:
        return None
    given = {"float": model.sha256, "preprocessing": images.pipeline.key(), **facts()}
    return Remembered(predict, predict.at_once, memory, given, model.classes)


def pairs(
    what: str, folder: AnswerFolder | None, model: FloatModel, int8_model: Path, images: Images
) -> Answers:
    """Where the answers of both models to these images are kept."""
    wanted = [sample.digest for sample in images.samples]
    if folder is None:
        return Answers(wanted=wanted)
    parts = {"float": model.sha256, "int8": sha256(int8_model), "images": images.digest}
    return folder.of(what, PAIR_ROW, parts, wanted)


def time_files(
    float_model: Path,
    int8_model: Path,
    images: Images,
    timing: Timing,
    *,
    floor: float | None = None,
    brief: bool = False,
    on_progress: OnProgress | None = None,
) -> Latency:
    """Batch-1 latency of both files on the first readable image; see `latency.measure`."""
    if timing.threads < timing.asked:
        log.info("%d threads asked, %d cores are here", timing.asked, timing.threads)
    return measure(
        float_model,
        int8_model,
        first_image(images),
        timing,
        floor=floor,
        brief=brief,
        on_progress=on_progress,
        deadline=images.deadline,
    )


def evaluate(
    model: str | Path,
    config: Config,
    *,
    evaluation: Given | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """One model, float or int8, on all images of evaluation.accuracy.

    Raises:
        QuantizeError: model, data or configuration cannot be used.
    """
    images = open_images(config, evaluation, on_progress)
    opened = open_model(Path(model), io.load(Path(model)), images)
    loader = config.evaluation.accuracy.dataloader if evaluation is None else None
    check_classes(loader, opened.classes, config)
    check_labels(images.samples, opened.classes, config)
    return run_evaluation(predictor(opened.path), images)


def benchmark(
    float_model: str | Path,
    int8_model: str | Path,
    config: Config | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> Latency:
    """Batch-1 latency of two files, rounds interleaved.

    Args:
        float_model: the float file.
        int8_model: the int8 file.
        config: its evaluation.performance says threads, warm-up and rounds; None: all cores.
        on_progress: told after each round.

    Raises:
        QuantizeError: a file or the configuration cannot be used.
    """
    timing = timing_of(config)
    return measure(
        Path(float_model),
        Path(int8_model),
        noise_image(io.load(Path(float_model))),
        timing,
        on_progress=on_progress,
    )


def benchmark_one(model: str | Path, config: Config | None = None) -> Alone:
    """Batch-1 latency of one file.

    Raises:
        QuantizeError: the file or the configuration cannot be used.
    """
    timing = timing_of(config)
    image = noise_image(io.load(Path(model)))
    milliseconds = single(Path(model), image, timing)
    return Alone(Path(model).name, milliseconds, timing, cpu())


def timing_of(config: Config | None) -> Timing:
    """What evaluation.performance asks; without a configuration all cores, 100 rounds."""
    if config is None:
        return Timing(cores(), cores())
    section = config.evaluation.performance
    asked = section.configs.cores_per_instance or cores()
    rounds = section.iteration if section.iteration > 0 else 100
    return Timing(min(asked, cores()), asked, section.warmup, rounds)


def predictor(model: Path, *, at_once: int | None = None) -> Streams:
    """A file as a function from images to logits; all cores if asked `at_once` times at once."""
    proto = expose_logits(io.load(model))
    return Streams(io.to_bytes(proto), name=f"model {model}", at_once=at_once)


def check_same_signature(model: FloatModel, int8_model: Path) -> None:
    """Raise ConfigError unless both files have the same input and output names and shapes."""
    other = signature(io.load(int8_model), f"model {int8_model}")
    mine = model.signature
    if (other.input, other.output) != (mine.input, mine.output):
        raise ConfigError(
            f"{int8_model} takes {other.input!r} and gives {other.output!r}, but {model.path} takes"
            f" {mine.input!r} and gives {mine.output!r}",
            "compare a float model with the int8 model made from it",
        )
