"""Statistics on disk, so that one calibration serves every run that would repeat it.

A file's name is the hash of all that decides its content: what the caller names (model, images in
order, preprocessing), the code that gathers, the packages that compute, and the instruction set.
A file that does not hold what it should is as good as none. Files appear whole, by renaming: of two
processes that calibrate at once the later one replaces equal content.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize import npz
from quantize.errors import OutputError
from quantize.files import cannot_write, npz_bytes, write_atomic
from quantize.histogram import BINS
from quantize.plan import Range, Statistics
from quantize.runtime import cpu

log = logging.getLogger(__name__)

KEPT = 4
"""Files that stay in a folder, the newest; each has a few MB at most."""

_FORMAT = 1
_CODE = (
    "calibrate.py",
    "graph/expose.py",
    "graph/layers.py",
    "graph/points.py",
    "graph/view.py",
    "graph/watch.py",
    "histogram.py",
    "runtime.py",
)
_WRONG = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_PACKAGES = ("numpy", "onnx", "onnxruntime")


def load_or_calibrate(
    folder: Path, key_parts: Mapping[str, Any], compute: Callable[[], Statistics]
) -> Statistics:
    """The statistics that are on disk for this key, or new ones, which are put there.

    A folder that cannot be written costs the next run a calibration, not this one its result.

    Args:
        folder: made with mode 0700 if missing; it keeps the `KEPT` newest files.
        key_parts: JSON values that decide the result: hash of the model's bytes, digests of the
            images in order, key of the preprocessing.
        compute: calibrates.

    Returns:
        The same values either way, bit for bit.
    """
    path = folder / f"{statistics_key(key_parts)}.npz"
    found = _load(path)
    if found is not None:
        log.info("calibration is reused from %s", path)
        return found
    made = compute()
    try:
        _save(path, made)
    except OutputError as error:
        log.warning("the calibration is not kept: %s", error.message)
    return made


def statistics_key(parts: Mapping[str, Any]) -> str:
    """Hex sha256 of what the caller names, the code, the packages and the instruction set."""
    code = hashlib.sha256()
    for name in _CODE:
        code.update((Path(__file__).parent / name).read_bytes())
    whole = {
        "format": _FORMAT,
        "parts": parts,
        "code": code.hexdigest(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "instruction set": cpu().isa,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a build of another name
        return None


def to_arrays(statistics: Statistics) -> dict[str, NDArray[Any]]:
    """Arrays for an .npz: names as JSON in uint8, the values of each kind in one array."""
    names = {
        "images": statistics.images,
        "ranges": list(statistics.ranges),
        "histograms": list(statistics.histograms),
        "means": [[name, len(mean)] for name, mean in statistics.means.items()],
    }
    spans = [[seen.low, seen.high] for seen in statistics.ranges.values()]
    return {
        "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
        "ranges": np.asarray(spans, np.float64).reshape(-1, 2),
        "histograms": np.asarray(list(statistics.histograms.values()), np.int64).reshape(-1, BINS),
        "means": np.concatenate([np.zeros(0), *statistics.means.values()]),
    }


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """The inverse of `to_arrays`.

    Raises:
        ValueError: names, shapes, dtypes or values are not those of statistics.
    """
    try:
        names = json.loads(arrays["names"].astype(np.uint8, casting="no").tobytes())
        return _built(names, arrays)
    except _WRONG as error:
        raise ValueError(f"not statistics: {error}") from error


def _built(names: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    tensors, counted, layers = names["ranges"], names["histograms"], names["means"]
    lengths = [length for _, length in layers]
    ranges = _checked(arrays["ranges"], np.float64, (len(tensors), 2))
    counts = _checked(arrays["histograms"], np.int64, (len(counted), BINS))
    means = _checked(arrays["means"], np.float64, (sum(lengths),))
    if not (np.isfinite(ranges).all() and (ranges[:, 0] <= ranges[:, 1]).all()):
        raise ValueError("a range is none")
    if not (set(counted) <= set(tensors) and (counts >= 0).all()):
        raise ValueError("a histogram is none")
    if not (np.isfinite(means).all() and all(type(n) is int and n > 0 for n in lengths)):
        raise ValueError("a mean is none")
    parts = np.split(means, np.cumsum(lengths)[:-1]) if lengths else []
    return Statistics(
        {
            name: Range(low, high)
            for name, (low, high) in zip(tensors, ranges.tolist(), strict=True)
        },
        int(names["images"]),
        dict(zip(counted, counts, strict=True)),
        {name: part for (name, _), part in zip(layers, parts, strict=True)},
    )


def _checked(array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{array.dtype} {array.shape} where {shape} is due")
    return array


def _load(path: Path) -> Statistics | None:
    """What the file holds, or None where it is missing or not what it should be."""
    try:
        if path.stat().st_size > npz.MOST_BYTES:
            raise ValueError("it is too large")
        return from_arrays(npz.unpack(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is not used: %s", path, error)
        return None


def _save(path: Path, statistics: Statistics) -> None:
    """Write the file and drop the oldest of too many.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_atomic(path, npz_bytes(to_arrays(statistics)))
        files = sorted(folder.glob("*.npz"), key=_age)
        for old in files[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def _age(path: Path) -> float:
    """Sorts the newest first; one that another process took away meanwhile comes last."""
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
