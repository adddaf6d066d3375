"""The kinds of value that INC's schema knows beyond plain YAML: `50, 100`, `1%`, `sym, asym`.

They are pydantic field types: each reads the liberal forms and gives one strict value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BeforeValidator, Field

from quantize.config.complaints import expected, fault, suggestion
from quantize.config.text import shown

T = TypeVar("T")

_PERCENT = re.compile(r"\s*([+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?)\s*%\s*")
_FLAGS = {"true": True, "false": False}


def words(text: str) -> list[str]:
    """The parts of `a, b` or `a b`."""
    parts = text.split(",") if "," in text else text.split()
    return [part.strip() for part in parts]


def one_of(literal: Any) -> BeforeValidator:
    """Let only the words of a `Literal` pass, and name the nearest one otherwise."""
    allowed = get_args(literal)

    def read(value: Any) -> Any:
        if value in allowed:
            return value
        raise expected_word(value, allowed)

    return BeforeValidator(read)


def expected_word(value: Any, known: Sequence[str]) -> Exception:
    """The complaint about a word outside a vocabulary; a short one is told whole."""
    if len(known) <= 4:
        return expected(f"one of {', '.join(known)}", value)
    return fault(f"is {shown(value)}", suggestion(str(value), known, "choose another"))


def list_of(convert: Callable[[Any], T], what: str) -> Callable[[Any], tuple[T, ...]]:
    """A validator for a list, for one value alone, and for a list written as text.

    Args:
        convert: reads one part, or raises ValueError.
        what: what the complaint asks for.
    """

    def read(value: Any) -> tuple[T, ...]:
        parts = words(value) if isinstance(value, str) else value
        parts = parts if isinstance(parts, list | tuple) else [parts]
        try:
            return tuple(convert(part) for part in parts)
        except (ValueError, TypeError, OverflowError) as error:
            raise expected(what, value) from error

    return read


def to_number(value: Any) -> float:
    """A finite number, or text that spells one.

    Raises:
        ValueError: anything else, booleans among it.
    """
    number = math.nan if isinstance(value, bool) else float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _to_size(value: Any) -> int:
    number = to_number(value)
    if not (number.is_integer() and 0 < number <= 10**9):
        raise ValueError
    return int(number)


def _to_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise ValueError


def _to_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _not_bool(value: Any) -> Any:
    # YAML's `yes` and `on` are booleans, which Python would count as 1.
    if isinstance(value, bool):
        raise expected("a number", value)
    return value


def _ratio(value: Any) -> Any:
    # Through Decimal, because 0.7 / 100 is not the float that `0.007` is.
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(Decimal(match[1]) / 100) if match else _not_bool(value)


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = list_of(_to_size, "whole numbers above 0, such as 100 or [50, 100]")(value)
    if not sizes:
        raise expected("whole numbers above 0, such as 100 or [50, 100]", value)
    return sizes


def choices(literal: Any) -> BeforeValidator:
    """Read a list of words out of a short vocabulary."""
    allowed = get_args(literal)
    read_words = list_of(_to_text, f"a list out of {', '.join(allowed)}")

    def read(value: Any) -> tuple[str, ...]:
        found = read_words(value)
        for word in found:
            if word not in allowed:
                raise expected_word(word, allowed)
        return found

    return BeforeValidator(read)


Whole = Annotated[int, BeforeValidator(_not_bool), Field(ge=-(2**31), lt=2**32)]
"""A whole number; `4.0` and `"4"` are read too."""

Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
"""A finite number."""

Ratio = Annotated[float, BeforeValidator(_ratio), Field(allow_inf_nan=False)]
"""A finite number, or text such as `1%`."""

Text = Annotated[str, Field(min_length=1)]
"""Text that is not empty."""

Sizes = Annotated[tuple[int, ...], BeforeValidator(_sizes)]
"""One size or several: `100`, `50, 100`, `[50, 100]`."""

Names = Annotated[tuple[str, ...], BeforeValidator(list_of(_to_text, "a list of names"))]
"""Names: `a, b`, `a b`, `[a, b]`."""

Numbers = Annotated[tuple[float, ...], BeforeValidator(list_of(to_number, "a list of numbers"))]
"""Finite numbers: `0.5`, `0.5 1`, `[0.5, 1]`."""

Flags = Annotated[tuple[bool, ...], BeforeValidator(list_of(_to_flag, "true and false"))]
"""Booleans: `true`, `True, False`, `[true, false]`."""
