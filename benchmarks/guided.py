"""The guided search against Intel Neural Compressor's `basic` loop, on trained models, in one run.

    python benchmarks/guided.py --shared ../shared --json guided.json

Both get the same float model, calibration images and goal. `basic` evaluates, as INC's users have
it do, on all images that are not calibrated on; its time ends when it is content or gives up, and
its model is then held to the same speed floor. It is cut off at --patience times the guided time,
so a ratio that reads "> 6" is a lower bound. Guided time is the whole command: inputs checked,
search, verdict on the holdout, both timings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize import load_config
from quantize.candidates import base_plan, inc_rules
from quantize.config import Config
from quantize.data.cache import ArrayCache
from quantize.engines import inc
from quantize.evaluation import against, reference
from quantize.graph import io
from quantize.graph.prepare import prepare
from quantize.job import Job, open_job
from quantize.latency import meets_floor
from quantize.measure import predictor, time_files, timing_of
from quantize.paired import drop
from quantize.probe import run_once
from quantize.report.document import model_coverage
from quantize.runtime import cpu

IMAGENET_NORM = "Normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
TEMPLATE = """\
model: {{name: {name}, framework: onnxrt_qdq}}
quantization:
  engine: {engine}
  calibration: {{sampling_size: 100, dataloader: {calibration}}}
evaluation:
  accuracy: {{metric: {{topk: 1}}, dataloader: {evaluation}}}
  performance: {{warmup: 10, iteration: 100, configs: {{cores_per_instance: 1}}}}
tuning: {{accuracy_criterion: {{relative: {relative}}}}}
"""


@dataclass(frozen=True)
class Case:
    """One model with its data and goal.

    Attributes:
        name: as the table calls it.
        model: file below the folder of models.
        relative: the goal.
        imagenet: whether its images are the ImageNet sample, else CIFAR-10.
        size: side of the images where it is CIFAR-10.
    """

    name: str
    model: str
    relative: float
    imagenet: bool = False
    size: int = 32

    def config(self, shared: Path, engine: str) -> str:
        """The YAML of the job."""
        calibration, evaluation = (
            (self._imagenet(shared),) * 2
            if self.imagenet
            else (self._cifar(shared, "train"), self._cifar(shared, "test"))
        )
        return TEMPLATE.format(
            name=Path(self.model).stem,
            engine=engine,
            calibration=calibration,
            evaluation=evaluation,
            relative=self.relative,
        )

    def _imagenet(self, shared: Path) -> str:
        folder = shared / "data" / "imagenet-sample"
        return (
            f"{{batch_size: 16, dataset: {{ImagenetRaw: {{data_path: '{folder}', image_list:"
            f" '{folder / 'val.txt'}'}}}}, transform: {{Preset: {{name: short_side,"
            " mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}}"
        )

    def _cifar(self, shared: Path, part: str) -> str:
        resize = f"Resize: {{size: {self.size}}}, " if self.size != 32 else ""
        return (
            f"{{batch_size: 50, dataset: {{ImageFolder: {{root: '{shared}/data/cifar10/{part}'}}}},"
            f" transform: {{{resize}Rescale: , {IMAGENET_NORM}, Transpose: {{perm: [2, 0, 1]}},"
            " Cast: {dtype: float32}}}"
        )


CASES = (
    Case("MobileNet v1 0.75", "mobilenet_v1_0.75_224.onnx", 0.01, imagenet=True),
    Case("ResNet-20 CIFAR-10", "resnet20-cifar10.onnx", 0.01),
    Case("ResNet-56 CIFAR-10", "resnet56-cifar10.onnx", 0.01),
    Case("ResNet-50 v1 64x64", "resnet50_v1-cifar10-64.onnx", 0.01, size=64),
)


def guided(case: Case, shared: Path, folder: Path, engine: str) -> dict[str, Any]:
    """One run of the command, as a user starts it."""
    config = folder / "job.yaml"
    config.write_text(case.config(shared, engine))
    model, output = shared / "models" / case.model, folder / "int8.onnx"
    command = [sys.executable, "-m", "quantize", "tune", str(model), "--config", str(config)]
    start = time.monotonic()
    done = subprocess.run(
        [*command, "-o", str(output), "--quiet", "--fresh"], capture_output=True, check=False
    )
    seconds = time.monotonic() - start
    if done.returncode not in (0, 3, 4):
        return {"failed": done.stderr.decode(errors="replace").strip(), "seconds": seconds}
    report = json.loads((folder / "int8.onnx.run" / "report.json").read_text())
    seen, int8, latency = report["accuracy"], report["int8_model"], report["measured"]["latency"]
    return {
        "exit": done.returncode,
        "seconds": seconds,
        "passes": report["measured"]["passes_over_search_set"],
        "int8": int8["convolutions"],
        "stayed_float": int8["stayed_float"],
        "repairs": int8["plan"]["repairs"],
        "float_top1": seen["float"]["top1"],
        "drop": seen["drop_points"],
        "interval": seen["drop_interval_points"],
        "images": report["verdict"]["images"],
        "agreement": report["fidelity"]["agreement"],
        "sqnr_db": report["fidelity"]["sqnr_db"],
        "speed": [latency[key] for key in ("ratio", "low", "high")],
    }


def basic(case: Case, shared: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """INC's loop until it is content, gives up, or its time is over; then its speed."""
    source = folder / "job.yaml"
    source.write_text(case.config(shared, "inc"))
    config = load_config(source, ["tuning.strategy.name=basic"])
    start = time.monotonic()
    with ArrayCache(folder / "samples", 2 << 30) as cache:
        job = open_job(shared / "models" / case.model, config, cache)
        return _loop(job, config, folder, seconds, start)


def _loop(job: Job, config: Config, folder: Path, seconds: float, start: float) -> dict[str, Any]:
    prepared = prepare(job.model.proto, run_once, job.model.size)
    file = folder / "prepared.onnx"
    io.save(prepared.model, file)
    base = reference(predictor(job.model.path), job.holdout)

    def evaluate(path: Path) -> float:
        if path == file:
            return base.evaluation.accuracy()
        return against(base, predictor(path), job.holdout).int8.accuracy()

    loop = inc.Loop("basic", config.goal(), timeout_s=seconds)
    plan = base_plan("inc", config, prepared.model)
    rules = inc_rules(config, prepared.model)
    try:
        found = inc.tune(
            file,
            job.calibration.arrays(),
            evaluate,
            loop=loop,
            plan=plan,
            folder=folder / "inc",
            rules=rules,
        )
    except inc.EngineError as error:
        return {"failed": str(error), "seconds": time.monotonic() - start}
    spent = time.monotonic() - start
    best = found.chosen or max(found.trials, key=lambda trial: trial.accuracy).path
    seen = against(base, predictor(best), job.holdout)
    latency = time_files(job.model.path, best, job.holdout, timing_of(config))
    convolutions, whole = model_coverage(best, job.model.size).count("Conv")
    difference = drop(seen.float_, seen.int8)
    return {
        "content": found.chosen is not None,
        "cut_off": spent >= seconds,
        "fast_enough": meets_floor(latency, config.goal().speed_floor),
        "reason": found.reason,
        "trials": len(found.trials),
        "seconds": spent,
        "int8": {"int8": convolutions, "all": whole},
        "drop": difference.points,
        "interval": [difference.low, difference.high],
        "agreement": seen.fidelity.agreement,
        "sqnr_db": seen.fidelity.sqnr_db,
        "speed": [latency.ratio, latency.low, latency.high],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table of all cases."""
    lines = [
        "| model | how | int8 convolutions | drop, points (95 %) | equal answers | SQNR, dB |"
        " times as fast, 1 thread | passes, trials | time | ended |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        ours, theirs = result["guided"], result["basic"]
        lines.append(_row(result["case"], "guided", ours, ours.get("passes"), 1.0))
        if theirs:
            relative = theirs["seconds"] / ours["seconds"]
            lines.append(_row("", "INC `basic`", theirs, theirs.get("trials"), relative))
    return "\n".join(lines)


def _row(case: str, how: str, seen: dict[str, Any], count: Any, relative: float) -> str:
    if "failed" in seen:
        return f"| {case} | {how} | | | | | | | {relative:.1f} | failed: {seen['failed']} |"
    low, high = seen["interval"]
    ended = f"exit {seen['exit']}" if "exit" in seen else _ended(seen)
    more = "> " if seen.get("cut_off") else ""
    ratio, least, most = seen["speed"]
    return (
        f"| {case} | {how} | {seen['int8']['int8']} of {seen['int8']['all']}"
        f" | {seen['drop']:.2f} ({low:.2f} to {high:.2f}) | {100 * seen['agreement']:.1f} %"
        f" | {seen['sqnr_db']:.1f} | {ratio:.2f} ({least:.2f} to {most:.2f}) | {count}"
        f" | {more}{relative:.1f} | {ended} |"
    )


def _ended(seen: dict[str, Any]) -> str:
    if seen["cut_off"]:
        return "cut off"
    if not seen["content"]:
        return "gave up"
    return "content" if seen["fast_enough"] else "content, too slow"


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--engine", default="auto", help="of the guided search")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--patience", type=float, default=6.0, help="INC's time, in guided times")
    parser.add_argument("--without-inc", action="store_true")
    parser.add_argument("--json", type=Path, help="where the raw results go")
    asked = parser.parse_args()
    shared = asked.shared.resolve()
    results = []
    for case in CASES:
        if asked.only.lower() not in case.name.lower():
            continue
        with tempfile.TemporaryDirectory(prefix="guided.") as name:
            ours = guided(case, shared, Path(name), asked.engine)
            theirs = None
            if not asked.without_inc and inc.available() is None:
                limit = asked.patience * ours["seconds"]
                theirs = basic(case, shared, Path(name), limit)
        results.append({"case": case.name, "guided": ours, "basic": theirs})
        print(json.dumps(results[-1]), file=sys.stderr)
    machine = cpu()
    print(f"{machine.name}, {machine.isa}, {machine.cores} cores\n\n{table(results)}")
    if asked.json:
        asked.json.write_text(json.dumps({"cpu": machine.name, "results": results}, indent=2))


if __name__ == "__main__":
    main()
