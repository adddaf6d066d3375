import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mxnet_files import TYPES, array_bytes, params_bytes
from quantize.conversion.mxnet_params import parse_params, read_params
from quantize.errors import ModelError, QuantizeError

SMALL = {
    "arg:conv0_weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "aux:bn_moving_var": np.ones(3, np.float16),
}

arrays = st.sampled_from(sorted(TYPES)).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(max_dims=4, max_side=4))
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=9).map(lambda n: "arg:" + n), arrays, max_size=4),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_every_version_brings_back_what_was_written(held, version, device):
    found = parse_params(params_bytes(held, version, device), "p")
    assert list(found) == [name.removeprefix("arg:") for name in held]
    for name, array in held.items():
        got = found[name.removeprefix("arg:")]
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_names_lose_what_tells_arguments_from_statistics():
    assert list(parse_params(params_bytes(SMALL), "p")) == ["conv0_weight", "bn_moving_var"]
    plain = {"a": SMALL["aux:bn_moving_var"], "arg_b": SMALL["aux:bn_moving_var"]}
    assert list(parse_params(params_bytes(plain), "p")) == ["a", "arg_b"]


def one_array(array):
    """A file of one array, called x, that is given as bytes."""
    return struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 1) + b"x"


def test_bfloat16_is_widened():
    values = struct.pack("<HH", 0x3FC0, 0xC000)
    array = struct.pack("<IiIqiii", 0xF993FAC9, 0, 1, 2, 1, 0, 12) + values
    np.testing.assert_array_equal(parse_params(one_array(array), "p")["x"], [1.5, -2.0])


def test_scalars_are_arrays_in_the_newest_version_alone():
    array = struct.pack("<IiIiii", 0xF993FACA, 0, 0, 1, 0, 0) + struct.pack("<f", 2.5)
    assert parse_params(one_array(array), "p")["x"].shape == ()
    with pytest.raises(ModelError, match="damaged"):
        parse_params(one_array(array.replace(b"\xca", b"\xc9", 1)), "p")


@pytest.mark.parametrize(
    "array",
    [
        struct.pack("<I", 0),
        struct.pack("<II", 0xF993FAC8, 0),
        struct.pack("<IiI", 0xF993FAC9, 0, 0),
        struct.pack("<Iii", 0xF993FACA, 0, -1),
    ],
)
def test_arrays_without_a_shape_are_left_out(array):
    assert parse_params(one_array(array), "p") == {}


@pytest.mark.parametrize("version", range(4))
def test_a_file_that_is_cut_anywhere_is_refused(version):
    content = params_bytes(SMALL, version)
    for size in range(len(content)):
        with pytest.raises(ModelError):
            parse_params(content[:size], "p")


def patched(content, at, form, value):
    changed = bytearray(content)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


V2 = params_bytes({"x": np.ones((2, 3), np.float32)}, 2)
DIMS = 24 + 4 + 4 + 4  # header, magic, storage, rank


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04" + b"\0" * 40, "is not an MXNet .params file"),
        (patched(V2, 0, "<Q", 0x113), "is not an MXNet .params file"),
        (patched(V2, 16, "<Q", 2**60), "arrays are declared"),
        (patched(V2, 16, "<Q", 2), "damaged"),
        (patched(V2, 28, "<i", 1), r"array 0 of the parameters is sparse \(row_sparse\)"),
        (patched(V2, 28, "<i", 2), "csr"),
        (patched(V2, 28, "<i", 7), "storage 7"),
        (patched(V2, 32, "<i", 2**31 - 1), "dimensions"),
        (patched(V2, 32, "<i", -1), "-1 dimensions"),
        (patched(V2, DIMS, "<q", 2**62), "should have .* bytes"),
        (patched(V2, DIMS, "<q", -2), r"shape \[-2, 3\]"),
        (patched(V2, DIMS, "<q", 0), r"shape \[0, 3\]"),
        (patched(V2, DIMS + 24, "<i", 99), "unknown type 99"),
        (patched(V2, DIMS + 24, "<i", 1), "damaged"),
        (patched(V2, len(V2) - 17, "<Q", 0), "without names"),
        (patched(V2, len(V2) - 17, "<Q", 2**63), "names are declared"),
        (patched(V2, len(V2) - 9, "<Q", 2**40), "a name of"),
        (V2[:-1] + b"\xff", "not UTF-8"),
        (V2 + b"\0", "1 bytes follow"),
        (params_bytes({"arg:x": np.ones(1), "aux:x": np.ones(1)}), "two arrays are called 'x'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(content, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        parse_params(content, "net.params")
    assert "\n" not in str(caught.value)


def test_a_lie_about_sizes_takes_no_memory():
    tracemalloc.start()
    for dims in (2**20, 2**31, 2**62):
        with pytest.raises(ModelError):
            parse_params(patched(V2, DIMS, "<q", dims), "p")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_files_that_cannot_be_read(tmp_path):
    for name, content, reason in (
        ("none", None, "does not exist"),
        ("empty", b"", "is empty"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelError, match=reason):
            read_params(path)
    with pytest.raises(ModelError, match="is not a file"):
        read_params(tmp_path)


def test_a_file_larger_than_any_model_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="is larger than 2047 MiB"):
        read_params(tmp_path / "large")


def mutations(seeds, count, seed):
    """`count` damaged copies: bytes changed, cut out, doubled, and numbers made extreme."""
    rng = np.random.default_rng(seed)
    extreme = [b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\x01\0\0\0\0\0\0\x80"]
    for number in range(count):
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.integers(1, 4)):
            at, kind = int(rng.integers(len(content) or 1)), rng.integers(4)
            if kind == 0 and content:
                content[at] = int(rng.integers(256))
            elif kind == 1:
                piece = extreme[rng.integers(len(extreme))]
                content[at : at + len(piece)] = piece
            elif kind == 2:
                del content[at : at + int(rng.integers(1, 9))]
            else:
                content[at:at] = content[at : at + int(rng.integers(1, 30))]
        yield bytes(content)


def attack(count, seed):
    seeds = [params_bytes(SMALL, version) for version in range(4)]
    seeds.append(struct.pack("<QQQ", 0x112, 0, 1) + array_bytes(np.ones(2), storage=1))
    survived = 0
    for content in mutations(seeds, count, seed):
        try:
            found = parse_params(content, "p")
        except QuantizeError:
            continue
        survived += 1
        assert sum(array.nbytes for array in found.values()) <= 2 * len(content)
    assert survived < count / 2


def test_damaged_files_are_refused_and_nothing_else_happens():
    attack(4_000, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files():
    attack(100_000, seed=2)
