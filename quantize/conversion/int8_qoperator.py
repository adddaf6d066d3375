"""QDQ to QOperator: an operator between integers becomes one on integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from quantize.conversion.int8_names import (
    MICROSOFT,
    MOVING,
    PLAIN,
    QUANTIZED,
    Names,
    copied_attributes,
    replace_nodes,
)
from quantize.graph.coverage import is_redundant
from quantize.graph.nodes import attribute
from quantize.graph.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CLOSE = 1e-5
"""Between an integer bias' scale and the product that an operator on integers takes for it."""


@dataclass(frozen=True)
class _Ends:
    """A QuantizeLinear or DequantizeLinear: its integers, scale and zero point by name."""

    integers: str
    scale: str
    zero: str

    def inputs(self) -> list[str]:
        """As an operator on integers takes them."""
        return [self.integers, self.scale, self.zero]


def to_qoperator(model: onnx.ModelProto) -> int:
    """Replace what has a form on integers, in place.

    Returns:
        How many operators were replaced.
    """
    rewriter = _Rewriter(model.graph)
    nodes, replaced = [], 0
    gone: set[int] = set()
    for node in model.graph.node:
        made = rewriter.on_integers(node)
        if made is not None:
            replaced += 1
            gone.update(id(taken) for taken in rewriter.behind(node))
        nodes.append((node, made))
    final = [made or node for node, made in nodes if id(node) not in gone]
    replace_nodes(model.graph, final)
    return replaced


class _Rewriter:
    """Looks at one graph, which stays as it is until all of it was looked at."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.view = View(graph)
        self.names = Names(graph)

    def on_integers(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The node's form on integers, or None if it has none where it stands."""
        if node.domain not in ("", "ai.onnx") or not node.input or len(node.output) != 1:
            return None
        data = self._before(node.input[0])
        result = self._after(node)
        if data is None:
            return None
        if node.op_type == "Gemm":
            return self._gemm(node, data, result)
        if result is None:
            return None
        if node.op_type == "Conv":
            return self._conv(node, data, result)
        if node.op_type == "MatMul":
            return self._matmul(node, data, result)
        if node.op_type == "Concat":
            return self._concat(node, result)
        if node.op_type in PLAIN:
            return self._plain(node, result)
        return self._moving(node, data, result) if node.op_type in MOVING else None

    def behind(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What a node on integers does beside its own: Relu or Clip, and QuantizeLinear."""
        reader = self.view.only_reader(node.output[0])
        if reader is None:
            return []
        if reader.op_type == "QuantizeLinear":
            return [reader]
        if reader.op_type in ("Relu", "Clip") and reader.input[0] == node.output[0]:
            last = self.view.only_reader(reader.output[0])
            if last is not None and last.op_type == "QuantizeLinear":
                return [reader, last] if is_redundant(self.view, reader, last) else []
        return []

    def _before(self, name: str) -> _Ends | None:
        """The integers that a float tensor was made of, if of one scale."""
        source = self.view.producers.get(name)
        if source is None or source.op_type != "DequantizeLinear":
            return None
        return self._ends(source, source.input[0])

    def _after(self, node: onnx.NodeProto) -> _Ends | None:
        """The integers that are made of a node's result, and of nothing else."""
        chain = self.behind(node)
        if not chain:
            return None
        return self._ends(chain[-1], chain[-1].output[0])

    def _ends(self, node: onnx.NodeProto, integers: str) -> _Ends | None:
        scale = self.view.constant(node.input[1])
        if scale is None or scale.size != 1:
            return None
        if len(node.input) > 2 and node.input[2]:
            return _Ends(integers, node.input[1], node.input[2])
        return _Ends(integers, node.input[1], self.names.constant(f"{integers}.zero", np.uint8(0)))

    def _weight(self, name: str, axis: int) -> _Ends | None:
        """Integer weights with one scale, or one for each index of an axis."""
        source = self.view.producers.get(name)
        if source is None or source.op_type != "DequantizeLinear":
            return None
        value, scale = (self.view.constant(part) for part in source.input[:2])
        if value is None or scale is None or value.dtype not in (np.int8, np.uint8):
            return None
        if value.ndim < 2 or scale.size not in (1, value.shape[axis]):
            return None
        if scale.size > 1 and attribute(source, "axis", 1) % value.ndim != axis:
            return None
        if len(source.input) > 2 and source.input[2]:
            return _Ends(source.input[0], source.input[1], source.input[2])
        zeros = np.zeros(scale.shape, value.dtype)
        zero = self.names.constant(f"{source.input[0]}.zero", zeros)
        return _Ends(source.input[0], source.input[1], zero)

    def _bias(self, node: onnx.NodeProto, data: _Ends, weight: _Ends) -> list[str] | None:
        """The integer bias, if its scale is that of the products; empty where there is none."""
        if len(node.input) < 3 or not node.input[2]:
            return []
        source = self.view.producers.get(node.input[2])
        if source is None or source.op_type != "DequantizeLinear":
            return None
        value, scale = (self.view.constant(name) for name in source.input[:2])
        product = _product(self.view.constant(data.scale), self.view.constant(weight.scale))
        if value is None or scale is None or product is None or value.dtype != np.int32:
            return None
        if scale.size not in (1, product.size) and product.size != 1:
            return None
        fits = np.allclose(np.asarray(scale, np.float64).ravel(), product, rtol=_CLOSE, atol=0)
        return [source.input[0]] if fits else None

    def _conv(self, node: onnx.NodeProto, data: _Ends, result: _Ends) -> onnx.NodeProto | None:
        weight = self._weight(node.input[1], axis=0)
        bias = None if weight is None else self._bias(node, data, weight)
        if weight is None or bias is None:
            return None
        inputs = [*data.inputs(), *weight.inputs(), result.scale, result.zero, *bias]
        return _made(node, "QLinearConv", inputs, result.integers)

    def _gemm(
        self, node: onnx.NodeProto, data: _Ends, result: _Ends | None
    ) -> onnx.NodeProto | None:
        """Its result may be float, if nothing was to be rounded."""
        known = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if known.get("beta", 1.0) != 1.0 or known.get("alpha", 1.0) != 1.0:
            return None
        weight = self._weight(node.input[1], axis=0 if known.get("transB") else 1)
        bias = None if weight is None else self._bias(node, data, weight)
        if weight is None or bias is None:
            return None
        inputs = [*data.inputs(), *weight.inputs(), *bias]
        output = node.output[0]
        if result is not None:
            inputs += [] if bias else [""]
            inputs += [result.scale, result.zero]
            output = result.integers
        return _made(node, "QGemm", inputs, output, MICROSOFT, without=frozenset({"beta"}))

    def _matmul(self, node: onnx.NodeProto, data: _Ends, result: _Ends) -> onnx.NodeProto | None:
        weight = self._weight(node.input[1], axis=1)
        other = weight or self._before(node.input[1])
        if other is None:
            return None
        inputs = [*data.inputs(), *other.inputs(), result.scale, result.zero]
        return _made(node, "QLinearMatMul", inputs, result.integers)

    def _concat(self, node: onnx.NodeProto, result: _Ends) -> onnx.NodeProto | None:
        parts = [self._before(name) for name in node.input]
        if any(part is None for part in parts):
            return None
        inputs = [name for part in parts if part is not None for name in part.inputs()]
        inputs = [result.scale, result.zero, *inputs]
        return _made(node, "QLinearConcat", inputs, result.integers, MICROSOFT)

    def _plain(self, node: onnx.NodeProto, result: _Ends) -> onnx.NodeProto | None:
        parts = [self._before(name) for name in node.input]
        if any(part is None for part in parts):
            return None
        inputs = [name for part in parts if part is not None for name in part.inputs()]
        inputs += [result.scale, result.zero]
        return _made(node, PLAIN[node.op_type], inputs, result.integers, MICROSOFT)

    def _moving(self, node: onnx.NodeProto, data: _Ends, result: _Ends) -> onnx.NodeProto | None:
        """Integers may pass where both ends mean the same by them."""
        same = all(
            _equal(self.view.constant(one), self.view.constant(other))
            for one, other in ((data.scale, result.scale), (data.zero, result.zero))
        )
        if not same or len(self.behind(node)) != 1:
            return None
        inputs = [data.integers, *node.input[1:]]
        return _made(node, node.op_type, inputs, result.integers, suffix="")


def _made(
    node: onnx.NodeProto,
    op: str,
    inputs: list[str],
    output: str,
    domain: str = "",
    suffix: str = QUANTIZED,
    without: frozenset[str] = frozenset(),
) -> onnx.NodeProto:
    name = f"{node.name}{suffix}" if node.name else ""
    made = onnx.helper.make_node(op, inputs, [output], name=name, domain=domain)
    made.attribute.extend(copied_attributes(node, without=without))
    return made


def _product(
    one: NDArray[np.generic] | None, other: NDArray[np.generic] | None
) -> NDArray[np.float64] | None:
    if one is None or other is None:
        return None
    return np.asarray(one, np.float64).ravel() * np.asarray(other, np.float64).ravel()


def _equal(one: NDArray[np.generic] | None, other: NDArray[np.generic] | None) -> bool:
    """Bit for bit, whatever the shape; a missing constant equals nothing."""
    if one is None or other is None or one.dtype != other.dtype:
        return False
    return one.tobytes() == other.tobytes()
