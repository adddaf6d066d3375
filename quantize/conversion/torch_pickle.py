"""The only door to torch: state dicts that it pickled, loaded as arrays and nothing else."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from quantize.conversion.torch_safetensors import from_bfloat16
from quantize.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_OLDEST = (2, 10)

_NESTED = ("state_dict", "model_state_dict", "model")
"""Under which a checkpoint keeps the state dict beside the optimizer's."""


def read_pickled(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.pth` by name; bfloat16 becomes float32.

    Raises:
        ModelError: torch is not installed, the file holds anything but arrays and plain values,
            or it is damaged.
    """
    torch = _torch()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except MemoryError as error:
        raise ModelError(f"{path} declares more than memory holds", "fetch it again") from error
    except Exception as error:  # torch raises whatever its reader and unpickler do
        reason = str(error).partition("\n")[0][:200]
        raise ModelError(f"{path} cannot be read by torch: {reason}", "fetch it again") from error
    state = _state_dict(torch, content)
    if not state:
        raise ModelError(f"{path} holds no state dict", "save the module's state_dict()")
    size = path.stat().st_size
    return {name: _array(torch, name, value, size, path) for name, value in state.items()}


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            "a pickled state dict needs torch to be read",
            "save it as safetensors, or: pip install 'quantize[torch]'",
        ) from error
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST:
        raise ModelError(
            f"torch {torch.__version__} has known holes in how it loads state dicts",
            "pip install 'quantize[torch]'",
        )
    return torch


def _refused(path: Path, error: Exception) -> ModelError:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({found[1][:100]})" if found else ""
    return ModelError(
        f"{path} is damaged, or holds more than weights{what}, which could be code",
        "save the module's state_dict() alone, best as safetensors",
    )


def _state_dict(torch: Any, content: Any) -> dict[str, Any]:
    """The tensors of a state dict, or of the one in a checkpoint."""
    if not isinstance(content, Mapping):
        return {}
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _array(torch: Any, name: str, tensor: Any, size: int, path: Path) -> NDArray[Any]:
    """A tensor as it lies in the file: a view may pretend to be larger than that."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.dtype.is_complex:
        raise ModelError(
            f"{path}: {name[:100]!r} is sparse, quantized, complex or without values",
            "save the float model's state_dict()",
        )
    if tensor.numel() * tensor.element_size() > size:
        raise ModelError(
            f"{path}: {name[:100]!r} declares more values than the file holds", "fetch it again"
        )
    try:
        values = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            return from_bfloat16(values.view(torch.int16).numpy().view(np.uint16))
        return np.asarray(values.numpy())
    except (TypeError, RuntimeError) as error:  # nothing that numpy knows
        raise ModelError(
            f"{path}: {name[:100]!r} is of kind {tensor.dtype}", "save the weights as float32"
        ) from error
