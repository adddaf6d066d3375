"""Numbers that JSON can hold, and text that is safe to look at."""

from __future__ import annotations

import math
import re
from typing import Any

_MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def finite(value: Any) -> Any:
    """The same value with infinite and undefined numbers as None: JSON has none of them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(text: str) -> str:
    """The text without characters that steer a reader: control, direction, lone surrogates."""
    return "".join(
        c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def minus(text: str) -> str:
    """The text with true minus signs before its numbers."""
    return _MINUS.sub("−", text)
