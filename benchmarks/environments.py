"""A virtual environment for each peer, with pinned versions, made once and used again.

The pins name what a peer's file and speed come from; what they in turn ask for is whatever the
package index has, and is written down beside the results (`pip freeze`).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process_tree import run

INSTALL_SECONDS = 1800


class InstallError(Exception):
    """A peer's environment cannot be made: one line, for the row of that peer."""


@dataclass(frozen=True)
class Environment:
    """A peer's packages.

    Attributes:
        name: of its folder.
        requirements: `package==version`.
    """

    name: str
    requirements: tuple[str, ...]


PROJECT = Environment("project", ())
"""The environment that this process runs in: nothing is installed into it."""

INC = Environment(
    "inc",
    (
        "neural-compressor==2.6",
        "numpy==1.26.4",
        "onnx==1.18.0",
        "onnxruntime==1.31.1",
        "opencv-python-headless==4.11.0.86",
        "setuptools==80.9.0",
        "six==1.17.0",
    ),
)
ONNXRUNTIME = Environment(
    "onnxruntime",
    ("ml_dtypes==0.5.4", "numpy==2.4.0", "onnx==1.23.2", "onnxruntime==1.31.1", "sympy==1.14.0"),
)
NNCF = Environment(
    "nncf",
    ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.31.1", "openvino==2026.4.1"),
)
# Its own metadata names few of these, and asks for numpy below 2.
ONNX_NEURAL_COMPRESSOR = Environment(
    "onnx-neural-compressor",
    (
        "onnx-neural-compressor==1.0",
        "ml_dtypes==0.5.4",
        "numpy==1.26.4",
        "onnx==1.18.0",
        "onnxruntime==1.31.1",
        "prettytable==3.18.0",
        "psutil==7.2.2",
        "py-cpuinfo==9.0.0",
        "pydantic==2.14.3",
        "scipy==1.17.1",
        "transformers==5.23.0",
    ),
)


def interpreter(environment: Environment, root: Path) -> Path:
    """The Python of an environment, which is made if it is missing or has other pins.

    Args:
        environment: what it holds.
        root: folder of all environments.

    Raises:
        InstallError: it cannot be made; says why in one line.
    """
    if environment == PROJECT:
        return Path(sys.executable)
    folder = root / environment.name
    python, stamp = folder / "bin" / "python", folder / "made.json"
    wanted = json.dumps([*sys.version_info[:2], *environment.requirements])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run([*pip, "install", "--quiet", *environment.requirements])
    stamp.write_text(wanted)
    return python


def installed(python: Path) -> list[str]:
    """What `pip freeze` says, or nothing where it fails."""
    ended = run([str(python), "-m", "pip", "--no-input", "freeze"], python.parent, 120)
    return ended.out.splitlines() if ended.code == 0 else []


def reason(text: str) -> str:
    """The line of a failed program's output that says most: pip's ERROR, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    said = (errors or lines or ["it said nothing"])[-1]
    return without_folders(" ".join(said.split()))[:300] or "it said nothing"


def without_folders(text: str) -> str:
    """The text with names of files, but not where they lie: that is nobody else's business."""
    return _FOLDERS.sub("", text)


_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s'\":/]+/)+")


def _run(command: list[str]) -> None:
    try:
        ended = run(command, Path.cwd(), INSTALL_SECONDS)
    except OSError as error:
        raise InstallError(f"not installed: {without_folders(str(error))}") from error
    if ended.code is None:
        raise InstallError(f"not installed within {INSTALL_SECONDS} s")
    if ended.code:
        raise InstallError(f"not installed: {reason(ended.out + ended.err)}")
