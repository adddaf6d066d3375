"""The verb `apply`: write the int8 model of one plan, without a search and without a verdict.

With encodings it needs no images and gives the same bytes that the search wrote; without them it
calibrates and repairs anew, which is how one remedy is tried by hand.
"""

from __future__ import annotations

import json
import re
import stat
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantize.candidates import Workshop, finished
from quantize.checked_json import read_json
from quantize.engines import ort
from quantize.errors import ConfigError, DataError
from quantize.files import sha256, write_atomic
from quantize.graph import io
from quantize.graph.expose import float_tensors
from quantize.graph.layers import layers
from quantize.graph.prepare import prepare
from quantize.graph.view import View
from quantize.job import Given, open_job, open_proto
from quantize.npz import unpack
from quantize.outcome import check_output
from quantize.plan import (
    Encoding,
    Encodings,
    Plan,
    Range,
    Scheme,
    Statistics,
)
from quantize.plan_json import plan_of
from quantize.probe import image_size, run_once
from quantize.report.reading import REPORT

if TYPE_CHECKING:
    import onnx

    from quantize.config import Config
    from quantize.plan import OnProgress

_LARGEST = 1 << 30
_LARGEST_PLAN = 1 << 24
_SHA256 = re.compile("[0-9a-f]{64}")


def apply(
    model: str | Path,
    plan: Plan,
    output: str | Path,
    *,
    encodings: Encodings | None = None,
    config: Config | None = None,
    calibration: Given | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Write the plan's int8 model.

    Args:
        model: the float file.
        plan: engine, format, repairs and nodes left float.
        output: where the int8 file goes.
        encodings: of the run that made the plan; then no images are needed. Where they say which
            float file they are of, it must be this.
        config: otherwise, says which images calibrate.
        calibration: images from Python instead of the configured ones.
        on_progress: told while it works.

    Returns:
        The output.

    Raises:
        QuantizeError: something cannot be used; nothing is written then.
    """
    model, output = Path(model), Path(output)
    check_output(model, None, output)
    if encodings is not None:
        write_atomic(output, _from_encodings(model, plan, encodings))
        return output
    if config is None:
        raise ConfigError("without encodings, apply needs images", "give --config")
    with tempfile.TemporaryDirectory(prefix="quantize.") as name:
        job = open_job(model, config, None, calibration=calibration, on_progress=on_progress)
        prepared = prepare(job.model.proto, run_once, job.model.size)
        made = Workshop(job, prepared, Path(name)).make(plan)
        write_atomic(output, made.read_bytes())
    return output


def read_plan(path: Path) -> Plan:
    """The plan of a plan.json, perhaps edited; what it leaves out is as in a plain plan.

    Raises:
        DataError: the file is missing or is no plan; names the value that is wrong.
    """
    found = read_json(path, _LARGEST_PLAN, DataError, "name a plan.json of a run folder")
    found.known(*(each.name for each in fields(Plan)))
    scheme, digest = map(found.maybe, ("scheme", "encodings_sha256"))
    if scheme:
        scheme.known(*(each.name for each in fields(Scheme)))
    return replace(plan_of(found), encodings_sha256=digest.digest() if digest else None)


def read_encodings(path: Path, plan: Plan) -> Encodings:
    """The encodings of an encodings.npz, checked against the plan's hash.

    Where an older version wrote it, a report.json beside it may say which model they are of.

    Raises:
        DataError: the file is missing, damaged, or not the plan's.
    """
    try:
        seen = path.stat()
        if not stat.S_ISREG(seen.st_mode):
            raise ValueError("it is no regular file")
        if seen.st_size > _LARGEST:
            raise ValueError("it is larger than 1 GiB")
        found = Encodings.from_arrays(unpack(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"encodings {path} cannot be used: {error}", "name the encodings.npz beside the plan"
        ) from error
    if plan.encodings_sha256 not in (None, found.sha256):
        raise DataError(
            f"encodings {path} are not those of the plan", "name the encodings.npz beside the plan"
        )
    return replace(found, source=found.source or _tuned(path.parent))


def _tuned(folder: Path) -> str | None:
    """The sha256 of the float file that a run tuned, or None where no report says."""
    try:
        found = json.loads((folder / REPORT).read_text(encoding="utf-8"))["float_model"]["sha256"]
        return found if _SHA256.fullmatch(found) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _check_source(model: Path, encodings: Encodings) -> None:
    """Refuse the encodings of another model, where they say which they are of.

    Scales and weights may have the very names and shapes of a network that was trained again.
    """
    digest = sha256(model)
    if encodings.source not in (None, digest):
        raise DataError(
            f"the encodings are of another model than {model}: of sha256 {encodings.source[:12]},"
            f" and this is {digest[:12]}",
            "give the float model of the run that made them, or apply the plan with --config",
        )


def _check_suits(model: onnx.ModelProto, encodings: Encodings, path: Path) -> None:
    """Raise DataError unless the model has what the encodings replace."""
    held = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    rows = {layer.name: held[layer.weight][layer.axis] for layer in layers(model)}
    # What no tensor is called belongs to the front that fills the borders of exact pixels.
    given = {name: value.shape for name, value in encodings.constants.items()}
    wrong = [name for name, shape in given.items() if held.get(name, shape) != shape]
    wrong += [name for name, bias in encodings.biases.items() if (rows.get(name),) != bias.shape]
    known = {*held, *View(model.graph).producers}
    wrong += [
        name
        for name, encoding in encodings.tensors.items()
        if name in known and not _fits(held.get(name), encoding)
    ]
    if wrong:
        raise DataError(
            f"the encodings are of another model than {path}: it has no {wrong[0]!r} like theirs",
            "give the float model of the run that made them",
        )


def _fits(shape: tuple[int, ...] | None, encoding: Encoding) -> bool:
    """Whether a scale for each channel finds its channels; one scale fits everything."""
    if encoding.axis is None:
        return encoding.scale.size == 1
    if shape is None or encoding.axis >= len(shape):
        return False
    return encoding.scale.shape == (shape[encoding.axis],)


def _from_encodings(model: Path, plan: Plan, encodings: Encodings) -> bytes:
    proto = open_proto(model)
    _check_source(model, encodings)
    prepared = prepare(proto, run_once, image_size(proto))
    _check_suits(prepared.model, encodings, model)
    spans = dict.fromkeys(float_tensors(prepared.model), Range(0.0, 1.0))
    made = ort.quantize(prepared.model, Statistics(spans, 0), plan, encodings)
    return io.to_bytes(finished(made, proto))
