"""A model as the steps of the walk: each node, with the Relu or Clip behind it, run by onnxruntime.

Between the steps an activation is what the int8 model holds: uint8 where it is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from quantize.graph.expose import with_outputs
from quantize.graph.fragment import Borders, Fragments
from quantize.graph.io import to_bytes
from quantize.graph.layers import Layer, absorbed, absorbed_limits, layers
from quantize.graph.view import captures, dims
from quantize.plan import Encoding
from quantize.repair.columns import Columns, conv_columns, matrix_columns
from quantize.repair.gram import INTEGER_GRAM, Grams, grams_of
from quantize.repair.grids import units
from quantize.repair.portable import partners_of
from quantize.repair.walk import Array, Plain, Repairable, Tensor, Tensors, clipped_mean, sampled
from quantize.runtime import Operator, Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 4
_GIVEN, _SHIFT = "quantize.given", "quantize.shift"


def layer_means(
    model: onnx.ModelProto, images: Array, *, threads: int
) -> dict[str, NDArray[np.float64]]:
    """What each layer gives in float: the mean of each channel that `walk` compares with.

    Args:
        model: a prepared float model.
        images: float32 [N,C,H,W].
        threads: of the session.

    Returns:
        Layer -> `clipped_mean` of a sample of its result between the limits of the Relu or Clip
        that alone reads it, float64 [M].
    """
    known, limits = layers(model), absorbed_limits(model)
    outputs = [layer.output for layer in known]
    session = Session(to_bytes(with_outputs(model, outputs)), threads=threads, spin=False)
    sums: dict[str, NDArray[np.float64]] = {}
    for start in range(0, len(images), _AT_ONCE):
        piece = images[start : start + _AT_ONCE]
        values = dict(zip(session.outputs, session.run(piece), strict=True))
        for layer in known:
            sample = sampled(values[layer.output], len(images))
            mean = clipped_mean(sample, limits.get(layer.output, (-math.inf, math.inf)))
            sums[layer.name] = sums.get(layer.name, np.zeros(1)) + mean * len(piece)
    return {name: total / len(images) for name, total in sums.items()}


@dataclass(frozen=True, eq=False)
class Stages:
    """Makes the walk's steps of models that share most of their nodes.

    Attributes:
        threads: how many pieces of the images are worked on at once.
        kept: serialized fragment without weights -> its session, used again by later walks.
    """

    threads: int
    kept: dict[bytes, Operator] = field(default_factory=dict)

    def steps(
        self,
        model: onnx.ModelProto,
        encodings: Mapping[str, Encoding],
        floats: frozenset[str],
    ) -> list[Plain | Repairable]:
        """The walk's steps.

        Args:
            model: a prepared float model; a layer that can carry a bias has one.
            encodings: of the activations that int8 rounds; others stay float32.
            floats: layers that stay float.
        """
        return list(_Steps(self, model, encodings, floats).all())

    def operator(self, fragment: bytes, name: str, *, keep: bool = True) -> Operator:
        """A session of the fragment, from an earlier walk where it is the same."""
        if fragment in self.kept:
            return self.kept[fragment]
        made = Operator(fragment, threads=self.threads, name=name)
        if keep:
            self.kept[fragment] = made
        return made


class _Steps:
    """One model's steps; see `Stages.steps`."""

    def __init__(
        self,
        stages: Stages,
        model: onnx.ModelProto,
        encodings: Mapping[str, Encoding],
        floats: frozenset[str],
    ) -> None:
        self._stages = stages
        self._cut = Fragments(model)
        self._nodes = model.graph.node
        self._encodings = encodings
        self._layers = {one.name: one for one in layers(model) if one.name not in floats}
        self._limits = absorbed_limits(model)
        self._absorbed = absorbed(model)
        self._free = (dims(self._cut.view.inputs[0]) or [None])[0] is None
        self._units = units(model, encodings)

    def all(self) -> list[Plain | Repairable]:
        behind = {name: self._cut.view.producers[name] for name in self._absorbed.values()}
        skipped = {node.name for node in behind.values()}
        steps: list[Plain | Repairable] = []
        for node in self._nodes:
            if node.name in skipped:
                continue
            last = self._absorbed.get(node.output[0])
            nodes = [node] if last is None else [node, behind[last]]
            named = (n for one in nodes for n in (*one.input, *captures(one)))
            inputs = dict.fromkeys(n for n in named if n in self._units)
            inputs.pop(node.output[0], None)
            reads = {name: self._encodings.get(name) for name in inputs}
            layer = self._layers.get(node.name)
            steps.append(self._plain(nodes, reads) if layer is None else self._layer(layer, nodes))
        return steps

    def _plain(self, nodes: list[onnx.NodeProto], reads: Borders) -> Plain:
        outputs = [name for name in nodes[-1].output if name]
        gives = {name: self._encodings.get(name) for name in outputs}
        fragment = self._cut.cut(nodes, reads, gives)
        operator = self._stages.operator(fragment, nodes[0].name, keep=len(fragment) < 1 << 20)
        whole = any(self._is_whole(name) for name in (*reads, *outputs))
        return Plain(tuple(reads), tuple(outputs), partial(_run, operator, tuple(reads), whole))

    def _is_whole(self, name: str) -> bool:
        """Whether a tensor is none of images one behind the other: sizes, or images further in."""
        kind = self._cut.types.get(name)
        if kind is None:
            return False
        if kind.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            return True
        first = kind.tensor_type.shape.dim[:1]
        return self._free and not (first and not first[0].dim_value)

    def _layer(self, layer: Layer, nodes: list[onnx.NodeProto]) -> Repairable:
        output = nodes[-1].output[0]
        constants = self._cut.view.constant
        weight = np.asarray(constants(layer.weight), np.float32)
        matrix = layer.matrix(weight)
        bias = None if layer.bias is None else np.asarray(constants(layer.bias), np.float32)
        return Repairable(
            layer.name,
            (layer.input,),
            (output,),
            matrix,
            np.zeros(len(matrix), np.float32) if bias is None else bias.reshape(-1),
            partial(self._run_layer, layer, nodes[0], weight.shape),
            self._finish(layer, nodes[1:], output),
            groups=layer.group,
            grams=partial(self._grams, layer),
            has_bias=layer.bias is not None,
            limits=self._limits.get(layer.output, (-math.inf, math.inf)),
            unit=self._units[layer.input],
            partners=partners_of(layer, matrix.shape),
        )

    def _run_layer(
        self,
        layer: Layer,
        node: onnx.NodeProto,
        shape: tuple[int, ...],
        tensors: Tensors,
        weight: Array,
        bias: Array,
    ) -> list[Array]:
        """A session of its own: onnxruntime lays constant weights out for speed."""
        values = {layer.weight: layer.tensor(weight, shape)}
        if layer.bias:
            values[layer.bias] = bias
        reads = {layer.input: self._encodings.get(layer.input)}
        fragment = self._cut.cut([node], reads, {layer.output: None}, values)
        operator = self._stages.operator(fragment, node.name, keep=False)
        return operator.pieces([tensors[layer.input]])[0]

    def _grams(self, layer: Layer, value: Tensor) -> Grams:
        encoding = self._encodings.get(layer.input)
        product = self._stages.operator(INTEGER_GRAM, "of the columns' products")
        return grams_of(_columns(layer, encoding, value), encoding, product)

    def _finish(self, layer: Layer, rest: list[onnx.NodeProto], output: str) -> _Finish:
        """Add to each channel, then the Relu or Clip, then the rounding."""
        flat = layer.op_type != "Conv"
        add = helper.make_node("Add", [_GIVEN, _SHIFT], [layer.output])
        fragment = self._cut.cut(
            [add, *rest],
            {_GIVEN: None, _SHIFT: None},
            {output: self._encodings.get(output)},
        )
        return _Finish(self._stages.operator(fragment, layer.name), flat)


@dataclass(frozen=True, eq=False)
class _Finish:
    """What comes behind a layer's products.

    Attributes:
        operator: (result, what to add) -> the output.
        flat: whether the channels are the last axis.
    """

    operator: Operator
    flat: bool

    def __call__(self, given: list[Array], shift: Array) -> Tensor:
        added = shift if self.flat else shift.reshape(-1, 1, 1)
        made = self.operator.each([piece, added] for piece in given)
        return np.concatenate([output for [output] in made])


def _run(operator: Operator, reads: tuple[str, ...], whole: bool, tensors: Tensors) -> list[Tensor]:
    """A few images at a time, or all at once where the first axis is not theirs."""
    values = [tensors[name] for name in reads]
    if whole or not values:
        return operator.once(values)
    made = [np.concatenate(parts) for parts in operator.pieces(values)]
    counts = {len(value) for value in (*values, *made)}
    return made if len(counts) == 1 else operator.once(values)


def _columns(layer: Layer, encoding: Encoding | None, value: Tensor) -> Columns:
    if layer.op_type != "Conv":
        return matrix_columns(value)
    return conv_columns(
        value,
        encoding,
        kernel=layer.kernel,
        strides=layer.strides,
        dilations=layer.dilations,
        pads=layer.pads,
        group=layer.group,
    )
