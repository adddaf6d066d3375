"""PyTorch comes in: a state dict of torchvision's ResNets, as safetensors, `.pth` or `.pt2`.

Safetensors and `.pt2` need no torch. What a file is, its content tells and not its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.conversion.imported import Imported
from quantize.conversion.torch_archives import is_program, opened, read_program
from quantize.conversion.torch_pickle import read_pickled
from quantize.conversion.torch_reference import reference
from quantize.conversion.torch_resnet import Weights, layout_of, shapes, to_onnx
from quantize.conversion.torch_safetensors import looks_like_safetensors, read_safetensors
from quantize.errors import ModelError

MOST_BYTES = 2**31 - 1
"""What an ONNX file of these weights could hold."""

_HEAD = 32
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_LFS_MARK = b"version https://git-lfs"

# What wrappers put in front of every name: data parallel, compiled, Lightning, checkpoints.
_PREFIXES = ("module.", "_orig_mod.", "state_dict.", "model.", "net.")


def import_torch(path: Path, depth: int | None = None) -> Imported:
    """Bring in a state dict of torchvision's ResNet-18, -34, -50, -101 or -152.

    Args:
        path: safetensors, `.pth` or `.pt2`.
        depth: the depth that it must have; it is told by the names anyway.

    Returns:
        The ONNX model, input `input` [N,3,224,224] and output `output` [N,K], whose tensors are
        called as torch's modules; and the forward pass in numpy.

    Raises:
        ModelError: the file is none of these or is damaged, could run code, needs torch where
            that is missing, or holds another network.
    """
    state, form = _read(path)
    state, prefix = _bare(state)
    layout = layout_of(state, depth, str(path))
    weights = {name: _float32(name, state[name], path) for name in shapes(layout)}
    _check_variances(weights, path)
    steps = [
        f"read {len(state)} arrays from {form}",
        f"took it for torchvision's ResNet-{layout.depth}"
        + (" with the stride on the 3x3 convolutions" if layout.bottleneck else ""),
    ]
    if prefix:
        steps.insert(1, f"took the prefix {prefix!r} off every name")
    return Imported(to_onnx(weights, layout), reference(weights), tuple(steps))


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays, and what the file was."""
    head = _head(path)
    if head.startswith(_LFS_MARK):
        raise ModelError(f"{path} is a Git LFS pointer, not the model", "run: git lfs pull")
    if head.startswith(_ZIP):
        if is_program(path):
            return read_program(path), "an exported program, whose graph was not read"
        with opened(path):  # torch itself would unpack what is compressed
            return read_pickled(path), "a pickled state dict"
    if looks_like_safetensors(head, path.stat().st_size):  # its length may begin like a pickle
        return read_safetensors(path), "safetensors"
    if head.startswith(_PICKLE):
        return read_pickled(path), "a pickled state dict of the old form"
    raise ModelError(
        f"{path} is neither safetensors nor a state dict of torch, or is cut short",
        "name a .safetensors, .pth or .pt2 file",
    )


def _head(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path} is larger than 2 GiB", "name a state dict of a ResNet")
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}", "check the path"
        ) from error


def _bare(state: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays by their names without what all of them begin with, and that."""
    taken = ""
    found = True
    while found and state:
        found = False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
                taken, found = taken + prefix, True
    return state, taken


def _float32(name: str, value: NDArray[Any], path: Path) -> NDArray[np.float32]:
    if value.dtype.kind != "f":
        raise ModelError(
            f"{path}: {name!r} holds {value.dtype}, no floats", "save the float model's weights"
        )
    with np.errstate(over="ignore"):  # told just below
        array = value.astype(np.float32)
    if not np.isfinite(array).all():
        raise ModelError(f"{path}: {name!r} holds NaN or infinity", "check the training")
    return array


def _check_variances(weights: Weights, path: Path) -> None:
    for name, value in weights.items():
        if name.endswith("running_var") and value.min() < 0:
            raise ModelError(f"{path}: {name!r} has a negative variance", "check the training")
