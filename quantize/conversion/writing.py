"""The converted file: written whole or not at all, without a word of the machine it came from."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx

from quantize import __version__
from quantize.bundle.placing import swap
from quantize.conversion.source import Source
from quantize.errors import OutputError
from quantize.files import TEMPORARY, cannot_write, check_writable, write_atomic
from quantize.graph.descriptions import places, without_descriptions
from quantize.graph.io import to_bytes

log = logging.getLogger(__name__)

_LEAST_EXTERNAL = 1024
_ALIGNED = 64


def data_file(output: Path) -> Path:
    """Where the weights lie that are not in the file itself."""
    return output.with_name(f"{output.name}.data")


def check_output(output: Path, sources: Iterable[Path], *, external_data: bool) -> None:
    """Find out before any work whether the result can be written.

    Raises:
        OutputError: it would replace a file that it is made from, or cannot be written.
    """
    written = (output, data_file(output)) if external_data else (output,)
    for path in written:
        check_writable(path)
        try:
            if any(_same_file(path, source) for source in sources):
                raise OutputError(f"output {path} is the source", "name another file")
        except OSError as error:
            raise cannot_write(path, error) from error


def _same_file(path: Path, source: Path) -> bool:
    if path.exists() and source.exists():
        return path.samefile(source)
    return path.resolve() == source.resolve()


def source_files(source: Source) -> list[Path]:
    """Every file that a model comes from: the weights beside an ONNX file among them."""
    files = list(source.files)
    if source.kind != "onnx":
        return files
    try:
        model = onnx.load_model(source.path, format="protobuf", load_external_data=False)
    except Exception:  # whoever imports it says what is wrong
        return files
    return files + [
        source.path.parent / entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    ]


def write_model(model: onnx.ModelProto, output: Path, *, external_data: bool) -> tuple[Path, ...]:
    """Write a model; with external data both files or none.

    Returns:
        The files.

    Raises:
        OutputError: they cannot be written; nothing is left behind, older files are as they were.
        ModelError: the model is larger than a file can be.
    """
    model = _anonymous(model)
    if not external_data:
        write_atomic(output, to_bytes(model))
        return (output,)
    data = data_file(output)
    content = _take_out(model, data.name)
    try:
        room = Path(tempfile.mkdtemp(dir=output.parent, prefix=TEMPORARY))
    except OSError as error:
        raise cannot_write(output, error) from error
    try:
        write_atomic(room / data.name, content)
        write_atomic(room / output.name, to_bytes(model))
        swap(((room / data.name, data), (room / output.name, output)), room)
    except OSError as error:
        raise cannot_write(output, error) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return output, data


def _anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without exporters' notes: stack traces of the machine stand in them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    without_descriptions(copy)
    copy.producer_name, copy.producer_version = "quantize", __version__
    for place in places(copy):  # names stay: whoever uses the model may ask for them
        log.warning("the source names a folder of the machine that made it: %s", place)
    return copy


def _take_out(model: onnx.ModelProto, name: str) -> bytes:
    """Move the larger weights out of a model, in place; returns them one after the other."""
    parts: list[bytes] = []
    offset = 0
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.nbytes < _LEAST_EXTERNAL:
            continue
        content = onnx.numpy_helper.from_array(array, tensor.name).raw_data
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": name, "offset": offset, "length": len(content)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        filling = -len(content) % _ALIGNED
        parts += [content, bytes(filling)]
        offset += len(content) + filling
    return b"".join(parts)
