"""Simplifying rewrites that keep what the graph computes: each edits in place and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from quantize.graph.upgrade import inferred_shapes
from quantize.graph.view import View

Array = NDArray[Any]

_FACTORS = frozenset({"Add", "Mul"})
_MOST_FOLDED_BYTES = 64 << 20
RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def constants(model: onnx.ModelProto) -> int:
    """Turn every node that depends on constants alone into initializers.

    Args:
        model: edited in place.

    Returns:
        How many nodes were replaced.
    """
    view = View(model.graph)
    known = {name: numpy_helper.to_array(t) for name, t in view.initializers.items()}
    kept, folded = [], 0
    for node in model.graph.node:
        values = _evaluate(node, known, model) if _foldable(node, known, view) else None
        if values is None:
            kept.append(node)
            continue
        folded += 1
        for name, value in zip(node.output, values, strict=True):
            known[name] = value
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    _replace_nodes(model.graph, kept)
    return folded


def _foldable(node: onnx.NodeProto, known: dict[str, Array], view: View) -> bool:
    return (
        node.domain in ("", "ai.onnx")
        and node.op_type not in RANDOM
        and all(not name or name in known for name in node.input)
        and not any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute)
        and all(name and name not in view.outputs for name in node.output)
    )


def _evaluate(
    node: onnx.NodeProto, known: dict[str, Array], model: onnx.ModelProto
) -> list[Array] | None:
    given = {name: known[name] for name in node.input if name}
    try:
        graph = onnx.helper.make_graph(
            [node],
            "one",
            [_declared(name, array) for name, array in given.items()],
            [onnx.ValueInfoProto(name=name) for name in node.output],
        )
        alone = onnx.helper.make_model(graph, opset_imports=model.opset_import)
        values = ReferenceEvaluator(alone).run(None, given)
    except Exception:  # an operator the reference lacks simply stays in the graph
        return None
    if not all(isinstance(value, np.ndarray | np.generic) for value in values):
        return None
    arrays = [np.asarray(value) for value in values]
    return arrays if sum(a.nbytes for a in arrays) <= _MOST_FOLDED_BYTES else None


def _declared(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, array.shape)


def identities(model: onnx.ModelProto) -> int:
    """Remove Identity and Dropout (nothing at inference), except at a graph output or subgraph.

    Returns:
        How many nodes were removed.
    """
    view = View(model.graph)
    needed = view.outputs | view.captured
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        passes_through = node.op_type == "Identity" or (
            node.op_type == "Dropout" and not any(node.output[1:]) and not trains(node, view)
        )
        if passes_through and node.output[0] not in needed:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    removed = len(model.graph.node) - len(kept)
    _replace_nodes(model.graph, kept)
    return removed


def trains(node: onnx.NodeProto, view: View) -> bool:
    """Whether a Dropout drops, or a BatchNormalization normalises by the batch."""
    if node.op_type == "BatchNormalization":
        return _attribute(node, "training_mode", 0) != 0
    if node.op_type != "Dropout" or not any(node.input[2:]):
        return False
    asked = view.constant(node.input[2])
    return asked is None or bool(asked.any())


def batch_normalizations(model: onnx.ModelProto) -> int:
    """Fold each BatchNormalization into the Conv before it, where nothing else reads the Conv.

    With s = gamma / sqrt(var + eps), per output channel:
    W' = W s and b' = (b - mean) s + beta, computed in float64 and stored as float32.

    Returns:
        How many were folded.
    """
    view = View(model.graph)
    taken = {*view.initializers, *view.producers}
    folded: set[int] = set()
    for index, norm in enumerate(model.graph.node):
        conv = view.producers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv":
            continue
        if view.only_reader(conv.output[0]) is None or _trains_statistics(norm):
            continue
        merged = _merged(view, conv, norm)
        if merged is None:
            continue
        stem = f"{conv.input[1]}.{norm.output[0]}"
        _set_constant(model.graph, conv, 1, (stem, merged[0]), taken)
        _set_constant(model.graph, conv, 2, (f"{stem}.bias", merged[1]), taken)
        conv.output[0] = norm.output[0]
        folded.add(index)
    _replace_nodes(model.graph, [n for i, n in enumerate(model.graph.node) if i not in folded])
    return len(folded)


def channel_factors(model: onnx.ModelProto) -> int:
    """Fold what Caffe calls a scale layer into the BatchNormalization before it.

    A Mul by m and an Add of a, one constant for each channel of [N,C,H,W], where nothing else
    reads what lies between: gamma' = gamma m, beta' = beta m + a, computed in float64 and stored
    as float32.

    Returns:
        How many nodes were folded.
    """
    view = View(model.graph)
    values = {name: numpy_helper.to_array(t) for name, t in view.initializers.items()}
    norms = [n for n in model.graph.node if _scaled(n, view, values)]
    shapes = inferred_shapes(model) if norms else {}
    taken = {*view.initializers, *view.producers}
    gone: set[str] = set()
    for norm in norms:
        if len(shapes.get(norm.output[0]) or []) == 4:
            gone.update(_scale(model.graph, norm, view, values, taken))
    kept = [n for n in model.graph.node if n.op_type not in _FACTORS or n.output[0] not in gone]
    _replace_nodes(model.graph, kept)
    return len(gone)


def _scaled(node: onnx.NodeProto, view: View, values: dict[str, Array]) -> bool:
    """Whether it is a BatchNormalization that a constant factor or offset follows."""
    if node.op_type != "BatchNormalization" or _trains_statistics(node):
        return False
    parameters = [values.get(name) for name in node.input[1:3]]
    if any(value is None or value.dtype != np.float32 for value in parameters):
        return False
    return _factor(view, node.output[0], values[node.input[1]].size, values) is not None


def _scale(
    graph: onnx.GraphProto,
    norm: onnx.NodeProto,
    view: View,
    values: dict[str, Array],
    taken: set[str],
) -> list[str]:
    """Fold all that follows one BatchNormalization; the outputs of the nodes that go."""
    gamma, beta = (values[name].astype(np.float64) for name in norm.input[1:3])
    gone = [norm.output[0]]
    while (found := _factor(view, gone[-1], gamma.size, values)) is not None:
        reader, value = found
        if reader.op_type == "Mul":
            gamma, beta = gamma * value, beta * value
        else:
            beta = beta + value
        gone.append(reader.output[0])
    for position, value in ((1, gamma), (2, beta)):
        name = f"{norm.input[position]}.{gone[-1]}"
        _set_constant(graph, norm, position, (name, value.astype(np.float32)), taken)
    norm.output[0] = gone[-1]
    return gone[1:]


def _factor(
    view: View, name: str, channels: int, values: dict[str, Array]
) -> tuple[onnx.NodeProto, Array] | None:
    """The Mul or Add that alone reads a tensor [N,C,H,W], and its constant as float64 [C]."""
    reader = view.only_reader(name)
    if reader is None or reader.op_type not in _FACTORS or len(set(reader.input)) != 2:
        return None
    value = values.get(next(other for other in reader.input if other != name))
    if value is None or value.dtype != np.float32 or value.shape[-3:] != (channels, 1, 1):
        return None
    return None if value.size != channels else (reader, value.reshape(-1).astype(np.float64))


def sums(model: onnx.ModelProto) -> int:
    """Spell a Sum of two as Add, which quantizers know.

    Returns:
        How many there were.
    """
    pairs = [n for n in model.graph.node if n.op_type == "Sum" and len(n.input) == 2]
    for node in pairs:
        node.op_type = "Add"
    return len(pairs)


def norm_lines(view: View, norm: onnx.NodeProto) -> tuple[Array, Array] | None:
    """What a BatchNormalization does to each channel at inference: x slope + offset.

    With s = gamma / sqrt(var + eps): slope s and offset beta - mean s, in float64, stored as
    float32.

    Returns:
        Both float32 [C]; None unless all is constant and float32.
    """
    operands = [view.constant(name) for name in norm.input[1:5]]
    if _trains_statistics(norm) or any(v is None or v.dtype != np.float32 for v in operands):
        return None
    gamma, beta, mean, var = (np.asarray(v, np.float64) for v in operands)
    slope = gamma / np.sqrt(var + _attribute(norm, "epsilon", 1e-5))
    return slope.astype(np.float32), (beta - mean * slope).astype(np.float32)


def _merged(view: View, conv: onnx.NodeProto, norm: onnx.NodeProto) -> tuple[Array, Array] | None:
    """W' float32 [M,C/g,kH,kW] and b' float32 [M]; None unless all is constant and float32."""
    operands = [view.constant(name) for name in [conv.input[1], *norm.input[1:5]]]
    bias = view.constant(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.zeros(1)
    if bias is None or any(value is None for value in operands):
        return None
    weight, gamma, beta, mean, var = (np.asarray(v) for v in operands)
    if weight.dtype != np.float32 or gamma.shape != weight.shape[:1]:
        return None
    weight, gamma, beta, mean, var = (
        v.astype(np.float64) for v in (weight, gamma, beta, mean, var)
    )
    offset = np.asarray(bias, np.float64) - mean
    scale = gamma / np.sqrt(var + _attribute(norm, "epsilon", 1e-5))
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return (weight * shaped).astype(np.float32), (offset * scale + beta).astype(np.float32)


def _trains_statistics(norm: onnx.NodeProto) -> bool:
    """Whether it normalises by the batch, not by the running statistics."""
    return sum(map(bool, norm.output)) != 1 or _attribute(norm, "training_mode", 0) != 0


def unused_initializers(model: onnx.ModelProto) -> int:
    """Drop constants that nothing reads.

    Returns:
        How many were dropped.
    """
    view = View(model.graph)
    read = view.outputs | view.captured | view.consumers.keys()
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    dropped = len(model.graph.initializer) - len(kept)
    if dropped:
        copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)
    return dropped


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else float(onnx.helper.get_attribute_value(found))


def _set_constant(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    position: int,
    named: tuple[str, Array],
    taken: set[str],
) -> None:
    """Give `node` an own constant: another node may still read the old one.

    Its name is a new one: what is in `taken` is, and it joins them.
    """
    name, value = named
    while name in taken:
        name += "_"
    taken.add(name)
    graph.initializer.append(numpy_helper.from_array(value, name))
    if len(node.input) <= position:
        node.input.extend([""] * (position + 1 - len(node.input)))
    node.input[position] = name


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    if len(nodes) == len(graph.node):
        return
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
