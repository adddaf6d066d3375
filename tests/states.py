"""State dicts of torchvision's ResNets, made of noise, and the files they are kept in."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.conversion.torch_resnet import Layout, shapes

_KINDS = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint16": "BF16"}
_NUMBERS = {"float32": 7, "float16": 6, "float64": 8, "int64": 5, "uint16": 13}


def state_dict(
    depth: int = 18, classes: int = 10, channels: int = 3, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Weights of a trained network's size; activations stay in scale."""
    rng = np.random.default_rng(seed)
    state: dict[str, NDArray[Any]] = {}
    for name, shape in shapes(Layout(depth, channels, classes)).items():
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 2, shape)
        elif len(shape) > 1:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith("weight"):
            value = rng.uniform(0.3, 0.9, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        state[name] = value.astype(np.float32)
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = np.array(7, np.int64)
    return state


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of bfloat16, cut off and not rounded."""
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def safetensors(
    state: Mapping[str, NDArray[Any]], change: Mapping[str, Any] | None = None
) -> bytes:
    """A file's bytes; uint16 arrays are bfloat16. `change` overwrites entries of the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, value in state.items():
        end = at + value.nbytes
        kind = _KINDS[str(value.dtype)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, end]}
        at = end
    header |= change or {}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in state.values())


def program(
    path: Path,
    state: Mapping[str, NDArray[Any]],
    more: Mapping[str, bytes] | None = None,
    change: Mapping[str, Any] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a `.pt2` without pickles; `more` members, and a `change` to the entries of weights."""
    config: dict[str, Any] = {}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for index, (name, value) in enumerate(state.items()):
            strides = [stride // value.itemsize for stride in value.strides]
            config[name] = {
                "path_name": f"weight_{index}",
                "use_pickle": False,
                "tensor_meta": {
                    "dtype": _NUMBERS[str(value.dtype)],
                    "sizes": [{"as_int": side} for side in value.shape],
                    "strides": [{"as_int": stride} for stride in strides],
                    "storage_offset": {"as_int": 0},
                    "layout": 7,
                },
            }
            archive.writestr(f"net/data/weights/weight_{index}", value.tobytes())
        for name, entry in (change or {}).items():
            config[name] = {**config[name], **entry}
        listed = json.dumps({"config": config})
        archive.writestr("net/data/weights/model_weights_config.json", listed)
        members = {"archive_format": b"pt2", "byteorder": b"little", "models/model.json": b"{}"}
        for name, content in {**members, **(more or {})}.items():
            archive.writestr(f"net/{name}", content)
    return path
