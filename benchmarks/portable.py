"""The same int8 files on this processor and on one without VNNI, in one table.

    python benchmarks/portable.py --shared ../shared --json portable.json
    python benchmarks/portable.py --only "ResNet-20" --images 100 --native-images 1000 --layers

For each trained model: plain int8; with the repairs that most models keep; the same with 7-bit
weights everywhere; the repaired file again under onnxruntime's session option
`session.x64quantprecision`; and portable weights. Each file runs here on `--native-images` of the
holdout and on an emulated Haswell (`qemu-x86_64`) on the `--images` of these that time allows. SQNR
against float is taken here on all of them. Where a file's scores are the same on the emulated ones,
that is its SQNR there, too; else it is that of the emulated ones. Times are medians here, one
thread, rounds of all files interleaved; run it on an idle machine with VNNI. `--layers` checks the
forecast: every layer by itself, on the same uint8 input here and there, against what the forecast
names on the same images.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from portable_child import answers, session
from portable_child import layers as run_layers

from quantize import load_config
from quantize.candidates import Workshop
from quantize.deadline import NEVER
from quantize.graph import io
from quantize.graph.head import expose_logits
from quantize.graph.prepare import prepare
from quantize.job import Job, open_job
from quantize.latency import median_interval
from quantize.overflow import overflows
from quantize.plan import Scheme
from quantize.planning import base_plan
from quantize.probe import run_once
from quantize.runtime import cpu

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]

DRAWS = 1000
"""Of images, for the interval of a difference in dB."""

REPAIRS = ("bias", "pixels", "rounding", "scales")
IMAGENET_NORM = "Normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
TEMPLATE = """\
model: {{name: portable, framework: onnxrt_qdq}}
quantization:
  engine: onnxruntime
  calibration: {{sampling_size: 100, dataloader: {calibration}}}
evaluation: {{accuracy: {{metric: {{topk: 1}}, dataloader: {evaluation}}}}}
"""


@dataclass(frozen=True)
class Case:
    """One model with its data.

    Attributes:
        name: as the table calls it.
        model: file below the folder of models.
        images: that are emulated, unless told otherwise.
        imagenet: whether its images are the ImageNet sample, else CIFAR-10.
        size: side of the images where it is CIFAR-10.
    """

    name: str
    model: str
    images: int
    imagenet: bool = False
    size: int = 32

    def config(self, shared: Path) -> str:
        """The YAML of the job; of CIFAR-10 every calibration image of every class is taken."""
        parts = ("sample", "sample") if self.imagenet else ("train", "test")
        calibration, evaluation = (self._loader(shared, part) for part in parts)
        return TEMPLATE.format(calibration=calibration, evaluation=evaluation)

    def _loader(self, shared: Path, part: str) -> str:
        if self.imagenet:
            folder = shared / "data" / "imagenet-sample"
            return (
                f"{{batch_size: 16, dataset: {{ImagenetRaw: {{data_path: '{folder}', image_list:"
                f" '{folder / 'val.txt'}'}}}}, transform: {{Preset: {{name: short_side,"
                " mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}}"
            )
        resize = f"Resize: {{size: {self.size}}}, " if self.size != 32 else ""
        return (
            f"{{batch_size: 50, dataset: {{ImageFolder: {{root: '{shared}/data/cifar10/{part}'}}}},"
            f" transform: {{{resize}Rescale: , {IMAGENET_NORM}, Transpose: {{perm: [2, 0, 1]}},"
            " Cast: {dtype: float32}}}"
        )


CASES = (
    Case("ResNet-20 CIFAR-10", "resnet20-cifar10.onnx", 500),
    Case("ResNet-56 CIFAR-10", "resnet56-cifar10.onnx", 200),
    Case("ResNet-50 v1 64x64", "resnet50_v1-cifar10-64.onnx", 100, size=64),
    Case("MobileNet v1 0.75", "mobilenet_v1_0.75_224.onnx", 50, imagenet=True),
)
VARIANTS = {  # name -> scheme, whether repaired, whether the session option is set
    "plain": (Scheme(), False, False),
    "repaired": (Scheme(), True, False),
    "reduce_range": (Scheme(reduce_range=True), True, False),
    "session option": (Scheme(), True, True),
    "portable": (Scheme(portable=True), True, False),
}


def emulated(processor: str, *arguments: str) -> None:
    """Run the child on another processor."""
    child = str(Path(__file__).with_name("portable_child.py"))
    command = ["qemu-x86_64", "-cpu", processor, sys.executable, child, *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"emulation failed: {done.stderr.strip().splitlines()[-1:]}")


def sqnr_db(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Output SQNR in dB; infinite where nothing differs."""
    noise = float(((exact.astype(np.float64) - other) ** 2).mean())
    signal = float((exact.astype(np.float64) ** 2).mean())
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


def turns(files: dict[str, tuple[Path, bool]], image: Any, rounds: int) -> dict[str, Doubles]:
    """Milliseconds of each file in each round, all taking turns."""
    runs = {name: session(path, precise=precise) for name, (path, precise) in files.items()}
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 5):
        for name, one in runs.items():
            start = time.perf_counter()
            one.run(None, {one.get_inputs()[0].name: image})
            if number >= 5:
                seen[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.asarray(times) for name, times in seen.items()}


def opened(case: Case, shared: Path, folder: Path) -> tuple[Job, Workshop]:
    """The job, calibrated on images of all classes, and who writes its files."""
    config = folder / "job.yaml"
    config.write_text(case.config(shared))
    first = open_job(shared / "models" / case.model, load_config(config), None)
    whole = load_config(config, ["quantization.calibration.sampling_size=1000"])
    job = first if case.imagenet else open_job(first.model.path, whole, None)
    job = replace(job, calibration=replace(job.calibration.spread(100), deadline=NEVER))
    prepared = prepare(job.model.proto, run_once, job.model.size)
    (folder / "candidates").mkdir()
    return job, Workshop(job, prepared, folder / "candidates")


def compared(case: Case, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rows of one model, and what they come to."""
    job, workshop = opened(case, arguments.shared, folder)
    batches = list(job.holdout.spread(arguments.native_images))
    images = np.concatenate([batch.images for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    count = min(arguments.images or case.images, len(images))
    few = np.arange(count) * len(images) // count
    np.save(folder / "images.npy", images[few])
    float_file = folder / "float.onnx"
    io.save(expose_logits(job.model.proto), float_file)
    exact = answers(float_file, images, precise=False)
    plan = base_plan("onnxruntime", job.config, workshop.prepared.model)
    files: dict[str, tuple[Path, bool]] = {"float": (float_file, False)}
    rows: dict[str, dict[str, Any]] = {}
    noise: dict[str, Doubles] = {}
    for name, (scheme, repaired, precise) in VARIANTS.items():
        made = workshop.make(
            replace(plan, scheme=scheme, repairs=tuple(sorted(REPAIRS)) if repaired else ())
        )
        files[name] = (made, precise)
        here = answers(made, images, precise=False)
        noise[name] = ((exact.astype(np.float64) - here) ** 2).sum(axis=1)
        start = time.monotonic()
        out = folder / "there.npy"
        kind = "precise" if precise else "answers"
        emulated(arguments.cpu, kind, str(made), str(folder / "images.npy"), str(out))
        seconds = time.monotonic() - start
        rows[name] = row(exact, here, labels, few, np.load(out)) | {"emulation_seconds": seconds}
        print(f"{case.name}: {name} {rows[name]}", file=sys.stderr, flush=True)
    times = turns(files, images[:1], arguments.rounds)
    for name, seen in times.items():
        rows.setdefault(name, {})["ms"] = float(np.median(seen))
    result: dict[str, Any] = {
        "rows": rows,
        "float_top1": float((exact.argmax(1) == labels).mean()),
        "cost": cost(rows, noise, times),
    }
    if arguments.layers:
        some = images[few][: arguments.layer_images]
        result["layers"] = layers(files["repaired"][0], some, folder, arguments.cpu)
    return result


def row(exact: Singles, here: Singles, labels: Any, few: Any, there: Singles) -> dict[str, Any]:
    """One file's figures: here on all images, there on the few that were emulated.

    Where all scores are the same on the few, what they are worth there is what they are here, on
    all images; else it is told of the few alone, with what the file does on these here.
    """
    between = sqnr_db(here[few], there)
    few_here = sqnr_db(exact[few], here[few])
    same = math.isinf(between)
    right = here.argmax(1) == labels
    return {
        "native_images": len(here),
        "images": len(few),
        "top1_here": float(right.mean()),
        "top1_here_few": float(right[few].mean()),
        "top1_there_few": float((there.argmax(1) == labels[few]).mean()),
        "agreement": float((here[few].argmax(1) == there.argmax(1)).mean()),
        "between_db": between,
        "sqnr_db": sqnr_db(exact, here),
        "sqnr_few_db": few_here,
        "sqnr_there_db": sqnr_db(exact, here) if same else sqnr_db(exact[few], there),
    }


def cost(
    rows: dict[str, dict[str, Any]], noise: dict[str, Doubles], times: dict[str, Doubles]
) -> dict[str, Any]:
    """What portable costs here: dB against the best other repaired file, speed against repaired.

    Args:
        rows: the figures of each file.
        noise: squared error of each file here, image by image.
        times: milliseconds of each file, round by round.
    """
    others = ("repaired", "reduce_range")
    best = max(others, key=lambda name: rows[name]["sqnr_db"])
    ours, theirs = noise["portable"], noise[best]
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(ours), len(ours)) for _ in range(DRAWS)]
    lost = [10 * math.log10(ours[some].sum() / theirs[some].sum()) for some in drawn]
    ratios = times["repaired"] / times["portable"]
    return {
        "agreement": rows["portable"]["agreement"],
        "best": best,
        "lost_db": 10 * math.log10(ours.sum() / theirs.sum()),
        "lost_db_interval": [float(end) for end in np.quantile(lost, (0.025, 0.975))],
        "speed": float(np.median(ratios)),
        "speed_interval": list(median_interval(ratios)),
    }


# --------------------------------------------------------------------------- layer by layer


def layers(path: Path, images: NDArray[np.float32], folder: Path, processor: str) -> dict[str, Any]:
    """Which layers differ on the emulated processor, and which the forecast names."""
    model = io.load(path)
    made = {name: node for node in model.graph.node for name in node.output}
    alone = [one for node in model.graph.node if (one := layer_alone(model, made, node))]
    inputs = sorted({tensor for _, tensor, _ in alone})
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inputs)
    runs = session(copy.SerializeToString())
    values = dict(zip(inputs, runs.run(inputs, {runs.get_inputs()[0].name: images}), strict=True))
    given = {
        f"model:{name}:{tensor}": np.frombuffer(one.SerializeToString(), np.uint8)
        for name, tensor, one in alone
    }
    np.savez(folder / "layers.npz", **given, **values)
    run_layers(folder / "layers.npz", folder / "here.npz")
    emulated(processor, "layers", str(folder / "layers.npz"), str(folder / "there.npz"))
    with np.load(folder / "here.npz") as here, np.load(folder / "there.npz") as there:
        differ = sorted(name for name in here if not np.array_equal(here[name], there[name]))
    seen = overflows(model, images)
    named = sorted(name for name, one in seen.items() if one.seen)
    return {
        "layers": len(alone),
        "differ": differ,
        "named": named,
        "missed": sorted(set(differ) - set(named)),
        "possible": sum(one.possible > 0 for one in seen.values()),
    }


def layer_alone(
    model: onnx.ModelProto, made: dict[str, onnx.NodeProto], node: onnx.NodeProto
) -> tuple[str, str, onnx.ModelProto] | None:
    """A QDQ layer by itself: its name, the uint8 tensor that it reads, the model."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    around = [made.get(name) for name in node.input]
    if any(one is None or one.op_type != "DequantizeLinear" for one in around):
        return None
    image, *constants = [one for one in around if one is not None]
    readers = [one for one in model.graph.node if node.output[0] in one.input]
    while readers and readers[0].op_type in ("Relu", "Clip"):
        readers = [one for one in model.graph.node if readers[0].output[0] in one.input]
    last, kind = node.output[0], TensorProto.FLOAT
    nodes = [image, *constants, node]
    if readers and readers[0].op_type == "QuantizeLinear":
        nodes.append(helper.make_node("QuantizeLinear", [last, *readers[0].input[1:]], ["rounded"]))
        last, kind = "rounded", TensorProto.UINT8
    graph = helper.make_graph(
        nodes,
        "alone",
        [helper.make_tensor_value_info(image.input[0], TensorProto.UINT8, None)],
        [helper.make_tensor_value_info(last, kind, None)],
        list(model.graph.initializer),
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return node.name, image.input[0], alone


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| model | file | images here, there | top-1 here, there | agreement | between |"
        " SQNR here | SQNR there | ms | x float |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, found in results.items():
        float_ms = found["rows"]["float"]["ms"]
        for name, one in found["rows"].items():
            if name == "float":
                continue
            same = math.isinf(one["between_db"])
            between = "identical" if same else f"{one['between_db']:.1f} dB"
            top1 = one["top1_here"] if same else one["top1_there_few"]
            few = "" if same else f" ({one['sqnr_few_db']:.1f} here on these)"
            lines.append(
                f"| {model} | {name} | {one['native_images']}, {one['images']} |"
                f" {100 * one['top1_here']:.1f} %, {100 * top1:.1f} % |"
                f" {100 * one['agreement']:.1f} % | {between} | {one['sqnr_db']:.1f} dB |"
                f" {one['sqnr_there_db']:.1f} dB{few} | {one['ms']:.2f} |"
                f" {float_ms / one['ms']:.2f} |"
            )
    return "\n".join(lines)


def in_short(model: str, found: dict[str, Any], processor: str) -> str:
    """What one model comes to, in a line."""
    seen = found["cost"]
    low, high = seen["lost_db_interval"]
    slow, fast = seen["speed_interval"]
    one = found["rows"]["portable"]
    return (
        f"{model}: portable gives {100 * seen['agreement']:.1f} % of the answers on {processor} as"
        f" here ({one['images']} images), loses {seen['lost_db']:.2f} dB against {seen['best']}"
        f" (95 % interval {low:.2f} to {high:.2f}, {one['native_images']} images), and is"
        f" {seen['speed']:.3f} times as fast as repaired ({slow:.3f} to {fast:.3f})"
    )


def main() -> None:
    """Run all cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", help="models whose name holds this")
    parser.add_argument("--images", type=int, help="emulated images of each model")
    parser.add_argument("--native-images", type=int, default=500, help="of each model here")
    parser.add_argument("--cpu", default="Haswell", help="that qemu-x86_64 emulates")
    parser.add_argument("--rounds", type=int, default=50, help="of the timing")
    parser.add_argument("--layers", action="store_true", help="check the forecast, layer by layer")
    parser.add_argument("--layer-images", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    arguments = parser.parse_args()
    arguments.shared = arguments.shared.resolve()
    results: dict[str, Any] = {}
    for case in CASES:
        if arguments.only and arguments.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[case.name] = compared(case, arguments, Path(folder))
        if arguments.json:
            content = {"cpu": cpu().isa, "there": arguments.cpu, "models": results}
            arguments.json.write_text(json.dumps(content, indent=1))
    print(f"here: {cpu().isa}; there: {arguments.cpu}, emulated\n")
    print(f"{table(results)}\n")
    for model, found in results.items():
        print(in_short(model, found, arguments.cpu))
    for model, found in results.items():
        if "layers" in found:
            seen = found["layers"]
            print(
                f"\n{model}: of {seen['layers']} layers {len(seen['differ'])} differ there by"
                f" themselves, the forecast names {len(seen['named'])}, misses {seen['missed']};"
                f" {seen['possible']} could"
            )


if __name__ == "__main__":
    main()
