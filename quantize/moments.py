"""Second moments of what layers read: H = E[x x^T] over input columns x, for rounding weights.

A layer computes y = W x for each position of its output, where x holds all values that the
position sees. Few positions of few images are enough, since what follows damps H anyway.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantize.errors import DataError, ModelError
from quantize.graph.io import to_bytes
from quantize.graph.layers import Layer
from quantize.graph.layers import layers as layers_of
from quantize.graph.product import gram
from quantize.graph.watch import with_fetched
from quantize.runtime import Session

if TYPE_CHECKING:
    import onnx

MOST_IMAGES = 64


class SecondMoments(Mapping[str, NDArray[np.float64]]):
    """Layer -> H, float64 [K,K]; of a Conv with G > 1 groups [G,K,K].

    Only the columns are held, 4 bytes a value; H is worked out anew at each look, since those of
    all layers together can be a gigabyte. Onnxruntime multiplies, in float32: its products are
    the same for any number of threads.

    Args:
        columns: layer -> float32 [P,G,K].
        threads: threads of the products.
    """

    def __init__(self, columns: Mapping[str, NDArray[np.float32]], *, threads: int) -> None:
        self._columns = columns
        self._product = Session(to_bytes(gram()), threads=threads, name="the product of columns")

    def __getitem__(self, layer: str) -> NDArray[np.float64]:
        columns = self._columns[layer]
        [products] = self._product.run(columns)
        moments = products.astype(np.float64)
        moments /= len(columns)
        return moments[0] if len(moments) == 1 else moments

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def second_moments(
    model: onnx.ModelProto,
    batches: Iterable[NDArray[np.float32]],
    layers: Sequence[str],
    *,
    images: int = MOST_IMAGES,
    positions: int = 16,
    seed: int = 0,
    threads: int,
) -> SecondMoments:
    """Gather the input columns of some layers.

    Which positions are taken depends on the seed, the layer and the image's place in the order,
    on nothing else. Columns hold C / G channels of kH x kW values each, as a row of the weight
    matrix does; what the padding adds is there as zeros.

    Args:
        model: a prepared float model.
        batches: images float32 [N,C,H,W]; no more are drawn than needed.
        layers: names of Conv, Gemm or MatMul nodes with a constant weight.
        images: how many images count, at most `MOST_IMAGES`.
        positions: how many positions of each image's output, where it has as many.
        seed: of the choice of positions.
        threads: threads of the session.

    Returns:
        The moments by layer. Memory: 4 bytes times images times positions times K, summed.

    Raises:
        ModelError: a name is not that of such a layer, or the model fails on an image.
    """
    known = {layer.name: layer for layer in layers_of(model)}
    missing = sorted(set(layers) - known.keys())
    if missing:
        raise ModelError(
            f"{missing[0]!r} is no Conv, Gemm or MatMul with a constant weight of its own",
            "name layers of the model: quantize inspect lists them",
        )
    chosen = [known[name] for name in dict.fromkeys(layers)]
    opened, fetched = with_fetched(model, dict.fromkeys(_form(layer) for layer in chosen))
    output_of = {(each.tensor, each.channels_last): each.output for each in fetched}
    session = Session(to_bytes(opened), threads=threads, name="the model of moments")
    gathered: dict[str, list[NDArray[np.float32]]] = {layer.name: [] for layer in chosen}
    for index, image in enumerate(_images(batches, min(images, MOST_IMAGES))):
        [piece] = session.pieces(image)
        values = dict(zip(session.outputs, session.run(piece), strict=True))
        for layer in chosen:
            output = output_of[_form(layer)]
            value = values[output][0] if output else _as_fetched(image[0], layer)
            draw = np.random.default_rng([seed, zlib.crc32(layer.name.encode()), index])
            gathered[layer.name].append(_columns(layer, value, draw, positions))
    columns = {name: np.concatenate(gathered.pop(name)) for name in list(gathered)}
    return SecondMoments(columns, threads=threads)


def _form(layer: Layer) -> tuple[str, bool]:
    """What to fetch: a Conv's input with the channels last."""
    return layer.input, layer.op_type == "Conv"


def _as_fetched(image: NDArray[np.float32], layer: Layer) -> NDArray[np.float32]:
    return np.moveaxis(image, 0, -1) if layer.op_type == "Conv" else image


def _images(batches: Iterable[NDArray[np.float32]], most: int) -> Iterator[NDArray[np.float32]]:
    """The first images, each float32 [1,C,H,W].

    Raises:
        DataError: there is none.
    """
    count = 0
    for batch in batches:
        for image in batch[: most - count]:
            count += 1
            yield image[None]
        if count >= most:
            break
    if not count:
        raise DataError("there is no image to calibrate with", "check the data path")


def _columns(
    layer: Layer, value: NDArray[np.float32], draw: np.random.Generator, positions: int
) -> NDArray[np.float32]:
    """Columns float32 [P,G,K] of one image: [H,W,C] of a Conv, else [...,K]."""
    if layer.op_type != "Conv":
        rows = value.reshape(-1, 1, value.shape[-1])
        return rows[_spots(len(rows), draw, positions)]
    height, width, channels = value.shape
    top, left, bottom, right = layer.pads
    across = _outputs(width + left + right, layer, 1)
    spots = _spots(_outputs(height + top + bottom, layer, 0) * across, draw, positions)
    y = _taps(spots // across, layer, 0) - top
    x = _taps(spots % across, layer, 1) - left
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    seen = value[y[:, :, None], x[:, None, :]] * inside[..., None].astype(np.float32)
    return np.ascontiguousarray(seen.transpose(0, 3, 1, 2)).reshape(
        len(spots), layer.group, channels // layer.group * layer.kernel[0] * layer.kernel[1]
    )


def _spots(count: int, draw: np.random.Generator, positions: int) -> NDArray[np.int64]:
    """At most `positions` of `count` places, in order, none twice."""
    return np.sort(draw.choice(count, min(positions, count), replace=False))


def _outputs(padded: int, layer: Layer, axis: int) -> int:
    """How many positions a Conv's output has along an axis."""
    reach = (layer.kernel[axis] - 1) * layer.dilations[axis] + 1
    return (padded - reach) // layer.strides[axis] + 1


def _taps(places: NDArray[np.int64], layer: Layer, axis: int) -> NDArray[np.int64]:
    """[P,k]: where in the padded input the kernel's taps lie for these output positions."""
    return (
        places[:, None] * layer.strides[axis]
        + np.arange(layer.kernel[axis]) * layer.dilations[axis]
    )
