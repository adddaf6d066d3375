"""The command that brings models in from elsewhere and sends them out: convert."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from quantize.cli.options import AsJson, Quiet
from quantize.cli.printing import progress, show

if TYPE_CHECKING:
    from quantize.conversion.batch import Batch
    from quantize.conversion.integers import Format


Source = Annotated[
    Path,
    typer.Argument(
        help="ONNX of any age, MXNet -symbol.json, Caffe2 predict net, PyTorch weights."
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The ONNX file to write.", metavar="FILE")
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="MXNet .params or Caffe2 init net; default: beside it."),
]
ValueInfo = Annotated[
    Path | None,
    typer.Option("--value-info", help="Caffe2 value_info.json; default: beside it."),
]
Opset = Annotated[int | None, typer.Option("--opset", help="Version of the operators, 7 or newer.")]
Half = Annotated[bool, typer.Option("--float16", help="Weights and activations as float16.")]
HalfPorts = Annotated[bool, typer.Option("--float16-io", help="Inputs and outputs, too.")]
BatchText = Annotated[str | None, typer.Option("--batch", help="Images at once: a number or free.")]
SizeText = Annotated[
    str | None, typer.Option("--image-size", help="Another size, 224 or more.", metavar="HxW")
]
FormatText = Annotated[
    str | None, typer.Option("--format", help="Of an int8 model: qdq or qoperator.")
]
WithPreprocessing = Annotated[
    bool, typer.Option("--with-preprocessing", help="Take uint8 images as decoded.")
]
Preprocessing = Annotated[
    str | None,
    typer.Option("--preprocessing", help="Of images: a preset such as short_side, or a YAML."),
]
Check = Annotated[str | None, typer.Option("--check", help="axon: can AxonOnnx load the result?")]
ExternalData = Annotated[bool, typer.Option("--external-data", help="Weights in a file beside it.")]
Images = Annotated[Path | None, typer.Option("--images", help="Folder of images to prove it on.")]


def convert(
    source: Source,
    output: Output,
    weights: Weights = None,
    value_info: ValueInfo = None,
    opset: Opset = None,
    float16: Half = False,
    float16_io: HalfPorts = False,
    batch: BatchText = None,
    image_size: SizeText = None,
    quant_format: FormatText = None,
    with_preprocessing: WithPreprocessing = False,
    preprocessing: Preprocessing = None,
    check: Check = None,
    external_data: ExternalData = False,
    images: Images = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a model from elsewhere into the ONNX file that is wanted, and prove it is the same.

    Exit codes: 0 proven and written, 2 bad input, 3 the proof failed and nothing is written.
    """
    from quantize.conversion.convert import convert

    with progress(quiet or as_json) as on_progress:
        made = convert(
            source,
            output,
            opset=opset,
            float16=float16,
            float16_io=float16_io,
            batch=_batch(batch),
            image_size=_sides(image_size),
            format=cast("Format | None", _one_of("--format", quant_format, "qdq", "qoperator")),
            with_preprocessing=with_preprocessing,
            preprocessing=preprocessing,
            check=cast('Literal["axon"] | None', _one_of("--check", check, "axon")),
            external_data=external_data,
            images=images,
            weights=weights,
            value_info=value_info,
            on_progress=on_progress,
        )
    show(made, as_json)


def _batch(text: str | None) -> Batch | None:
    if text is None or text == "free":
        return cast("Batch | None", text)
    if re.fullmatch(r"[1-9]\d{0,5}", text) is None:
        raise typer.BadParameter(f"{text!r} is no number; write 8 or free", param_hint="--batch")
    return int(text)


def _sides(text: str | None) -> tuple[int, int] | None:
    """`256x320` as (height, width)."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text, re.ASCII)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no size; write height and width as 256x320", param_hint="--image-size"
        )
    return int(found[1]), int(found[2])


def _one_of(option: str, text: str | None, *allowed: str) -> str | None:
    if text is not None and text not in allowed:
        raise typer.BadParameter(f"{text!r} is not {' or '.join(allowed)}", param_hint=option)
    return text
