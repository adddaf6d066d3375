"""The main job on trained models and real images, by the script that a user calls. Minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from models import prepared, resnet50_v1
from quantize.engines import inc
from quantize.runtime import cpu

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
CIFAR = ROOT / "configs" / "cifar10_resnet20.yaml"
IMAGENET = SHARED / "data" / "imagenet-sample"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the models and images of ../shared"),
    pytest.mark.timeout(1800),
]
with_inc = pytest.param(
    "inc",
    marks=[
        pytest.mark.inc,
        pytest.mark.skipif(inc.available() is not None, reason=str(inc.available())),
    ],
)


def tune(model: Path, config: Path, output: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report of one run."""
    done = subprocess.run(
        [
            str(ROOT / "scripts" / "run_tuning.sh"),
            f"--input_model={model}",
            f"--config={config}",
            f"--output_model={output}",
            *flags,
        ],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(output.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3, 4), done.stderr
    print(done.stdout)
    return done.returncode, json.loads((Path(f"{output}.run") / "report.json").read_text())


def cifar_flags(images: Path = SHARED / "data" / "cifar10") -> list[str]:
    train, test = images / "train", images / "test"
    return [
        f"--set=quantization.calibration.dataloader.dataset.ImageFolder.root={train}",
        f"--set=evaluation.accuracy.dataloader.dataset.ImageFolder.root={test}",
    ]


def assert_lossless(report: dict[str, Any]) -> None:
    """Every convolution is int8, and the interval of the drop reaches down to 0.1 points."""
    convolutions = report["int8_model"]["convolutions"]
    assert convolutions["int8"] == convolutions["all"]
    assert report["accuracy"]["drop_interval_points"][0] <= 0.1
    assert report["accuracy"]["drop_points"] <= 0.5


@pytest.mark.parametrize("quant_format", ["QDQ", "QOperator"])
@pytest.mark.parametrize(
    ("engine", "strategy"),
    [
        ("onnxruntime", "guided"),
        pytest.param("inc", "guided", marks=with_inc.marks),
        pytest.param("inc", "basic", marks=with_inc.marks),
    ],
)
def test_resnet20_keeps_its_accuracy_with_every_convolution_int8(
    tmp_path: Path, engine: str, strategy: str, quant_format: str
) -> None:
    code, report = tune(
        SHARED / "models" / "resnet20-cifar10.onnx",
        CIFAR,
        tmp_path / "int8.onnx",
        *cifar_flags(),
        f"--quant_format={quant_format}",
        f"--set=quantization.engine={engine}",
        f"--set=tuning.strategy.name={strategy}",
    )
    assert code == 0
    assert report["int8_model"]["convolutions"] == {"int8": 19, "all": 19}
    assert report["int8_model"]["plan"]["engine"] == engine
    assert report["accuracy"]["drop_points"] <= 0.5
    assert report["data"]["holdout"]["images"] == 5000
    if engine == "onnxruntime":
        assert_lossless(report)
    assert report["accuracy"]["float"]["top1"] == pytest.approx(0.81, abs=0.02)
    assert (tmp_path / "int8.onnx").is_file()


@pytest.mark.parametrize("engine", ["onnxruntime", with_inc])
def test_mobilenet_gets_an_honest_verdict(tmp_path: Path, engine: str) -> None:
    loader = (
        f"{{batch_size: 16, dataset: {{ImagenetRaw: {{data_path: '{IMAGENET}',"
        f" image_list: '{IMAGENET / 'val.txt'}'}}}}, transform: {{Preset: {{name: short_side,"
        " mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}}"
    )
    config = tmp_path / "mobilenet.yaml"
    config.write_text(
        "model: {name: mobilenet, framework: onnxrt_qdq}\n"
        f"quantization: {{engine: {engine}, calibration: {{sampling_size: 100,"
        f" dataloader: {loader}}}}}\n"
        f"evaluation: {{accuracy: {{metric: {{topk: 1}}, dataloader: {loader}}}}}\n"
        "tuning: {accuracy_criterion: {relative: 0.01}}\n"
    )
    model = SHARED / "models" / "mobilenet_v1_0.75_224.onnx"
    code, report = tune(model, config, tmp_path / "int8.onnx")
    drop = report["accuracy"]["drop_points"]
    allowed = report["accuracy"]["float"]["top1"]
    fast = report["measured"]["latency"]["low"] >= 1.1
    assert code == (0 if drop <= allowed and fast else 3)
    assert (tmp_path / "int8.onnx").exists() == (code == 0)
    assert report["int8_model"]["int8_share_of_multiply_adds"] > 0.9
    low, high = report["accuracy"]["drop_interval_points"]
    assert low < drop < high
    splits = [report["data"][name]["images"] for name in ("calibration", "search", "holdout")]
    assert splits == [100, 100, 400]
    if engine == "onnxruntime":
        assert report["int8_model"]["convolutions"] == {"int8": 27, "all": 27}
        assert report["int8_model"]["int8_share_of_multiply_adds"] == 1
        assert report["fidelity"]["agreement"] >= 0.975
        assert report["fidelity"]["sqnr_db"] >= 24
        assert report["measured"]["passes_over_search_set"] <= 4
        assert drop <= allowed + 100 * 2 / 400  # so few images are off by two


def test_resnet56_loses_no_more_than_a_tenth_of_a_point_as_far_as_can_be_told(
    tmp_path: Path,
) -> None:
    code, report = tune(
        SHARED / "models" / "resnet56-cifar10.onnx",
        CIFAR,
        tmp_path / "int8.onnx",
        *cifar_flags(),
        "--set=quantization.engine=onnxruntime",
    )
    assert code == 0
    assert report["int8_model"]["convolutions"]["all"] == 55
    assert_lossless(report)


def test_leaving_every_convolution_float_is_refused_by_the_speed_floor(tmp_path: Path) -> None:
    code, report = tune(
        SHARED / "models" / "resnet20-cifar10.onnx",
        CIFAR,
        tmp_path / "int8.onnx",
        *cifar_flags(),
        "--set=quantization.engine=onnxruntime",
        "--set=quantization.optype_wise={Conv: {weight: {dtype: [fp32]}}}",
    )
    assert code == 3
    assert report["accuracy"]["drop_points"] <= 0.5
    assert report["int8_model"]["convolutions"] == {"int8": 0, "all": 19}
    assert "speed floor" in report["verdict"]["reason"]


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's topology, random weights, running statistics from real images."""
    images = [
        (np.asarray(Image.open(path).convert("RGB").resize((224, 224))), 0)
        for path in sorted(IMAGENET.glob("*.JPEG"))[::32]
    ]
    path = tmp_path_factory.mktemp("resnet50") / "resnet50-v1-12.onnx"
    onnx.save(resnet50_v1(images=prepared(images)), path)
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", with_inc])
def test_resnet50_topology_is_all_int8_small_and_fast(
    tmp_path: Path, resnet50: Path, engine: str
) -> None:
    code, report = tune(
        resnet50,
        ROOT / "configs" / "resnet50_v1_5.yaml",
        tmp_path / "resnet50-v1-12-int8.onnx",
        f"--dataset_location={IMAGENET}",
        f"--label_path={IMAGENET / 'val.txt'}",
        f"--set=quantization.engine={engine}",
        "--set=tuning.accuracy_criterion.agreement=0.9",
        "--set=evaluation.performance.iteration=100",
    )
    assert code == 0
    assert report["int8_model"]["convolutions"] == {"int8": 53, "all": 53}
    assert report["int8_model"]["bytes"] / report["float_model"]["bytes"] <= 0.26
    if not cpu().saturates:
        assert report["measured"]["latency"]["ratio"] >= 2.0  # about 3 on a quiet machine


@pytest.mark.parametrize("engine", ["onnxruntime", with_inc])
def test_trained_resnet50_keeps_its_accuracy(tmp_path: Path, engine: str) -> None:
    pixels = (
        "{Resize: {size: 64}, Rescale: , Normalize: {mean: [0.485, 0.456, 0.406],"
        " std: [0.229, 0.224, 0.225]}, Transpose: {perm: [2, 0, 1]}, Cast: {dtype: float32}}"
    )
    code, report = tune(
        SHARED / "models" / "resnet50_v1-cifar10-64.onnx",
        CIFAR,
        tmp_path / "int8.onnx",
        *cifar_flags(),
        f"--set=quantization.calibration.dataloader.transform={pixels}",
        f"--set=evaluation.accuracy.dataloader.transform={pixels}",
        f"--set=quantization.engine={engine}",
    )
    assert code == 0
    assert report["int8_model"]["convolutions"] == {"int8": 53, "all": 53}
    assert report["accuracy"]["drop_points"] <= 0.5
    assert report["accuracy"]["float"]["top1"] == pytest.approx(0.848, abs=0.02)
    if engine == "onnxruntime":
        assert_lossless(report)


def test_the_same_inputs_twice_give_the_same_bytes_and_report(tmp_path: Path) -> None:
    reports, models = [], []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        _, report = tune(
            SHARED / "models" / "resnet20-cifar10.onnx",
            CIFAR,
            folder / "int8.onnx",
            *cifar_flags(),
            "--fresh",
        )
        report.pop("measured")
        reports.append(report)
        models.append((folder / "int8.onnx").read_bytes())
    assert models[0] == models[1]
    assert reports[0] == reports[1]
