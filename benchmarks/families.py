"""Every ResNet of the model zoo, converted and quantized: the table of families.

    python benchmarks/families.py --shared ../shared --json families.json

Each float file of the zoo is written anew, node by node and in the words of its own opset, with
random weights and running statistics of real images. It is brought to opset 13 or newer, tuned with
the onnxruntime engine on 224x224 images, its goal being equal answers, and looked at: every Conv
int8, no Relu left, inputs and outputs as they were, at most 0.26 of the bytes, faster than float;
the other form of int8 must give the same answers. Exits 1 where any of it fails. Random weights
say nothing of accuracy, which is shown on trained models elsewhere: the goal is low, so that the
first candidate of most settles it. ResNet v2 has more Conv in int8 than in the zoo's file, as each
normalization that stands in front of a convolution is one there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize import QuantizeError, load_config, tune
from quantize.conversion.int8 import change_format
from quantize.graph import io
from quantize.graph.coverage import coverage
from quantize.graph.view import opset
from quantize.probe import run_once
from quantize.runtime import cpu

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import families
import models

SIDE = 224
CALIBRATION = 64
EVALUATION = 136
OPSET = 13
EXACT = 1e-4
JOB = """\
model: {{name: '{name}', framework: {framework}}}
quantization:
  engine: onnxruntime
  calibration:
    sampling_size: {calibration}
evaluation:
  accuracy: {{metric: {{topk: 1}}}}
  performance: {{warmup: 3, iteration: {rounds}, configs: {{cores_per_instance: 1}}}}
tuning: {{accuracy_criterion: {{agreement: {agreement}}}, speed_floor: 1.0}}
"""

Images = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Setting:
    """What all rows share.

    Attributes:
        images: prepared float32 [N,3,S,S]: those to calibrate with, then those to judge by.
        framework: the form of int8, as configurations call it.
        agreement: the goal.
        rounds: of the measurement of speed.
        source: what the images are, for the heading.
    """

    images: Images
    framework: str
    agreement: float
    rounds: int
    source: str

    def config(self, name: str) -> str:
        """The YAML of a job."""
        return JOB.format(
            name=name,
            framework=self.framework,
            calibration=CALIBRATION,
            rounds=self.rounds,
            agreement=self.agreement,
        )


def images_of(shared: Path, count: int, side: int) -> tuple[Images, str]:
    """Real images where there are any, else striped ones; and which it was."""
    folder = shared / "data" / "imagenet-sample"
    paths = sorted(folder.glob("*.JPEG")) + sorted(folder.glob("*.jpg"))
    if len(paths) < count:
        items = models.tiny_dataset(classes=16, per_class=-(-count // 16), size=side)
        return models.prepared(items)[:count], "striped images"
    return np.stack([_photograph(path, side) for path in paths[:count]]), "ImageNet photographs"


def _photograph(path: Path, side: int) -> Images:
    """Short side to 8/7 of `side`, centre crop, ImageNet's mean and standard deviation."""
    from PIL import Image

    with Image.open(path) as image:
        image = image.convert("RGB")
        scale = side * 8 / 7 / min(image.size)
        width, height = (round(length * scale) for length in image.size)
        left, top = (width - side) // 2, (height - side) // 2
        pixels = image.resize((width, height), Image.Resampling.BILINEAR)
        cropped = np.asarray(pixels.crop((left, top, left + side, top + side)))
    return models.prepared([(cropped, 0)])[0]


def converted(file: Path) -> tuple[onnx.ModelProto, str]:
    """The file's model in opset 13 or newer, and by what it became so."""
    before = onnx.load(file)
    if find_spec("quantize.conversion.old") is not None:
        return import_module("quantize.conversion.old").import_onnx(file).model, "convert"
    if opset(before) < 7:
        raise QuantizeError("opsets below 7 need quantize.conversion.old, which is not here")
    return onnx.version_converter.convert_version(before, OPSET), "onnx"


def row(member: families.Member, setting: Setting, folder: Path) -> dict[str, Any]:
    """One file of the zoo from the beginning to the end."""
    side = setting.images.shape[2]
    before = member.make(images=setting.images[:16])
    for axis in (2, 3):
        before.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    file = folder / "zoo.onnx"
    onnx.save(before, file)
    seen: dict[str, Any] = {"file": f"resnet{member.name}", "bytes": file.stat().st_size}
    start = time.monotonic()
    try:
        model, by = converted(file)
        seen |= {"by": by, "opset": opset(model)}
        seen["change"] = _change(before, model, setting.images)
        seen |= _tuned(model, setting, folder)
    except QuantizeError as error:
        seen["failed"] = str(error)
    return {**seen, "seconds": time.monotonic() - start}


def _change(before: onnx.ModelProto, after: onnx.ModelProto, images: Images) -> float | None:
    """Largest difference of the scores by their largest; None where nothing runs the old file."""
    if opset(before) < 7:
        return None
    one, other = run_once(before, images[:1]), run_once(after, images[:1])
    return float(np.abs(one - other).max() / np.abs(one).max())


def _tuned(model: onnx.ModelProto, setting: Setting, folder: Path) -> dict[str, Any]:
    source, output = folder / "float.onnx", folder / "int8.onnx"
    io.save(model, source)
    (folder / "job.yaml").write_text(setting.config(source.stem))
    pairs = [(image, None) for image in setting.images]
    result = tune(
        source,
        load_config(folder / "job.yaml"),
        output,
        calibration=pairs[:CALIBRATION],
        evaluation=pairs[CALIBRATION:],
        fresh=True,
    )
    report, best = result.report, io.load(result.run / "best.onnx")
    latency = report["measured"]["latency"]
    layers = coverage(best, lambda names: dict.fromkeys(names, (1, 1, 1, 1)))
    return {
        "outcome": result.verdict.outcome,
        "int8": layers.count("Conv"),
        "relus": sum(node.op_type == "Relu" for node in best.graph.node),
        "size": (result.run / "best.onnx").stat().st_size / source.stat().st_size,
        "agreement": report["fidelity"]["agreement"],
        "float_ms": latency["float_ms"],
        "int8_ms": latency["int8_ms"],
        "speed": [latency[key] for key in ("ratio", "low", "high")],
        "repairs": report["int8_model"]["plan"]["repairs"],
        "other_form": _other_form(best, setting),
        "faults": families.faults(model, best),
    }


def _other_form(best: onnx.ModelProto, setting: Setting) -> float:
    """Share of equal answers between the two forms of the same integers."""
    form = "qoperator" if setting.framework == "onnxrt_qdq" else "qdq"
    changed = change_format(best, form)
    judged = setting.images[CALIBRATION : CALIBRATION + 32]
    pairs = [
        (run_once(best, judged[i : i + 1]), run_once(changed, judged[i : i + 1]))
        for i in range(len(judged))
    ]
    return float(np.mean([one.argmax() == other.argmax() for one, other in pairs]))


def complaints(seen: dict[str, Any]) -> list[str]:
    """Why a row does not hold."""
    if "failed" in seen:
        return [seen["failed"]]
    checks = [
        (seen["change"] is not None and not seen["change"] <= EXACT, "conversion changed it"),
        (seen["outcome"] != "met", f"goal {seen['outcome']}"),
        (not seen["speed"][0] > 1, "not faster"),
        (seen["other_form"] < 0.99, "the other form answers otherwise"),
    ]
    return [*seen["faults"], *(text for wrong, text in checks if wrong)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown table."""
    lines = [
        "| file of the zoo | opset | change by conversion | int8 Conv | Relu left | size, int8 by"
        " float | ms, float and int8, 1 thread | times as fast (95 %) | equal answers | holds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *map(_line, rows)])


def _line(seen: dict[str, Any]) -> str:
    wrong = complaints(seen)
    holds = "yes" if not wrong else "no: " + ", ".join(wrong)
    if "failed" in seen:
        return f"| {seen['file']} | | | | | | | | | {holds} |"
    int8, whole = seen["int8"]
    ratio, low, high = seen["speed"]
    change = "not to be run" if seen["change"] is None else f"{seen['change']:.0e}"
    return (
        f"| {seen['file']} | {seen['opset']} | {change} | {int8} of {whole} | {seen['relus']}"
        f" | {seen['size']:.4f} | {seen['float_ms']:.1f}, {seen['int8_ms']:.1f}"
        f" | {ratio:.2f} ({low:.2f} to {high:.2f}) | {100 * seen['agreement']:.1f} % | {holds} |"
    )


def main() -> int:
    """Make the table; 1 where a row does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="data")
    parser.add_argument("--only", default="", help="files whose name contains this, by commas")
    parser.add_argument("--side", type=int, default=SIDE, help="of the images")
    parser.add_argument("--framework", default="onnxrt_qdq", help="or onnxrt_qoperator")
    parser.add_argument("--agreement", type=float, default=0.8, help="the goal")
    parser.add_argument("--rounds", type=int, default=30, help="of the measurement of speed")
    parser.add_argument("--json", type=Path, help="where the raw results go")
    asked = parser.parse_args()
    images, source = images_of(asked.shared.resolve(), CALIBRATION + EVALUATION, asked.side)
    setting = Setting(images, asked.framework, asked.agreement, asked.rounds, source)
    words = [word for word in asked.only.split(",") if word] or [""]
    rows = []
    for member in families.ZOO:
        if any(word in f"resnet{member.name}" for word in words):
            with tempfile.TemporaryDirectory(prefix="families.") as name:
                rows.append(row(member, setting, Path(name)))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    machine = cpu()
    heading = f"{machine.name}, {machine.isa}, {machine.cores} cores; {source}, {asked.side} pixels"
    print(f"{heading}; {asked.framework}\n\n{table(rows)}")
    if asked.json:
        asked.json.write_text(json.dumps({"setting": heading, "rows": rows}, indent=2))
    return 1 if any(complaints(seen) for seen in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
