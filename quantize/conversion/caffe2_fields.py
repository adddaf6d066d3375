"""The messages of a Caffe2 net, field by field, for the reader of either form.

A net holds operators, an operator holds arguments, and nothing that an importer wants lies deeper:
what does is passed over, so no reader has to descend further than this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

MOST_FIELDS = 250_000
"""Ten times what any classifier has in one file, runs of weights counted as one value."""

Message = dict[str, list[Any]]
"""Field name -> its values as they came: bytes, int, float32 arrays, or messages."""


class Kind(Enum):
    """What a field holds."""

    BYTES = "text or bytes"
    FLOATS = "float32"
    INTS = "int64"
    MESSAGES = "messages"
    SKIPPED = "nothing of interest"


@dataclass(frozen=True)
class Field:
    """One field: its number in the binary form, its name in the textual one."""

    number: int
    name: str
    kind: Kind
    message: Table | None = None


@dataclass(frozen=True)
class Table:
    """The fields of one message."""

    name: str
    fields: tuple[Field, ...]

    @cached_property
    def numbered(self) -> dict[int, Field]:
        """Field number -> field."""
        return {each.number: each for each in self.fields}

    @cached_property
    def named(self) -> dict[bytes, Field]:
        """Field name -> field."""
        return {each.name.encode(): each for each in self.fields}


class DamagedError(ValueError):
    """Bytes that are no such message: says what is wrong, and where."""


@dataclass
class Allowance:
    """How many more values a file may hold: two bytes of a file can ask for hundreds in memory."""

    left: int = field(default=MOST_FIELDS)

    def spend(self) -> None:
        """Count one value.

        Raises:
            DamagedError: it was one too many.
        """
        self.left -= 1
        if self.left < 0:
            raise DamagedError(f"it holds more than {MOST_FIELDS:,} values")


ARGUMENT = Table(
    "Argument",
    (
        Field(1, "name", Kind.BYTES),
        Field(2, "f", Kind.FLOATS),
        Field(3, "i", Kind.INTS),
        Field(4, "s", Kind.BYTES),
        Field(5, "floats", Kind.FLOATS),
        Field(6, "ints", Kind.INTS),
        Field(7, "strings", Kind.BYTES),
        Field(8, "n", Kind.SKIPPED),
        Field(9, "nets", Kind.SKIPPED),
        Field(10, "t", Kind.SKIPPED),
        Field(11, "tensors", Kind.SKIPPED),
        Field(12, "qtensors", Kind.SKIPPED),
    ),
)

OPERATOR = Table(
    "OperatorDef",
    (
        Field(1, "input", Kind.BYTES),
        Field(2, "output", Kind.BYTES),
        Field(3, "name", Kind.BYTES),
        Field(4, "type", Kind.BYTES),
        Field(5, "arg", Kind.MESSAGES, ARGUMENT),
        Field(6, "device_option", Kind.SKIPPED),
        Field(7, "engine", Kind.SKIPPED),
        Field(8, "control_input", Kind.SKIPPED),
        Field(9, "is_gradient_op", Kind.SKIPPED),
        Field(10, "debug_info", Kind.SKIPPED),
        Field(11, "domain", Kind.SKIPPED),
        Field(12, "op_version", Kind.SKIPPED),
    ),
)

NET = Table(
    "NetDef",
    (
        Field(1, "name", Kind.BYTES),
        Field(2, "op", Kind.MESSAGES, OPERATOR),
        Field(3, "type", Kind.SKIPPED),
        Field(4, "num_workers", Kind.SKIPPED),
        Field(5, "device_option", Kind.SKIPPED),
        Field(6, "arg", Kind.SKIPPED),
        Field(7, "external_input", Kind.BYTES),
        Field(8, "external_output", Kind.BYTES),
        Field(10, "partition_info", Kind.SKIPPED),
    ),
)
