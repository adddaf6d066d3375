"""What decides a model's answers beside model and image: package versions and instruction set."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from quantize import __version__
from quantize.runtime import cpu

_PACKAGES = ("neural-compressor", "numpy", "onnx", "onnxruntime", "pillow")


def versions() -> dict[str, str]:
    """Versions of this package, Python, and the packages that decide the bytes."""
    found = {"quantize": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def facts() -> dict[str, Any]:
    """All of it as JSON values."""
    return {"versions": versions(), "isa": cpu().isa}
