"""The init net: each of its operators fills one blob, and a trained one fills it with weights.

A blob is worked out only when the predict net reads it: what else lies in an init net (counters,
learning rates, queues) is nobody's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.conversion.caffe2_net import Net, Operator

MOST_CONSTANT = 1 << 24
"""Elements that constant fills may make in all: a few bytes of a file could ask for any number."""

_FLOAT, _MOST_AXES = 1, 8
_RANDOM = frozenset({"GaussianFill", "MSRAFill", "UniformFill", "UniformIntFill", "XavierFill"})


class Weights(Mapping[str, NDArray[Any]]):
    """Blob name -> the value that an init net gives it, worked out when asked for.

    Args:
        init: the init net; of several fills of one blob the last counts.
    """

    def __init__(self, init: Net) -> None:
        self._fills = {op.outputs[0]: op for op in init.operators if op.outputs}
        self._values: dict[str, NDArray[Any]] = {}
        self._constant = 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The blob's value: float32 of its shape, or int64 where it holds integers.

        Raises:
            KeyError: nothing fills the blob.
            ModelError: what fills it is random, unknown, or does not fill it whole.
        """
        if name not in self._values:
            op = self._fills[name]
            self._values[name] = self._constants(op) if op.type == "ConstantFill" else _given(op)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fills)

    def __len__(self) -> int:
        return len(self._fills)

    def __contains__(self, name: object) -> bool:
        return name in self._fills

    def fill(self, name: str) -> Operator | None:
        """The operator that fills a blob, if one does."""
        return self._fills.get(name)

    def _constants(self, op: Operator) -> NDArray[Any]:
        shape = shape_of(op)
        self._constant += math.prod(shape)
        if self._constant > MOST_CONSTANT:
            raise op.wrong(
                f"makes too large a constant of shape {list(shape)}: constants of more than"
                f" {MOST_CONSTANT:,} elements in all are no trained weights",
                "give the init net that was saved with the trained weights",
            )
        exact = np.float32 if op.integer("dtype", _FLOAT) == _FLOAT else np.int64
        with np.errstate(over="ignore", invalid="ignore"):
            return np.full(shape, op.number("value", 0.0), np.float64).astype(exact)


def shape_of(op: Operator) -> tuple[int, ...]:
    """The shape that a fill declares."""
    if op.inputs or op.integer("input_as_shape", 0) or op.integers("extra_shape"):
        raise op.wrong("takes its shape from another blob", "save the weights with their shapes")
    shape = op.integers("shape")
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise op.wrong(f"has the impossible shape {list(shape[:20])}", "fetch or export it again")
    return shape


def _given(op: Operator) -> NDArray[Any]:
    values = op.arguments.get("values")
    if op.type in _RANDOM:
        raise op.wrong(
            "fills its blob at random: this init net starts a training and holds no weights",
            "give the init net that was saved with the trained weights",
        )
    take = _GIVEN.get(op.type)
    if take is None:
        raise op.wrong(
            "is unknown in an init net", "save the weights as GivenTensorFill, as an export does"
        )
    if values is None:
        raise op.wrong("has no argument 'values'", "fetch or export it again")
    shape, held = shape_of(op), take(op)
    if held.size != math.prod(shape):
        raise op.wrong(
            f"holds {held.size:,} values for the shape {list(shape)}", "fetch or export it again"
        )
    return held.reshape(shape)


def _floats(op: Operator) -> NDArray[Any]:
    return op.arguments["values"].numbers


def _integers(op: Operator) -> NDArray[Any]:
    return np.asarray(op.arguments["values"].integers, np.int64)


def _bytes(op: Operator) -> NDArray[Any]:
    values = op.arguments["values"]
    content = b"".join(values.texts) if values.text is None else values.text
    return np.frombuffer(content, np.uint8)


_GIVEN: dict[str, Callable[[Operator], NDArray[Any]]] = {
    "GivenTensorFill": _floats,
    "GivenTensorDoubleFill": _floats,
    "GivenTensorIntFill": _integers,
    "GivenTensorInt16Fill": _integers,
    "GivenTensorInt64Fill": _integers,
    "GivenTensorBoolFill": _integers,
    "GivenTensorByteStringToUInt8Fill": _bytes,
}
