import contextlib
import io
import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.conversion.torch_safetensors import arrays_of, from_bfloat16, read_safetensors
from quantize.errors import ModelError
from states import bfloat16, safetensors

RNG = np.random.default_rng(0)
STATE = {
    "a": RNG.standard_normal((3, 4)).astype(np.float32),
    "b": RNG.standard_normal(5).astype(np.float16),
    "c": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "d": RNG.standard_normal((2, 2)),
}


def entry(dtype="F32", shape=(3, 4), offsets=(0, 48)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def read(tmp_path):
    def reading(content):
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        return read_safetensors(path)

    return reading


def test_every_kind_comes_back(read):
    seen = read(safetensors(STATE))
    assert list(seen) == list(STATE)
    for name, value in STATE.items():
        assert seen[name].dtype == value.dtype
        np.testing.assert_array_equal(seen[name], value)


def test_bfloat16_becomes_float32(read):
    values = np.array([1, -2.5, 3.140625, 0], np.float32)
    seen = read(safetensors({"x": bfloat16(values)}))["x"]
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, values)


@given(st.floats(width=32, allow_nan=False))
@settings(max_examples=50, deadline=None)
def test_bfloat16_is_the_upper_half_of_a_float(value):
    bits = np.array([value], np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    cut = (bits >> np.uint32(16)).astype(np.uint16)
    np.testing.assert_array_equal(from_bfloat16(cut), bits.view(np.float32))


def test_the_real_writer_and_this_reader_agree(tmp_path):
    real = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    path = tmp_path / "real.safetensors"
    real.save_file(STATE, path, metadata={"by": "test"})
    seen = read_safetensors(path)
    assert seen.keys() == STATE.keys()
    for name, value in STATE.items():
        np.testing.assert_array_equal(seen[name], value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"a": entry(shape=(3, 5))}, "asks for 60"),
        ({"a": entry(offsets=(0, 44))}, "takes 44 bytes"),
        ({"a": entry(offsets=(48, 0))}, "takes -48 bytes"),
        ({"a": entry(offsets=(4, 52))}, "behind a gap"),
        ({"b": entry("F16", (5,), (44, 54))}, "overlaps another"),
        ({"z": entry("F32", (1,), (0, 4))}, "overlaps another"),
        ({"a": entry(offsets=(-4, 44))}, "damaged"),
        ({"a": entry(offsets=(0, 48, 48))}, "damaged"),
        ({"a": entry(shape=(True, 12))}, "damaged"),
        ({"a": entry(shape=(1 << 50, 0))}, "damaged"),
        ({"a": entry(shape=[1] * 9)}, "damaged"),
        ({"a": 3}, "damaged"),
        ({"a": entry("F8_E4M3")}, "'F8_E4M3', which is not known"),
        ({"a": entry(["F32"])}, "not known"),
    ],
)
def test_a_lie_about_a_size_is_named(read, change, complaint):
    with pytest.raises(ModelError, match=complaint):
        read(safetensors(STATE, change))


@pytest.mark.parametrize("cut", [1, 100, 140])
def test_a_cut_file_is_refused(read, cut):
    with pytest.raises(ModelError):
        read(safetensors(STATE)[:-cut])


def test_what_is_behind_the_arrays_is_refused(read):
    with pytest.raises(ModelError, match="where its header says"):
        read(safetensors(STATE) + b"x")


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"{" * 100_000, "not JSON"),
        (b'{"a": ' + b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[1, 2]", "not a table"),
        (b'{"a": 1e999}', "damaged"),
    ],
)
def test_a_header_that_is_no_table_is_refused(read, header, complaint):
    with pytest.raises(ModelError, match=complaint):
        read(struct.pack("<Q", len(header)) + header)


def test_a_header_longer_than_the_file_takes_no_memory(read):
    for length in (1 << 62, 1 << 30, 100):
        with pytest.raises(ModelError, match="cut short"):
            read(struct.pack("<Q", length) + b"{}")


def test_a_header_larger_than_any_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:  # sparse: it takes no disk
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate((1 << 30) + 8)
    with pytest.raises(ModelError, match="larger than"):
        read_safetensors(path)


@given(places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_damage_is_an_error_or_a_different_value_and_nothing_else(tmp_path_factory, places):
    content = bytearray(safetensors(STATE))
    for place, value in places:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        seen = read_safetensors(path)
    except ModelError:
        return
    assert sum(array.nbytes for array in seen.values()) <= 2 * len(content)


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
SHAPES = JSON | st.lists(JSON, max_size=3)
ENTRIES = st.fixed_dictionaries({"dtype": JSON, "shape": SHAPES, "data_offsets": SHAPES})


@given(header=JSON | st.dictionaries(st.text(max_size=5), JSON | ENTRIES, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_json_is_an_error_or_arrays(tmp_path_factory, header):
    text = json.dumps(header).encode()
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with contextlib.suppress(ModelError):
        assert isinstance(read_safetensors(path), dict)


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files_are_errors_or_arrays():
    rng = random.Random(0)
    whole = safetensors({"a": STATE["a"], "b": STATE["b"]})
    refused = 0
    for _ in range(100_000):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content) - 60)] = rng.randrange(256)  # mostly the header
        if rng.random() < 0.3:
            del content[rng.randrange(1, len(content)) :]
        try:
            seen = arrays_of(io.BytesIO(content), len(content), Path("x"))
        except ModelError:
            refused += 1
        else:
            assert sum(array.nbytes for array in seen.values()) <= 2 * len(content)
    assert refused > 10_000
