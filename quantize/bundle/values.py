"""JSON that nobody vouches for becomes typed values, each wrong one named by its place."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.errors import BundleError

LARGEST_JSON = 16 << 20
_MOST_TEXT = 4096
_AGAIN = "fetch the bundle again"


@dataclass(frozen=True)
class Value:
    """A JSON value, with the place where it stands for whatever is wrong with it.

    Attributes:
        value: as parsed.
        file: name of the file.
        place: keys from the top, such as `verdict.outcome`.
        cure: what to do where it is damaged.
    """

    value: Any
    file: str
    place: str = ""
    cure: str = _AGAIN

    def at(self, *keys: str) -> Value:
        """The value below these keys.

        Raises:
            BundleError: there is none.
        """
        here = self
        for key in keys:
            if not isinstance(here.value, dict):
                raise here.wrong("an object")
            place = f"{here.place}.{key}" if here.place else key
            if key not in here.value:
                raise here._at(place, None).wrong("there")
            here = here._at(place, here.value[key])
        return here

    def wrong(self, what: str) -> BundleError:
        """The error that this value is not `what`."""
        return BundleError(f"{self.file} is damaged: {self.place or 'it'} is not {what}", self.cure)

    def text(self) -> str:
        """Text of a bounded length."""
        if not isinstance(self.value, str) or len(self.value) > _MOST_TEXT:
            raise self.wrong("a short text")
        return self.value

    def one_of(self, *known: str) -> str:
        """One of the known words."""
        if not isinstance(self.value, str) or self.value not in known:
            raise self.wrong(f"one of {', '.join(known)}")
        return self.value

    def digest(self) -> str:
        """A sha256 as 64 hex digits."""
        text = self.text()
        if len(text) != 64 or set(text) - set("0123456789abcdef"):
            raise self.wrong("a sha256 in hex")
        return text

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def number(self, low: float = -1e300, high: float = 1e300) -> float:
        """A finite number within limits."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong("a number")
        if not low <= value <= high or not math.isfinite(value):
            raise self.wrong(f"a number from {low:g} to {high:g}")
        return float(value)

    def count(self, high: int = 1 << 53) -> int:
        """A whole number, 0 or more."""
        if not self.number(0, high).is_integer():
            raise self.wrong("a whole number")
        return int(self.value)

    def optional(self) -> Value | None:
        """This value, or None for null."""
        return None if self.value is None else self

    def items(self) -> Iterator[Value]:
        """The values of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        for index, item in enumerate(self.value):
            yield self._at(f"{self.place}[{index}]", item)

    def keys(self) -> tuple[str, ...]:
        """The keys of an object."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return tuple(self.value)

    def interval(self) -> tuple[float, float]:
        """Two numbers in order."""
        limits = [item.number() for item in self.items()]
        if len(limits) != 2 or limits[0] > limits[1]:
            raise self.wrong("an interval")
        return limits[0], limits[1]

    def _at(self, place: str, value: Any) -> Value:
        return Value(value, self.file, place, self.cure)


def read_json(path: Path, cure: str = _AGAIN) -> Value:
    """An object of a JSON file of bounded size.

    Raises:
        BundleError: missing, no regular file, too large, or no JSON object with unique keys.
    """
    try:
        seen = path.stat()
        if not stat.S_ISREG(seen.st_mode) or seen.st_size > LARGEST_JSON:
            raise BundleError(f"{path.name} is no JSON file of at most 16 MiB", cure)
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}", cure) from error
    return parse_json(content, path.name, cure)


def parse_json(content: bytes, name: str, cure: str = _AGAIN) -> Value:
    """The same from bytes."""
    try:
        value = json.loads(
            content.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is damaged: it is no JSON", cure) from error
    if not isinstance(value, dict):
        raise BundleError(f"{name} is damaged: it is no JSON object", cure)
    return Value(value, name, cure=cure)


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
