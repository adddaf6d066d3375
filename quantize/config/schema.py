"""INC's 1.x schema and this package's additions, as frozen values: the only place with defaults."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

from quantize.config.complaints import expected, fault, unknown
from quantize.config.fields import (
    Flags,
    Names,
    Number,
    Numbers,
    Ratio,
    Sizes,
    Text,
    Whole,
    list_of,
    one_of,
    to_number,
)
from quantize.config.loaders import DataLoader
from quantize.config.rules import OpOptions, OpRule, build_rules, rules_tree
from quantize.config.section import Section

Framework = Literal[
    "onnxrt_qdq", "onnxrt_qdqops", "onnxrt_qlinearops", "onnxrt_qoperator", "onnxrt_integerops",
    "onnxruntime", "tensorflow", "tensorflow_itex", "inteltensorflow", "keras", "mxnet",
    "pytorch", "pytorch_fx", "pytorch_ipex", "engine", "NA",
]  # fmt: skip
Approach = Literal[
    "post_training_static_quant",
    "post_training_dynamic_quant",
    "post_training_auto_quant",
    "quant_aware_training",
]
Engine = Literal["auto", "inc", "onnxruntime"]
StrategyName = Literal[
    "guided", "basic", "bayesian", "exhaustive", "random", "mse_v2",
    "mse", "tpe", "sigopt", "hawq_v2", "auto", "auto_mixed_precision", "conservative",
]  # fmt: skip
Objective = Literal["performance", "modelsize", "footprint", "accuracy"]

Count = Annotated[Whole, Field(gt=0)]
Share = Annotated[Ratio, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Unsupported:
    """A part of INC's schema that does something else than quantize a classifier.

    Attributes:
        options: what stood there, as JSON.
    """

    options: str


def _keep(value: Any) -> Unsupported | None:
    empty = value is None or value == {}
    return None if empty else Unsupported(json.dumps(value, default=str))


Foreign = Annotated[
    Unsupported | None,
    PlainValidator(_keep),
    PlainSerializer(lambda kept: kept and json.loads(kept.options)),
]


# -------------------------------------------------------------------------------- model


class Model(Section):
    """What the model is called, and which kind of file comes out.

    Attributes:
        name: free text.
        framework: decides the format of the int8 file, see `Config.format`.
        inputs: names, informative.
        outputs: names, informative.
    """

    name: Text
    framework: Annotated[Framework, one_of(Framework)]
    inputs: Names = ()
    outputs: Names = ()


# ------------------------------------------------------------------------- quantization


class Calibration(Section):
    """Which images tell the ranges of the activations.

    Attributes:
        sampling_size: numbers of images; INC's loops try them in order, `guided` takes the
            largest.
        dataloader: where the images come from.
    """

    sampling_size: Sizes = (100,)
    dataloader: DataLoader | None = None


class Recipes(Section):
    """INC's switches for its own engine."""

    scale_propagation_max_pooling: bool = True
    scale_propagation_concat: bool = True
    first_conv_or_matmul_quantization: bool = True
    last_conv_or_matmul_quantization: bool = True
    pre_post_process_quantization: bool = True
    fast_bias_correction: bool = False
    weight_correction: bool = False


OpType = Annotated[
    tuple[OpRule, ...],
    PlainValidator(functools.partial(build_rules, "optype")),
    PlainSerializer(rules_tree),
]
OpName = Annotated[
    tuple[OpRule, ...],
    PlainValidator(functools.partial(build_rules, "op")),
    PlainSerializer(rules_tree),
]


class Quantization(Section):
    """How the model is quantized.

    Attributes:
        approach: only static quantization after training is done here.
        engine: who writes candidates; `auto` is onnxruntime with repairs, then INC's default
            candidate where it imports.
        reduce_range: 7-bit weights, for CPUs without VNNI.
        portable: weights that give the same sums on CPUs without VNNI, at the least loss.
        calibration: images for the ranges.
        recipes: INC's switches.
        model_wise, optype_wise, op_wise: constraints, the later the stronger.
        quant_level, advance, train: of other INC versions and of training.
    """

    approach: Annotated[Approach, one_of(Approach)] = "post_training_static_quant"
    engine: Annotated[Engine, one_of(Engine)] = "auto"
    reduce_range: bool = False
    portable: bool = False
    calibration: Calibration = Calibration()
    recipes: Recipes = Recipes()
    model_wise: OpOptions = OpOptions()
    optype_wise: OpType = ()
    op_wise: OpName = ()
    quant_level: Foreign = None
    advance: Foreign = None
    train: Foreign = None


# --------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class TopK:
    """Share of images whose label is among the best k classes.

    Attributes:
        k: the values of k to report, 1 or 5 or both.
    """

    k: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class UnsupportedMetric:
    """A metric of INC's for another task.

    Attributes:
        name: as in the YAML.
        options: what stood below it, as JSON.
    """

    name: str
    options: str


_FOREIGN_METRICS = (
    "Accuracy", "BLEU", "COCOmAP", "COCOmAPv2", "F1", "GLUE", "Loss", "MAE", "MSE", "RMSE",
    "ROC", "SquadF1", "VOCmAP", "mAP", "mIOU",
)  # fmt: skip


def _read_metric(value: Any) -> TopK | UnsupportedMetric:
    if isinstance(value, TopK | UnsupportedMetric):
        return value
    if value is None or value == {}:
        return TopK()
    if not isinstance(value, Mapping) or len(value) != 1:
        raise expected("one metric, such as topk: 1", value)
    name = next(iter(value))
    if name == "topk":
        return TopK(_read_k(value[name]))
    if name in _FOREIGN_METRICS:
        return UnsupportedMetric(name, json.dumps(value[name], default=str))
    raise unknown(name, ("topk", *_FOREIGN_METRICS))


def _read_k(value: Any) -> tuple[int, ...]:
    try:
        found = list_of(to_number, "1, 5 or [1, 5]")(value)
    except ValueError:
        found = ()
    if not found or not set(found) <= {1, 5}:
        raise expected("1, 5 or [1, 5]", value, ("topk",))
    return tuple(int(k) for k in found)


def _metric_tree(metric: TopK | UnsupportedMetric) -> dict[str, Any]:
    if isinstance(metric, TopK):
        return {"topk": metric.k[0] if len(metric.k) == 1 else list(metric.k)}
    return {metric.name: json.loads(metric.options)}


class Configs(Section):
    """How many cores a measurement takes.

    Attributes:
        cores_per_instance: threads of the session, or None for all cores.
        num_of_instance: read, without effect.
        inter_num_of_threads, intra_num_of_threads, kmp_blocktime, kmp_affinity: of INC's
            other frameworks; read, without effect.
    """

    cores_per_instance: Count | None = None
    num_of_instance: Count = 1
    inter_num_of_threads: Count | None = None
    intra_num_of_threads: Count | None = None
    kmp_blocktime: Annotated[Whole, Field(ge=0)] | None = None
    kmp_affinity: str | None = None


class PostTransform(Section):
    """What is done to outputs and labels.

    Attributes:
        label_shift: subtracted from each label; the key is `LabelShift`.
        collect, squad_v1, squad_v1_model_zoo: for other tasks.
    """

    label_shift: Annotated[Whole, Field(ge=-(10**6), le=10**6)] = Field(
        default=0, alias="LabelShift"
    )
    collect: Foreign = Field(default=None, alias="Collect")
    squad_v1: Foreign = Field(default=None, alias="SquadV1")
    squad_v1_model_zoo: Foreign = Field(default=None, alias="SquadV1ModelZoo")


class Postprocess(Section):
    """What comes after the model."""

    transform: PostTransform = PostTransform()


Iteration = Annotated[Whole, Field(ge=-1)]


class Accuracy(Section):
    """How accuracy is measured.

    Attributes:
        metric: top-k, or one of INC's for other tasks.
        multi_metrics: several metrics at once; not for tuning.
        configs: cores.
        iteration: batches, -1 for all.
        dataloader: the images that search and verdict draw from.
        postprocess: holds the shift of the labels.
    """

    metric: Annotated[
        TopK | UnsupportedMetric, PlainValidator(_read_metric), PlainSerializer(_metric_tree)
    ] = TopK()
    multi_metrics: Foreign = None
    configs: Configs = Configs()
    iteration: Iteration = -1
    dataloader: DataLoader | None = None
    postprocess: Postprocess = Postprocess()

    @model_validator(mode="before")
    @classmethod
    def _one_kind_of_metric(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("metric") and data.get("multi_metrics"):
            raise fault("stands beside metric", "keep one of them", ("multi_metrics",))
        return data

    @property
    def label_shift(self) -> int:
        """What is subtracted from each label."""
        return self.postprocess.transform.label_shift


class Performance(Section):
    """How speed is measured.

    Attributes:
        warmup: runs before the first that counts.
        iteration: rounds that count, at most; -1 for 100.
        configs: cores.
        dataloader: read, without effect.
        postprocess: as for accuracy.
    """

    warmup: Annotated[Whole, Field(ge=0)] = 10
    iteration: Iteration = -1
    configs: Configs = Configs()
    dataloader: DataLoader | None = None
    postprocess: Postprocess = Postprocess()


class Evaluation(Section):
    """What the models are judged on.

    Attributes:
        accuracy: labelled images and metric.
        performance: speed.
        search_share: share of the evaluation images that the search may see (a ratio).
        holdout: images for the verdict alone.
        max_unreadable: share of images that may be unreadable (a ratio).
        cpus: further processors, emulated, that the goal has to hold on, such as `haswell`.
        cpus_timeout: seconds for all of them together.
    """

    accuracy: Accuracy = Accuracy()
    performance: Performance = Performance()
    search_share: Share = 0.2
    holdout: DataLoader | None = None
    max_unreadable: Annotated[Ratio, Field(ge=0, le=1)] = 0.01
    cpus: Names = ()
    cpus_timeout: Count = 300


# ------------------------------------------------------------------------------- tuning


def _hidden(value: Any) -> str | None:
    """A credential is never kept, since the effective configuration is written to disk."""
    return None if value is None else "not kept"


class Strategy(Section):
    """How candidates are searched.

    Attributes:
        name: `guided` is this package's, the others are INC's.
        accuracy_weight, latency_weight: read, without effect, with INC's loops.
        confidence_batches: of INC's `mse_v2`.
        sigopt_api_token, sigopt_project_id, sigopt_experiment_name, hawq_v2_loss: of
            strategies that do not run.
    """

    name: Annotated[StrategyName, one_of(StrategyName)] = "guided"
    accuracy_weight: Number = 1.0
    latency_weight: Number = 1.0
    confidence_batches: Count = 2
    sigopt_api_token: Annotated[str | None, BeforeValidator(_hidden)] = None
    sigopt_project_id: str | None = None
    sigopt_experiment_name: str = "nc-tune"
    hawq_v2_loss: Foreign = None


_GOALS = ("relative", "absolute", "agreement")


class AccuracyCriterion(Section):
    """The goal; exactly one of `relative`, `absolute` and `agreement` is not None.

    Attributes:
        relative: largest drop as a share of the float top-1 (a ratio).
        absolute: largest drop of top-1 (a ratio: 0.01 is one point).
        agreement: least share of images with equal answers (a ratio).
        higher_is_better: false for errors, which are no goal here.
        confidence: one-sided confidence asked of the verdict, or None for INC's point rule.
    """

    relative: Annotated[Ratio, Field(ge=0, lt=1)] | None = None
    absolute: Annotated[Ratio, Field(ge=0)] | None = None
    agreement: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    higher_is_better: bool = True
    confidence: Annotated[Ratio, Field(gt=0.5, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, data: Any) -> Any:
        data = {} if data is None else data
        if not isinstance(data, Mapping):
            return data
        given = [name for name in _GOALS if data.get(name) is not None]
        if len(given) > 1:
            raise fault(f"stands beside {given[0]}", "keep one of them", (given[1],))
        return data if given else {**data, "relative": 0.01}


class MultiObjectives(Section):
    """INC's weighted objectives."""

    objective: Names = ()
    weight: Numbers = ()
    higher_is_better: Flags = ()

    @model_validator(mode="after")
    def _equally_long(self) -> MultiObjectives:
        for name in ("weight", "higher_is_better"):
            values = getattr(self, name)
            if values and len(values) != len(self.objective):
                raise fault(
                    f"has {len(values)} values for {len(self.objective)} objectives",
                    "give one per objective",
                    (name,),
                )
        return self


class ExitPolicy(Section):
    """When the search ends.

    Attributes:
        timeout: seconds, 0 for no limit.
        max_trials: candidates.
        performance_only: INC's: take the first candidate.
    """

    timeout: Annotated[Whole, Field(ge=0)] = 0
    max_trials: Count = 100
    performance_only: bool = False


def _resolved(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value or "\0" in value:
        raise expected("a path", value)
    return (info.context["folder"] if info.context else Path.cwd()) / value


class Workspace(Section):
    """Where the run is kept.

    Attributes:
        path: the run folder, or None for one beside the output.
        resume: INC's pickled history, which is never opened.
    """

    path: Annotated[Path, BeforeValidator(_resolved), PlainSerializer(str)] | None = None
    resume: str | None = None


class Diagnosis(Section):
    """INC's tensor dumps; read, without effect."""

    diagnosis_after_tuning: bool = False
    op_list: Names = ()
    iteration_list: Sizes = (1,)
    inspect_type: Literal["all", "activation", "weight"] = "all"
    save_to_disk: bool = True
    save_path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, data: Any) -> Any:
        return {"diagnosis_after_tuning": data} if isinstance(data, bool) else data


class Tuning(Section):
    """What is to be reached, and how long to try.

    Attributes:
        strategy: how candidates are searched.
        accuracy_criterion: the goal.
        speed_floor: least ratio of float to int8 time, batch 1; 0 asks for none.
        objective: read, without effect, with INC's loops: the first acceptable candidate ends one.
        multi_objectives: likewise.
        exit_policy: when the search ends.
        random_seed: of how images are divided, and of INC's loops.
        workspace: where the run is kept.
        tensorboard: read, without effect.
        diagnosis: read, without effect.
    """

    strategy: Strategy = Strategy()
    accuracy_criterion: AccuracyCriterion = AccuracyCriterion()
    speed_floor: Annotated[Number, Field(ge=0)] = 1.1
    objective: Annotated[Objective, one_of(Objective)] = "performance"
    multi_objectives: MultiObjectives | None = None
    exit_policy: ExitPolicy = ExitPolicy()
    random_seed: Annotated[Whole, Field(ge=0)] = 1978
    workspace: Workspace = Workspace()
    tensorboard: bool = False
    diagnosis: Diagnosis = Diagnosis()


# ------------------------------------------------------------------------- the document


def _read_version(value: Any) -> float:
    try:
        version = to_number(value)
    except (ValueError, TypeError, OverflowError):
        version = 0.0
    if not 1 <= version < 3:
        raise expected("1.0", value)
    return version


class Document(Section):
    """The whole file."""

    version: Annotated[float, PlainValidator(_read_version)] = 1.0
    model: Model
    device: Annotated[Literal["cpu", "gpu"], one_of(Literal["cpu", "gpu"])] = "cpu"
    quantization: Quantization = Quantization()
    evaluation: Evaluation = Evaluation()
    tuning: Tuning = Tuning()
    use_bf16: bool = False
    graph_optimization: Foreign = None
    mixed_precision: Foreign = None
    model_conversion: Foreign = None
    pruning: Foreign = None
    distillation: Foreign = None
    auto_distillation: Foreign = None
    nas: Foreign = None
    train: Foreign = None
