"""Regular expressions from an untrusted file, matched in linear time.

Python's `re` backtracks: a pattern such as `(a+)+b` can take it years. Here a pattern becomes
a small machine whose states all advance together (Thompson, 1968), so that a match costs at
most length of the name x size of the machine. What that cannot do (back-references,
look-arounds, flags) is refused. Otherwise the answers are those of `re.fullmatch`.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Literal

MAX_LENGTH = 200
MAX_STATES = 2_000
MAX_DEPTH = 20

_TOKEN = re.compile(
    r"""(?P<open>\((?:\?:)?(?!\?))
      | (?P<close>\))
      | (?P<either>\|)
      | (?P<repeat>[*+?] | \{(?:\d+(?:,\d*)?|,\d*)\})(?P<after>[?+]?)
      | (?P<edge>[\^$])
      | (?P<one>\[\^?\]?(?:\\.|[^\]\\])*\] | \\[dDwWsS] | \\[^a-zA-Z0-9] | [^\\(\[])
    """,
    re.VERBOSE | re.DOTALL,
)


class Pattern:
    """A regular expression that matches whole names.

    Args:
        text: the expression, at most 200 characters.

    Raises:
        ValueError: the text is no regular expression, is too long, repeats too much, or needs
            what a machine without memory cannot do; the message says which.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ValueError(f"is longer than {MAX_LENGTH} characters")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                re.compile(text)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"is no regular expression: {error}") from error
            machine = _Machine(_Parser(text).expression())
        self._states, self._start = machine.states, machine.start

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        reached = self._follow({self._start}, at_start=True, at_end=not name)
        for index, character in enumerate(name):
            advanced = {
                state.targets[0]
                for state in (self._states[number] for number in reached)
                if state.accepts is not None and state.accepts.fullmatch(character)
            }
            if not advanced:
                return False
            reached = self._follow(advanced, at_start=False, at_end=index + 1 == len(name))
        return _DONE in reached

    def _follow(self, numbers: set[int], *, at_start: bool, at_end: bool) -> set[int]:
        """All states within reach without consuming a character."""
        passes = {"fork": True, "^": at_start, "$": at_end, "one": False}
        reached: set[int] = set()
        waiting = list(numbers)
        while waiting:
            number = waiting.pop()
            if number not in reached:
                reached.add(number)
                state = self._states[number]
                waiting += state.targets if passes[state.kind] else ()
        return reached


# ----------------------------------------------------------------- text -> expression


@dataclass(frozen=True)
class _One:
    """A single character out of a set."""

    accepts: re.Pattern[str]


@dataclass(frozen=True)
class _Edge:
    """The start or the end of the name."""

    kind: Literal["^", "$"]


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Expression, ...]


@dataclass(frozen=True)
class _Either:
    parts: tuple[_Expression, ...]


@dataclass(frozen=True)
class _Repeat:
    """At least `low` times, at most `high` times (None: without end)."""

    part: _Expression
    low: int
    high: int | None


_Expression = _One | _Edge | _Sequence | _Either | _Repeat


class _Parser:
    """Recursive descent over a text that `re` accepts: either > sequence > repeat > one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._depth = 0

    def expression(self) -> _Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"nests deeper than {MAX_DEPTH} groups")
        branches: list[_Expression] = []
        parts: list[_Expression] = []
        while (token := self._next()) is not None and token.lastgroup != "close":
            if token["either"]:
                branches.append(_Sequence(tuple(parts)))
                parts = []
            elif token["repeat"]:
                parts.append(_repeat(parts.pop(), token["repeat"], token["after"]))
            elif token["open"]:
                parts.append(self.expression())
            else:
                parts.append(_single(token))
        self._depth -= 1
        return _Either((*branches, _Sequence(tuple(parts))))

    def _next(self) -> re.Match[str] | None:
        if self._position == len(self._text):
            return None
        token = _TOKEN.match(self._text, self._position)
        if token is None:
            rest = self._text[self._position : self._position + 3]
            raise ValueError(f"uses {rest!r}: look-arounds, flags and back-references are not read")
        self._position = token.end()
        return token


def _single(token: re.Match[str]) -> _Expression:
    if token["edge"]:
        return _Edge("^" if token["edge"] == "^" else "$")
    text = token["one"]
    return _One(re.compile(text if text[0] in ".[\\" else re.escape(text)))


def _repeat(part: _Expression, text: str, after: str) -> _Repeat:
    # A lazy repetition matches the same whole names as a greedy one; a possessive does not.
    if after == "+":
        raise ValueError("uses a possessive repetition, which is not read")
    if text in "*+?":
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
        return _Repeat(part, low, high)
    first, comma, last = text[1:-1].partition(",")
    low = int(first or 0)
    return _Repeat(part, low, int(last) if last else (None if comma else low))


# --------------------------------------------------------------- expression -> machine


@dataclass(frozen=True)
class _State:
    """One state of the machine.

    Attributes:
        kind: `one` consumes a character, `fork` goes on to all targets at once, `^` and `$` go
            on only at that end of the name.
        targets: the next states.
        accepts: which character is consumed.
    """

    kind: Literal["one", "fork", "^", "$"]
    targets: tuple[int, ...] = ()
    accepts: re.Pattern[str] | None = None


_DONE = 0


class _Machine:
    """The states of an expression, written from the last to the first; `_DONE` accepts."""

    def __init__(self, expression: _Expression) -> None:
        self.states = [_State("fork")]
        self.start = self._write(expression, _DONE)

    def _add(self, state: _State) -> int:
        if len(self.states) >= MAX_STATES:
            raise ValueError("repeats too much")
        self.states.append(state)
        return len(self.states) - 1

    def _write(self, part: _Expression, then: int) -> int:
        """Add the states of `part`, which lead on to `then`; give the first of them."""
        match part:
            case _One(accepts):
                return self._add(_State("one", (then,), accepts))
            case _Edge(kind):
                return self._add(_State(kind, (then,)))
            case _Either(branches):
                targets = tuple(self._write(branch, then) for branch in branches)
                return self._add(_State("fork", targets))
            case _Sequence(parts):
                for each in reversed(parts):
                    then = self._write(each, then)
                return then
            case _Repeat():
                return self._write_repeat(part, then)

    def _write_repeat(self, repeat: _Repeat, then: int) -> int:
        first = then
        if repeat.high is None:
            first = self._add(_State("fork"))
            again = self._write(repeat.part, first)
            self.states[first] = _State("fork", (again, then))
        else:
            for _ in range(repeat.high - repeat.low):
                first = self._add(_State("fork", (self._write(repeat.part, first), then)))
        for _ in range(repeat.low):
            first = self._write(repeat.part, first)
        return first
