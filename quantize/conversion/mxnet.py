"""MXNet's `*-symbol.json` and `.params` as ONNX, under MXNet's own names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quantize.conversion import mxnet_reference
from quantize.conversion.imported import Imported, Tensors
from quantize.conversion.mxnet_graph import Array, Graph, Operand, Site
from quantize.conversion.mxnet_operators import convert_node, first_weight, reads
from quantize.conversion.mxnet_params import read_params
from quantize.conversion.mxnet_shapes import Dims, Settled, settle
from quantize.conversion.mxnet_symbol import BATCH_NORMS, VARIABLE, Symbol, read_symbol
from quantize.errors import ModelError

_USUAL = "data"
"""How MXNet's classifiers call their image."""


def import_mxnet(symbol: Path, params: Path) -> Imported:
    """Read a network that MXNet exported.

    Args:
        symbol: the `*-symbol.json`.
        params: the `*.params` beside it.

    Returns:
        The model, opset 13, tensors called as in the symbol, batch axis free. Height and width are
        free too unless the symbol declares them or a fully connected layer needs one size.

    Raises:
        ModelError: either file is damaged or something else, an operator that cannot be
            converted, a parameter that is missing or of another shape.
    """
    net = read_symbol(symbol)
    arrays = read_params(params)
    image = _image(net, arrays, params)
    values = _values(net, arrays, params)
    graph = Graph(node.name for node in net.nodes)
    heads = _convert(net, graph, values, symbol)
    settled = settle(
        graph.skeleton(net.nodes[image].name, heads),
        _declared(net, image),
        graph.alike,
        str(symbol),
    )
    model = _finish(graph, net.nodes[image].name, heads, settled)
    made = frozenset(node.output[0] for node in model.graph.node)

    def reference(images: NDArray[np.float32]) -> Tensors:
        return mxnet_reference.forward(net, {**values, image: images}, made)

    return Imported(model, reference, tuple(_steps(net, values, arrays, settled)))


def _image(net: Symbol, arrays: Mapping[str, NDArray[Any]], params: Path) -> int:
    """The place of the one input; every other variable that is read must be a parameter."""
    lost: dict[int, bool] = {}  # place -> whether it stands where only parameters do
    for node in net.nodes:
        weights = first_weight(node)
        for position, index in enumerate(reads(node)):
            other = net.nodes[index]
            if other.operator == VARIABLE and other.name not in arrays:
                weighty = weights is not None and position >= weights
                lost[index] = lost.get(index, False) or weighty
    images = [index for index, weighty in lost.items() if not weighty]
    usual = [index for index in images if net.nodes[index].name == _USUAL]
    if len(images) > 1 and usual:
        images = usual
    missing = [net.nodes[index].name for index in lost if index not in images[:1]]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{params} does not hold {missing[0]!r}{more}, which the symbol reads",
            "give the .params file that was exported with this symbol",
        )
    if not images:
        raise ModelError(f"{params} holds a value for every variable: the symbol has no input")
    return images[0]


def _values(net: Symbol, arrays: Mapping[str, NDArray[Any]], params: Path) -> dict[int, Array]:
    """Place -> value of every parameter that is read, float32."""
    wanted = {index for node in net.nodes for index in reads(node)}
    values = {}
    for index in sorted(wanted):
        node = net.nodes[index]
        if node.operator != VARIABLE or node.name not in arrays:
            continue
        array = arrays[node.name]
        if array.dtype.kind != "f":
            raise ModelError(
                f"{params}: {node.name!r} holds {array.dtype}, not floating-point numbers",
                "give the float model",
            )
        declared = node.attributes.integers("__shape__")
        if len(declared) not in (0, array.ndim) or any(
            size > 0 and size != held for size, held in zip(declared, array.shape, strict=False)
        ):
            raise ModelError(
                f"{params}: {node.name!r} has shape {list(array.shape)}, and the symbol declares"
                f" {list(declared)}",
                "give the .params file that was exported with this symbol",
            )
        with np.errstate(all="ignore"):
            value = np.array(array, np.float32)
        if not np.isfinite(value).all():
            raise ModelError(
                f"{params}: {node.name!r} holds numbers that are not finite",
                "fetch or export it again",
            )
        values[index] = value
    return values


def _convert(net: Symbol, graph: Graph, values: Mapping[int, Array], symbol: Path) -> list[str]:
    """Fill the graph; returns the names of its outputs."""
    tensors: dict[int, str] = {}
    for index, node in enumerate(net.nodes):
        if node.operator == VARIABLE:
            tensors[index] = node.name
            continue
        operands = tuple(Operand(tensors[i], values.get(i)) for i in reads(node))
        tensors[index] = convert_node(Site(graph, node, index, operands))
    if not graph.nodes:
        raise ModelError(f"{symbol} computes nothing")
    made = {node.output[0] for node in graph.nodes}
    heads = []
    for index in dict.fromkeys(net.heads):
        node = net.nodes[index]
        if node.operator == VARIABLE:
            raise ModelError(f"{symbol}: its output {node.name!r} is not computed")
        if node.name not in made:  # a Dropout or a loss at the end: its name is the output's
            graph.add("Identity", [tensors[index]], node.name)
        heads.append(node.name)
    return heads


def _declared(net: Symbol, image: int) -> Dims:
    shape = net.nodes[image].attributes.integers("__shape__")
    return tuple(size if size > 0 else None for size in shape)


def _finish(graph: Graph, image: str, heads: list[str], settled: Settled) -> onnx.ModelProto:
    size = settled.size or ("height", "width")
    declared = helper.make_tensor_value_info(
        image, TensorProto.FLOAT, ["N", settled.channels, *size]
    )
    outputs = []
    for name in heads:
        known = settled.shapes[name]
        if not known:
            raise ModelError(f"the shape of the output {name!r} cannot be told")
        shape = ["N", *(d or f"{name}.{axis}" for axis, d in enumerate(known) if axis)]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return graph.finish(declared, outputs)


def _steps(
    net: Symbol,
    values: Mapping[int, Array],
    arrays: Mapping[str, NDArray[Any]],
    settled: Settled,
) -> list[str]:
    nodes = [node for node in net.nodes if node.operator != VARIABLE]
    version = f" of version {net.version}" if net.version else ""
    steps = [f"read {len(nodes)} nodes and {len(values)} parameters of MXNet{version}"]
    fixed = sum(n.operator in BATCH_NORMS and n.attributes.flag("fix_gamma", True) for n in nodes)
    if fixed:
        steps.append(f"took gamma as 1 in {fixed} BatchNorm, as fix_gamma says")
    kinds = Counter(
        str(arrays[net.nodes[index].name].dtype)
        for index in values
        if arrays[net.nodes[index].name].dtype != np.float32
    )
    steps += [f"made {count} {kind} parameters float32" for kind, count in kinds.items()]
    if settled.size is None:
        steps.append("left the image's height and width free, since no layer depends on them")
    else:
        steps.append("took images of {} x {}".format(*settled.size))
    return steps
