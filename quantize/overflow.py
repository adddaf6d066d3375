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
from quantize.pairs import at_risk, in_pairs, overflowing
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
    known = products(int8_model)
    risks = {one.node: float(at_risk(one.weights).mean()) if one.paired else 0.0 for one in known}
    risky = [one for one in known if risks[one.node] > 0]
    counts, sums = dict.fromkeys(risks, 0), dict.fromkeys(risks, 0)
    looked = _count(int8_model, risky, images, threads, expired, counts, sums)
    return {
        name: Overflow(risk, _share(counts[name], sums[name], looked=looked, possible=risk > 0))
        for name, risk in risks.items()
    }


def _share(count: int, sums: int, *, looked: bool, possible: bool) -> float | None:
    if not possible:
        return 0.0
    return count / sums if looked and sums else None


def _count(
    model: onnx.ModelProto,
    risky: list[Products],
    images: NDArray[np.float32],
    threads: int,
    expired: Callable[[], bool],
    counts: dict[str, int],
    sums: dict[str, int],
) -> bool:
    """Count sums that overflow, and all sums, image by image; whether any image was seen."""
    if not (risky and len(images)):
        return False
    names = list(dict.fromkeys(one.input for one in risky))
    session = Session(
        to_bytes(with_outputs(model, names)),
        threads=threads,
        name="the forecast's graph",
        spin=False,
    )
    values = sum(in_pairs(one.weights)[0].size for one in risky)
    most = max(1, min(_POSITIONS, _MOST_SUMS // (values * len(images))))
    looked = False
    for image in images:
        if expired():
            break
        piece = next(session.pieces(image[None]))
        held = dict(zip(session.outputs, session.run(piece), strict=True))
        for one in risky:
            value = np.asarray(held[one.input], np.uint8)
            value = value if len(piece) == 1 else value[:1]  # a fixed batch was filled
            for columns, weights in one.columns(value, most):
                counts[one.node] += overflowing(columns, weights)
                sums[one.node] += len(columns) * in_pairs(weights)[0].size
        looked = True
    return looked
