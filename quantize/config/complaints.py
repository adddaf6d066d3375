"""What validation found wrong -> one ConfigError that names place, key, value and cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from quantize.config.text import KeyPath, Source, dotted, shown
from quantize.errors import ConfigError

_PHRASES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text, in quotes if it looks like a number",
    "string_too_short": "some text",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
}


def fault(message: str, cure: str, path: KeyPath = ()) -> PydanticCustomError:
    """A complaint in whole sentences, for validators to raise.

    Args:
        message: what is wrong; the place and the key are put before it.
        cure: what to do about it.
        path: keys below the one being validated.
    """
    context = {"message": message, "cure": cure, "path": path}
    return PydanticCustomError("fault", "{message}", context)


def expected(what: str, value: object, path: KeyPath = ()) -> PydanticCustomError:
    """The complaint about a value of the wrong kind.

    Args:
        what: what should stand there, such as `a whole number`.
        value: what does.
        path: keys below the one being validated.
    """
    return fault(f"is {shown(value)}", f"write {what}", path)


def unknown(key: str, known: Iterable[str], path: KeyPath = ()) -> PydanticCustomError:
    """The complaint about a key that does not exist; names the nearest one that does."""
    return fault("is an unknown key", suggestion(key, known, "remove it"), (*path, key))


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """The cure for a misspelt word: the nearest known one, or the list of them."""
    choices = list(known)
    near = nearest(word, choices)
    if near is not None:
        return f"write `{near}`, the nearest known one"
    return f"{otherwise}; known here: {', '.join(choices)}" if choices else otherwise


def nearest(word: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The most similar of the known words, case aside, or None if none comes near."""
    if len(word) > 100:
        return None
    lowered = {choice.lower(): choice for choice in reversed(known) if len(choice) <= 100}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[found[0]] if found else None


def lowered_into(error: ValidationError, path: KeyPath) -> PydanticCustomError:
    """An inner validation's first complaint, told from the outer key on.

    Args:
        error: what an inner model raised inside a validator.
        path: keys from the outer field to the inner model.
    """
    first = error.errors(include_url=False)[0]
    message, cure, inner = _sentences(first)
    return fault(message, cure, (*path, *inner))


def config_error(error: ValidationError, source: Source) -> ConfigError:
    """The first complaint of a validation as a ConfigError; the others are counted."""
    found = error.errors(include_url=False)
    message, cure, path = _sentences(found[0])
    key = f"`{dotted(path)}` " if path else "it "
    others = f" (the first of {len(found)} faults)" if len(found) > 1 else ""
    return ConfigError(f"{source.place(path)}: {key}{message}{others}", cure)


def _sentences(error: ErrorDetails) -> tuple[str, str, KeyPath]:
    """Message, cure and key path of one complaint."""
    path = tuple(str(part) for part in error["loc"])
    context: Mapping[str, Any] = error.get("ctx", {})
    kind, value = error["type"], error["input"]
    if kind == "fault":
        return context["message"], context["cure"], (*path, *context["path"])
    if kind == "missing":
        return "is missing", "add it", path
    if kind in _BOUNDS:
        name, phrase = _BOUNDS[kind]
        return f"is {shown(value)}", f"write {phrase} {context[name]}", path
    return f"is {shown(value)}", f"write {_PHRASES.get(kind, 'another value')}", path
