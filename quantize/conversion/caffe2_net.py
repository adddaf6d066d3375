"""A Caffe2 net as values: read from a file in either form, every field checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.conversion.caffe2_fields import DamagedError, Message
from quantize.conversion.caffe2_text import read_text
from quantize.conversion.caffe2_wire import read_wire
from quantize.errors import ModelError

MOST_BYTES = 2**31 - 1
"""What a protobuf message can hold."""

_MOST_NAME = 500
_HEAD = 1 << 16
_LFS_MARK = b"version https://git-lfs"
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_AGAIN = "fetch or export it again"


@dataclass(frozen=True, eq=False)
class Argument:
    """One argument of an operator; each holds one of these, or a list.

    Attributes:
        number: its float, or None.
        integer: its integer, or None.
        text: its bytes, or None.
        numbers: float32 [n], its floats.
        integers: its integers.
        texts: its byte strings.
    """

    number: float | None
    integer: int | None
    text: bytes | None
    numbers: NDArray[np.float32]
    integers: tuple[int, ...]
    texts: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class Operator:
    """One step of a net.

    Attributes:
        type: such as `Conv`.
        inputs: the blobs it reads.
        outputs: the blobs it makes; one may be an input, which is then overwritten.
        arguments: name -> argument.
    """

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: Mapping[str, Argument]

    @property
    def label(self) -> str:
        """What errors call it: few nets name their operators, so its output does."""
        kind = self.type if self.type.isidentifier() else repr(self.type)
        made = repr(self.outputs[0]) if self.outputs else "nothing"
        return f"{kind[:80]} (which makes {made})"

    def wrong(self, what: str, cure: str = "") -> ModelError:
        """The error for this operator."""
        return ModelError(f"Caffe2 operator {self.label} {what}", cure)

    def integer(self, name: str, default: int) -> int:
        """An integer argument, or the default where it is not given."""
        given = self.arguments.get(name)
        if given is None:
            return default
        if given.integer is None:
            raise self.wrong(f"has an argument {name!r} that is no integer")
        return given.integer

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers, empty where it is not given."""
        given = self.arguments.get(name)
        return given.integers if given else ()

    def number(self, name: str, default: float) -> float:
        """A number, or the default where it is not given."""
        given = self.arguments.get(name)
        if given is None:
            return default
        if given.number is None and given.integer is None:
            raise self.wrong(f"has an argument {name!r} that is no number")
        return float(given.integer or 0) if given.number is None else given.number

    def text(self, name: str, default: str) -> str:
        """A text, or the default where it is not given."""
        given = self.arguments.get(name)
        if given is None:
            return default
        if given.text is None:
            raise self.wrong(f"has an argument {name!r} that is no text")
        return given.text.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, eq=False)
class Net:
    """A predict net or an init net.

    Attributes:
        name: empty where it has none.
        operators: in the order in which they run.
        outputs: what it declares as its results.
    """

    name: str
    operators: tuple[Operator, ...]
    outputs: tuple[str, ...]


def read_net(path: Path, what: str) -> Net:
    """Read a net from a file, in binary or as text, whatever its name says.

    Args:
        path: the file.
        what: how errors call it, such as `predict net`.

    Raises:
        ModelError: missing, empty, a Git LFS pointer, over 2 GiB, no net, or a damaged one.
    """
    content = _content(path, what)
    try:
        return parse_net(content)
    except DamagedError as error:
        raise ModelError(
            f"{what} {path} is not a Caffe2 net, or is damaged: {error}", _AGAIN
        ) from error


def parse_net(content: bytes) -> Net:
    """The net in a file's content.

    Raises:
        DamagedError: it is none in either form.
    """
    # A binary net has control characters in its first fields, whatever these are; text has none.
    binary = _CONTROL.search(content, 0, _HEAD) is not None
    message = read_wire(content) if binary else read_text(content.removeprefix(b"\xef\xbb\xbf"))
    operators = tuple(_operator(each) for each in message.get("op", ()))
    if not operators:
        raise DamagedError("it has no operators")
    return Net(_name(message, "name"), operators, _names(message, "external_output"))


def _content(path: Path, what: str) -> bytes:
    try:
        if not path.exists():
            raise ModelError(f"{what} {path} does not exist", "check the path")
        if not path.is_file():
            raise ModelError(f"{what} {path} is not a file", "name the file itself")
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{what} {path} is larger than 2 GiB", "name the file of one net")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{what} {path} cannot be read: {error.strerror or error}", "check the path"
        ) from error
    if not content:
        raise ModelError(f"{what} {path} is empty", _AGAIN)
    if content.startswith(_LFS_MARK):
        raise ModelError(f"{what} {path} is a Git LFS pointer, not the net", "run: git lfs pull")
    return content


def _operator(message: Message) -> Operator:
    kind, outputs = _name(message, "type"), _names(message, "output")
    if not kind:
        raise DamagedError("an operator has no type")
    arguments: dict[str, Argument] = {}
    for each in message.get("arg", ()):
        name = _name(each, "name")
        if name in arguments:
            raise DamagedError(f"argument {name!r} of {kind!r} is there twice")
        arguments[name] = _argument(each)
    return Operator(kind, _names(message, "input"), outputs, arguments)


def _argument(message: Message) -> Argument:
    chunks = message.get("floats", ())
    return Argument(
        float(message["f"][-1][-1]) if message.get("f") else None,
        _last(message, "i"),
        _last(message, "s"),
        np.concatenate(chunks) if chunks else np.zeros(0, np.float32),
        tuple(message.get("ints", ())),
        tuple(message.get("strings", ())),
    )


def _last(message: Message, name: str) -> Any:
    """The value of a field that is there once; of several, protobuf takes the last."""
    values = message.get(name)
    return values[-1] if values else None


def _name(message: Message, name: str) -> str:
    value = _last(message, name)
    return "" if value is None else _text(value)


def _names(message: Message, name: str) -> tuple[str, ...]:
    return tuple(_text(value) for value in message.get(name, ()))


def _text(value: bytes) -> str:
    if len(value) > _MOST_NAME:
        raise DamagedError(f"a name of {len(value):,} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DamagedError(f"a name that is not UTF-8: {value[:40]!r}") from None
