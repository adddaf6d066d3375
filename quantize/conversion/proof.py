"""Both sides of a conversion run on the same images; where they differ, the first layer is named.

distance(a, b) = max|b - a| / max|a| over one tensor, for all images. The graph's outputs decide,
and so do the scores before a final Softmax, which squeezes differences. Where these are the same
for every image (weights that are no trained ones do that) every tensor decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.conversion.imported import Reference, Tensors
from quantize.errors import ConversionError, ModelError
from quantize.graph.expose import with_outputs
from quantize.graph.io import to_bytes
from quantize.graph.view import View
from quantize.plan import OnProgress, Progress
from quantize.runtime import Session, cores

Array = NDArray[np.float32]

_PASSIVE = ("Cast", "Identity", "DequantizeLinear", "QuantizeLinear")
_TELLING = 1e-3


@dataclass(frozen=True)
class Rule:
    """What a kind of conversion promises.

    Attributes:
        tolerance: largest distance of a deciding tensor (a ratio).
        agreement: least share of images whose best class stays the same, or None: not asked.
    """

    tolerance: float
    agreement: float | None = None


EXACT = Rule(1e-4)
HALF = Rule(1e-2, 0.99)
INTEGERS = Rule(math.inf, 0.99)


@dataclass(frozen=True)
class Check:
    """One comparison that held.

    Attributes:
        step: what was done.
        images: on how many images, noise among them.
        distance: the largest of a deciding tensor (a ratio), or None where it was not measured.
        agreement: share of images with the same best class.
        telling: whether the scores differ from image to image, so that faults would show.
        note: what else there is to know, or empty.
    """

    step: str
    images: int
    distance: float | None
    agreement: float
    telling: bool = True
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "step": self.step,
            "images": self.images,
            "distance": self.distance,
            "agreement": self.agreement,
            "telling": self.telling,
            "note": self.note or None,
        }

    def line(self) -> str:
        """The same for people."""
        measured = "" if self.distance is None else f"within {self.distance:.1g} of the largest, "
        measured = "equal to the last bit, " if self.distance == 0 else measured
        notes = [self.note] if self.note else []
        if not self.telling:
            notes.append("the scores are the same for every image: the layers were compared")
        more = f" ({'; '.join(notes)})" if notes else ""
        return (
            f"{self.step}: {measured}{100 * self.agreement:.1f} % same answers on"
            f" {self.images} images{more}"
        )


def prove(
    step: str,
    before: Reference,
    model: onnx.ModelProto,
    images: Array,
    rule: Rule,
    *,
    trace: Reference | None = None,
    on_progress: OnProgress | None = None,
) -> Check:
    """Compare a converted model with what it was made from.

    Args:
        step: what was done, for messages.
        before: what the model was made from; it is run on one image at a time.
        model: takes the same images.
        images: float32 [N,C,H,W].
        rule: what is promised.
        trace: the same as `before` with every tensor, where `before` has but the scores.
        on_progress: told after each image.

    Raises:
        ConversionError: the model breaks the rule; names the first layer that differs.
        ModelError: what it was made from gives NaN or infinity, or the model does not run.
    """
    deciding = _deciding(model)
    run = Runner(model, deciding)
    output = model.graph.output[0].name
    told = _told(before, step, len(images), on_progress) if on_progress else before
    earlier, later = _together(told, deciding, images), run(images)
    for name in (n for n in deciding if n in earlier):
        if not np.isfinite(earlier[name]).all():
            raise ModelError(f"the source gives NaN or infinity as {name!r}", "check its weights")
    known = [name for name in deciding if name in earlier]
    far = max(distance(earlier[name], later[name]) for name in known)
    same = agreement(earlier[output], later[output])
    telling = any(_varies(earlier[name]) for name in known)
    too_far = far > rule.tolerance or math.isinf(far)
    if too_far or (rule.agreement is not None and same < rule.agreement):
        _fail(step, trace or before, model, images, rule, far, same)
    if not telling and math.isfinite(rule.tolerance):
        differing = first_difference(trace or before, model, images[:1], rule.tolerance)
        if differing is not None:
            raise ConversionError(f"{step}: {differing}", _CURE)
    return Check(step, len(images), far, same, telling)


_CURE = "nothing was written; please report this model's operators"


class Runner:
    """A model with one image input, run by onnxruntime, with named tensors.

    Args:
        model: to run.
        names: tensors to give; None: every one that a node makes.
    """

    def __init__(self, model: onnx.ModelProto, names: list[str] | None = None) -> None:
        view = View(model.graph)
        self.names = list(view.producers) if names is None else names
        self._model = model
        kind = view.inputs[0].type.tensor_type.elem_type
        self._dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)

    @cached_property
    def _session(self) -> Session:
        exposed = with_outputs(self._model, self.names)
        return Session(to_bytes(exposed), threads=cores(), name="the converted model")

    def __call__(self, images: Array) -> Tensors:
        """The named tensors for float32 [N,C,H,W]; a fixed batch is filled up and cut off again.

        Raises:
            ModelError: the model fails on these.
        """
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in self.names}
        fed = 0
        for piece in self._pieces(images):
            fed += len(piece)
            values = dict(zip(self._session.outputs, self._session.run(piece), strict=True))
            for name in self.names:
                parts[name].append(np.asarray(values[name]))
        return {name: _joined(values, fed, len(images)) for name, values in parts.items()}

    def _pieces(self, images: Array) -> Iterator[Array]:
        """A few images at a time, so that memory does not grow with their number."""
        fixed = self._session.batch
        step = fixed or _AT_ONCE
        for start in range(0, len(images), step):
            yield from self._session.pieces(images[start : start + step].astype(self._dtype))


_AT_ONCE = 4


def traced(model: onnx.ModelProto) -> Reference:
    """A model's own arithmetic, every tensor by name: what the next step is compared with."""
    return Runner(model)


def scores_of(model: onnx.ModelProto) -> Reference:
    """The same with the deciding tensors alone, for many images."""
    return Runner(model, _deciding(model))


def distance(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """max|other - reference| / max|reference|; NaN, infinity and other shapes are far."""
    if reference.shape != other.shape or not np.isfinite(other).all():
        return math.inf
    if not reference.size:
        return 0.0
    largest = float(np.abs(reference).max()) or 1.0
    return float(np.abs(other.astype(np.float64) - reference).max()) / largest


def agreement(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Share of images with the same best class."""
    if reference.shape != other.shape:
        return 0.0
    best = (values.reshape(len(values), -1).argmax(axis=1) for values in (reference, other))
    return float(np.mean(np.equal(*best)))


def first_difference(
    before: Reference, model: onnx.ModelProto, image: Array, tolerance: float
) -> str | None:
    """The first layer, in the order of the graph, whose result differs; None: no named one does.

    Args:
        before: what the model was made from.
        model: the converted one.
        image: float32 [1,C,H,W].
        tolerance: largest distance that is none.
    """
    earlier, later = before(image), Runner(model)(image)
    for node in model.graph.node:
        for name in (n for n in node.output if _comparable(n, earlier, later)):
            far = distance(earlier[name], later[name])
            if far > tolerance:
                return f"the first layer that differs is {_called(node)}, {_by(far)}"
    return None


def _fail(
    step: str,
    before: Reference,
    model: onnx.ModelProto,
    images: Array,
    rule: Rule,
    far: float,
    same: float,
) -> NoReturn:
    """Raise, with the first image on which a layer differs."""
    tolerance = min(rule.tolerance, HALF.tolerance)
    for index in range(len(images)):
        try:
            found = first_difference(before, model, images[index : index + 1], tolerance)
        except ModelError as error:  # not everything that a node makes can be given out
            found = f"its layers cannot be compared: {error.message}"
        if found is not None:
            break
    else:
        found = f"of the layers that both sides name only {_called(model.graph.node[-1])} differs"
    if far > rule.tolerance or math.isinf(far):
        what = f"the outputs differ {_by(far)}, {rule.tolerance:g} is allowed"
    else:
        what = f"only {100 * same:.1f} % of the answers stay the same"
    raise ConversionError(f"{step}: {what}; {found}", _CURE)


def _deciding(model: onnx.ModelProto) -> list[str]:
    """The outputs, and what a Softmax at the end reads."""
    view = View(model.graph)
    names = [value.name for value in model.graph.output]
    last = view.producers.get(names[0])
    while last is not None and last.op_type in _PASSIVE:
        last = view.producers.get(last.input[0])
    if last is not None and last.op_type == "Softmax":
        names.append(last.input[0])
    return list(dict.fromkeys(names))


def _told(before: Reference, step: str, total: int, on_progress: OnProgress) -> Reference:
    """The same, telling after each run how many are done."""
    done = count(1)

    def run(images: Array) -> Tensors:
        values = before(images)
        on_progress(Progress(step, next(done), total))
        return values

    return run


def _together(before: Reference, names: list[str], images: Array) -> dict[str, NDArray[Any]]:
    """The named tensors as far as the reference has them, image by image."""
    parts: dict[str, list[NDArray[Any]]] = {}
    for index in range(len(images)):
        values: Mapping[str, NDArray[Any]] = before(images[index : index + 1])
        for name in (n for n in names if n in values):
            if not values[name].ndim:
                raise ModelError(
                    f"{name!r} is one number for all images", "convert a classifier of images"
                )
            parts.setdefault(name, []).append(values[name])
    return {name: np.concatenate(values) for name, values in parts.items()}


def _joined(pieces: list[NDArray[Any]], fed: int, wanted: int) -> NDArray[Any]:
    """Pieces along the batch axis, without what filled up the last one."""
    if any(not piece.ndim for piece in pieces):
        return pieces[0]
    whole: NDArray[Any] = np.concatenate(pieces)
    return whole[:wanted] if len(whole) == fed else whole  # else its first axis is another


def _comparable(name: str, earlier: Tensors, later: Tensors) -> bool:
    both = name and name in earlier and name in later
    return bool(both and earlier[name].dtype.kind == "f" and later[name].dtype.kind == "f")


def _varies(values: NDArray[Any]) -> bool:
    numbers = values.astype(np.float64)
    largest = float(np.abs(numbers).max()) if numbers.size else 0.0
    return bool(largest and np.ptp(numbers, axis=0).max() > _TELLING * largest)


def _called(node: onnx.NodeProto) -> str:
    return f"{node.name or node.output[0]!r} ({node.op_type})"


def _by(far: float) -> str:
    return "by infinity or shape" if math.isinf(far) else f"by {far:.2g} of the largest value"
