"""The steps of one conversion, in order, each proven against the one before it."""

from __future__ import annotations

from pathlib import Path

import onnx

from quantize.conversion.batch import with_batch
from quantize.conversion.float16 import to_float16
from quantize.conversion.front import prove_front, with_front
from quantize.conversion.imported import Imported
from quantize.conversion.integers import check_integers, with_format
from quantize.conversion.opset import with_opset
from quantize.conversion.pictures import FEW, MOST, Pictures, pictures, recipe_of
from quantize.conversion.proof import EXACT, HALF, INTEGERS, Check, Rule, prove, scores_of, traced
from quantize.conversion.size import Sides, prove_size, with_size
from quantize.conversion.wishes import Wishes
from quantize.errors import ConfigError, ModelError
from quantize.graph.view import MOST_BATCH, View, dims, opset
from quantize.plan import OnProgress
from quantize.probe import image_size

_MOST_NAMED = 5


class Way:
    """From an imported model to the one that was asked for.

    Args:
        imported: the model as it came in; proven here.
        wishes: what it shall become.
        folder: of images to prove it on, or None.
        on_progress: told while it runs both sides.

    Attributes:
        model: as far as it is.
        steps: what was done, one line each.
        proof: the comparisons that held.
        pictures: what they were made on.

    Raises:
        ConversionError: the import computes something else than its source.
        QuantizeError: the model is no image classifier, or the images cannot be used.
    """

    def __init__(
        self,
        imported: Imported,
        wishes: Wishes,
        folder: Path | None,
        on_progress: OnProgress | None = None,
    ) -> None:
        _check_ports(imported.model)
        self.model = imported.model
        self.steps = list(imported.steps)
        self.proof: list[Check] = []
        # Only another size is compared with it again; else its weights need not stay in memory.
        self._source = imported.reference if wishes.image_size else None
        self._wishes = wishes
        self._tell = on_progress
        self._folder = folder
        self._count = MOST if wishes.needs_many else FEW
        self._size = image_size(self.model)
        # A YAML file's images have the size that is wanted, which may not be this one.
        asked = None if wishes.image_size else wishes.preprocessing
        self._recipe = recipe_of(asked, self._size)
        self.pictures = self._pictures()
        few = self.pictures.few()
        first = prove("import", imported.reference, self.model, few, EXACT, on_progress=on_progress)
        self.proof.append(first)

    def go(self) -> None:
        """Take every step that was asked for.

        Raises:
            ConversionError: one does not prove itself.
            QuantizeError: one is not possible with this model.
        """
        wishes = self._wishes
        if wishes.image_size is not None:
            self._resize(wishes.image_size)
        if wishes.batch is not None:
            self._take(f"batch {wishes.batch}", with_batch(self.model, wishes.batch), EXACT)
        if wishes.format is not None:
            self._reformat()
        if wishes.float16:
            self._halve()
        if wishes.opset is not None and wishes.opset != opset(self.model):
            name = f"opset {opset(self.model)} to {wishes.opset}"
            self._take(name, with_opset(self.model, wishes.opset), EXACT)
        if wishes.with_preprocessing:
            self._put_in_front()

    def _take(self, step: str, made: onnx.ModelProto, rule: Rule) -> None:
        """Prove one step and go on from there."""
        images = self.pictures.few() if rule.agreement is None else self.pictures.all()
        before, trace = scores_of(self.model), traced(self.model)
        check = prove(step, before, made, images, rule, trace=trace, on_progress=self._tell)
        self.proof.append(check)
        self.steps.append(step)
        self.model = made

    def _resize(self, sides: Sides) -> None:
        old = self.pictures
        made = with_size(self.model, sides)
        self._size = (self._size[0], *sides)
        self._recipe = recipe_of(self._wishes.preprocessing, self._size)
        self.pictures = self._pictures()
        assert self._source is not None  # it is kept for this
        check = prove_size(self._source, made, old.few(), self.pictures.few())
        self.proof.append(check)
        self.steps.append(f"image size {sides[0]}x{sides[1]}")
        self.model = made

    def _reformat(self) -> None:
        assert self._wishes.format is not None  # else nobody comes here
        made = with_format(self.model, self._wishes.format)
        count = check_integers(self.model, made)
        self._take(f"format {self._wishes.format}", made, INTEGERS)
        self.steps.append(f"kept the integers of {count} weights, bit for bit")

    def _halve(self) -> None:
        made, kept = to_float16(self.model, ports=self._wishes.float16_io)
        self._take("float16", made, HALF)
        if kept:
            more = f" and {len(kept) - _MOST_NAMED} more" if len(kept) > _MOST_NAMED else ""
            self.steps.append(f"left float32: {', '.join(kept[:_MOST_NAMED])}{more}")

    def _put_in_front(self) -> None:
        if self._recipe is None:
            raise ConfigError("--with-preprocessing without --preprocessing", "give both")
        made = with_front(self.model, self._recipe, self._size)
        self.proof.append(prove_front(self.model, made, self._recipe, self.pictures))
        self.steps.append("put the preprocessing in front: takes uint8 [height,width,3]")
        self.model = made

    def _pictures(self) -> Pictures:
        return pictures(self._size, self._folder, self._recipe, self._count)


def _check_ports(model: onnx.ModelProto) -> None:
    """Raise ModelError unless the model takes one float32 image and nothing else."""
    inputs = View(model.graph).inputs
    if len(inputs) != 1 or len(dims(inputs[0]) or []) != 4:
        names = ", ".join(repr(value.name) for value in inputs[:5]) or "none"
        raise ModelError(
            f"the model is no image classifier: its inputs are {names}, not one [N,C,H,W]",
            "convert a classifier with one image input",
        )
    batch = (dims(inputs[0]) or [None])[0]
    if batch is not None and batch > MOST_BATCH:
        raise ModelError(f"the model takes {batch} images at once", "free its batch axis first")
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(f"input {inputs[0].name!r} is not float32", "convert the float32 model")
