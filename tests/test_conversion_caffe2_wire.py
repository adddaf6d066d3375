"""Caffe2 nets in binary: bytes that lie are found before they cost anything."""

import tracemalloc

import numpy as np
import pytest

from caffe2_nets import FORMS, binary, complaint, fuzz, sample
from quantize.conversion.caffe2_fields import MOST_FIELDS, DamagedError
from quantize.conversion.caffe2_wire import read_wire


def varint(value):
    found = b""
    while value >= 128:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def damaged(content, word):
    with pytest.raises(DamagedError, match=word):
        read_wire(content)


# ----------------------------------------------------------------------------- numbers


def written(content):
    """The fields of an argument that is written so."""
    return read_wire(field(2, field(5, content)))["op"][0]["arg"][0]


def test_both_encodings_of_lists_and_their_mixture():
    values = np.arange(1, 100, dtype="<f4")
    single = b"".join(b"\x2d" + value.tobytes() for value in values)
    packed = field(5, values.tobytes())
    long_tag = b"\xad\x00" + values[:1].tobytes()  # the same tag, in two bytes
    for content, want in (
        (single, [*values]),
        (packed, [*values]),
        (single + packed + long_tag + single, [*values, *values, 1, *values]),
        (packed + packed + single[:5], [*values, *values, 1]),
        (field(5, b""), []),
    ):
        assert np.concatenate([[], *written(content)["floats"]]).tolist() == want
    ints = b"\x30\x05" + field(6, b"\x01\x80\x01") + b"\x30" + varint(2**64 - 3)
    assert written(ints)["ints"] == [5, 1, 128, -3]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 79, 80, 81, 1000])
def test_runs_of_every_length_end_where_they_end(count):
    values = np.arange(count, dtype="<f4")
    run = b"".join(b"\x2d" + value.tobytes() for value in values)
    argument = read_wire(field(2, field(5, run + b"\x18\x07")))["op"][0]["arg"][0]
    np.testing.assert_array_equal(np.concatenate(argument["floats"]), values)
    assert len(argument["floats"]) == 1
    assert argument["i"] == [7]


def test_unknown_fields_are_passed_over():
    unknown = varint(200 << 3) + b"\x05" + varint(201 << 3 | 1) + bytes(8)
    unknown += varint(202 << 3 | 5) + bytes(4) + field(203, b"anything")
    assert read_wire(unknown + field(1, b"n") + unknown) == {"name": [b"n"]}


# --------------------------------------------------------------------------------- lies


def test_lengths_beyond_the_file():
    damaged(b"\x0a" + varint(10) + b"x", "10 bytes are announced at byte 2, 1 are there")
    damaged(b"\x12" + varint(2**63) + b"x", "announced")
    damaged(field(2, b"\x0a" + varint(3) + b"xy"), "3 bytes are announced")
    damaged(field(2, field(5, field(5, b"abc"))), "floats of 3 bytes")
    damaged(field(2, field(5, b"\x2d\x00\x00")), "ends within")
    damaged(field(2, field(5, b"\xad\x00\x00\x00")), "announced")
    damaged(field(2, field(5, b"\x30\x80")), "ends within")
    damaged(field(2, field(5, b"\x30" + b"\xff" * 10 + b"\x01")), "more than ten bytes")
    damaged(b"\x08\x01", "name of wire type 0")
    damaged(b"\x02\x01", "field 0")
    damaged(varint(300 << 3 | 3), "wire type 3")


def test_a_lie_costs_no_memory():
    content = field(2, field(5, b"\x2a" + varint(2**40)))
    tracemalloc.start()
    damaged(content, "announced")
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


SMALL = {
    "operators": b"\x12\x00",
    "outputs": b"\x42\x00",
    "skipped": b"\x1a\x00",
    "arguments": field(2, b"\x2a\x00"),
    "floats": field(2, field(5, b"\xad\x00\x00\x00\x80\x3f")),
    "integers": field(2, field(5, b"\x30\x01" * 40)),
    "packed": field(2, field(5, field(6, b"\x01" * 40))),
}


@pytest.mark.parametrize("piece", SMALL.values(), ids=SMALL)
def test_small_things_are_not_taken_without_end(piece):
    damaged(piece * (MOST_FIELDS + 1), "more than 250,000 values")


def test_a_file_cut_anywhere_never_crashes():
    for write in (FORMS["binary"], FORMS["packed"]):
        whole = write(sample())
        assert read_wire(whole)
        for length in range(len(whole)):
            assert "\n" not in complaint(read_wire, whole[:length])


# ----------------------------------------------------------------------------- mutations


def contents():
    return [binary(sample()), FORMS["packed"](sample())]


def test_some_mutations():
    fuzz(read_wire, contents(), 5_000, seed=1)


@pytest.mark.slow
def test_mutations():
    fuzz(read_wire, contents(), 100_000, seed=2)
