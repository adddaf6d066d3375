"""A forecast without the machine: which layers give other sums on x86 processors without VNNI.

See `quantize.pairs` for what happens there. The forecast knows the int8 file's integers, so that a
pair that cannot overflow is known for certain, and counts what overflowed on some images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantize.graph.expose import with_outputs
from quantize.graph.io import to_bytes
from quantize.graph.products import Products, products
from quantize.pairs import Risks
from quantize.runtime import Session

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_POSITIONS = 1 << 10
"""Of each image, in each layer."""

_MOST_SUMS = 1 << 34
"""Of pairs in a whole forecast; fewer positions are taken where there would be more."""


@dataclass(frozen=True)
class Overflow:
    """One layer's sums of two products that do not fit 16 bits.

    Attributes:
        possible: share of the pairs of weights that some activations overflow (a ratio).
        seen: share of the sums that did on the images (a ratio), or None where nobody looked.
    """

    possible: float
    seen: float | None


def overflows(
    int8_model: onnx.ModelProto,
    images: NDArray[np.float32],
    *,
    threads: int = 1,
    expired: Callable[[], bool] = lambda: False,
) -> dict[str, Overflow]:
    """What each layer of an int8 file would overflow.

    Args:
        int8_model: QDQ or QOperator.
        images: float32 [N,C,H,W], a few; none: only what is possible.
        threads: of the session.
        expired: asked before each image; once it says yes, those seen so far have to do.

    Returns:
        Node of the int8 file -> its overflow; a layer without pairs has none at all.

    Raises:
        ModelError: the model does not run on these images.
    """
    layers = [_Layer(one) for one in products(int8_model)]
    looked = _count(int8_model, [one for one in layers if one.risk], images, threads, expired)
    return {one.products.node: Overflow(one.risk, one.seen(looked=looked)) for one in layers}


class _Layer:
    """A layer, and what was counted of it.

    Args:
        one: its products.

    Attributes:
        products: those.
        risk: share of the pairs of weights that some activations overflow.
        pairs: of its weights.
    """

    def __init__(self, one: Products) -> None:
        self.products = one
        self._groups = [Risks(weights) for weights in one.weights] if one.paired else []
        self.pairs = sum(group.pairs for group in self._groups)
        self.risk = sum(group.count for group in self._groups) / max(1, self.pairs)
        self._overflowing = self._sums = 0

    def look(self, value: NDArray[np.uint8], most: int) -> None:
        """Count what overflows of an input, at so many positions at most."""
        found = (columns for columns, _ in self.products.columns(value, most))
        for group, columns in zip(self._groups, found, strict=False):
            self._overflowing += group.overflowing(columns)
            self._sums += len(columns) * group.pairs

    def seen(self, *, looked: bool) -> float | None:
        """Share of the sums that overflowed, or None where nobody looked."""
        if not self.risk:
            return 0.0
        return self._overflowing / self._sums if looked and self._sums else None


def _count(
    model: onnx.ModelProto,
    risky: list[_Layer],
    images: NDArray[np.float32],
    threads: int,
    expired: Callable[[], bool],
) -> bool:
    """Count sums that overflow, and all sums, image by image; whether any image was seen."""
    if not (risky and len(images)):
        return False
    names = list(dict.fromkeys(one.products.input for one in risky))
    session = Session(
        to_bytes(with_outputs(model, names)),
        threads=threads,
        name="the forecast's graph",
        spin=False,
    )
    pairs = sum(one.pairs for one in risky)
    most = max(1, min(_POSITIONS, _MOST_SUMS // (pairs * len(images))))
    looked = False
    for image in images:
        if expired():
            break
        piece = next(session.pieces(image[None]))
        held = dict(zip(session.outputs, session.run(piece), strict=True))
        for one in risky:
            value = np.asarray(held[one.products.input], np.uint8)
            one.look(value if len(piece) == 1 else value[:1], most)  # a fixed batch was filled
        looked = True
    return looked
