"""From the configuration to plans: which engine can do what is asked, and what is tried."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from quantize.config import INC_STRATEGIES, Config
from quantize.config.rules import FLOAT_TYPES, OpRule, matching, pinned_float
from quantize.config.tunable import Lack
from quantize.engines import inc
from quantize.errors import ConfigError
from quantize.graph.activations import must_stay
from quantize.plan import EngineName, Granularity, Method, Plan, Scheme

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

AT_ONCE = ("bias", "ranges")
"""Repairs of the first candidate: they take next to no time and leave the graph as it is."""


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
    asked = config.quantization
    # INC is told the algorithm by the rules themselves.
    method = "minmax" if engine == "inc" else method_of(rules)
    scheme = Scheme(granularity_of(rules), method, asked.reduce_range, asked.portable)
    return Plan(engine, config.format(), scheme, keep_float=pins)


def equipped(plain: Plan, config: Config) -> Plan:
    """The plain candidate with `AT_ONCE`, except ranges other than those that were asked for."""
    rules = [rule.activation for rule in config.op_rules() if rule.activation]
    given = any(name != "placeholder" for rule in rules for name in rule.algorithm)
    repairs = tuple(name for name in AT_ONCE if name != "ranges" or not given)
    return replace(plain, repairs=repairs, walked=0)


def granularity_of(rules: Sequence[OpRule]) -> Granularity:
    """How many scales the weights have: one a channel, unless the rules for all allow but one."""
    wide = next((rule.weight for rule in rules if rule.scope == "model"), None)
    return "per_tensor" if wide and wide.granularity == ("per_tensor",) else "per_channel"


def method_of(rules: Sequence[OpRule]) -> Method:
    """How the ranges of all activations follow: min-max where the rules allow it.

    Of several others that they allow for the whole model it is the first.
    """
    allowed = _algorithms(rules)
    return "minmax" if "minmax" in allowed or not allowed else allowed[0]


def _algorithms(rules: Sequence[OpRule]) -> list[Method]:
    """What the rules allow for the ranges of the whole model; nothing where they do not say."""
    wide = next((rule.activation for rule in rules if rule.scope == "model"), None)
    return [name for name in (wide.algorithm if wide else ()) if name != "placeholder"]


def beyond_onnxruntime(rules: Sequence[OpRule]) -> Lack | None:
    """What the rules ask that onnxruntime's quantizer has no setting for, or None.

    It writes int8 symmetric weights and uint8 asymmetric activations, the ranges of all of them
    found by one method, per channel or per tensor for the whole model; nodes can stay float.
    """
    method = method_of(rules)
    chosen: Mapping[tuple[str, str], frozenset[object]] = {
        ("activation", "algorithm"): frozenset({method}),
        ("weight", "granularity"): frozenset({granularity_of(rules)}),
    }
    for rule in rules:
        where = {"model": "model_wise", "optype": "optype_wise", "op": "op_wise"}[rule.scope]
        for part, options in (("weight", rule.weight), ("activation", rule.activation)):
            for key, always in _OFFERED[part].items():
                ranges = (part, key) == ("activation", "algorithm")
                offered = chosen.get((part, key), always)
                wanted = getattr(options, key, ())
                if wanted and not offered & set(wanted):
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
        "granularity": frozenset(),  # that of the whole model
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
