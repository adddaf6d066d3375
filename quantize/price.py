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
from quantize.plan import OnProgress
from quantize.probe import run_once
from quantize.strategy import accept

_PROBED = 32
_INC_START_S = 8.0


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
        engines = ["inc"] * config.tuning.exit_policy.max_trials
    else:
        engines = [plan.engine for plan in plans(config, prepared.model)]
    return _price(job, len(engines), engines.count("inc") * _INC_START_S)


def _price(job: Job, candidates: int, overhead: float) -> Price:
    calibration, search = len(job.calibration.samples), len(job.search.samples)
    holdout = len(job.holdout.samples)
    runs = candidates * (calibration + search) + search + 2 * holdout
    seconds = runs * _seconds_per_image(job) + overhead
    channels, height, width = job.model.size
    return Price(
        calibration,
        search,
        holdout,
        candidates,
        runs,
        seconds / 60,
        (calibration + search) * channels * height * width * 4,
    )


def _seconds_per_image(job: Job) -> float:
    few = job.holdout.first(_PROBED)
    predict = predictor(job.model.path)
    start = time.perf_counter()
    seen = sum(len(predict(batch.images)) for batch in few)
    return (time.perf_counter() - start) / max(1, seen)
