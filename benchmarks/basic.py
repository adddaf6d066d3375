"""INC's `basic` loop on a job of ours, in a process of its own, so that its memory can be told.

    python -m benchmarks.basic MODEL JOB.yaml FOLDER SECONDS      # prints one line of JSON

It evaluates, as INC's users have it do, on all images that are not calibrated on: the holdout. Its
loop ends when it is content or gives up; then its model is held to the same speed floor.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from quantize import load_config
from quantize.config import Config
from quantize.data.cache import ArrayCache
from quantize.engines import inc
from quantize.errors import QuantizeError
from quantize.evaluation import against, reference
from quantize.graph import io
from quantize.graph.prepare import prepare
from quantize.job import Job, open_job
from quantize.latency import meets_floor
from quantize.measure import predictor, time_files, timing_of
from quantize.paired import drop
from quantize.planning import base_plan, inc_rules
from quantize.probe import run_once

_CACHE_BYTES = 4 << 30


def basic(model: Path, source: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """INC's loop until it is content, gives up, or its time is over; then its speed.

    Args:
        model: the float file.
        source: YAML of the job.
        folder: where candidates go.
        seconds: after these INC is ended.
    """
    config = load_config(source, ["tuning.strategy.name=basic", "quantization.engine=inc"])
    start = time.monotonic()
    with ArrayCache(folder / "samples", _CACHE_BYTES) as cache:
        job = open_job(model, config, cache)
        return _loop(job, config, folder, seconds, start)


def _loop(job: Job, config: Config, folder: Path, seconds: float, start: float) -> dict[str, Any]:
    prepared = prepare(job.model.proto, run_once, job.model.size)
    file = folder / "prepared.onnx"
    io.save(prepared.model, file)
    base = reference(predictor(job.model.path), job.holdout)
    goal = config.goal()
    agreeing = goal.kind == "agreement"

    def evaluate(path: Path) -> float:
        if path == file:
            return 1.0 if agreeing else base.evaluation.accuracy()
        seen = against(base, predictor(path), job.holdout)
        return seen.fidelity.agreement if agreeing else seen.int8.accuracy()

    loop = inc.Loop("basic", goal, timeout_s=seconds)
    found = inc.tune(
        file,
        job.calibration.arrays(),
        evaluate,
        loop=loop,
        plan=base_plan("inc", config, prepared.model),
        folder=folder / "inc",
        rules=inc_rules(config, prepared.model),
    )
    spent = time.monotonic() - start
    if not found.trials:
        return {"failed": f"no candidate within {spent:.0f} s: {found.reason}"}
    asked = loop.least(1.0 if agreeing else base.evaluation.accuracy())
    best = found.chosen or max(found.trials, key=lambda trial: trial.accuracy).path
    latency = time_files(job.model.path, best, job.holdout, timing_of(config))
    told_from = time.monotonic()
    seen = against(base, predictor(best), job.holdout)
    told = {
        "content": found.chosen is not None,
        "cut_off": found.chosen is None and spent >= seconds,
        "first_passes": found.trials[0].accuracy >= asked,
        "fast_enough": meets_floor(latency, goal.speed_floor),
        "reason": found.reason,
        "trials": len(found.trials),
        "loop_seconds": spent,
        "agreement": seen.fidelity.agreement,
        "sqnr_db": seen.fidelity.sqnr_db,
        "speed": [latency.ratio, latency.low, latency.high],
    }
    if not agreeing:
        difference = drop(seen.float_, seen.int8)
        told |= {"drop": difference.points, "interval": [difference.low, difference.high]}
    return told | {"aside_seconds": time.monotonic() - told_from}


def main() -> int:
    """Print what INC did."""
    model, source, folder, seconds = sys.argv[1:]
    try:
        told = basic(Path(model), Path(source), Path(folder), float(seconds))
    except QuantizeError as error:
        told = {"failed": str(error)}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
