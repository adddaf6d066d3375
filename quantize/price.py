"""What a run will cost: told before it starts, and by `tune --dry-run` instead of it."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantize.config import INC_STRATEGIES, Config, check_tunable
from quantize.deadline import NEVER, Deadline
from quantize.evaluation import answered
from quantize.graph.expose import float_tensors
from quantize.graph.prepare import Prepared, prepare
from quantize.job import Job, open_job
from quantize.judging import probe_size
from quantize.measure import predictor, timing_of
from quantize.outcome import check_output
from quantize.plan import EngineName, OnProgress
from quantize.planning import plans
from quantize.portability import listed
from quantize.probe import run_once, shapes_of
from quantize.repair.bench import WALKED
from quantize.strategy import TRIED, accept

_PROBED = 16
_INC_START_S = 8.0
_WALK_COST = 5
"""What a walk costs, in float runs of its images: node by node, with rounding."""

_MODEL_COPIES = 8
"""Copies of the float weights that are alive at once: graphs, sessions and what they pack."""


@dataclass(frozen=True)
class Price:
    """What a run would cost.

    Attributes:
        calibration: images to calibrate on; likewise search and holdout.
        candidates: int8 models that would be tried at most, before any node is left float.
        image_runs: images through a model in all, at most, likewise.
        minutes: estimate, from a few images here and now.
        verify_seconds: the verdict's part of it.
        memory_bytes: estimate of the process's peak.
        cache_bytes: disk for prepared images between passes.
    """

    calibration: int
    search: int
    holdout: int
    candidates: int
    image_runs: int
    minutes: float
    verify_seconds: float
    memory_bytes: int
    cache_bytes: int

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people."""
        return [
            f"images     calibration {self.calibration}, search {self.search},"
            f" holdout {self.holdout}",
            f"candidates at most {self.candidates}, {self.image_runs} images through a model;"
            " more only where nodes are left float",
            f"time       about {self.minutes:.1f} minutes here",
            f"memory     about {self.memory_bytes / 2**20:.0f} MiB",
            f"disk       {self.cache_bytes / 2**20:.0f} MiB for prepared images, given back",
        ]


OnPrice = Callable[[Price], None]
"""Told once, when the price of a run is known and nothing is spent yet."""


def dry_run(
    model: Path, config: Config, output: Path, *, on_progress: OnProgress | None = None
) -> Price:
    """Check all inputs of a tuning job and estimate its price; nothing is written.

    Raises:
        QuantizeError: whatever `tune` would refuse.
    """
    check_tunable(config)
    check_output(model, config.source, output)
    listed(config)
    job = open_job(model, config, None, on_progress=on_progress)
    prepared = prepare(job.model.proto, run_once, job.model.size)
    return price_of(job, prepared, accept(job, prepared).pace)


def price_of(job: Job, prepared: Prepared, pace: float | None = None) -> Price:
    """The price of an accepted job.

    Args:
        job: the inputs.
        prepared: the working copy.
        pace: seconds that the float model takes for an image; None: a few are run here and now.
    """
    pace = _seconds_per_image(job) if pace is None else pace
    if job.config.tuning.strategy.name in INC_STRATEGIES:
        return _loop_price(job, prepared, pace)
    engines = [plan.engine for plan in plans(job.config, prepared.model)]
    return _ladder_price(job, prepared, engines, pace)


def search_deadline(deadline: Deadline, price: Price) -> Deadline:
    """When the search has to end so that the verdict is reached before the deadline.

    The verdict gets what it is estimated to need, and half as much again for a busy machine; at
    most half of the time that is left.
    """
    if deadline == NEVER:
        return NEVER
    return deadline.earlier(min(1.5 * price.verify_seconds, max(0.0, deadline.left) / 2))


def _loop_price(job: Job, prepared: Prepared, pace: float) -> Price:
    """INC calibrates and evaluates anew for each candidate."""
    count = job.config.tuning.exit_policy.max_trials
    each = len(job.calibration.samples) + len(job.search.samples)
    return _price(job, count, count * each, pace, _INC_START_S, _memory(job, prepared, 0))


def _ladder_price(job: Job, prepared: Prepared, engines: list[EngineName], pace: float) -> Price:
    """One calibration an engine and one walk; each engine's candidate and two repaired are judged.

    Ours has a first candidate beside the plain one, one a repair, and one on images.

    What portable weights are compared with takes a walk, too. Nodes left float, the last resort,
    come on top.
    """
    ours = engines[0] == "onnxruntime"
    portable = int(job.config.quantization.portable)
    count = len(engines) + (len(TRIED) + 2 if ours else 0) + portable
    probed = count * probe_size(len(job.search.samples))
    images = min(WALKED, len(job.calibration.samples)) if ours else 0
    walked = (1 + portable) * images * _WALK_COST
    runs = len(engines) * len(job.calibration.samples) + probed + walked
    overhead = engines.count("inc") * _INC_START_S
    runs += (len(engines) + (2 if ours else 0)) * len(job.search.samples)
    return _price(job, count, runs, pace, overhead, _memory(job, prepared, images))


def _price(
    job: Job, candidates: int, runs: int, each: float, overhead: float, memory: int
) -> Price:
    calibration, search = len(job.calibration.samples), len(job.search.samples)
    holdout = len(job.holdout.samples)
    timed, elsewhere = timing_of(job.config).seconds, _emulation_seconds(job.config)
    channels, height, width = job.model.size
    return Price(
        calibration,
        search,
        holdout,
        candidates,
        runs + search + 2 * holdout,
        ((runs + search + 2 * holdout) * each + overhead + 2 * timed + elsewhere) / 60,
        2 * holdout * each + timed + elsewhere,
        memory,
        channels * height * width * _kept(job),
    )


def _emulation_seconds(config: Config) -> int:
    """What the verdicts on other processors may take."""
    return config.evaluation.cpus_timeout if listed(config) else 0


def _kept(job: Job) -> int:
    """Bytes of the cache for each value of an image."""
    return sum(
        len(images.samples) * (1 if images.pipeline.in_pixels else 4)
        for images in (job.calibration, job.search)
    )


def _seconds_per_image(job: Job) -> float:
    few = job.holdout.spread(_PROBED)
    predict = predictor(job.model.path)
    start = time.perf_counter()
    seen = sum(len(batch.labels) for batch, _ in answered(few, predict))
    return (time.perf_counter() - start) / max(1, seen)


def _memory(job: Job, prepared: Prepared, walked: int) -> int:
    """Bytes: what the process has now, the weights' copies, and what a walk's widest node holds.

    A node of the walk has its result in float and, like its input, in integers, for all walked
    images; a sixth of it is given on top for samples and pieces.
    """
    unit = 1 << 10 if sys.platform == "linux" else 1
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    shapes = shapes_of(prepared.model, float_tensors(prepared.model), job.model.size)
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    widest = max(
        (
            sum(sizes.get(name, 0) for name in (*node.input, *node.output))
            for node in prepared.model.graph.node
        ),
        default=0,
    )
    weights = job.model.path.stat().st_size
    return now + _MODEL_COPIES * weights + walked * widest * 7 // 6
