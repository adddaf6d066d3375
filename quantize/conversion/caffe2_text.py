"""Caffe2 nets as text: protobuf's text format, read by the field table.

Long runs of `floats: 0.5` become arrays some thousands at a time; everything else goes token by
token. What the table does not want is passed over with a stack of brackets, without recursion.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.conversion.caffe2_fields import (
    NET,
    Allowance,
    DamagedError,
    Field,
    Kind,
    Message,
    Table,
)

MOST_DEPTH = 100
"""Brackets within brackets in what is passed over; protobuf itself has this limit."""

_BLANK = re.compile(rb"(?:\s++|#[^\n]*+)*+")
_TOKEN = re.compile(
    rb"""[A-Za-z0-9_.+-]++ | [:{}<>\[\],;]
    | "[^"\\\n]*+(?:\\.[^"\\\n]*+)*+" | '[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'""",
    re.VERBOSE,
)
_RUN = re.compile(rb"(?:floats[ \t]*+:[ \t]*+[-+.0-9eE]++\s++){2,4096}+")
_IN_RUN = re.compile(rb":[ \t]*+([-+.0-9eE]++)")
_LIST = re.compile(rb"(?:[-+.0-9eE]++\s*+,\s*+){2,4096}+")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPED = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))
_INTEGER = re.compile(rb"[-+]?(?:0[xX][0-9a-fA-F]{1,16}|0[0-7]{0,22}|[1-9][0-9]{0,18})")
_FLOAT = re.compile(rb"[-+]?(?:[0-9]++\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?")
_NO_NUMBER = re.compile(rb"([-+]?(?:inf|infinity|nan))f?", re.IGNORECASE)
_CLOSING = {b"{": b"}", b"<": b">", b"[": b"]"}


def read_text(content: bytes) -> Message:
    """The net in a text file's content.

    Raises:
        DamagedError: it is no such net, or ends too early.
    """
    return _Text(content).message(NET, closing=b"")


class _Text:
    """One file's content, with the token that comes next."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.allowance = Allowance()
        self.token, self.start, self.after = b"", 0, 0
        self.step(0)

    def step(self, at: int | None = None) -> bytes:
        """Take the token that was next, and look for the one behind it, b"" at the end."""
        taken = self.token
        blank = _BLANK.match(self.content, self.after if at is None else at)
        self.start = blank.end() if blank else 0
        found = _TOKEN.match(self.content, self.start)
        if found is None and self.start < len(self.content):
            raise self.damaged("something that is no token")
        self.token = found[0] if found else b""
        self.after = found.end() if found else self.start
        return taken

    def message(self, table: Table, closing: bytes) -> Message:
        """Fields up to a closing bracket, or up to the end."""
        found: Message = {}
        while self.token != closing:
            self.allowance.spend()
            known = table.named.get(self.token)
            if known is None:
                raise self.damaged(f"no field of {table.name}")
            values = self.field(known)
            if known.kind is not Kind.SKIPPED:
                found.setdefault(known.name, []).extend(values)
            if self.token in (b",", b";") and self.token:
                self.step()
        self.step()
        return found

    def field(self, known: Field) -> list[Any]:
        """The values of the field whose name comes next."""
        run = _RUN.match(self.content, self.start) if known.name == "floats" else None
        if run is not None:
            return [self.numbers(_IN_RUN.findall(run[0]), run.end())]
        self.step()
        colon = self.token == b":"
        if colon:
            self.step()
        if known.kind is Kind.SKIPPED:
            self.skip()
            return []
        if not colon and known.kind is not Kind.MESSAGES and self.token != b"[":
            raise self.damaged("no colon")
        return self.listed(known) if self.token == b"[" else [self.value(known)]

    def listed(self, known: Field) -> list[Any]:
        """The values between square brackets."""
        found: list[Any] = []
        self.step()
        while self.token != b"]":
            self.allowance.spend()
            run = _LIST.match(self.content, self.start) if known.kind is Kind.FLOATS else None
            if run is not None:
                found.append(self.numbers(run[0].split(b",")[:-1], run.end()))
                continue
            found.append(self.value(known))
            if self.token == b",":
                self.step()
            elif self.token != b"]":
                raise self.damaged("neither , nor ]")
        self.step()
        return found

    def numbers(self, texts: list[bytes], end: int) -> NDArray[np.float32]:
        """The floats of a run that ends at some offset."""
        try:
            found = _narrow([float(text) for text in texts])
        except ValueError:
            raise self.damaged("a run of floats that holds something else") from None
        self.step(end)
        return found

    def value(self, known: Field) -> Any:
        """One value of a field's kind."""
        if known.message is not None:
            if self.token not in (b"{", b"<"):
                raise self.damaged("no opening bracket")
            return self.message(known.message, _CLOSING[self.step()])
        if known.kind is Kind.BYTES:
            return self.string()
        if known.kind is Kind.INTS:
            integer = _integer(self.token)
            if integer is None:
                raise self.damaged("no integer of 64 bits")
            self.step()
            return integer
        number = _number(self.token)
        if number is None:
            raise self.damaged("no number")
        self.step()
        return _narrow([number])

    def string(self) -> bytes:
        """Quoted pieces, joined."""
        pieces = []
        while self.token[:1] in (b'"', b"'") and self.token:
            try:
                pieces.append(_ESCAPE.sub(_unescaped, self.token[1:-1]))
            except (KeyError, ValueError):
                raise self.damaged("text with an escape that there is not") from None
            self.step()
        if not pieces:
            raise self.damaged("no text in quotes")
        return b"".join(pieces)

    def skip(self) -> None:
        """Pass over one value, whatever lies in it."""
        if self.token not in _CLOSING:
            if self.token[:1] in (b'"', b"'") and self.token:
                self.string()
            elif not self.token or _TOKEN.match(self.token) is None or self.token in b":}>],;":
                raise self.damaged("no value")
            else:
                self.step()
            return
        open_brackets = [_CLOSING[self.step()]]
        while open_brackets:
            if not self.token or self.token in (b"}", b">", b"]"):
                if self.token != open_brackets.pop():
                    raise self.damaged("brackets that do not match")
            elif self.token in _CLOSING:
                open_brackets.append(_CLOSING[self.token])
                if len(open_brackets) > MOST_DEPTH:
                    raise self.damaged(f"brackets more than {MOST_DEPTH} deep")
            self.step()

    def damaged(self, what: str) -> DamagedError:
        """The error for the token that comes next."""
        line = self.content.count(b"\n", 0, self.start) + 1
        seen = self.content[self.start : self.start + 20].split(b"\n")[0]
        place = repr(seen.decode("utf-8", "replace")) if seen else "the end"
        return DamagedError(f"line {line} has {what} at {place}")


def _number(text: bytes) -> float | None:
    if _FLOAT.fullmatch(text):
        return float(text.rstrip(b"fF"))
    special = _NO_NUMBER.fullmatch(text)
    return float(special[1]) if special else None


def _narrow(numbers: list[float]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # too large a number is infinity, as in protobuf
        return np.asarray(numbers, np.float64).astype(np.float32)


def _integer(text: bytes) -> int | None:
    if _INTEGER.fullmatch(text) is None:
        return None
    digits = text.lstrip(b"-+")
    octal = len(digits) > 1 and digits[:1] == b"0" and digits[1:2] not in (b"x", b"X")
    value = int(digits, 8 if octal else 0) * (-1 if text[:1] == b"-" else 1)
    return value if -(2**63) <= value < 2**63 else None


def _unescaped(found: re.Match[bytes]) -> bytes:
    hexadecimal, octal, letter = found.groups()
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)])
    if octal is not None:
        return bytes([int(octal, 8)])
    return bytes([_ESCAPED[letter[0]]])
