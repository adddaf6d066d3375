"""`model_wise`, `optype_wise`, `op_wise`: what a configuration asks of single operators."""

from __future__ import annotations

import difflib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationError

from quantize.config.complaints import expected, fault, lowered_into
from quantize.config.fields import Numbers, choices
from quantize.config.patterns import Pattern
from quantize.config.section import Section
from quantize.errors import ConfigError

logger = logging.getLogger(__name__)

Scope = Literal["model", "optype", "op"]
DType = Literal["int8", "uint8", "fp32", "bf16", "fp16"]
ComputeType = Literal["int8", "uint8", "fp32", "bf16", "None"]
Granularity = Literal["per_channel", "per_tensor"]
Symmetry = Literal["asym", "sym", "asym_float"]
WeightAlgorithm = Literal["minmax", "kl"]
ActivationAlgorithm = Literal["minmax", "kl", "placeholder", "percentile", "mse"]

FLOAT_TYPES = frozenset({"fp32", "bf16", "fp16"})

_INC_SUFFIX = re.compile(r"(?<!\\)(_MatMul|_Add|_quant|_nc_rename_[0-9]+)+$")


def _bits(bits: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 < bit <= 7 for bit in bits):
        raise expected("numbers above 0 and at most 7", list(bits))
    return bits


class WeightRule(Section):
    """What weights may be; an empty tuple leaves the choice open.

    Attributes:
        dtype: allowed types; only float ones pin the node to float.
        granularity: one scale per output channel or per tensor.
        scheme: zero point at zero or free.
        algorithm: how the range follows from the values.
        bit: INC's saturation width, 0 to 7.
    """

    dtype: Annotated[tuple[DType, ...], choices(DType)] = ()
    granularity: Annotated[tuple[Granularity, ...], choices(Granularity)] = ()
    scheme: Annotated[tuple[Symmetry, ...], choices(Symmetry)] = ()
    algorithm: Annotated[tuple[WeightAlgorithm, ...], choices(WeightAlgorithm)] = ()
    bit: Annotated[Numbers, AfterValidator(_bits)] = ()


class ActivationRule(Section):
    """What activations may be; an empty tuple leaves the choice open.

    Attributes:
        dtype, granularity, scheme, algorithm: as for weights.
        compute_dtype: PyTorch's; read, without effect.
    """

    dtype: Annotated[tuple[DType, ...], choices(DType)] = ()
    granularity: Annotated[tuple[Granularity, ...], choices(Granularity)] = ()
    scheme: Annotated[tuple[Symmetry, ...], choices(Symmetry)] = ()
    algorithm: Annotated[tuple[ActivationAlgorithm, ...], choices(ActivationAlgorithm)] = ()
    compute_dtype: Annotated[tuple[ComputeType, ...], choices(ComputeType)] = ()


class OpOptions(Section):
    """What one scope asks of its operators."""

    weight: WeightRule | None = None
    activation: ActivationRule | None = None


@dataclass(frozen=True)
class OpRule:
    """One rule on a set of nodes. A narrower scope overrides a wider one, key by key.

    Attributes:
        scope: all nodes, those of an operator type, or those of a name.
        pattern: regular expression that the whole operator type or node name matches.
        weight: what it asks of weights, or None.
        activation: what it asks of activations, or None.
    """

    scope: Scope
    pattern: str
    weight: WeightRule | None = None
    activation: ActivationRule | None = None


def build_rules(scope: Scope, value: Any) -> tuple[OpRule, ...]:
    """Read `optype_wise` or `op_wise`: a mapping of patterns to options.

    Raises:
        PydanticCustomError: the mapping or a pattern is faulty.
    """
    if value is None or isinstance(value, tuple):
        return value or ()
    if not isinstance(value, Mapping):
        raise expected("patterns with options below them", value)
    rules: list[OpRule] = []
    for pattern, options in value.items():
        try:
            Pattern(pattern)
            read = OpOptions.model_validate(options)
        except ValidationError as error:
            raise lowered_into(error, (pattern,)) from error
        except ValueError as error:
            raise fault(str(error), "correct the pattern", (pattern,)) from error
        rules.append(OpRule(scope, pattern, read.weight, read.activation))
    return tuple(rules)


def rules_tree(rules: Iterable[OpRule]) -> dict[str, Any]:
    """The mapping that `build_rules` reads."""
    return {
        rule.pattern: {
            name: options.model_dump(mode="json", exclude_defaults=True)
            for name, options in (("weight", rule.weight), ("activation", rule.activation))
            if options is not None
        }
        for rule in rules
    }


def pinned_float(rules: Sequence[OpRule], nodes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The nodes that the rules keep in float.

    A node is pinned where the narrowest rule on the type of its weight or of its activation
    allows float types only. Names are matched whole, and INC's own names for a node match it
    too: `X_MatMul` and `X_Add` for a Gemm called X, `X_quant`, and `Conv_nc_rename_3` for an
    unnamed Conv that is the fourth node.

    Args:
        rules: `Config.op_rules()`, the widest scope first.
        nodes: name and operator type of each node, in the model's order.

    Returns:
        Names, in the model's order.

    Raises:
        ConfigError: an `op_wise` pattern matches no node.
    """
    graph = tuple(nodes)
    types: dict[tuple[int, str], tuple[str, ...]] = {}
    for rule in rules:
        for index in _matched(rule, graph):
            for kind, options in (("weight", rule.weight), ("activation", rule.activation)):
                if options is not None and options.dtype:
                    types[index, kind] = options.dtype
    pinned = {index for (index, _), dtypes in types.items() if FLOAT_TYPES.issuperset(dtypes)}
    return tuple(name for index, (name, _) in enumerate(graph) if index in pinned)


def matching(rule: OpRule, nodes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Names of the nodes that a rule speaks of, in the model's order; matched in linear time.

    Args:
        rule: one of `Config.op_rules()`.
        nodes: name and operator type of each node, in the model's order.

    Raises:
        ConfigError: an `op_wise` pattern matches no node.
    """
    graph = tuple(nodes)
    return tuple(graph[index][0] for index in sorted(_matched(rule, graph)))


def _matched(rule: OpRule, graph: tuple[tuple[str, str], ...]) -> set[int]:
    """Indices of the nodes that a rule speaks of."""
    if rule.scope == "model":
        return set(range(len(graph)))
    pattern = Pattern(rule.pattern)
    if rule.scope == "optype":
        found = {index for index, (_, kind) in enumerate(graph) if pattern.matches(kind)}
        if not found:
            logger.warning("optype_wise %r matches no operator of the model", rule.pattern)
        return found
    found = _matched_by_name(rule.pattern, graph)
    if not found:
        raise _no_match(rule.pattern, graph)
    return found


def _matched_by_name(text: str, graph: tuple[tuple[str, str], ...]) -> set[int]:
    """First by the names that INC sees; where none matches, without INC's suffixes."""
    pattern = Pattern(text)
    seen = {index for index, name in _names_in_inc(graph) if pattern.matches(name)}
    if seen:
        return seen
    bare = _INC_SUFFIX.sub("", text)
    named = Pattern(bare) if bare else pattern
    return {
        index
        for index, (name, kind) in enumerate(graph)
        if named.matches(name) or pattern.matches(f"{kind}_nc_rename_{index}")
    }


def _names_in_inc(graph: tuple[tuple[str, str], ...]) -> Iterator[tuple[int, str]]:
    """Index and name of each node as INC sees it, which may call one node several names."""
    times = Counter(name for name, _ in graph)
    for index, (name, kind) in enumerate(graph):
        if times[name] > 1 or not name:
            yield index, f"{kind}_nc_rename_{index}"
        if name:
            yield index, name
        if kind == "Gemm":
            yield index, f"{name}_MatMul"


def _no_match(pattern: str, graph: tuple[tuple[str, str], ...]) -> ConfigError:
    names = sorted({name for name, _ in graph if 0 < len(name) <= 200})
    near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.3) or names[:1]
    cure = f"correct the pattern or remove it; the nearest node is {near[0]!r}" if near else ""
    return ConfigError(
        f"quantization.op_wise {pattern!r} matches none of the model's {len(graph)} nodes",
        cure or "remove it: the model's nodes have no names",
    )
