"""Which blob of a Caffe2 net is the image, and how large it is: the net itself does not say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantize.conversion.caffe2_fills import Weights, shape_of
from quantize.conversion.caffe2_net import Net, Operator
from quantize.errors import ModelError

ASSUMED_SIZE = 224
"""Height and width where nothing tells them: what the classifiers of ImageNet take."""

_MOST_JSON = 1 << 20
_MOST_SIZE = 4096
_FLOAT = 1
_GATHERING = frozenset({"Add", "Concat", "Sum"})
"""Operators that may read a weight first; all others read an image there."""

_CURE = 'give a value_info.json that says it, such as {"data": [1, [1, 3, 224, 224]]}'


@dataclass(frozen=True)
class Image:
    """The input of a net.

    Attributes:
        blob: its name.
        size: channels, height, width.
        assumed: whether nothing tells height and width.
        steps: how it was found, one line each; empty where a file says it.
    """

    blob: str
    size: tuple[int, int, int]
    assumed: bool
    steps: tuple[str, ...]


def read_value_info(path: Path) -> dict[str, tuple[int, ...]]:
    """Blob name -> its shape, of those that hold floats.

    Args:
        path: `{name: [type, [dimensions]]}`, type 1 being float32.

    Raises:
        ModelError: the file cannot be read, or says something else.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ModelError(f"{path} is too large to be a value_info.json", _CURE)
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}", "check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON", _CURE) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not give blobs by name", _CURE)
    shapes = {}
    for name, entry in content.items():
        if not _is_entry(entry):
            raise ModelError(f"{path}: {name[:80]!r} is not [type, [dimensions]]", _CURE)
        if entry[0] == _FLOAT:
            shapes[name] = tuple(entry[1])
    return shapes


def find_image(net: Net, weights: Weights, declared: Mapping[str, tuple[int, ...]]) -> Image:
    """The image input of a predict net.

    Args:
        net: the predict net.
        weights: what the init net fills; a fill of the image is a place holder.
        declared: from `read_value_info`, or empty.

    Raises:
        ModelError: there is none, or more than one, or its size is unusable or unknown.
    """
    readers = _open_readers(net)
    if declared:
        return _declared(readers, weights, declared)
    found = [name for name, ops in readers.items() if _reads_first(name, ops)]
    if len(found) != 1:
        names = ", ".join(repr(name) for name in found[:5]) or "none"
        raise ModelError(f"the predict net has {len(found)} possible image inputs ({names})", _CURE)
    blob = found[0]
    shape = _place_holder(weights, blob)
    if shape is not None:
        size = _checked(blob, shape)
        return Image(blob, size, False, (f"took the size of {blob!r} from its place holder",))
    size = _channels(readers[blob], weights), ASSUMED_SIZE, ASSUMED_SIZE
    said = f"assumed images of {size[0]}x{size[1]}x{size[2]}: there is no value_info.json"
    return Image(blob, _checked(blob, (1, *size)), True, (said,))


def _declared(
    readers: Mapping[str, list[Operator]],
    weights: Weights,
    declared: Mapping[str, tuple[int, ...]],
) -> Image:
    found = [name for name in readers if name in declared]
    if len(found) > 1:  # some list their weights too
        found = [name for name in found if name not in weights]
    if len(found) != 1:
        names = ", ".join(repr(name[:80]) for name in list(declared)[:5])
        raise ModelError(
            f"the predict net reads {len(found)} of the inputs that value_info.json declares"
            f" ({names}), not one",
            f"declare its image input, which may be {next(iter(readers), '')!r}",
        )
    return Image(found[0], _checked(found[0], declared[found[0]]), False, ())


def _checked(blob: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 4 or not all(1 <= size <= _MOST_SIZE for size in shape[1:]):
        raise ModelError(
            f"the image input {blob!r} has the shape {list(shape[:8])}, not [N,C,H,W] with sizes"
            f" up to {_MOST_SIZE}",
            _CURE,
        )
    return shape[1], shape[2], shape[3]


def _open_readers(net: Net) -> dict[str, list[Operator]]:
    """Blobs that are read before any operator makes them -> the operators that then do."""
    made: set[str] = set()
    found: dict[str, list[Operator]] = {}
    for op in net.operators:
        for name in dict.fromkeys(op.inputs):
            if name not in made:
                found.setdefault(name, []).append(op)
        made.update(op.outputs)
    return found


def _reads_first(name: str, ops: list[Operator]) -> bool:
    return any(op.type not in _GATHERING and op.inputs[0] == name for op in ops)


def _place_holder(weights: Weights, blob: str) -> tuple[int, ...] | None:
    """The shape of an image that the init net fills, where it is one."""
    op = weights.fill(blob)
    if op is None or "shape" not in op.arguments:
        return None
    shape = shape_of(op)
    return shape if len(shape) == 4 else None


def _channels(ops: list[Operator], weights: Weights) -> int:
    """Channels of the image, told by the weights of an operator that reads it."""
    for op in ops:
        if op.type == "Conv" and len(op.inputs) > 1 and op.inputs[1] in weights:
            weight = weights[op.inputs[1]]
            if weight.ndim == 4:
                return int(weight.shape[1]) * max(1, op.integer("group", 1))
        if op.type == "SpatialBN" and len(op.inputs) > 1 and op.inputs[1] in weights:
            return int(weights[op.inputs[1]].size)
    raise ModelError("nothing in the predict net tells how many channels its images have", _CURE)


def _is_entry(entry: object) -> bool:
    """Whether it is [type, [dimensions]]; JSON's true is a number to Python, but not here."""
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[1], list)
        and all(type(number) is int for number in (entry[0], *entry[1]))
    )
