"""JSON that nobody vouches for becomes typed values, each wrong one named by its place.

Which error that is, and what to do about it, is for whoever reads the file to say.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantize.errors import QuantizeError

_MOST_TEXT = 1 << 16
"""No name and no sentence of a file is longer."""

_MOST = 1e300
"""No figure is larger: whatever is computed from it stays finite."""


@dataclass(frozen=True)
class Value:
    """A JSON value, with the place where it stands for whatever is wrong with it.

    Every method that takes it for something raises the error where it is none.

    Attributes:
        value: as it was parsed.
        file: what to call the file.
        error: raised where the file is damaged.
        cure: what to do about it.
        place: keys from the top, such as `verdict.outcome`.
    """

    value: Any
    file: Path
    error: type[QuantizeError]
    cure: str
    place: str = ""

    def has(self, key: str) -> bool:
        """Whether it is an object with this key."""
        return isinstance(self.value, dict) and key in self.value

    def at(self, *keys: str) -> Value:
        """What stands under the keys, one below the other."""
        here = self
        for key in keys:
            if not isinstance(here.value, dict):
                raise here.wrong("an object")
            place = f"{here.place}.{key}" if here.place else key
            if key not in here.value:
                raise here._at(place, None).wrong("there")
            here = here._at(place, here.value[key])
        return here

    def wrong(self, what: str) -> QuantizeError:
        """The error that this value is not `what`."""
        return self.error(f"{self.file} is damaged: {self.place or 'it'} is not {what}", self.cure)

    def optional(self) -> Value | None:
        """This value, or None for null."""
        return None if self.value is None else self

    def maybe(self, key: str) -> Value | None:
        """What stands under the key of an object, or None where that is nothing or null."""
        return self.at(key).optional() if self.has(key) else None

    def known(self, *keys: str) -> None:
        """It is an object with no other keys."""
        for name in self.names():
            if name not in keys:
                raise self.at(name).wrong(f"one of {', '.join(keys)}")

    def text(self) -> str:
        """It is a text of a bounded length."""
        if not isinstance(self.value, str) or len(self.value) > _MOST_TEXT:
            raise self.wrong(f"a text of at most {_MOST_TEXT:,} characters")
        return self.value

    def one_of(self, *known: str) -> str:
        """It is one of these words."""
        if not isinstance(self.value, str) or self.value not in known:
            raise self.wrong(f"one of {', '.join(known)}")
        return self.value

    def digest(self) -> str:
        """It is a sha256 as 64 hex digits."""
        text = self.text()
        if len(text) != 64 or set(text) - set("0123456789abcdef"):
            raise self.wrong("a sha256 in hex")
        return text

    def flag(self) -> bool:
        """It is true or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def number(self, low: float = -_MOST, high: float = _MOST) -> float:
        """It is a finite number within limits."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong("a number")
        if not low <= value <= high or not math.isfinite(value):
            raise self.wrong(f"a number from {low:g} to {high:g}")
        return float(value)

    def number_or_none(self) -> float | None:
        """It is a finite number, or null."""
        return None if self.value is None else self.number()

    def count(self, high: int = 1 << 53) -> int:
        """It is a whole number, 0 or more."""
        if not self.number(0, high).is_integer():
            raise self.wrong("a whole number")
        return int(self.value)

    def items(self) -> Iterator[Value]:
        """It is a list: its values."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        for index, item in enumerate(self.value):
            yield self._at(f"{self.place}[{index}]", item)

    def texts(self) -> tuple[str, ...]:
        """It is a list of texts."""
        return tuple(item.text() for item in self.items())

    def names(self) -> tuple[str, ...]:
        """It is an object: its keys."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return tuple(self.value)

    def interval(self) -> tuple[float, float]:
        """It is a list of two numbers in order."""
        limits = [item.number() for item in self.items()]
        if len(limits) != 2 or limits[0] > limits[1]:
            raise self.wrong("an interval")
        return limits[0], limits[1]

    def _at(self, place: str, value: Any) -> Value:
        return replace(self, value=value, place=place)


def read_json(path: Path, most: int, error: type[QuantizeError], cure: str) -> Value:
    """An object of a JSON file.

    Args:
        path: the file.
        most: bytes that it may have.
        error: raised where it is none, or later where a value is wrong.
        cure: what to do about it.

    Raises:
        QuantizeError: of that kind: missing, no regular file, too large, or no JSON object with
            unique keys.
    """
    try:
        seen = path.stat()
        if not stat.S_ISREG(seen.st_mode):
            raise error(f"{path} is no regular file", cure)
        if seen.st_size > most:
            raise error(f"{path} is larger than {most >> 20} MiB, so it is not read", cure)
        content = path.read_bytes()
    except OSError as failure:
        raise error(f"{path} cannot be read: {failure.strerror}", cure) from failure
    return parse_json(content, path, error, cure)


def parse_json(content: bytes, file: Path, error: type[QuantizeError], cure: str) -> Value:
    """The same from bytes."""
    try:
        value = json.loads(
            content.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as failure:
        raise error(f"{file} is damaged: it is no JSON", cure) from failure
    if not isinstance(value, dict):
        raise error(f"{file} is damaged: it is no JSON object", cure)
    return Value(value, file, error, cure)


def to_json(content: Any) -> bytes:
    """Readable JSON with sorted keys, ASCII only: names in it steer no terminal."""
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found
