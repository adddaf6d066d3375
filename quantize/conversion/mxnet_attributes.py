"""The attributes of MXNet's operators: all of them strings, read by a small grammar."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from quantize.errors import ModelError

Pair = tuple[int, int]

_LONGEST = 400
_LARGEST = 3.4e38
_INTEGER = r"[+-]?\d{1,18}L?"  # Python 2 wrote some as 7L
_INTEGERS = re.compile(rf"[(\[]\s*(?:{_INTEGER}\s*(?:,\s*{_INTEGER}\s*)*,?)?\s*[)\]]")
_NUMBER = re.compile(r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,4})?f?")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Attributes:
    """What one node says about itself; every error names the node and the key.

    Args:
        place: operator and name, as errors call the node.
        values: key -> text; `None` as text means not given.
    """

    def __init__(self, place: str, values: Mapping[str, str]) -> None:
        self.place = place
        self._values = {k: v.strip() for k, v in values.items() if v.strip() != "None"}

    def text(self, key: str, default: str, choices: Iterable[str] = ()) -> str:
        """A word, one of `choices` where any are given."""
        value = self._values.get(key, default)
        allowed = tuple(choices)
        if allowed and value not in allowed:
            raise self.refused(key, f"only {', '.join(filter(None, allowed))} can be converted")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or False, or 1 or 0."""
        if key not in self._values:
            return default
        value = _FLAGS.get(self._values[key].lower())
        if value is None:
            raise self.refused(key, "it is neither True nor False")
        return value

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """A whole number from `low` to `high`; needed where there is no default."""
        if key not in self._values and default is not None:
            return default
        text = self._text(key)
        if not re.fullmatch(_INTEGER, text):
            raise self.refused(key, "it is not a whole number")
        return self._within(key, int(text.rstrip("L")), low, high)

    def number(self, key: str, default: float | None) -> float:
        """A number that float32 can hold; needed where there is no default."""
        if key not in self._values and default is not None:
            return default
        text = self._text(key)
        value = float(text.rstrip("f")) if _NUMBER.fullmatch(text) else math.nan
        if not abs(value) <= _LARGEST:
            raise self.refused(key, "it is not a finite float32 number")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """Whole numbers in round or square brackets, or one without; () where not given."""
        if key not in self._values:
            return ()
        text = self._text(key)
        if not _INTEGERS.fullmatch(text) and not re.fullmatch(_INTEGER, text):
            raise self.refused(key, "it is not a tuple of whole numbers")
        return tuple(int(found) for found in re.findall(r"[+-]?\d+", text))

    def pair(self, key: str, default: Pair | None, low: int, high: int) -> Pair:
        """Two whole numbers, vertical and horizontal; () means not given."""
        values = self.integers(key)
        if not values and default is not None:
            return default
        if len(values) != 2:
            raise self.refused(key, "only operators over height and width can be converted")
        return self._within(key, values[0], low, high), self._within(key, values[1], low, high)

    def refused(self, key: str, reason: str) -> ModelError:
        """The error for one attribute."""
        value = self._values.get(key)
        shown = f"has {key} = {value[:60]!r}" if value is not None else f"has no {key}"
        return ModelError(f"{self.place} {shown}: {reason}")

    def _text(self, key: str) -> str:
        if key not in self._values:
            raise self.refused(key, "it needs one")
        if len(self._values[key]) > _LONGEST:
            raise self.refused(key, "it is too long")
        return self._values[key]

    def _within(self, key: str, value: int, low: int, high: int) -> int:
        if not low <= value <= high:
            raise self.refused(key, f"it is not within {low} and {high}")
        return value
