"""What `portable.py` runs on the emulated processor, with as few imports as it takes.

python portable_child.py answers|precise MODEL IMAGES.npy OUT.npy
python portable_child.py layers GIVEN.npz OUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PRECISE = "session.x64quantprecision"


def session(model: Path | bytes, *, precise: bool = False) -> onnxruntime.InferenceSession:
    """One thread, perhaps with the option."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if precise:
        options.add_session_config_entry(PRECISE, "1")
    given = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def answers(model: Path, images: NDArray[np.float32], *, precise: bool) -> NDArray[np.float32]:
    """Logits of each image, one at a time."""
    runs = session(model, precise=precise)
    name = runs.get_inputs()[0].name
    return np.concatenate([runs.run(None, {name: image[None]})[0] for image in images])


def layers(given: Path, out: Path) -> None:
    """Each model `model:NAME:TENSOR` of an archive on the tensor of that name."""
    made = {}
    with np.load(given) as arrays:
        for key in arrays:
            if key.startswith("model:"):
                name, tensor = key.split(":", 2)[1:]
                runs = session(arrays[key].tobytes())
                made[name] = runs.run(None, {runs.get_inputs()[0].name: arrays[tensor]})[0]
    np.savez(out, **made)


if __name__ == "__main__":
    kind, *files = sys.argv[1:]
    if kind == "layers":
        layers(Path(files[0]), Path(files[1]))
    else:
        np.save(files[2], answers(Path(files[0]), np.load(files[1]), precise=kind == "precise"))
