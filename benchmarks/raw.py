"""The raw figures as a file: a line for each row, so that it is short and its changes are seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantize.files import write_atomic


def write_raw(results: Any, path: Path) -> None:
    """Write all figures as JSON, in their order.

    Raises:
        OutputError: the file cannot be written.
    """
    write_atomic(path, f"{_text(results, '')}\n".encode())


def _text(value: Any, indent: str) -> str:
    """JSON: what holds parts that hold more has a line for each, everything else is one line."""
    inner = f"{indent} "
    if isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
        parts = [f"{json.dumps(key)}: {_text(part, inner)}" for key, part in value.items()]
        begin, end = "{}"
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        parts = [_line(part) for part in value]
        begin, end = "[]"
    else:
        return _line(value)
    lines = ",\n".join(f"{inner}{part}" for part in parts)
    return f"{begin}\n{lines}\n{indent}{end}"


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
