"""Making int8 files: which plans to try, and who writes each."""

from __future__ import annotations

import copy
import hashlib
import logging
import shutil
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantize.calibrate import calibrate
from quantize.config import INC_STRATEGIES, Config
from quantize.config.rules import FLOAT_TYPES, OpRule, matching, pinned_float
from quantize.config.tunable import Lack
from quantize.engines import inc, ort
from quantize.engines.refill import refilled, shape_of
from quantize.errors import ConfigError
from quantize.files import make_folder, npz_bytes, write_atomic
from quantize.graph import io
from quantize.graph.activations import must_stay
from quantize.graph.descriptions import without_descriptions
from quantize.graph.head import restore_signature
from quantize.graph.order import sort_nodes
from quantize.graph.prepare import Prepared
from quantize.graph.shield import shield_float_layers
from quantize.graph.strides import advance
from quantize.graph.widen import widen
from quantize.job import Job
from quantize.journal import STATISTICS
from quantize.plan import Encodings, EngineName, Granularity, Method, Plan, Scheme, Statistics
from quantize.remedies import Repairs, at_work, plain_encodings, repair, rounded_from, walks
from quantize.repair.bench import WALKED, Bench
from quantize.runtime import cores
from quantize.statistics_store import load_or_calibrate
from quantize.versions import versions

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Workshop:
    """Writes the int8 file of a plan.

    Attributes:
        job: the inputs.
        prepared: the working copy of the float model.
        folder: where candidates go.
    """

    job: Job
    prepared: Prepared
    folder: Path
    _repairs: dict[str, Repairs] = field(default_factory=dict)
    _written: dict[Hashable, onnx.ModelProto] = field(default_factory=dict)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the calibration images: measured once, when first needed, and kept on disk."""
        images, model = self.job.calibration, self.prepared.model
        parts = {
            "model": hashlib.sha256(io.to_bytes(model)).hexdigest(),
            "images": [sample.digest for sample in images.samples],
            "preprocessing": images.pipeline.key(),
            "versions": versions(),
        }
        return load_or_calibrate(
            self.folder.parent / STATISTICS,
            parts,
            lambda: calibrate(model, images.arrays(), threads=cores()),
        )

    @cached_property
    def prepared_file(self) -> Path:
        """The working copy as a file, for engines that read files."""
        path = self.folder / "prepared.onnx"
        io.save(self.prepared.model, path)
        return path

    def make(self, plan: Plan) -> Path:
        """Write the plan's int8 model, with the float file's signature.

        Raises:
            EngineError: the engine failed.
        """
        made = self._by_inc(plan) if plan.engine == "inc" else self._by_onnxruntime(plan)
        return self.finish(made, f"{plan.key}.onnx")

    def see_images(self, plan: Plan) -> None:
        """Do now what `make` would first do: all that it needs images for.

        Raises:
            QuantizeError: of the images; BudgetError among them.
        """
        _ = self._bench if plan.repairs or plan.scheme.portable else self.statistics

    def finish(self, made: onnx.ModelProto, name: str) -> Path:
        """Give an engine's model the declared signature and write it."""
        path = self.folder / name
        io.save(finished(made, self.job.model.proto), path)
        return path

    def encodings(self, plan: Plan) -> Encodings:
        """The scales, and what the plan's repairs decide.

        Raises:
            EngineError: a repair is unknown.
            ModelError: a node cannot be run by itself.
        """
        if plan.repairs:
            plan = at_work(self._bench, plan)
        if not plan.repairs and not plan.scheme.portable:
            method = plan.scheme.method
            return plain_encodings(self.prepared.model, self.statistics, method)
        if plan.keep_float and walks(plan):
            return repair(self._bench, plan).encodings
        wanted = replace(plan, keep_float=())
        if wanted.key not in self._repairs:
            self._repairs[wanted.key] = repair(self._bench, wanted)
        return self._repairs[wanted.key].leaving(plan.keep_float)

    def rounded_from(self, plan: Plan) -> tuple[onnx.ModelProto, Statistics | None]:
        """The float model whose weights the plan rounds, and the statistics of its tensors.

        None stands for statistics that INC took by itself.
        """
        if plan.engine == "inc":
            return self.prepared.model, None
        if not plan.repairs:
            return self.prepared.model, self.statistics
        return rounded_from(self._bench, plan)

    @cached_property
    def _bench(self) -> Bench:
        few = self.job.calibration.spread(WALKED)
        return Bench(
            self.prepared.model,
            self.statistics,
            np.concatenate(list(few.arrays())),
            cores(),
            frozenset(base_plan("onnxruntime", self.job.config, self.prepared.model).keep_float),
            self.job.calibration.deadline,
        )

    def _by_onnxruntime(self, plan: Plan) -> onnx.ModelProto:
        encodings = self.encodings(plan)
        kept = replace(encodings, source=self.job.model.sha256)
        write_atomic(self.folder / f"{plan.key}.npz", npz_bytes(kept.to_arrays()))
        form = plan.format, plan.scheme, plan.keep_float, shape_of(encodings)
        if form in self._written:
            again = refilled(self._written[form], encodings)
            if again is not None:
                return again
        made = ort.quantize(self.prepared.model, self.statistics, plan, encodings)
        if encodings.constants:  # else the weights are rounded by the quantizer's own scales
            self._written.clear()  # one is enough: candidates of one graph follow each other
            self._written[form] = copy.deepcopy(made)
        return made

    def _by_inc(self, plan: Plan) -> onnx.ModelProto:
        folder = self.folder / f"inc-{plan.key}"
        make_folder(folder)
        try:
            path = inc.quantize_default(
                self.prepared_file,
                self.job.calibration.arrays(),
                plan,
                folder,
                rules=inc_rules(self.job.config, self.prepared.model),
                deadline=self.job.calibration.deadline,
            )
            return io.load(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def finished(made: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """An engine's model as it ships: sorted, made quick, shielded, with the declared signature.

    Nothing in it says where the float model was made.
    """
    sort_nodes(made.graph)
    advance(made)
    widen(made)
    shield_float_layers(made)
    restore_signature(made, original)
    without_descriptions(made)
    return made


def engine_of(config: Config) -> EngineName | None:
    """The one engine that was asked for, or None for whatever is best.

    Raises:
        EngineError: INC was asked for and cannot be imported; the message says how to install it.
    """
    if config.quantization.engine == "inc":
        inc.require()
        return "inc"
    return "onnxruntime" if config.quantization.engine == "onnxruntime" else None


def plans(config: Config, model: onnx.ModelProto) -> tuple[Plan, ...]:
    """The guided strategy's candidates, cheapest first.

    Rung 1 is onnxruntime's quantizer on ranges that we measured, unless the rules ask what only
    INC can do.
    Intel Neural Compressor's default candidate, where it can be imported, calibrates by itself in
    a process of its own, so it comes last.

    Raises:
        EngineError: INC was asked for and cannot be imported.
        ConfigError: a rule matches no node, or asks what the engine cannot do.
    """
    asked = engine_of(config)
    if asked is None and _beyond_inc(config):
        asked = "onnxruntime"
    engines: list[EngineName] = [asked] if asked else ["onnxruntime", "inc"]
    if asked is None and (reason := inc.available()) is not None:
        log.info("without Intel Neural Compressor: %s", reason)
        engines = ["onnxruntime"]
    beyond = beyond_onnxruntime(config.op_rules())
    if beyond and engines == ["onnxruntime"]:
        raise ConfigError(
            f"{config.origin}: {beyond.what}, which the onnxruntime engine cannot do", beyond.cure
        )
    return tuple(
        base_plan(engine, config, model)
        for engine in engines
        if not (beyond and engine == "onnxruntime")
    )


def _beyond_inc(config: Config) -> bool:
    """Whether INC cannot be told all: which weights go together, or ranges that it has not."""
    wide = config.quantization.model_wise.activation
    return config.quantization.portable or (wide is not None and "mse" in wide.algorithm)


def check_plans(config: Config, model: onnx.ModelProto) -> None:
    """Refuse what the configured search would stumble over, before anything is written.

    Raises:
        EngineError: INC was asked for and cannot be imported.
        ConfigError: a rule matches no node, or asks what the engine cannot do.
    """
    if config.tuning.strategy.name in INC_STRATEGIES:
        inc.require()
        base_plan("inc", config, model)
    else:
        plans(config, model)


def base_plan(engine: EngineName, config: Config, model: onnx.ModelProto) -> Plan:
    """The plain candidate of one engine: what the configuration asks, nothing repaired."""
    rules = config.op_rules()
    pins = pinned_float(rules, ((n.name, n.op_type) for n in model.graph.node))
    if engine == "inc":  # it cannot be told otherwise which Relu and Clip it would lose
        pins = tuple(sorted({*pins, *must_stay(model, passing_on=True)}))
    wide = next((rule.weight for rule in rules if rule.scope == "model"), None)
    granularity: Granularity = (
        "per_tensor" if wide and wide.granularity == ("per_tensor",) else "per_channel"
    )
    asked = config.quantization
    # INC is told the algorithm by the rules themselves.
    method = "minmax" if engine == "inc" else method_of(rules)
    scheme = Scheme(granularity, method, asked.reduce_range, asked.portable)
    return Plan(engine, config.format(), scheme, keep_float=pins)


def method_of(rules: Sequence[OpRule]) -> Method:
    """How the ranges of all activations follow: min-max where the rules allow it.

    Of several others that they allow for the whole model it is the first.
    """
    wide = next((rule.activation for rule in rules if rule.scope == "model"), None)
    allowed = [name for name in (wide.algorithm if wide else ()) if name != "placeholder"]
    return "minmax" if "minmax" in allowed or not allowed else allowed[0]


def beyond_onnxruntime(rules: Sequence[OpRule]) -> Lack | None:
    """What the rules ask that onnxruntime's quantizer has no setting for, or None.

    It writes int8 symmetric weights and uint8 asymmetric activations, the ranges of all of them
    found by one method, per channel or per tensor for the whole model; nodes can stay float.
    """
    method = method_of(rules)
    for rule in rules:
        where = {"model": "model_wise", "optype": "optype_wise", "op": "op_wise"}[rule.scope]
        for part, options in (("weight", rule.weight), ("activation", rule.activation)):
            for key, always in _OFFERED[part].items():
                ranges = (part, key) == ("activation", "algorithm")
                offered = frozenset({method}) if ranges else always
                wanted = getattr(options, key, ())
                wide = rule.scope == "model" and key == "granularity"
                if wanted and not offered & set(wanted) and not wide:
                    asks = f"quantization.{where} {rule.pattern!r} asks {part} {key} {wanted[0]}"
                    return _other_method(asks, rule, method) if ranges else Lack(asks, _REMOVE)
    return None


_REMOVE = "remove it, or use quantization.engine inc"


def _other_method(asks: str, rule: OpRule, method: Method) -> Lack:
    """Ranges by a method that is not the whole model's, or that nobody has."""
    if rule.scope == "model":
        return Lack(asks, "write minmax, kl, percentile or mse, or use quantization.engine inc")
    return Lack(
        f"{asks} where all others have {method}",
        "ask it of all in quantization.model_wise, or use quantization.engine inc",
    )


_OFFERED: Mapping[str, Mapping[str, frozenset[object]]] = {
    "weight": {
        "dtype": frozenset({"int8", *FLOAT_TYPES}),
        "granularity": frozenset({"per_channel"}),
        "scheme": frozenset({"sym"}),
        "algorithm": frozenset({"minmax"}),
        "bit": frozenset(),
    },
    "activation": {
        "dtype": frozenset({"uint8", *FLOAT_TYPES}),
        "granularity": frozenset({"per_tensor"}),
        "scheme": frozenset({"asym"}),
        "algorithm": frozenset(),  # that of the whole model
    },
}


def inc_rules(config: Config, model: onnx.ModelProto) -> inc.Rules:
    """The configuration's rules and recipes in INC's form.

    Patterns become plain names: INC would match them with a machine that a pattern can stall.

    Raises:
        ConfigError: a pattern matches no node.
    """
    nodes = [(node.name, node.op_type) for node in model.graph.node]
    kinds = dict(nodes)
    types: dict[str, dict[str, dict[str, list[str | int]]]] = {}
    names: dict[str, dict[str, dict[str, list[str | int]]]] = {}
    for rule in config.op_rules():
        found = matching(rule, nodes)
        target = names if rule.scope == "op" else types
        keys = found if rule.scope == "op" else sorted({kinds[name] for name in found})
        for key in keys:
            for part, options in _inc_options(rule).items():
                target.setdefault(key, {}).setdefault(part, {}).update(options)
    return inc.Rules(types, names, config.quantization.recipes.model_dump())


def _inc_options(rule: OpRule) -> dict[str, dict[str, list[str | int]]]:
    return {
        part: {key: list(values) for key, values in options.model_dump().items() if values}
        for part, options in (("weight", rule.weight), ("activation", rule.activation))
        if options is not None
    }
