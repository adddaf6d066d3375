"""Seconds and peak memory of calibration by number of images and method: ours and onnxruntime's.

    python benchmarks/calibration.py --shared ../shared --json calibration.json

Each figure is a process of its own, so that its peak memory is its alone. Ours is one pass, after
which any method reads its ranges off the histograms; onnxruntime's calibraters look at the images
once for each method. Images are decoded beforehand for both: this is about the model's tensors.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.calibrate import calibrate
from quantize.data.datasets import digest_samples
from quantize.data.loader import batches
from quantize.data.transforms import Pipeline, Preset
from quantize.graph import io
from quantize.graph.prepare import prepare
from quantize.plan import Range
from quantize.probe import run_once
from quantize.repair.ranges import PERCENTILE_SHARE, kl, mse_optimal, percentile
from quantize.runtime import cores, cpu

COUNTS = (25, 100, 400)
QUICK = (4, 8)
OURS = ("minmax", "percentile", "mse", "kl")
THEIRS = ("minmax", "percentile", "kl")
SIZE = (3, 224, 224)
IMAGES = "images.f32"


@dataclass(frozen=True)
class Figure:
    """One calibration.

    Attributes:
        who: whose it is.
        method: minmax, percentile, mse or kl.
        images: how many.
        seconds: of the calibration, without the imports; None where it failed.
        peak_bytes: most memory of the process.
        reason: how it failed.
    """

    who: str
    method: str
    images: int
    seconds: float | None
    peak_bytes: int | None
    reason: str = ""


def ours(model: Path, images: Iterator[NDArray[np.float32]], method: str) -> None:
    """One pass; then the ranges of the method."""
    statistics = calibrate(io.load(model), images, threads=cores())
    read: dict[str, Callable[[Range, NDArray[np.int64]], Range]] = {
        "percentile": lambda seen, counts: percentile(seen, counts, PERCENTILE_SHARE),
        "mse": mse_optimal,
        "kl": kl,
    }
    for name, counts in statistics.histograms.items() if method in read else ():
        read[method](statistics.ranges[name], counts)


def theirs(model: Path, images: Iterator[NDArray[np.float32]], method: str, folder: Path) -> None:
    """Onnxruntime's calibrater."""
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    loaded = io.load(model)
    name = loaded.graph.input[0].name

    class Reader(CalibrationDataReader):
        """One image at a time."""

        def get_next(self) -> dict[str, Any] | None:
            """The next image, or None."""
            image = next(images, None)
            return None if image is None else {name: image}

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "kl": CalibrationMethod.Entropy,
    }
    made = create_calibrator(
        model, augmented_model_path=str(folder / "more.onnx"), calibrate_method=kinds[method]
    )
    made.collect_data(Reader())
    made.compute_data()


def stored(folder: Path, count: int) -> Iterator[NDArray[np.float32]]:
    """The prepared images, float32 [1,3,224,224], read as they are needed.

    They are not mapped: pages of the file would count as memory of the calibration.
    """
    file, values = folder / IMAGES, math.prod(SIZE)
    whole = file.stat().st_size // (4 * values)
    for index in range(count):
        at = 4 * values * (index % whole)
        yield np.fromfile(file, np.float32, values, offset=at).reshape(1, *SIZE)


def work(who: str, method: str, count: int, folder: Path) -> None:
    """One calibration on the files of a folder."""
    images = stored(folder, count)
    if who == "ours":
        ours(folder / "prepared.onnx", images, method)
    else:
        with tempfile.TemporaryDirectory() as own:
            theirs(folder / "prepared.onnx", images, method, Path(own))


def peak_bytes() -> int:
    """Most memory that this process had so far."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def measure(who: str, method: str, count: int, folder: Path, patience_s: float) -> Figure:
    """One calibration in a process of its own; one that fails is a figure that says how."""
    command = [sys.executable, __file__, "--child", who, method, str(count), str(folder)]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=patience_s
        )
    except subprocess.TimeoutExpired:
        return Figure(who, method, count, None, None, f"not done after {patience_s:.0f} s")
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]
        return Figure(who, method, count, None, None, last[:200])
    return Figure(who, method, count, **json.loads(run.stdout.splitlines()[-1]))


def prepare_files(shared: Path, folder: Path, count: int) -> None:
    """The model and the prepared images of all calibrations."""
    model = io.load(shared / "models" / "mobilenet_v1_0.75_224.onnx")
    io.save(prepare(model, run_once, SIZE).model, folder / "prepared.onnx")
    files = sorted((shared / "data" / "imagenet-sample").rglob("*.[jJ][pP]*[gG]"))[:count]
    samples = digest_samples([(file, None) for file in files], cores())
    half = (0.5, 0.5, 0.5)
    recipe = Pipeline((Preset("short_side", mean=half, std=half),))
    made = batches(samples, recipe, batch_size=8, workers=cores(), unreadable=None)
    with (folder / IMAGES).open("wb") as file:
        for batch in made:
            file.write(batch.images.tobytes())


def markdown(figures: list[Figure]) -> str:
    """The table."""
    rows = [f"{cpu().name}, {cores()} cores, {cpu().isa}; MobileNet v1 0.75 at 224x224", ""]
    rows += ["| who | method | images | seconds | peak memory, MiB |"]
    rows += ["| --- | --- | ---: | ---: | ---: |"]
    for one in figures:
        seconds = one.reason or f"{one.seconds:.1f}"
        memory = "" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.0f}"
        rows.append(f"| {one.who} | {one.method} | {one.images} | {seconds} | {memory} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure all figures and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--patience", type=float, default=300.0, help="Seconds for one figure.")
    parser.add_argument("--quick", action="store_true", help="few images: does it run?")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        who, method, count, folder = chosen.child
        start = time.perf_counter()
        work(who, method, int(count), Path(folder))
        print(json.dumps({"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}))
        return
    counts = QUICK if chosen.quick else chosen.counts
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_files(chosen.shared, folder, max(counts))
        for count in counts:  # ours and theirs in turn, so that drift hits both alike
            for who, methods in (("ours", OURS), ("onnxruntime", THEIRS)):
                for method in methods:
                    figures.append(measure(who, method, count, folder, chosen.patience))
                    print(figures[-1], file=sys.stderr)
    text = markdown(figures)
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(text)
    if chosen.json:
        content = {"cpu": asdict(cpu()), "figures": [asdict(figure) for figure in figures]}
        chosen.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
