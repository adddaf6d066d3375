"""The verb `demo`: the main job, by the same script that a user calls, on files that come along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import quantize
from quantize.demo.files import write_files

SCRIPT = Path(quantize.__file__).parent.parent / "scripts" / "run_tuning.sh"


def command(folder: Path) -> list[str]:
    """Write the demo's files into a folder and say how to run the job on them.

    In a checkout that is `scripts/run_tuning.sh`; an installed package has no scripts, so there
    it is the command behind them.
    """
    files = write_files(folder)
    output = folder / "digits-int8.onnx"
    if SCRIPT.is_file():
        return [
            str(SCRIPT),
            f"--input_model={files.model}",
            f"--config={files.config}",
            f"--output_model={output}",
        ]
    return [
        *(sys.executable, "-m", "quantize", "tune", str(files.model)),
        *("--config", str(files.config), "--output", str(output)),
    ]


def run(folder: Path) -> int:
    """Run the demo; its exit code is that of `tune`.

    Raises:
        OutputError: the folder cannot be written.
    """
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command(folder), env=environment, check=False).returncode
