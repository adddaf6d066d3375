"""The models that everything is measured on, each with its images and its goal.

The digits come with the package, so a fresh clone has something to measure; the ResNet-50 topology
is built here. The trained models and the photographs lie in a folder beside the checkout
(`--shared`); a case whose files are absent is a row that says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import onnx
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from onnx import version_converter
from PIL import Image

from quantize import load_config
from quantize.demo.files import write_files
from quantize.job import Images, open_job

ROOT = Path(__file__).parent.parent
TOPOLOGY = "resnet50-v1 topology"
MIXED = "calibration.txt"
PEERS_OPSET = 13
"""What the peers get: below it QDQ knows no scale per channel, and some write broken files."""

_IMAGENET_NORM = "Normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
_TEMPLATE = """\
model: {{name: {name}, framework: onnxrt_qdq}}
quantization:
  calibration: {{sampling_size: 100, dataloader: {calibration}}}
evaluation:
  accuracy: {{metric: {{topk: 1}}, dataloader: {evaluation}}}
  performance: {{warmup: 10, iteration: 100, configs: {{cores_per_instance: 1}}}}
tuning: {{accuracy_criterion: {{{goal}}}}}
"""


class CaseError(Exception):
    """A case cannot be measured here: one line."""


@dataclass(frozen=True)
class Case:
    """One model with its images and its goal.

    Attributes:
        key: of its folder and its rows.
        name: as tables call it.
        model: file below `models/` of the shared folder; the digits' and `TOPOLOGY` have none.
        images: which ones.
        goal: of the tuning, as the YAML has it.
        size: side of the network's input, in pixels.
        trained: whether its accuracy means anything.
        measured: whether latency and accuracy are measured: once for each model.
        quick: whether the short form has it.
    """

    key: str
    name: str
    model: str
    images: Literal["digits", "imagenet", "cifar"]
    goal: str = "relative: 0.01"
    size: int = 32
    trained: bool = True
    measured: bool = True
    quick: bool = False

    def config(self, folder: Path, shared: Path) -> str:
        """The YAML of the job.

        Args:
            folder: of the case.
            shared: of models and images.
        """
        if self.images == "imagenet":
            images = shared / "data" / "imagenet-sample"
            loaders = [self._imagenet(images if images.is_dir() else folder / "images")] * 2
        else:
            calibration, evaluation = self.class_folders(folder, shared)
            listed = f"data_path: '{calibration}', image_list: '{folder / MIXED}'"
            loaders = [
                self._scaled(f"ImagenetRaw: {{{listed}}}"),
                self._scaled(f"ImageFolder: {{root: '{evaluation}'}}"),
            ]
        return _TEMPLATE.format(
            name=self.key, calibration=loaders[0], evaluation=loaders[1], goal=self.goal
        )

    def class_folders(self, folder: Path, shared: Path) -> tuple[Path, Path]:
        """The roots of small images, a folder for each class: to calibrate and to evaluate.

        Args:
            folder: of the case.
            shared: of models and images.
        """
        if self.images == "digits":
            return folder / "calibration", folder / "evaluation"
        cifar = shared / "data" / "cifar10"
        return cifar / "train", cifar / "test"

    def _imagenet(self, images: Path) -> str:
        half = "mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]"
        standard = "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"
        return (
            f"{{batch_size: 16, dataset: {{ImagenetRaw: {{data_path: '{images}',"
            f" image_list: '{images / 'val.txt'}'}}}}, transform: {{Preset: {{name: short_side,"
            f" {half if self.trained else standard}}}}}}}"
        )

    def _scaled(self, dataset: str) -> str:
        resize = f"Resize: {{size: {self.size}}}, " if self.size != 32 else ""
        return (
            f"{{batch_size: 50, dataset: {{{dataset}}}, transform: {{{resize}Rescale: ,"
            f" {_IMAGENET_NORM}, Transpose: {{perm: [2, 0, 1]}}, Cast: {{dtype: float32}}}}}}"
        )


def mixed(root: Path) -> str:
    """An image list of class folders, an image of each class in turn.

    In the order of the folders the first hundred, which calibrate, would be of one class or two.

    Args:
        root: holds a folder for each class.
    """
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    of_class = [
        [f"{name}/{file.name} {label}" for file in sorted((root / name).iterdir())]
        for label, name in enumerate(names)
    ]
    lines = [line for turn in zip_longest(*of_class) for line in turn if line]
    return "".join(f"{line}\n" for line in lines)


_MOBILENET = "mobilenet_v1_0.75_224.onnx"
CASES = (
    Case("digits", "digits (the demo)", "", "digits", quick=True),
    Case("resnet20", "ResNet-20, CIFAR-10", "resnet20-cifar10.onnx", "cifar", quick=True),
    Case("resnet56", "ResNet-56, CIFAR-10", "resnet56-cifar10.onnx", "cifar"),
    Case("mobilenet", "MobileNet v1 0.75, 224", _MOBILENET, "imagenet", size=224),
    Case(
        *("mobilenet-0.005", "MobileNet v1 0.75, 224", _MOBILENET, "imagenet"),
        goal="relative: 0.005",
        size=224,
        measured=False,
    ),
    Case(
        *("resnet50-224", "ResNet-50 v1 topology, 224", TOPOLOGY, "imagenet"),
        goal="agreement: 0.9",
        size=224,
        trained=False,
    ),
    Case("resnet50-64", "ResNet-50 v1, 64", "resnet50_v1-cifar10-64.onnx", "cifar", size=64),
)


@dataclass(frozen=True)
class Ready:
    """A case whose files lie in its folder.

    Attributes:
        case: which.
        folder: of the case.
        model: the float file as a user has it.
        upgraded: the same with an opset that the peers can use.
        config: the job's YAML file.
        calibration: .npy, float32 [N,C,H,W]: what every peer calibrates on.
        holdout: .npy, float32 [M,C,H,W]: what every file is judged on.
        labels: .npy, int64 [M].
        input: name of the network's input.
    """

    case: Case
    folder: Path
    model: Path
    upgraded: Path
    config: Path
    calibration: Path
    holdout: Path
    labels: Path
    input: str


def ready(case: Case, shared: Path, root: Path) -> Ready:
    """Write a case's files: the same images, prepared once, for everybody.

    Args:
        case: which.
        shared: folder of models and images.
        root: folder of all cases.

    Raises:
        CaseError: the model or its images are not there.
    """
    folder = root / case.key
    folder.mkdir(parents=True, exist_ok=True)
    model = _model(case, shared, folder)
    if case.images == "cifar" and not (shared / "data" / "cifar10").is_dir():
        raise CaseError(f"not measured: {shared.name}/data/cifar10 is not here")
    if case.images != "imagenet":
        (folder / MIXED).write_text(mixed(case.class_folders(folder, shared)[0]))
    config = folder / "job.yaml"
    config.write_text(case.config(folder, shared))
    upgraded = _upgraded(model, folder / "upgraded.onnx")
    job = open_job(model, load_config(config), None)
    calibration, holdout, labels = (
        folder / f"{name}.npy" for name in ("calibration", "holdout", "labels")
    )
    _write(job.calibration, calibration)
    np.save(labels, _write(job.holdout, holdout), allow_pickle=False)
    name = job.model.signature.input
    return Ready(case, folder, model, upgraded, config, calibration, holdout, labels, name)


def _model(case: Case, shared: Path, folder: Path) -> Path:
    if case.images == "digits":
        return write_files(folder).model
    if case.model == TOPOLOGY:
        return _topology(shared / "data" / "imagenet-sample", folder)
    path = shared / "models" / case.model
    if not path.is_file():
        raise CaseError(f"not measured: {shared.name}/models/{case.model} is not here")
    return path


def _topology(images: Path, folder: Path) -> Path:
    """The zoo's graph with seeded random weights; striped images stand in for photographs."""
    build = _network_builders()
    if not images.is_dir():
        images = folder / "images"
        build.write_imagenet_raw(images, build.tiny_dataset(10, 20, 256, seed=1))
    files = sorted(path for path in images.iterdir() if path.suffix in (".JPEG", ".png"))
    few = [
        (np.asarray(Image.open(file).convert("RGB").resize((224, 224))), 0)
        for file in files[:: max(1, len(files) // 16)]
    ]
    path = folder / "float.onnx"
    onnx.save(build.resnet50_v1(images=build.prepared(few)), path)
    return path


@cache
def _network_builders() -> ModuleType:
    """`tests/models.py`: `tests` is no package, and what stands in it must shadow nothing else."""
    folder = str(ROOT / "tests")
    sys.path.insert(0, folder)
    try:
        return import_module("models")
    finally:
        sys.path.remove(folder)


def _upgraded(model: Path, target: Path) -> Path:
    """The model itself, or a copy with `PEERS_OPSET`."""
    proto = onnx.load(model)
    opsets = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if max(opsets) >= PEERS_OPSET:
        return model
    onnx.save(version_converter.convert_version(proto, PEERS_OPSET), target)
    return target


def _write(images: Images, target: Path) -> NDArray[np.int64]:
    """Write prepared images as one array; returns their labels, int64 [N].

    Raises:
        CaseError: one of them is unreadable.
    """
    every: NDArray[np.float32] | None = None
    labels: list[int] = []
    for batch in images:
        if every is None:
            shape = (len(images.samples), *batch.images.shape[1:])
            every = open_memmap(target, mode="w+", dtype=np.float32, shape=shape)  # type: ignore[no-untyped-call]
        every[len(labels) : len(labels) + len(batch.images)] = batch.images
        labels += batch.labels.tolist()
    if len(labels) != len(images.samples):
        raise CaseError(f"not measured: {len(images.samples) - len(labels)} images are unreadable")
    return np.array(labels, np.int64)
