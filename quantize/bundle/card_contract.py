"""The card's sections on what the model takes and gives."""

from __future__ import annotations

from typing import Any

from quantize.bundle import snippet
from quantize.bundle.facts import Facts
from quantize.bundle.names import code
from quantize.data.transforms import Pipeline

_MEANING = {
    "AlignImageChannel": ", as many channels as `dim`",
    "BilinearImagenet": ", x / 255, central crop, bilinear resize, then"
    " ((x - 0.5) * 2 - mean) * scale",
    "CenterCrop": ", from row (H - height) // 2 and column (W - width) // 2",
    "Normalize": ", (x - mean) / std per channel",
    "Rescale": ", x / 255",
    "Resize": ", half-pixel centres, not antialiased, as OpenCV; a pair is width, height",
    "ResizeCropImagenet": ", short side to `resize_side`, as published with rows and columns"
    " swapped, centre crop, x / 255, (x - mean) / std, channels first",
    "ResizeShortSide": ", short side to `size`, the other one rounded, antialiased bilinear as"
    " Pillow",
    "ResizeWithAspectRatio": ", each pixel the mean of the area that it covers",
    "UnitRange": ", x / 255",
}


def preprocessing(facts: Facts) -> list[str]:
    """From an image file to the input, step by step."""
    contract = facts.contract
    channels, height, width = contract.size
    takes = f"The input {code(contract.input)} is float32 [N, {channels}, {height}, {width}], RGB."
    if not contract.steps:
        return [takes, "The images were prepared before the run saw them; how is not known to it."]
    described = Pipeline(snippet.steps_of(contract)).describe()
    lines = [
        f"{number}. {code(name)}{_MEANING.get(name, '')}{_options(values)}"
        for number, step in enumerate(described, 1)
        for name, values in step.items()
    ]
    return [
        takes,
        "From an image file: EXIF orientation applied, RGB, uint8 [height, width, 3]; then, in"
        " this order (`preprocess.json` has it for machines):",
        "\n".join(lines),
    ]


def _options(values: dict[str, Any]) -> str:
    given = [f"{key} = {value}" for key, value in values.items() if value is not None]
    return f": {code(', '.join(given))}" if given else ""


def postprocessing(facts: Facts) -> list[str]:
    """From the output to classes."""
    contract = facts.contract
    first = f"The output {code(contract.output)} is float32 [N, {contract.classes}]"
    if contract.probabilities:
        text = f"{first}: probabilities, since a Softmax is part of the model. The best class is"
        return [f"{text} the index of the largest one, counted from 0."]
    return [
        f"{first}: logits. Probabilities are exp(x - max x) / sum exp(x - max x); the best class"
        " is the index of the largest score, counted from 0."
    ]
