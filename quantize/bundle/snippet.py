"""The card's program: from an image file to the five best classes, without this package."""

from __future__ import annotations

from typing import Any

from quantize.bundle.contract import Contract, expanded
from quantize.bundle.facts import Facts
from quantize.data import presets, steps

_WEIGHTS = {
    "bilinear": "np.maximum(0, 1 - x)",
    "bicubic": "np.where(x < 1, (1.25 * x - 2.25) * x * x + 1,\n"
    "                      np.where(x < 2, ((3.75 - 0.75 * x) * x - 6) * x + 3, 0))",
}
_RESIZE = """\
def resize(image, height, width):  # {kind}, half-pixel centres, not antialiased
    for axis, size in ((1, width), (0, height)):
        count = image.shape[axis]
        place = (np.arange(size) + 0.5) * count / size - 0.5
        total = 0
        for tap in np.floor(place) + np.arange(-1, 3)[:, None]:
            x = abs(place - tap)
            weight = {weights}
            part = image.take(tap.clip(0, count - 1).astype(int), axis)
            total = total + part * weight.reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        image = total
    return image
"""
_AREA = """\
def resize(image, height, width):  # each pixel the mean of the area that it covers
    for axis, size in ((1, width), (0, height)):
        count, low = image.shape[axis], np.arange(size)[:, None]
        left, scale = np.arange(count), image.shape[axis] / size
        weight = np.minimum(left + 1, (low + 1) * scale) - np.maximum(left, low * scale)
        weight = np.maximum(weight, 0) / scale
        image = np.moveaxis(np.tensordot(weight, image, (1, axis)), 0, axis)
    return image
"""
_NEAREST = """\
def resize(image, height, width):  # nearest
    rows, columns = (
        np.arange(size) * count // size for size, count in zip((height, width), image.shape)
    )
    return image[rows][:, columns]
"""
_UNKNOWN = "raise NotImplementedError"


def steps_of(contract: Contract) -> tuple[Any, ...]:
    """The transforms, presets expanded."""
    return expanded(contract.pipeline())


def program(facts: Facts) -> str:
    """The text of a Python program that takes the image's path as its argument."""
    contract = facts.contract
    found = steps_of(contract)
    helper = _helper(found)
    lines = ["import sys", "", "import numpy as np", "import onnxruntime"]
    flat = ".ravel()" if any(len(port["shape"]) > 2 for port in facts.ports.outputs) else ""
    if found:
        lines.append("from PIL import Image, ImageOps")
    if helper:
        lines += ["", "", *helper.splitlines()]
    lines += ["", "", *_body(found)]
    lines += [
        f"image = np.ascontiguousarray(image, np.float32)[None]  # {[1, *contract.size]}",
        *([f"image = np.repeat(image, {batch}, 0)"] if (batch := _batch(facts)) > 1 else []),
        f"session = onnxruntime.InferenceSession({facts.model['file']!r})",
        f"scores = session.run(None, {{session.get_inputs()[0].name: image}})[0][0]{flat}",
    ]
    if contract.probabilities:
        lines.append("shares = scores")
    else:
        lines += ["shares = np.exp(scores - scores.max())", "shares /= shares.sum()"]
    lines += [
        "for index in np.argsort(-shares, kind='stable')[:5]:",
        "    print(f'class={index} probability={shares[index]:.6f}')",
    ]
    return "\n".join(lines) + "\n"


def _batch(facts: Facts) -> int:
    first = facts.ports.inputs[0]["shape"][:1]
    return first[0] if first and isinstance(first[0], int) and first[0] > 0 else 1


def _helper(found: tuple[Any, ...]) -> str:
    """The one resize function that the transforms need."""
    kinds = {kind for step in found if (kind := _kind(step))}
    if len(kinds) != 1:
        return ""
    kind = kinds.pop()
    if kind in _WEIGHTS:
        return _RESIZE.format(kind=kind, weights=_WEIGHTS[kind])
    return _AREA if kind == "area" else _NEAREST


def _kind(step: Any) -> str:
    if isinstance(step, steps.Resize | steps.CropResize):
        return step.interpolation
    if isinstance(step, steps.ResizeCropImagenet | steps.BilinearImagenet):
        return "bilinear"
    return "area" if isinstance(step, steps.ResizeWithAspectRatio) else ""


def _body(found: tuple[Any, ...]) -> list[str]:
    if not found:
        return ["image = ...  # float32 [C, H, W], prepared as for training"]
    lines = [
        "image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert('RGB')",
        "image = np.asarray(image)",
    ]
    eight_bits = True
    several = len({kind for step in found if (kind := _kind(step))}) > 1
    for step in found:
        if several and _kind(step):
            return [*lines, f"{_UNKNOWN}  # {type(step).__name__}: see preprocess.json"]
        lines += _lines(step, eight_bits)
        # After these our own values are no 8-bit numbers any more.
        eight_bits = eight_bits and not isinstance(step, _TO_FLOAT)
    return lines


_TO_FLOAT = (presets.UnitRange, steps.Rescale, steps.Normalize, steps.Cast, steps.BilinearImagenet)


def _lines(step: Any, eight_bits: bool) -> list[str]:
    """A few lines of numpy for one transform."""
    whole = ["image = np.rint(image).clip(0, 255)"] if eight_bits else []
    match step:
        case presets.UnitRange() | steps.Rescale():
            return ["image = image / 255"]
        case steps.Normalize():
            return [f"image = (image - {list(step.mean)}) / {list(step.std)}"]
        case steps.Cast() | steps.ToArray():
            return []
        case steps.AlignImageChannel(dim=3):
            return []
        case steps.Transpose():
            return [f"image = image.transpose({list(step.perm)})"]
        case presets.ResizeShortSide():
            return [
                f"ratio = {step.size} / min(image.shape[:2])",
                "height, width = (round(ratio * side) for side in image.shape[:2])",
                "image = np.asarray(Image.fromarray(image).resize((width, height), 2))  # bilinear",
            ]
        case steps.Resize():
            width, height = _pair(step.size)
            rounded = whole if step.interpolation != "nearest" else []
            return [f"image = resize(image, {height}, {width})", *rounded]
        case steps.CenterCrop():
            return _crop(*_pair(step.size))
        case steps.CropToBoundingBox():
            top, left = step.offset_height, step.offset_width
            bottom, right = top + step.target_height, left + step.target_width
            return [f"image = image[{top}:{bottom}, {left}:{right}]"]
        case steps.CropResize():
            box = f"{step.y}:{step.y + step.height}, {step.x}:{step.x + step.width}"
            return [
                f"image = image[{box}]",
                *_lines(steps.Resize(step.size, step.interpolation), eight_bits),
            ]
        case _:
            return _recipe(step, whole)


def _recipe(step: Any, whole: list[str]) -> list[str]:
    """The same for the transforms that are recipes of their own."""
    match step:
        case steps.ResizeCropImagenet():
            return [
                "rows, columns = image.shape[:2]",
                f"ratio = {step.resize_side} / min(rows, columns)",
                "image = resize(image, int(columns * ratio), int(rows * ratio))  # as published",
                *whole,
                *_crop(step.height, step.width),
                "image = image / 255",
                f"image = (image - {list(step.mean_value)}) / {list(step.std_value)}",
                "image = image.transpose(2, 0, 1)",
            ]
        case steps.ResizeWithAspectRatio():
            height, width = (int(100 * side / step.scale) for side in (step.height, step.width))
            return [
                "rows, columns = image.shape[:2]",
                f"height = int({height} * rows / columns) if rows > columns else {height}",
                f"width = {width} if rows > columns else int({width} * columns / rows)",
                "image = resize(image, height, width)",
                *whole,
            ]
        case steps.BilinearImagenet():
            return [
                "rows, columns = image.shape[:2]",
                f"top, left = (int((side - side * {step.central_fraction}) / 2)"
                " for side in (rows, columns))",
                "image = image[top : rows - top, left : columns - left] / 255",
                f"image = resize(image, {step.height}, {step.width})",
                f"image = ((image - 0.5) * 2 - {list(step.mean_value)}) * {step.scale}",
            ]
        case _:
            return [f"{_UNKNOWN}  # {type(step).__name__}: see preprocess.json"]


def _crop(height: int, width: int) -> list[str]:
    return [
        f"top, left = (image.shape[0] - {height}) // 2, (image.shape[1] - {width}) // 2",
        f"image = image[top : top + {height}, left : left + {width}]",
    ]


def _pair(size: steps.Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
