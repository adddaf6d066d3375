"""Time and memory of calibration, `tune` and `verify` against the number of images, as a line.

    python benchmarks/growth.py --shared ../shared --json growth.json --markdown growth.md

Real 32-pixel images are made distinct by a JPEG comment, so that every one is hashed, decoded and
answered, however many are asked for. Each figure is one process of its own, so that its peak memory
is its alone; float answers of an earlier process are not used. The line is the one of least
squares, so three sizes at least are needed to see whether it is one. `calibrate` takes all images
as calibration images; `tune` has 100 of them and searches on a fifth of the rest, 2,000 at most.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from quantize import load_config, tune, verify
from quantize.calibrate import calibrate
from quantize.graph import io
from quantize.graph.prepare import prepare
from quantize.job import open_job
from quantize.probe import run_once
from quantize.runtime import cores, cpu

SIZES = {
    "calibrate": (500, 5_000, 20_000),  # all of which it calibrates on
    "tune": (500, 5_000, 50_000),
    "verify": (500, 5_000, 50_000),
}
VERBS = tuple(SIZES)
QUICK = (200, 600)
"""Two show that it runs; a line through them would be noise."""
CALIBRATION = 100
_MARGIN = 60
_ENOUGH = 500
"""Images that a file for `verify` is tuned on: with fewer the search could not decide."""

TEMPLATE = """\
model: {{name: growth, framework: onnxrt_qdq}}
quantization:
  engine: onnxruntime
  calibration: {{sampling_size: {sampling}, dataloader: {calibration}}}
evaluation:
  accuracy: {{metric: {{topk: 1}}, dataloader: {evaluation}}}
  performance: {{warmup: 2, iteration: 30, configs: {{cores_per_instance: 1}}}}
tuning: {{accuracy_criterion: {{absolute: 0.5}}, speed_floor: 0.01}}
"""
LOADER = (
    "{{batch_size: 50, dataset: {{ImageFolder: {{root: '{root}'}}}}, transform: {{Rescale: ,"
    " Normalize: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}},"
    " Transpose: {{perm: [2, 0, 1]}}, Cast: {{dtype: float32}}}}}}"
)


@dataclass(frozen=True)
class Point:
    """What one process took.

    Attributes:
        verb: what it did.
        images: how many it was given.
        seconds: of the verb, without the imports.
        peak_bytes: most memory of the process.
        start_bytes: most memory before the verb began.
    """

    verb: str
    images: int
    seconds: float
    peak_bytes: int
    start_bytes: int


@dataclass(frozen=True)
class Line:
    """Least squares through the points of one verb.

    Attributes:
        verb: which.
        ms_per_image: slope of the time.
        seconds: of no image.
        bytes_per_image: slope of the memory.
        bytes: of no image.
    """

    verb: str
    ms_per_image: float
    seconds: float
    bytes_per_image: float
    bytes: float


def write_images(source: Path, target: Path, count: int) -> None:
    """So many distinct JPEG files in class folders, from the few of a class folder tree."""
    files = sorted(source.glob("*/*.jpg"))
    contents = [file.read_bytes() for file in files]
    for file in files:
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        # Neighbours are of different classes, so that any number of them has all.
        which = number * 7919 % len(files)
        name = target / files[which].parent.name / f"{number:07}.jpg"
        name.write_bytes(with_comment(contents[which], f"number {number}"))


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in other bytes: a comment behind the start mark."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def work(verb: str, folder: Path) -> None:
    """One verb on the files of a folder, made by `measure`."""
    model, config = folder / "float.onnx", load_config(folder / f"{verb}.yaml")
    if verb == "tune":
        tune(model, config, folder / "int8.onnx", fresh=True)
    elif verb == "verify":
        verify(model, folder / "int8.onnx", config, fresh=True)
    else:
        job = open_job(model, config, None)
        ready = prepare(job.model.proto, run_once, job.model.size).model
        calibrate(ready, job.calibration.arrays(), threads=cores())
        io.save(ready, folder / "prepared.onnx")


def measure(verb: str, count: int, shared: Path) -> Point:
    """One process on its own copy of the images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = shared / "models" / "resnet20-cifar10.onnx"
        (folder / "float.onnx").write_bytes(model.read_bytes())
        many, few = folder / "many", folder / "few"
        # Beside what is asked for: `calibrate` has to leave something to verify on.
        write_images(shared / "data" / "cifar10" / "test", many, count)
        write_images(shared / "data" / "cifar10" / "train", few, CALIBRATION + _MARGIN)
        for each in VERBS:
            on_all = each == "calibrate"
            text = _config(count, many, few) if on_all else _config(CALIBRATION, few, many)
            (folder / f"{each}.yaml").write_text(text)
        if verb == "verify":  # it needs a file; which images made it does not matter
            some = folder / "some"
            write_images(shared / "data" / "cifar10" / "test", some, _ENOUGH)
            (folder / "tune.yaml").write_text(_config(CALIBRATION, few, some))
            child("tune", folder)
        return Point(verb, count, **child(verb, folder))


def _config(sampling: int, calibration: Path, evaluation: Path) -> str:
    """The YAML of a job on two folders of images."""
    loaders = {"calibration": calibration, "evaluation": evaluation}
    return TEMPLATE.format(
        sampling=sampling, **{key: LOADER.format(root=root) for key, root in loaders.items()}
    )


def child(verb: str, folder: Path) -> dict[str, float]:
    """Run a verb in a process of its own."""
    run = subprocess.run(
        [sys.executable, __file__, "--child", verb, str(folder)],
        env={**os.environ, "QUANTIZE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"{verb} failed: {run.stderr.strip()[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def peak_bytes() -> int:
    """Most memory that this process had so far."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def line_of(points: list[Point]) -> Line:
    """Least squares through points of one verb."""
    images = [point.images for point in points]
    time_slope, time_start = np.polyfit(images, [point.seconds for point in points], 1)
    slope, start = np.polyfit(images, [point.peak_bytes for point in points], 1)
    return Line(points[0].verb, 1e3 * time_slope, time_start, slope, start)


def markdown(points: list[Point], lines: list[Line]) -> str:
    """Both tables; the second where there are lines."""
    rows = [f"{cpu().name}, {cores()} cores, {cpu().isa}; ResNet-20 at 32x32", ""]
    rows += ["| verb | images | seconds | peak memory, MiB |", "| --- | ---: | ---: | ---: |"]
    rows += [
        f"| {p.verb} | {p.images} | {p.seconds:.1f} | {p.peak_bytes / 2**20:.1f} |" for p in points
    ]
    rows += ["", "| verb | time | memory |", "| --- | --- | --- |"] if lines else []
    rows += [
        f"| {one.verb} | {one.seconds:.1f} s + {one.ms_per_image:.2f} ms an image"
        f" | {one.bytes / 2**20:.0f} MiB + {one.bytes_per_image:.0f} bytes an image |"
        for one in lines
    ]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure all points and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--sizes", type=int, nargs="+", help="of each verb, not its own")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        verb, folder = chosen.child
        before, start = peak_bytes(), time.perf_counter()
        work(verb, Path(folder))
        took = time.perf_counter() - start
        print(json.dumps({"seconds": took, "peak_bytes": peak_bytes(), "start_bytes": before}))
        return
    points: list[Point] = []
    for verb in chosen.verbs:
        own = QUICK if chosen.quick else SIZES[verb]
        for count in sorted(chosen.sizes or own):
            points.append(measure(verb, count, chosen.shared))
            print(f"{points[-1]}", file=sys.stderr)
    of_verb = [[point for point in points if point.verb == verb] for verb in chosen.verbs]
    lines = [line_of(found) for found in of_verb if len(found) > len(QUICK)]
    table = markdown(points, lines)
    print(table)
    if chosen.json:
        content = {
            "cpu": asdict(cpu()),
            "points": [asdict(point) for point in points],
            "lines": [asdict(line) for line in lines],
        }
        chosen.json.write_text(json.dumps(content, indent=2) + "\n")
    if chosen.markdown:
        chosen.markdown.write_text(table)


if __name__ == "__main__":
    main()
