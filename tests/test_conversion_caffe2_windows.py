"""Kernels that move: sizes, and the partial windows that Caffe counts."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from caffe2_nets import binary, net, op
from quantize.conversion import arithmetic
from quantize.conversion.caffe2_net import parse_net
from quantize.conversion.caffe2_windows import Window, window
from quantize.errors import ModelError


def read(**arguments):
    return window(parse_net(binary(net(op("MaxPool", "x", "y", **arguments)))).operators[0])


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ({"kernel": 3}, Window((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))),
        ({"kernels": [3, 2], "stride": 2}, Window((3, 2), (2, 2), (1, 1), (0, 0, 0, 0))),
        (
            {"kernel_h": 1, "kernel_w": 2, "stride_h": 3, "stride_w": 4, "dilations": [5, 6]},
            Window((1, 2), (3, 4), (5, 6), (0, 0, 0, 0)),
        ),
        (
            {"kernel": 3, "pad_t": 1, "pad_l": 2, "pad_b": 3, "pad_r": 4, "strides": [2, 1]},
            Window((3, 3), (2, 1), (1, 1), (1, 2, 3, 4)),
        ),
        ({"kernel": 3, "pads": [1, 2, 3, 4]}, Window((3, 3), (1, 1), (1, 1), (1, 2, 3, 4))),
        ({"kernel": 3, "pad": 1, "dilation": 2}, Window((3, 3), (1, 1), (2, 2), (1, 1, 1, 1))),
        ({"kernel": 3, "pads": []}, Window((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))),
        ({"global_pooling": 1, "kernel": 9}, Window((0, 0), (1, 1), (1, 1), (0, 0, 0, 0))),
        ({"kernel": 3, "legacy_pad": 3}, Window((3, 3), (1, 1), (1, 1), (0, 0, 0, 0), True)),
    ],
)
def test_spellings(arguments, want):
    assert read(**arguments) == want


sizes, kernels = st.integers(3, 12), st.integers(1, 4)
pairs = st.tuples


@given(
    pairs(sizes, sizes), pairs(kernels, kernels), pairs(kernels, kernels), pairs(kernels, kernels),
    st.tuples(*[st.integers(0, 3)] * 4),
)  # fmt: skip
def test_sizes_are_those_of_a_convolution(size, kernel, stride, dilation, pads):
    moved = Window(kernel, stride, dilation, pads)
    height, width = moved.sizes(*size)
    if height < 1 or width < 1:
        return
    image, weight = np.ones((1, 1, *size), np.float32), np.ones((1, 1, *kernel), np.float32)
    got = arithmetic.convolve(image, weight, stride=stride, dilation=dilation, pads=pads)
    assert got.shape[2:] == (height, width)


def caffe_count(size, kernel, stride, pad):
    """Windows along one axis, counted one by one as Caffe places them."""
    starts = [-pad]
    while starts[-1] + kernel < size + pad:
        starts.append(starts[-1] + stride)
    if pad and starts[-1] >= size:
        starts.pop()
    return len(starts)


@given(pairs(sizes, sizes), kernels, st.integers(1, 4), st.integers(0, 3))
def test_partial_windows_are_those_of_caffe(size, kernel, stride, pad):
    stride, pad = min(stride, kernel), min(pad, kernel - 1)
    assume(min(size) + 2 * pad >= kernel)
    moved = read(kernel=kernel, stride=stride, pad=pad, legacy_pad=3)
    given = moved.explicit(*size)
    assert not given.ceil
    assert given.sizes(*size) == tuple(caffe_count(one, kernel, stride, pad) for one in size)
    images = np.random.default_rng(0).normal(0, 1, (1, 2, *size)).astype(np.float32)
    partial = arithmetic.max_pool(images, moved.kernel, moved.stride, moved.pads, ceil=True)
    padded = arithmetic.max_pool(images, given.kernel, given.stride, given.pads)
    np.testing.assert_array_equal(partial, padded)
    assert np.isfinite(padded).all()


def test_windows_without_ceil_stay_as_they_are():
    plain = read(kernel=3, stride=2)
    assert plain.explicit(8, 8) is plain
    assert read(global_pooling=1).sizes(5, 9) == (1, 1)


def test_refusals_name_the_operator():
    for arguments in ({}, {"kernel": 0}, {"kernel": 2, "stride": -1}, {"kernels": [1, 2, 3]}):
        with pytest.raises(ModelError, match=r"MaxPool \(which makes 'y'\) has"):
            read(**arguments)
