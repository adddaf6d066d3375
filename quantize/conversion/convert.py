"""READ FIRST: one door to all conversions. In, one step after the other, each proven, and out.

    source -> import -> image size -> batch -> format | float16 -> opset -> preprocessing -> file

Every step is compared with the one before it, the import with the source's own arithmetic. Nothing
is written before all of it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from quantize.conversion.axon import check_axon
from quantize.conversion.batch import Batch
from quantize.conversion.importing import import_model
from quantize.conversion.integers import Format
from quantize.conversion.proof import Check
from quantize.conversion.size import Sides
from quantize.conversion.source import KINDS, Kind, find_source
from quantize.conversion.way import Way
from quantize.conversion.wishes import Wishes
from quantize.conversion.writing import check_output, source_files, write_model
from quantize.data.transforms import Pipeline
from quantize.errors import ModelError
from quantize.graph.view import opset as opset_of
from quantize.plan import OnProgress


@dataclass(frozen=True)
class Converted:
    """A conversion that was proven and written.

    Attributes:
        kind: of the source.
        files: what was written: the model, and its data where that was asked for.
        opset: of the file.
        steps: what was done, one line each.
        proof: the comparisons that held, in order.
        images: `named` by the user, or `synthetic`.
    """

    kind: Kind
    files: tuple[Path, ...]
    opset: int
    steps: tuple[str, ...]
    proof: tuple[Check, ...]
    images: Literal["named", "synthetic"]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "source": self.kind,
            "files": [str(path) for path in self.files],
            "opset": self.opset,
            "steps": list(self.steps),
            "proof": {"images": self.images, "checks": [c.to_json() for c in self.proof]},
        }

    def lines(self) -> list[str]:
        """The same for people."""
        files = [str(path) for path in self.files]
        texts = [
            *(("files", text) for text in files),
            ("source", KINDS[self.kind]),
            ("opset", str(self.opset)),
            *(("steps", text) for text in self.steps),
            *(("proof", check.line()) for check in self.proof),
            ("images", _IMAGES[self.images]),
        ]
        labels = ["", *(label for label, _ in texts)]
        return [
            f"{'' if label == before else label:<10} {text}"
            for before, (label, text) in zip(labels, texts, strict=False)
        ]


_IMAGES = {
    "named": "yours, and noise",
    "synthetic": "synthetic ones and noise, since no --images were given",
}


def convert(  # noqa: PLR0913 - each is one option of the command
    source: str | Path,
    output: str | Path,
    *,
    opset: int | None = None,
    float16: bool = False,
    float16_io: bool = False,
    batch: Batch | None = None,
    image_size: Sides | None = None,
    format: Format | None = None,
    with_preprocessing: bool = False,
    preprocessing: str | Path | Pipeline | None = None,
    check: Literal["axon"] | None = None,
    external_data: bool = False,
    images: str | Path | None = None,
    weights: str | Path | None = None,
    value_info: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Converted:
    """Turn a model from elsewhere into the ONNX file that is wanted, and prove that it is the same.

    Args:
        source: an ONNX file of any age, an MXNet symbol, a Caffe2 predict net, or PyTorch weights.
        output: the ONNX file to write.
        opset: of the operators; None: what the import gives, 13 or newer.
        float16: whether weights and activations become float16.
        float16_io: whether inputs and outputs do, too.
        batch: how many images the file takes at once, or `free`; None: free where possible.
        image_size: (height, width) that the file takes instead of its own.
        format: of an int8 model, `qdq` or `qoperator`.
        with_preprocessing: whether the file takes one image as decoded, uint8 [height,width,3].
        preprocessing: of images: a preset's name, a YAML file with a dataloader, or the transforms.
        check: `axon`: whether AxonOnnx can load the result.
        external_data: whether the weights go into a file of their own beside it.
        images: a folder of images to prove it on; None: synthetic ones.
        weights: the source's parameters, where they lie in a file of their own.
        value_info: shapes of a Caffe2 net's inputs.
        on_progress: told while it works.

    Raises:
        ConversionError: a step does not prove itself, or AxonOnnx cannot load the result.
        QuantizeError: source, options, images or output cannot be used.
    """
    wishes = Wishes(
        opset=opset,
        float16=float16,
        float16_io=float16_io,
        batch=batch,
        image_size=image_size,
        format=format,
        with_preprocessing=with_preprocessing,
        preprocessing=preprocessing,
    )
    wishes.check(axon=check == "axon", external_data=external_data)
    found = find_source(Path(source), _path(weights), _path(value_info))
    check_output(Path(output), source_files(found), external_data=external_data)
    way = Way(import_model(found), wishes, _path(images), on_progress)
    way.go()
    _check_model(way.model, axon=check == "axon")
    return _write(way, found.kind, Path(output), external_data)


def _write(way: Way, kind: Kind, output: Path, external_data: bool) -> Converted:
    files = write_model(way.model, output, external_data=external_data)
    steps, proof = tuple(way.steps), tuple(way.proof)
    return Converted(kind, files, opset_of(way.model), steps, proof, way.pictures.kind)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _check_model(model: onnx.ModelProto, *, axon: bool) -> None:
    """Find out whether ONNX's own checker accepts the model, and AxonOnnx, where that is asked.

    Raises:
        ModelError: it is no valid ONNX.
        ConversionError: AxonOnnx cannot load it.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises whatever its C++ side does
        raise ModelError(
            f"the converted model is no valid ONNX: {error}",
            "nothing was written; please report this model's operators",
        ) from error
    if axon:
        check_axon(model)
