"""Test data: one tensor a file, a serialized TensorProto with its name, as the model zoo has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from quantize.bundle.model import parse_tensor
from quantize.errors import BundleError, ModelError
from quantize.graph.tensors import check_sizes
from quantize.runtime import Session

MADE_ON = "made on "
"""How a tensor's description begins that names the instruction set it was made on."""

_LARGEST = 1 << 30
_CURE = "fetch the bundle again"
_SET = re.compile(r"test_data_set_(\d{1,3})")


@dataclass(frozen=True, eq=False)
class DataSet:
    """One input with what the model gave for it.

    Attributes:
        name: of its folder.
        input: float32 [N,C,H,W].
        output: float32 [N,K], or [N,K,1,1].
        isa: instruction set that the output was made on; empty where the file does not say.
    """

    name: str
    input: NDArray[np.float32]
    output: NDArray[np.float32]
    isa: str


def write_sets(
    folder: Path, session: Session, images: list[NDArray[np.float32]], isa: str
) -> list[DataSet]:
    """Run the model on each image and write both ends.

    Args:
        folder: of the bundle.
        session: the shipped file, on one thread.
        images: float32 [C,H,W] each; a fixed batch is filled with copies.
        isa: of this machine.
    """
    made = []
    for number, image in enumerate(images):
        batch = np.repeat(image[None], session.batch or 1, axis=0)
        output = session.run(batch)[0]
        target = folder / f"test_data_set_{number}"
        target.mkdir()
        _write(target / "input_0.pb", session.input, batch, "")
        _write(target / "output_0.pb", session.outputs[0], output, MADE_ON + isa)
        made.append(DataSet(target.name, batch, output, isa))
    return made


def read_sets(folder: Path, session: Session) -> list[DataSet]:
    """The test data of a bundle, in the order of its numbers.

    Raises:
        BundleError: there is none, or a file is no tensor of the model's.
    """
    found = sorted(
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := _SET.fullmatch(path.name)) and path.is_dir()
    )
    if not found:
        raise BundleError("the bundle holds no test_data_set_0", _CURE)
    sets = []
    for _, path in found:
        given, _ = _read(path / "input_0.pb", session.input)
        wanted, note = _read(path / "output_0.pb", session.outputs[0])
        isa = note.removeprefix(MADE_ON) if note.startswith(MADE_ON) else ""
        sets.append(DataSet(path.name, given, wanted, isa))
    return sets


def _write(path: Path, name: str, array: NDArray[np.float32], note: str) -> None:
    tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
    if note:
        tensor.doc_string = note
    path.write_bytes(tensor.SerializeToString(deterministic=True))


def _read(path: Path, name: str) -> tuple[NDArray[Any], str]:
    """The values and the description; an empty name stands for the only one."""
    where = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _LARGEST:
            raise BundleError(f"{where} is larger than 1 GiB", _CURE)
        tensor = parse_tensor(path.read_bytes(), where)
    except OSError as error:
        raise BundleError(f"{where} cannot be read: {error.strerror}", _CURE) from error
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise BundleError(f"{where} keeps its data in another file", _CURE)
    if tensor.data_type != TensorProto.FLOAT or tensor.name not in ("", name):
        raise BundleError(f"{where} is not the float32 tensor {name!r} of the model", _CURE)
    try:
        check_sizes(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])), path)
    except ModelError as error:
        raise BundleError(f"{where} is damaged", _CURE) from error
    return numpy_helper.to_array(tensor), tensor.doc_string[:200]
