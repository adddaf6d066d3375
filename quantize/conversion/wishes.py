"""What is wanted of a conversion, and which wishes exclude each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantize.conversion.batch import Batch
from quantize.conversion.integers import Format
from quantize.conversion.opset import check_opset
from quantize.conversion.size import Sides, check_sides
from quantize.data.transforms import Pipeline
from quantize.errors import ConfigError


@dataclass(frozen=True)
class Wishes:
    """What a converted file shall be; None and False: as it was imported.

    Attributes:
        opset: of ai.onnx.
        float16: weights and activations.
        float16_io: inputs and outputs.
        batch: how many images at once, or `free`.
        image_size: (height, width).
        format: of an int8 model.
        with_preprocessing: takes an image as decoded.
        preprocessing: a preset's name, a YAML file, or the transforms.
    """

    opset: int | None = None
    float16: bool = False
    float16_io: bool = False
    batch: Batch | None = None
    image_size: Sides | None = None
    format: Format | None = None
    with_preprocessing: bool = False
    preprocessing: str | Path | Pipeline | None = None

    @property
    def needs_many(self) -> bool:
        """Whether something is proven by the share of equal answers."""
        return self.float16 or self.format is not None

    def check(self, *, axon: bool, external_data: bool) -> None:
        """Find out before any work whether the wishes go together.

        Raises:
            ConfigError: two of them do not, or one has an impossible value.
        """
        both = (
            (self.float16_io and not self.float16, "--float16-io needs --float16"),
            (self.float16 and self.format, "--float16 is for float models, --format for int8 ones"),
            (self.float16_io and self.with_preprocessing, "--with-preprocessing gives float32"),
            (axon and external_data, "AxonOnnx reads no external data"),
            (
                self.with_preprocessing and self.preprocessing is None,
                "--with-preprocessing needs --preprocessing: a preset or a YAML file",
            ),
            (
                self.with_preprocessing and self.batch not in (None, 1),
                "--with-preprocessing takes one image, --batch more",
            ),
        )
        for wrong, what in both:
            if wrong:
                raise ConfigError(what, "change one of them")
        if self.opset is not None:
            check_opset(self.opset)
        if self.image_size is not None:
            check_sides(self.image_size)
