"""Caffe2 nets in binary: protobuf's wire format, read by the field table and nothing else.

Every length is held against the bytes that are there before anything is taken, nothing is read
deeper than the table goes, and long runs of weights become arrays without a step for each.
"""

from __future__ import annotations

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

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STRIDE = 5
"""Bytes of a float that is not packed: its tag and itself."""


def read_wire(content: bytes) -> Message:
    """The net in a binary file's content.

    Raises:
        DamagedError: it is no such net, or ends too early.
    """
    return _Wire(content).message(0, len(content), NET)


class _Wire:
    """One file's content, and how much of it may still become values."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.allowance = Allowance()

    def message(self, at: int, end: int, table: Table) -> Message:
        """The fields between two offsets; those that the table does not name are passed over."""
        found: Message = {}
        while at < end:
            self.allowance.spend()
            start = at
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            known = table.numbered.get(number)
            if number == 0:
                raise DamagedError(f"field 0 in {table.name} at byte {start}")
            if known is None or known.kind is Kind.SKIPPED:
                at = self.skipped(at, end, wire)
                continue
            values, at = self.values(known, wire, start, at, end)
            found.setdefault(known.name, []).extend(values)
        return found

    def values(
        self, known: Field, wire: int, start: int, at: int, end: int
    ) -> tuple[list[Any], int]:
        """What one field holds, and where the next one starts."""
        if known.kind is Kind.FLOATS and wire == _FIXED32:
            if at - start == 1:
                run, at = self.run(start, end)
                return [run], at
            after = self.ahead(at, 4, end)
            return [np.frombuffer(self.content, "<f4", 1, at)], after
        if known.kind is Kind.INTS and wire == _VARINT:
            value, at = self.varint(at, end)
            return [_signed(value)], at
        if wire != _BYTES:
            raise DamagedError(f"field {known.name} of wire type {wire} at byte {start}")
        length, at = self.varint(at, end)
        after = self.ahead(at, length, end)
        if known.message is not None:
            return [self.message(at, after, known.message)], after
        if known.kind is Kind.FLOATS:
            if length % 4:
                raise DamagedError(f"field {known.name} of {length} bytes at byte {start}")
            return [np.frombuffer(self.content, "<f4", length // 4, at)] if length else [], after
        if known.kind is Kind.INTS:
            return self.packed(at, after), after
        return [self.content[at:after]], after

    def run(self, at: int, end: int) -> tuple[NDArray[np.float32], int]:
        """The floats from `at` on, each behind the same tag of one byte."""
        tag, count, window = self.content[at], 0, 16
        while True:  # by growing steps, since short runs must not look at the whole rest
            most = min(window, (end - at) // _STRIDE - count)
            if most <= 0:
                break
            place = at + count * _STRIDE
            tags = np.frombuffer(self.content, np.uint8, most * _STRIDE, place)[::_STRIDE]
            same = tags == tag
            matching = most if same.all() else int(same.argmin())
            count += matching
            if matching < window:
                break
            window *= 4
        if not count:
            raise DamagedError(f"it ends within the number at byte {at}")
        rows = np.frombuffer(self.content, np.uint8, count * _STRIDE, at).reshape(count, _STRIDE)
        floats = np.ascontiguousarray(rows[:, 1:]).view("<f4").reshape(count)
        return floats, at + count * _STRIDE

    def packed(self, at: int, end: int) -> list[int]:
        """Integers one behind the other."""
        found = []
        while at < end:
            self.allowance.spend()
            value, at = self.varint(at, end)
            found.append(_signed(value))
        return found

    def skipped(self, at: int, end: int, wire: int) -> int:
        """The offset behind a value of some wire type."""
        if wire == _VARINT:
            return self.varint(at, end)[1]
        if wire == _BYTES:
            length, at = self.varint(at, end)
            return self.ahead(at, length, end)
        if wire in (_FIXED64, _FIXED32):
            return self.ahead(at, 8 if wire == _FIXED64 else 4, end)
        raise DamagedError(f"wire type {wire} at byte {at}")

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """An unsigned integer of up to ten bytes, and the offset behind it."""
        value = 0
        for index in range(10):
            if at + index >= end:
                raise DamagedError(f"it ends within the number at byte {at}")
            byte = self.content[at + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value & (2**64 - 1), at + index + 1
        raise DamagedError(f"a number of more than ten bytes at byte {at}")

    def ahead(self, at: int, length: int, end: int) -> int:
        """The offset `length` bytes on, if the enclosing message reaches so far."""
        if length > end - at:
            raise DamagedError(f"{length} bytes are announced at byte {at}, {end - at} are there")
        return at + length


def _signed(value: int) -> int:
    """The two's complement of 64 bits."""
    return value - 2**64 if value >= 2**63 else value
