"""Nothing is read from an .npz file that is not sound."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quantize import npz
from quantize.files import npz_bytes

DTYPES = st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_])


@given(DTYPES.flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, min_side=0))))
@settings(deadline=None, max_examples=60)
def test_arrays_come_back_bit_for_bit(array):
    found = npz.unpack(npz_bytes({"one": array, "two": array[None]}))
    for name, expected in (("one", array), ("two", array[None])):
        assert found[name].dtype == array.dtype
        assert found[name].shape == expected.shape
        assert found[name].tobytes() == expected.tobytes()


def archive(header, body=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        text = header.encode().ljust(117) + b"\n"
        file.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"no archive" * 100,
        archive("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
        archive("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", b"12345678"),
        archive("{'descr': '<f8', 'fortran_order': True, 'shape': (1,)}", b"12345678"),
        archive("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"12345678"),
        archive("{'descr': '<f8', 'shape': (1,)}", b"12345678"),
        archive("__import__('os')", b"12345678"),
        archive("(" * 100),
    ],
)
def test_what_is_not_sound_is_refused(content):
    with pytest.raises(ValueError, match="not a file of arrays"):
        npz.unpack(content)


def test_damage_anywhere_is_noticed():
    content = npz_bytes({"a": np.arange(200.0)})
    with pytest.raises(ValueError, match="not a file of arrays"):
        npz.unpack(content[:-30])
    middle = len(content) // 3
    damaged = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    with pytest.raises(ValueError, match="not a file of arrays"):
        npz.unpack(damaged)


def test_more_than_fits_is_not_even_read(monkeypatch):
    content = npz_bytes({"a": np.zeros(1000)})
    monkeypatch.setattr(npz, "MOST_BYTES", 5000)
    with pytest.raises(ValueError, match="declares too much"):
        npz.unpack(content)
