"""What loads but cannot be tuned, each with its reason and cure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantize.config.loaders import DataLoader, UnsupportedDataset, UnsupportedTransform
from quantize.config.rules import FLOAT_TYPES
from quantize.config.schema import TopK, UnsupportedMetric
from quantize.data.steps import RANDOM
from quantize.errors import ConfigError

if TYPE_CHECKING:
    from quantize.config.configuration import Config

INC_STRATEGIES = frozenset({"basic", "bayesian", "exhaustive", "random", "mse_v2"})
"""INC's own loops that run in INC 2.6."""

_DEAD_STRATEGIES = {
    "mse": "fails on every network with a Relu",
    "hawq_v2": "calls a method that does not exist",
    "tpe": "imports a package that INC does not bring",
    "sigopt": "imports a package that INC does not bring",
    "auto": "is not offered here",
    "auto_mixed_precision": "mixes float formats, which is not int8",
    "conservative": "is not offered here",
}
_FOREIGN = (
    "graph_optimization", "mixed_precision", "model_conversion", "pruning", "distillation",
    "auto_distillation", "nas", "train",
)  # fmt: skip


@dataclass(frozen=True)
class Lack:
    """One reason why `tune` refuses a configuration.

    Attributes:
        what: key, value and reason.
        cure: what to do, as an imperative.
    """

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}"


def lacks(
    config: Config, *, calibration_given: bool = False, evaluation_given: bool = False
) -> tuple[Lack, ...]:
    """Everything that keeps a configuration from being tuned.

    Args:
        config: what was loaded.
        calibration_given: calibration images come from the caller, who needs no dataset then;
            transforms apply all the same.
        evaluation_given: likewise for the images of search and verdict.
    """
    return (
        *_job(config),
        *_goal(config),
        *_images(config, calibration_given, evaluation_given),
        *_search(config),
        *_ranges(config),
    )


def check_tunable(
    config: Config, *, calibration_given: bool = False, evaluation_given: bool = False
) -> None:
    """Refuse a configuration that `tune` cannot do, before anything is read or computed.

    Args:
        config: what was loaded.
        calibration_given: as in `lacks`.
        evaluation_given: as in `lacks`.

    Raises:
        ConfigError: the first lack; the message counts the others.
    """
    found = lacks(config, calibration_given=calibration_given, evaluation_given=evaluation_given)
    if found:
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(f"{config.origin}: {found[0].what}{others}", found[0].cure)


def _job(config: Config) -> Iterator[Lack]:
    """What is asked for at all."""
    quantization = config.quantization
    try:
        config.format()
    except ConfigError as error:
        yield Lack(error.message.removeprefix(f"{config.origin}: "), error.cure)
    if quantization.approach != "post_training_static_quant":
        yield Lack(
            f"quantization.approach {quantization.approach} is not static quantization",
            "write post_training_static_quant",
        )
    if config.document.device == "gpu":
        yield Lack("device gpu: int8 files are made and judged on the CPU", "write cpu")
    for section in _FOREIGN:
        if getattr(config.document, section) is not None:
            yield Lack(f"{section} is not done here", f"remove {section}")
    for key in ("train", "advance"):
        if getattr(quantization, key) is not None:
            yield Lack(f"quantization.{key} is not done here", f"remove quantization.{key}")
    for name in ("weight", "activation"):
        rule = getattr(quantization.model_wise, name)
        if rule is not None and rule.dtype and FLOAT_TYPES.issuperset(rule.dtype):
            yield Lack(
                f"quantization.model_wise.{name}.dtype keeps every node in float", "allow int8"
            )


def _goal(config: Config) -> Iterator[Lack]:
    """What would have to be judged."""
    accuracy, criterion = config.evaluation.accuracy, config.tuning.accuracy_criterion
    metric = accuracy.metric
    if isinstance(metric, UnsupportedMetric):
        yield Lack(f"evaluation.accuracy.metric {metric.name} is for another task", "write topk: 1")
    if accuracy.multi_metrics is not None:
        yield Lack("evaluation.accuracy.multi_metrics has no verdict", "write metric: {topk: 1}")
    if isinstance(metric, TopK) and 1 not in metric.k:
        yield Lack(
            "evaluation.accuracy.metric topk 5: the verdict is on top-1, top-5 is reported too",
            "write topk: 1 or topk: [1, 5]",
        )
    transform = accuracy.postprocess.transform
    for key, kept in (
        ("Collect", transform.collect),
        ("SquadV1", transform.squad_v1),
        ("SquadV1ModelZoo", transform.squad_v1_model_zoo),
    ):
        if kept is not None:
            yield Lack(f"evaluation.accuracy.postprocess {key} is for another task", "remove it")
    if not criterion.higher_is_better:
        yield Lack(
            "tuning.accuracy_criterion.higher_is_better is false, but accuracy is judged",
            "write true",
        )
    if criterion.absolute is not None and criterion.absolute >= 1:
        yield Lack(
            f"tuning.accuracy_criterion.absolute {criterion.absolute:g} allows any drop",
            "write a ratio: 0.01 is one point of top-1",
        )


def _images(config: Config, calibration_given: bool, evaluation_given: bool) -> Iterator[Lack]:
    """Where the images come from, and what is done to them."""
    calibration = config.quantization.calibration.dataloader
    accuracy, holdout = config.evaluation.accuracy.dataloader, config.evaluation.holdout
    if calibration is None and not calibration_given:
        yield Lack("quantization.calibration.dataloader is missing", "add it")
    if accuracy is None and holdout is None and not evaluation_given:
        yield Lack("evaluation.accuracy.dataloader is missing", "add it")
    for key, loader, given in (
        ("quantization.calibration.dataloader", calibration, calibration_given),
        ("evaluation.accuracy.dataloader", accuracy, evaluation_given),
        ("evaluation.holdout", holdout, False),
    ):
        if loader is not None:
            yield from () if given else _dataset(key, loader)
            yield from _transforms(key, loader)


def _dataset(key: str, loader: DataLoader) -> Iterator[Lack]:
    if isinstance(loader.dataset, UnsupportedDataset):
        yield Lack(
            f"{key}.dataset {loader.dataset.name} is not read", "use ImageFolder or ImagenetRaw"
        )
    if loader.filter.label_balance is not None:
        yield Lack(f"{key}.filter is for object detection", "remove it")


def _transforms(key: str, loader: DataLoader) -> Iterator[Lack]:
    for transform in loader.transforms:
        name = type(transform).__name__
        if isinstance(transform, UnsupportedTransform):
            name = f"{transform.name} {transform.options}"
            yield Lack(f"{key}.transform {name} is not read", "remove it")
        elif isinstance(transform, RANDOM) or getattr(transform, "random_crop", False):
            yield Lack(f"{key}.transform {name} is random: no result would repeat", "remove it")


def _search(config: Config) -> Iterator[Lack]:
    """How candidates are searched."""
    tuning = config.tuning
    strategy = tuning.strategy
    inc_runs = strategy.name in INC_STRATEGIES
    if strategy.name in _DEAD_STRATEGIES:
        yield Lack(
            f"tuning.strategy.name {strategy.name} {_DEAD_STRATEGIES[strategy.name]} (INC 2.6)",
            f"write guided or one of {', '.join(sorted(INC_STRATEGIES))}",
        )
    if inc_runs and config.quantization.engine == "onnxruntime":
        yield Lack(
            f"tuning.strategy.name {strategy.name} is a loop of INC's, "
            "quantization.engine is onnxruntime",
            "write guided, or engine: inc",
        )
    if config.quantization.portable and (inc_runs or config.quantization.engine == "inc"):
        yield Lack(
            "quantization.portable is true, but INC cannot be told which weights go together",
            "write guided and engine: auto, or reduce_range: true instead",
        )
    if not inc_runs and (strategy.accuracy_weight, strategy.latency_weight) != (1.0, 1.0):
        yield Lack(
            f"tuning.strategy {strategy.name} weighs nothing",
            "remove accuracy_weight and latency_weight",
        )
    if not inc_runs and (tuning.objective != "performance" or tuning.multi_objectives):
        yield Lack(
            f"tuning.strategy {strategy.name} has one objective, performance",
            "remove objective and multi_objectives",
        )
    if tuning.workspace.resume is not None:
        yield Lack(
            "tuning.workspace.resume is a pickle that INC would execute",
            "remove it: a run with the same inputs continues by itself",
        )


def _ranges(config: Config) -> Iterator[Lack]:
    """Ranges of the least squared error: not INC's, and not of single operators."""
    inc = config.quantization.engine == "inc" or config.tuning.strategy.name in INC_STRATEGIES
    for rule in config.op_rules():
        if rule.activation is None or "mse" not in rule.activation.algorithm:
            continue
        if rule.scope != "model":
            yield Lack(
                f"quantization.{rule.scope}_wise {rule.pattern!r} asks activation algorithm mse, "
                "which is the whole model's",
                "ask it in quantization.model_wise",
            )
        elif inc:
            yield Lack(
                "quantization.model_wise.activation.algorithm mse is none of INC's",
                "write guided and engine: auto, or minmax, kl or percentile",
            )
