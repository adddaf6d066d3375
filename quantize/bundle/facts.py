"""Everything that a bundle tells, in one value that manifest and card are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from quantize import __version__
from quantize.bundle.contract import Contract
from quantize.bundle.model import Ports
from quantize.bundle.samples import Samples
from quantize.bundle.source import Source
from quantize.config import Config
from quantize.data.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST
from quantize.measure import timing_of
from quantize.plan import Plan
from quantize.report.reading import REPORT, Account, account_of, report_value

RTOL = ATOL = 1e-3
"""How far outputs may differ on the same instruction set, as the model zoo's own check has it."""

_KNOWN = {CIFAR10: "cifar10", CIFAR100: "cifar100", MNIST: "mnist", FashionMNIST: "fashion_mnist"}


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a release when its texts are written.

    Attributes:
        name: of the release.
        license: SPDX identifier in lower case, or None where nobody said.
        dataset: name of the data set that accuracy was measured on, or None where unknown.
        report: the run's report.json.
        plan: how the int8 file was made.
        contract: preprocessing and scores.
        ports: what the file takes and gives.
        samples: where the test data come from.
        isa: instruction set that the test data were made on.
        timing: threads asked, warm-up and rounds of the run's timing.
        model: `file`, `sha256`, `bytes`, and under `verified` those of best.onnx.
        with_preprocessing: name of the file with the preprocessing in front, or None.
        float_file: name of the float model in the bundle, or None.
    """

    name: str
    license: str | None
    dataset: str | None
    report: dict[str, Any]
    plan: Plan
    contract: Contract
    ports: Ports
    samples: Samples
    isa: str
    timing: dict[str, Any]
    model: dict[str, Any]
    with_preprocessing: str | None
    float_file: str | None

    @property
    def met(self) -> bool:
        """Whether the goal was met on every processor."""
        return self.account.decisive.outcome == "met"

    @cached_property
    def account(self) -> Account:
        """The report's own account, each value checked."""
        return account_of(report_value(self.report), REPORT)


def without(facts: Facts, names: Iterable[str]) -> Facts:
    """The same with these values left out."""
    return replace(facts, **dict.fromkeys(names))  # type: ignore[arg-type]


def dataset_of(config: Config) -> str | None:
    """The data set's name where the configuration's class is one data set and no other."""
    loader = config.evaluation.holdout or config.evaluation.accuracy.dataloader
    return None if loader is None else _KNOWN.get(type(loader.dataset))


def timing_of_run(config: Config) -> dict[str, Any]:
    """What the run asked of its timing."""
    timing = timing_of(config)
    return {"threads": timing.asked, "warm_up": timing.warm_up, "rounds": timing.rounds}


def stamp(source: Source) -> dict[str, Any]:
    """What the shipped file itself says: all of it was known before its bytes were."""
    report = source.report
    return {
        "preprocess": source.contract.to_json(),
        "goal": report.at("verdict", "goal").value,
        "plan": report.at("int8_model", "plan").value,
        "float_sha256": report.at("float_model", "sha256").digest(),
        "version": report.at("tool", "version").text(),
    }


def manifest(facts: Facts, files: dict[str, dict[str, Any]], hub: dict[str, Any]) -> dict[str, Any]:
    """The content of manifest.json.

    Args:
        facts: of the release.
        files: name -> sha256 and bytes of every file written before.
        hub: the model zoo's entry.
    """
    report = facts.report
    verdict, measured = report["verdict"], report["measured"]
    accuracy = report["accuracy"]
    return {
        "schema_version": 1,
        "name": facts.name,
        "tool": {"name": "quantize", "version": __version__},
        "verdict": verdict,
        "accuracy": accuracy and {**accuracy, "right": _right(accuracy, verdict["images"])},
        "fidelity": report["fidelity"],
        "latency": measured["latency"],
        "cpu": measured["cpu"],
        "cpus": measured.get("cpus", []),
        "timing": facts.timing,
        "model": facts.model,
        "float_model": report["float_model"],
        "int8_model": {
            key: report["int8_model"][key]
            for key in ("opset", "plan", "int8_share_of_multiply_adds", "convolutions")
        },
        "data": {
            part: {key: report["data"][part][key] for key in ("images", "sha256")}
            for part in ("calibration", "search", "holdout")
        },
        "dataset": facts.dataset,
        "licenses": {"model": facts.license},
        "versions": report["versions"],
        "check": {
            "rtol": RTOL,
            "atol": ATOL,
            "instruction_set": facts.isa,
            "samples": facts.samples.kind,
            "samples_sha256": facts.samples.sha256,
        },
        "with_preprocessing": facts.with_preprocessing,
        "float_file": facts.float_file,
        "hub": hub,
        "files": files,
    }


def hub_entry(facts: Facts, archive: dict[str, Any]) -> dict[str, Any]:
    """An entry of the model zoo's ONNX_HUB_MANIFEST.json.

    Args:
        facts: of the release.
        archive: `file`, `sha256` and `bytes` of the archive with test data.
    """
    ports = facts.ports
    return {
        "model": facts.name,
        "model_path": facts.model["file"],
        "onnx_version": ports.onnx_version,
        "opset_version": ports.opset,
        "metadata": {
            "model_sha": facts.model["sha256"],
            "model_bytes": facts.model["bytes"],
            "tags": ["vision", "classification", "int8", "quantized"],
            "io_ports": {"inputs": ports.inputs, "outputs": ports.outputs},
            "model_with_data_path": archive["file"],
            "model_with_data_sha": archive["sha256"],
            "model_with_data_bytes": archive["bytes"],
        },
    }


def _right(accuracy: dict[str, Any], images: int) -> dict[str, dict[str, int]]:
    """How many images each model has right, as whole numbers."""
    return {
        model: {k: round(accuracy[model][k] * images) for k in ("top1", "top5")}
        for model in ("float", "int8")
    }
