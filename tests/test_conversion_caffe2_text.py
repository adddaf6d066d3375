"""Caffe2 nets as text: the whole grammar, and nothing but it."""

import time

import numpy as np
import pytest

from caffe2_nets import complaint, fill, fuzz, net, sample, text
from quantize.conversion.caffe2_fields import MOST_FIELDS, DamagedError
from quantize.conversion.caffe2_text import MOST_DEPTH, read_text


def argument(content):
    """The fields of an argument written so."""
    return read_text(b'op { type: "x" arg { ' + content + b" } }")["op"][0]["arg"][0]


def floats(content):
    return np.concatenate(argument(content)["floats"]).tolist()


def damaged(content, word):
    with pytest.raises(DamagedError, match=word):
        read_text(content)


# ------------------------------------------------------------------------------ grammar


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b"0", 0), (b"-5", -5), (b"+7", 7), (b"0x1F", 31), (b"-0x10", -16), (b"017", 15),
        (b"9223372036854775807", 2**63 - 1), (b"-9223372036854775808", -(2**63)),
    ],
)  # fmt: skip
def test_integers(written, value):
    assert argument(b"i: " + written)["i"] == [value]
    assert argument(b"ints: " + written + b" ints: [" + written + b", 1]")["ints"] == [
        value,
        value,
        1,
    ]


@pytest.mark.parametrize(
    "written",
    [b"1.5", b"9223372036854775808", b"09", b"0x", b"1e3", b"x", b"", b"'1'", b"1" * 5000],
)
def test_what_is_no_integer(written):
    with pytest.raises(DamagedError):
        argument(b"i: " + written)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b"1", 1), (b"-1.5e3", -1500), (b".5", 0.5), (b"5.", 5), (b"1E-2", np.float32(0.01)),
        (b"2.5f", 2.5), (b"2F", 2), (b"inf", np.inf), (b"-Infinity", -np.inf), (b"1e60", np.inf),
        (b"inff", np.inf),
    ],
)  # fmt: skip
def test_floats(written, value):
    assert argument(b"f: " + written)["f"][0][0] == value
    assert floats(b"floats: " + written + b"\nfloats: 2 floats: 3") == [value, 2, 3]
    assert floats(b"floats: 2\nfloats: 3\nfloats:" + written + b"\n") == [2, 3, value]
    assert floats(b"floats: [" + written + b",2]") == [value, 2]


def test_no_number_at_all():
    assert np.isnan(argument(b"f: nan")["f"][0][0])
    for written in (b"1_0", b"one", b"1e", b"--1", b"1e5e5", b"0x10", b"", b"{}", b"."):
        with pytest.raises(DamagedError):
            argument(b"f: " + written)
        with pytest.raises(DamagedError):
            argument(b"floats: 1 floats: 2 floats: " + written + b" floats: 3 ")
        with pytest.raises(DamagedError):
            argument(b"floats: [1, 2, " + written + b", 3]")


def test_long_runs_are_arrays():
    values = np.random.default_rng(0).normal(0, 1, 20_001).astype(np.float32)
    message = net(fill("w", values))
    again = read_text(text(message))["op"][0]["arg"][1]
    assert len(again["floats"]) < 10
    np.testing.assert_array_equal(np.concatenate(again["floats"]), values)
    listed = argument(b"floats: [" + b", ".join(b"%r" % value for value in values.tolist()) + b"]")
    assert len(listed["floats"]) < 10
    np.testing.assert_array_equal(np.concatenate(listed["floats"]), values)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (rb'"plain"', b"plain"), (rb"'it is'", b"it is"), (rb'"a" "b" ' + b"'c'", b"abc"),
        (rb'"\n\t\\\"\'\?"', b"\n\t\\\"'?"), (rb'"\x41\101\0z"', b"AA\0z"), (rb'""', b""),
        (b'"# no remark"', b"# no remark"), (b'"\xc3\xa9"', b"\xc3\xa9"), (rb'"\377"', b"\xff"),
    ],
)  # fmt: skip
def test_strings(written, value):
    assert argument(b"s: " + written)["s"] == [value]
    assert argument(b"strings: [" + written + b"]")["strings"] == [value]


@pytest.mark.parametrize("written", [b'"open', b'"line\n"', rb'"\q"', rb'"\400"', b"word", b"3"])
def test_what_is_no_string(written):
    with pytest.raises(DamagedError):
        argument(b"s: " + written)


def test_punctuation_and_remarks():
    content = b"""# a net
        name : "n" ; op < type: "Relu", input: ["a", "b"] output: 'c' # here
        arg: { name: "x" i: 1 }, arg [ { name: "y" }, < name: "z" > ] >
        op { } external_output: "c"#end"""
    found = read_text(content)
    first = found["op"][0]
    assert found["name"] == [b"n"]
    assert first["input"] == [b"a", b"b"]
    assert [one["name"] for one in first["arg"]] == [[b"x"], [b"y"], [b"z"]]
    assert found["op"][1] == {}


def test_what_is_not_wanted_is_passed_over():
    content = b"""op { device_option { device_type: 1 extra < a: [1, 2, {}] > s: "}" } engine: ""
        is_gradient_op: true debug_info: 'x' "y" arg { nets { op { type: "q" } } n { } } type: "t" }
        num_workers: 4 device_option: { }"""
    assert read_text(content)["op"] == [{"arg": [{}], "type": [b"t"]}]


# --------------------------------------------------------------------------------- lies

BROKEN = [
    (b'op { type: "x"', "line 1 has no field of OperatorDef at the end"),
    (b"op {\n\n ops: 1 }", "line 3 has no field of OperatorDef at 'ops: 1 }'"),
    (b"op { type: x }", "no text in quotes"),
    (b'op { type "x" }', "no colon"),
    (b"op: 3", "no opening bracket"),
    (b"op { arg { i 3 } }", "no colon"),
    (b'op { type: "x" >', "no field"),
    (b'op { input: ["a" "b" }', "neither , nor ]"),
    (b'op { input: ["a"', "neither , nor ]"),
    (b"device_option { ] }", "do not match"),
    (b"device_option { {", "do not match"),
    (b"device_option", "no value"),
    (b"device_option: }", "no value"),
    (b'name: "x" }', "no field of NetDef"),
    (b"name: \xff", "no token"),
    (b'name: "x" @', "no token"),
]


@pytest.mark.parametrize(("content", "word"), BROKEN)
def test_broken_text(content, word):
    damaged(content, word.replace("]", r"\]"))


@pytest.mark.parametrize("opening", [b"{", b"<", b"[", b"{x<y["])
def test_endless_nesting(opening):
    damaged(b"device_option " + opening * 300_000, f"more than {MOST_DEPTH} deep")
    damaged(b"op " + opening * 300_000, "no field|no opening")
    damaged(b"op { arg { nets { op { arg { nets " * 10_000, "more than")


def test_small_things_are_not_taken_without_end():
    damaged(b"op{}" * (MOST_FIELDS + 1), "more than 250,000 values")
    damaged(b"op{arg{ints:[" + b"1," * MOST_FIELDS, "more than 250,000 values")


@pytest.mark.parametrize(
    "content",
    [
        b" " * 3_000_000,
        b"#" * 3_000_000,
        b"#\n" * 1_500_000,
        b'name: "' + b"x" * 3_000_000,
        b'name: "' + b"\\\\" * 1_500_000,
        b"op{arg{f:" + b"1" * 3_000_000,
        b"op{arg{i:" + b"1" * 3_000_000,
        b"op{arg{floats:" + b"1" * 3_000_000,
        b"op{arg{floats:[" + b"1," * 1_500_000,
        b"op{arg{floats:[" + b"1, " * 1_000_000 + b"-",
        b"op{arg{" + b"floats:1 " * 300_000 + b"x",
        b"op{arg{" + b"floats: 1" + b" " * 3_000_000 + b"!",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_long_pieces_take_no_long_time(content):
    started = time.process_time()
    assert len(complaint(read_text, content)) < 200
    assert time.process_time() - started < 3


# ----------------------------------------------------------------------------- mutations


def contents():
    made = text(sample())
    return [made, made.replace(b"{", b"<").replace(b"}", b">").replace(b"\n", b" ")]


def test_a_file_cut_anywhere_never_crashes():
    whole = text(sample())
    for length in range(len(whole)):
        assert "\n" not in complaint(read_text, whole[:length])


def test_some_mutations():
    fuzz(read_text, contents(), 5_000, seed=1)


@pytest.mark.slow
def test_mutations():
    fuzz(read_text, contents(), 100_000, seed=2)
