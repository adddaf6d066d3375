"""The float parent of a release: asked for by whoever makes one, and by whoever proves it."""

from __future__ import annotations

from pathlib import Path

from quantize.checked_json import Value
from quantize.errors import ModelError
from quantize.files import is_file, sha256


def check_parent(path: Path, told: Value, whose: str, cure: str) -> None:
    """Stop unless a file is the very float model that a report or a manifest tells of.

    Args:
        path: the file that somebody names.
        told: report.json or manifest.json.
        whose: float model it has to be, such as `the run`.
        cure: what to do about another one.

    Raises:
        ModelError: there is no such file, or it is another one.
    """
    if not is_file(path):
        raise ModelError(f"model {path} does not exist or is no file", "check the path")
    wanted = told.at("float_model", "sha256").digest()
    if sha256(path) != wanted:
        raise ModelError(
            f"model {path} is not the float model of {whose}, whose sha256 is {wanted[:16]}...",
            cure,
        )
