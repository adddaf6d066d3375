"""`tune --dry-run`: every input checked, and what the run would cost."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantize.candidates import plans
from quantize.config import INC_STRATEGIES, Config, check_tunable
from quantize.graph.prepare import prepare
from quantize.job import Job, open_job
from quantize.measure import predictor
from quantize.outcome import check_output
from quantize.plan import EngineName, OnProgress
from quantize.probe import run_once
from quantize.remedies import WALKED
from quantize.strategy import TRIED, accept, probe_size

_PROBED = 32
_INC_START_S = 8.0
_WALK_COST = 5
"""What the walk costs, in float runs of its images: two copies, node by node, and rounding."""


@dataclass(frozen=True)
class Price:
    """What a run would cost.

    Attributes:
        calibration: images to calibrate on; likewise search and holdout.
        candidates: int8 models that would be tried at most.
        image_runs: images through a model in all, at most.
        minutes: estimate, from a probe of a few images here and now.
        cache_bytes: disk for prepared images between passes.
    """

    calibration: int
    search: int
    holdout: int
    candidates: int
    image_runs: int
    minutes: float
    cache_bytes: int

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people."""
        return [
            "every input is fine",
            f"images     calibration {self.calibration}, search {self.search},"
            f" holdout {self.holdout}",
            f"candidates at most {self.candidates}, {self.image_runs} images through a model",
            f"time       about {self.minutes:.1f} minutes here",
            f"disk       {self.cache_bytes / 2**20:.0f} MiB for prepared images, given back",
        ]


def dry_run(
    model: Path, config: Config, output: Path, *, on_progress: OnProgress | None = None
) -> Price:
    """Check all inputs of a tuning job and estimate its price; nothing is written.

    Raises:
        QuantizeError: whatever `tune` would refuse.
    """
    check_tunable(config)
    check_output(model, config.source, output)
    job = open_job(model, config, None, on_progress=on_progress)
    prepared = prepare(job.model.proto, run_once, job.model.size)
    accept(job, prepared)
    if config.tuning.strategy.name in INC_STRATEGIES:
        return _loop_price(job)
    return _ladder_price(job, [plan.engine for plan in plans(config, prepared.model)])


def _loop_price(job: Job) -> Price:
    """INC calibrates and evaluates anew for each candidate."""
    count = job.config.tuning.exit_policy.max_trials
    each = len(job.calibration.samples) + len(job.search.samples)
    return _price(job, count, count * each, _INC_START_S)


def _ladder_price(job: Job, engines: list[EngineName]) -> Price:
    """One calibration an engine; each repair walks a few images; three judgements at most.

    Nodes left float, the last resort, come on top.
    """
    repairs = len(TRIED) if engines[-1] == "onnxruntime" else 0
    count = len(engines) + repairs
    probed = count * probe_size(len(job.search.samples))
    walked = repairs * min(WALKED, len(job.calibration.samples)) * _WALK_COST
    runs = len(engines) * len(job.calibration.samples) + probed + walked
    overhead = engines.count("inc") * _INC_START_S
    return _price(job, count, runs + 3 * len(job.search.samples), overhead)


def _price(job: Job, candidates: int, runs: int, overhead: float) -> Price:
    calibration, search = len(job.calibration.samples), len(job.search.samples)
    holdout = len(job.holdout.samples)
    runs += search + 2 * holdout
    channels, height, width = job.model.size
    return Price(
        calibration,
        search,
        holdout,
        candidates,
        runs,
        (runs * _seconds_per_image(job) + overhead) / 60,
        (calibration + search) * channels * height * width * 4,
    )


def _seconds_per_image(job: Job) -> float:
    few = job.holdout.first(_PROBED)
    predict = predictor(job.model.path)
    start = time.perf_counter()
    seen = sum(len(predict(batch.images)) for batch in few)
    return (time.perf_counter() - start) / max(1, seen)
