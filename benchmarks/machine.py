"""What the figures were measured on: nothing that names this very machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from quantize import __version__
from quantize.runtime import cpu

_PACKAGES = ("onnxruntime", "onnx", "numpy", "neural_compressor", "pillow")


def describe() -> dict[str, Any]:
    """Processor, instruction set, cores, memory, system, versions, and the load just now."""
    here = cpu()
    return {
        "cpu": here.name,
        "isa": here.isa,
        "cores": here.cores,
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "quantize": __version__,
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "load": load(),
    }


def load() -> float | None:
    """Programs that ran or waited to run, a mean over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def sentence(machine: dict[str, Any]) -> str:
    """The machine in one line of text."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    memory = f", {machine['memory_gib']} GiB" if machine["memory_gib"] else ""
    busy = [load for load in (machine["load"], machine.get("load_after")) if load is not None]
    loads = f" Load {busy[0]:g} before, {busy[1]:g} after." if len(busy) == 2 else ""
    return (
        f"{machine['cpu']}, {machine['isa']}, {machine['cores']} cores{memory},"
        f" {machine['system']}, Python {machine['python']}, quantize {machine['quantize']},"
        f" {packages}.{loads}"
    )


def _memory_gib() -> int | None:
    try:
        found = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return round(int(found.group(1)) / (1 << 20)) if found else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
