"""Plain data out of a pickle without running it.

The map of ImageNet's validation images is published as a pickle. Here its opcodes are read one by
one; those that build lists, tuples, dictionaries, texts and numbers are followed, and any other,
above all one that names or calls something, is refused before anything came of it.
"""

from __future__ import annotations

import pickletools
import warnings
from typing import Any

from quantize.errors import DataError

MOST_STEPS = 2_000_000
"""Opcodes that are followed: the published map has about 600,000."""

_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4",
}  # fmt: skip
_EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEEP = {"PUT", "BINPUT", "LONG_BINPUT"}
_RECALL = {"GET", "BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME"}


def plain(content: bytes, name: str) -> Any:
    """What a pickle of plain data holds.

    Args:
        content: all of it.
        name: for the error.

    Returns:
        Lists, tuples, dictionaries, str, int, bool and None. Only their outermost kind is
        certain; a list may hold itself.

    Raises:
        DataError: it is no pickle, is cut short, or holds anything but plain data.
    """
    machine = _Machine(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in old texts
            for steps, (opcode, argument, _) in enumerate(pickletools.genops(content)):
                if steps > MOST_STEPS:
                    raise DataError(f"{name} has too many parts", "name the published map")
                machine.step(opcode.name, argument)
        return machine.result()
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        raise DataError(
            f"{name} is no whole pickle of lists and texts", "fetch the published map again"
        ) from error


class _Machine:
    """A stack and a memo, as every pickle has them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _KEEP:
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in _RECALL:
            self.stack.append(self.memo[int(argument)])
        elif name not in _IGNORED and name != "STOP":
            self._build(name)

    def _build(self, name: str) -> None:
        """The opcodes that make or fill a container."""
        if name in _TUPLES:
            self.stack.append(tuple(self._last(_TUPLES[name])))
        elif name == "TUPLE":
            self.stack.append(tuple(self._marked()))
        elif name == "LIST":
            self.stack.append(self._marked())
        elif name == "DICT":
            self.stack.append(_pairs(self._marked()))
        elif name == "APPEND":
            self._fill(list, self._last(1))
        elif name == "APPENDS":
            self._fill(list, self._marked())
        elif name == "SETITEM":
            self._fill(dict, self._last(2))
        elif name == "SETITEMS":
            self._fill(dict, self._marked())
        else:
            raise DataError(
                f"{self.name} is a pickle that carries code or objects ({name})",
                "it was not read further; name the published map, or a val.txt",
            )

    def _fill(self, kind: type, items: list[Any]) -> None:
        target: Any = self.stack[-1]
        if isinstance(target, list) and kind is list:
            target.extend(items)
        elif isinstance(target, dict) and kind is dict:
            target.update(_pairs(items))
        else:
            raise TypeError("filled is what is no such container")

    def _last(self, count: int) -> list[Any]:
        taken = self.stack[-count:]
        if len(taken) < count or any(item is _MARK for item in taken):
            raise IndexError("the stack is too short")
        del self.stack[-count:]
        return taken

    def _marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise IndexError("there is no mark")
        taken = self.stack[start + 1 :]
        del self.stack[start:]
        return taken

    def result(self) -> Any:
        """The one thing that is left."""
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise IndexError("the stack holds more than the result")
        return self.stack[0]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))
