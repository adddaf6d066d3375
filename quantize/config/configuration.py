"""The configuration of a run: read, validated, effective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from quantize import plan
from quantize.config.complaints import config_error
from quantize.config.loaders import DataLoader
from quantize.config.overrides import overridden
from quantize.config.rules import OpRule
from quantize.config.schema import (
    Accuracy,
    Document,
    Evaluation,
    Model,
    Performance,
    Quantization,
    Tuning,
)
from quantize.config.text import Source, parse_source, read_source, source_from
from quantize.config.tunable import lacks
from quantize.data.datasets import ImagenetRaw
from quantize.errors import ConfigError

_FORMATS: Mapping[str, plan.Format] = {
    "onnxrt_qdq": "qdq",
    "onnxrt_qdqops": "qdq",
    "onnxrt_qlinearops": "qoperator",
    "onnxrt_qoperator": "qoperator",
}
"""`model.framework` -> format of the int8 file; `onnxrt_qdqops` is what INC 1.8 called QDQ."""

_FLAG_FORMATS = {
    "default": "onnxrt_qlinearops",
    "qoperator": "onnxrt_qlinearops",
    "qdq": "onnxrt_qdq",
}


@dataclass(frozen=True)
class Config:
    """Everything that a run is asked to do. Its attributes are named like the YAML's keys.

    Attributes:
        document: all sections, validated.
        source: the file it came from, or None; two configurations that say the same are equal.
    """

    document: Document
    source: Path | None = field(default=None, compare=False)

    @property
    def model(self) -> Model:
        """`model`: name and framework."""
        return self.document.model

    @property
    def quantization(self) -> Quantization:
        """`quantization`: engine, calibration, constraints."""
        return self.document.quantization

    @property
    def evaluation(self) -> Evaluation:
        """`evaluation`: what the models are judged on."""
        return self.document.evaluation

    @property
    def tuning(self) -> Tuning:
        """`tuning`: goal, strategy, limits."""
        return self.document.tuning

    def goal(self) -> plan.Goal:
        """What the int8 model has to reach."""
        criterion = self.tuning.accuracy_criterion
        kinds: tuple[plan.GoalKind, ...] = ("relative", "absolute", "agreement")
        kind = next(kind for kind in kinds if getattr(criterion, kind) is not None)
        return plan.Goal(
            tolerance=getattr(criterion, kind),
            kind=kind,
            confidence=criterion.confidence,
            speed_floor=self.tuning.speed_floor,
        )

    def format(self) -> plan.Format:
        """The format of the int8 file, as `model.framework` says.

        Raises:
            ConfigError: the framework has no such file.
        """
        framework = self.model.framework
        if framework not in _FORMATS:
            raise ConfigError(
                f"{self.origin}: model.framework {framework} makes no static int8 ONNX file",
                "write onnxrt_qdq or onnxrt_qlinearops",
            )
        return _FORMATS[framework]

    def op_rules(self) -> tuple[OpRule, ...]:
        """All constraints on operators; the narrower scope overrides, key by key."""
        wide = self.quantization.model_wise
        rule = OpRule("model", ".*", wide.weight, wide.activation)
        return (
            *((rule,) if wide.weight or wide.activation else ()),
            *self.quantization.optype_wise,
            *self.quantization.op_wise,
        )

    @property
    def origin(self) -> str:
        """How messages call this configuration."""
        return "configuration" if self.source is None else str(self.source)

    def lacks(
        self, *, calibration_given: bool = False, evaluation_given: bool = False
    ) -> tuple[str, ...]:
        """Everything that keeps `tune` from running this, one line each; see `check_tunable`."""
        found = lacks(self, calibration_given=calibration_given, evaluation_given=evaluation_given)
        return tuple(str(lack) for lack in found)

    def of_the_search(self) -> Config:
        """This configuration without what no candidate depends on: time, and further processors.

        More of either continues a run, it is no other.
        """
        policy = self.tuning.exit_policy.model_copy(update={"timeout": 0})
        tuning = self.tuning.model_copy(update={"exit_policy": policy})
        none = {name: Evaluation.model_fields[name].default for name in ("cpus", "cpus_timeout")}
        evaluation = self.evaluation.model_copy(update=none)
        update = {"tuning": tuning, "evaluation": evaluation}
        return replace(self, document=self.document.model_copy(update=update))

    def to_yaml(self) -> str:
        """The effective configuration, defaults included, in a fixed order.

        Reading it gives an equal configuration. Paths are absolute.
        """
        tree = self.document.model_dump(by_alias=True, exclude_none=True)
        return yaml.dump(
            _listed(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
        )

    def with_flags(
        self,
        dataset_location: str | None = None,
        label_path: str | None = None,
        quant_format: str | None = None,
    ) -> Config:
        """This configuration with the command-line flags of INC 2.x laid over it.

        The dataset of every loader becomes `ImagenetRaw`; a missing calibration or accuracy
        loader becomes a copy of the other one. Relative paths start in the current directory.

        Args:
            dataset_location: folder of the images.
            label_path: label file; `../val.txt` beside the folder where only that is given.
            quant_format: `default`, `QOperator` or `QDQ`.

        Raises:
            ConfigError: a flag is empty or unknown, or labels are given without images.
        """
        config = self
        if quant_format is not None:
            framework = _FLAG_FORMATS.get(quant_format.lower())
            if framework is None:
                raise ConfigError(
                    f"--quant_format {quant_format!r} is unknown",
                    "write default, QOperator or QDQ",
                )
            model = self.model.model_copy(update={"framework": framework})
            config = config._with(model=model)
        if dataset_location is not None:
            folder = _path("--dataset_location", dataset_location)
            labels = folder / ".." / "val.txt"
            if label_path is not None:
                labels = _path("--label_path", label_path)
            return config._on(ImagenetRaw(folder, labels))
        if label_path is not None:
            raise ConfigError(
                "--label_path is given without --dataset_location", "give the folder of images too"
            )
        return config

    def _on(self, dataset: ImagenetRaw) -> Config:
        """This configuration with every loader on one dataset."""
        calibration, evaluation = self.quantization.calibration, self.evaluation
        accuracy, performance = evaluation.accuracy, evaluation.performance
        loader = accuracy.dataloader or calibration.dataloader

        def moved(own: DataLoader | None) -> dict[str, Any]:
            return {"dataloader": own and own.model_copy(update={"dataset": dataset})}

        calibration = calibration.model_copy(update=moved(calibration.dataloader or loader))
        accuracy = accuracy.model_copy(update=moved(loader))
        performance = performance.model_copy(update=moved(performance.dataloader))
        parts: dict[str, Accuracy | Performance | DataLoader | None] = {
            "accuracy": accuracy,
            "performance": performance,
            "holdout": moved(evaluation.holdout)["dataloader"],
        }
        return self._with(
            quantization=self.quantization.model_copy(update={"calibration": calibration}),
            evaluation=evaluation.model_copy(update=parts),
        )

    def _with(self, **sections: Any) -> Config:
        return replace(self, document=self.document.model_copy(update=sections))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file. Only text is read: no path in it is looked at.

    Args:
        path: a YAML file of INC's 1.x schema; relative paths in it start in its folder.
        overrides: `KEY=VALUE`, laid over the file.

    Raises:
        ConfigError: naming file, line, key and value.
    """
    source = read_source(Path(path))
    return _validated(overridden(source, overrides), Path(path).absolute().parent, Path(path))


def parse_config(
    content: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    folder: str | Path = ".",
    name: str = "configuration",
) -> Config:
    """Read a configuration from YAML text or from a tree of plain values.

    Args:
        content: the text or the tree.
        overrides: `KEY=VALUE`, laid over it.
        folder: where relative paths start.
        name: how messages call it.

    Raises:
        ConfigError: naming line, key and value.
    """
    read = parse_source(content, name) if isinstance(content, str) else source_from(content, name)
    return _validated(overridden(read, overrides), Path(folder).absolute(), None)


def _validated(source: Source, folder: Path, path: Path | None) -> Config:
    try:
        document = Document.model_validate(source.data, context={"folder": folder})
    except ValidationError as error:
        raise config_error(error, source) from error
    return Config(document, path)


def _path(flag: str, value: str) -> Path:
    if not value or "\0" in value:
        raise ConfigError(f"{flag} is {value!r}, no path", "give a path, or leave the flag out")
    return Path(value).absolute()


class _Dumper(yaml.SafeDumper):
    """Writes lists of plain values on one line, and a value that occurs twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(
        self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        items = list(sequence)
        flat = not any(isinstance(item, list | dict) for item in items)
        return super().represent_sequence(tag, items, flow_style=flat)

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Outside double quotes these would be written raw and read as the end of a line.
        style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _listed(value: Any) -> Any:
    """The tree with lists for tuples, as YAML writes them."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
