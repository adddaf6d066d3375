"""preprocess.json: what the model takes and gives, as numbers, written and read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.checked_json import Value
from quantize.config import Config, parse_config
from quantize.data.presets import Preset
from quantize.data.transforms import Pipeline
from quantize.errors import BundleError, ConfigError

SCHEMA_VERSION = 1
PREPROCESS = "preprocess.json"
_MOST_STEPS = 100


@dataclass(frozen=True)
class Contract:
    """How an image file becomes what the model takes, and what its scores are.

    Attributes:
        steps: the transforms in order, `[{name: options}]`; none: images come prepared.
        input: name of the input; likewise output.
        size: (C, H, W) of one prepared image.
        output: name of the scores.
        classes: K.
        probabilities: whether the scores went through a Softmax in the model.
        label_shift: subtracted from the labels of the data.
    """

    steps: tuple[dict[str, dict[str, Any]], ...]
    input: str
    size: tuple[int, int, int]
    output: str
    classes: int
    probabilities: bool
    label_shift: int

    def pipeline(self) -> Pipeline:
        """The transforms.

        Raises:
            BundleError: one is unknown, or has options that it does not take.
        """
        loader = self.config({"ImageFolder": {"root": "."}}).evaluation.accuracy.dataloader
        assert loader is not None  # it stands in the tree
        return Pipeline(loader.transforms)

    def config(self, dataset: dict[str, dict[str, str]], batch_size: int = 16) -> Config:
        """A configuration that evaluates on a data set with these transforms.

        Raises:
            BundleError: a transform is unknown, or has options that it does not take.
        """
        names = [name for step in self.steps for name in step]
        if len(set(names)) < len(names):
            raise BundleError(f"{PREPROCESS} is damaged: a transform stands twice", _CURE)
        loader = {
            "batch_size": batch_size,
            "dataset": dataset,
            "transform": {name: step[name] for step in self.steps for name in step},
        }
        accuracy = {
            "metric": {"topk": 1},
            "dataloader": loader,
            "postprocess": {"transform": {"LabelShift": self.label_shift}},
        }
        tree = {
            "model": {"name": "bundle", "framework": "onnxrt_qdq"},
            "evaluation": {"accuracy": accuracy},
        }
        try:
            return parse_config(tree, folder=Path.cwd(), name=PREPROCESS)
        except ConfigError as error:
            raise BundleError(f"{PREPROCESS} is damaged: {error.message}", _CURE) from error

    def to_json(self) -> dict[str, Any]:
        """The content of preprocess.json."""
        pipeline = self.pipeline()
        return {
            "schema_version": SCHEMA_VERSION,
            "image": {"dtype": "uint8", "layout": "HWC", "colours": "RGB"},
            "steps": list(self.steps),
            "expanded": Pipeline(expanded(pipeline)).describe(),
            "input": {
                "name": self.input,
                "dtype": "float32",
                "layout": "NCHW",
                "size": list(self.size),
            },
            "output": {
                "name": self.output,
                "classes": self.classes,
                "scores": "probabilities" if self.probabilities else "logits",
            },
            "labels": {"shift": self.label_shift},
            "key": pipeline.key(),
        }


_CURE = "fetch the bundle again"


def read_contract(found: Value) -> Contract:
    """The contract of a parsed preprocess.json.

    Raises:
        BundleError: it is of another version, or damaged.
    """
    if found.at("schema_version").count() != SCHEMA_VERSION:
        raise found.at("schema_version").wrong(f"{SCHEMA_VERSION}, which this package reads")
    size = [item.count(1 << 16) for item in found.at("input", "size").items()]
    if len(size) != 3 or not all(size):
        raise found.at("input", "size").wrong("[C, H, W]")
    scores = found.at("output", "scores").one_of("logits", "probabilities")
    contract = Contract(
        steps=tuple(_step(item) for item in found.at("steps").items()),
        input=found.at("input", "name").text(),
        size=(size[0], size[1], size[2]),
        output=found.at("output", "name").text(),
        classes=found.at("output", "classes").count(1 << 24),
        probabilities=scores == "probabilities",
        label_shift=int(found.at("labels", "shift").number(-1e6, 1e6)),
    )
    if len(contract.steps) > _MOST_STEPS:
        raise found.at("steps").wrong(f"a list of at most {_MOST_STEPS}")
    if contract.pipeline().key() != found.at("key").digest():
        raise found.at("key").wrong("the key of these steps in this version of the package")
    return contract


def _step(item: Value) -> dict[str, dict[str, Any]]:
    names = item.names()
    if len(names) != 1 or not isinstance(item.at(names[0]).value, dict):
        raise item.wrong("one transform with its options")
    return {names[0]: item.at(names[0]).value}


def expanded(pipeline: Pipeline) -> tuple[Any, ...]:
    """The steps, a preset as those it consists of."""
    return tuple(
        part
        for step in pipeline.steps
        for part in (step.steps if isinstance(step, Preset) else (step,))
    )
