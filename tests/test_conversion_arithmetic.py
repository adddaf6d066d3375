"""The plain arithmetic that conversions are checked by, against onnxruntime's own."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper

from graphs import answers, noise
from quantize.conversion import arithmetic

few = settings(max_examples=60, deadline=None)
small = st.integers(1, 3)
pair = st.tuples(small, small)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
four = st.tuples(*[st.integers(0, 2)] * 4)


def onnxruntimes(operator, images, *constants, opset=13, **attributes):
    """One node's answer."""
    names = [f"c{index}" for index in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, images.shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(c, name) for c, name in zip(constants, names, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return answers(model, images, plain=True)[0]


def close(ours, theirs):
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def fits(size, pads, reach):
    """Whether the padded image holds a window."""
    top, left, bottom, right = pads
    return size[0] + top + bottom >= reach[0] and size[1] + left + right >= reach[1]


@few
@given(sizes, pair, pair, four, pair, small, small, st.booleans(), st.integers(0, 99))
def test_convolutions(size, kernel, stride, pads, dilation, group, taken, bias, seed):
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(fits(size, pads, reach))
    images = noise(2, group * taken, *size, seed=seed)
    constants = [noise(2 * group, taken, *kernel, seed=seed + 1)]
    constants += [noise(2 * group, seed=seed + 2)] if bias else []
    ours = arithmetic.convolve(
        images, *constants, stride=stride, pads=pads, dilation=dilation, group=group
    )
    close(
        ours,
        onnxruntimes(
            "Conv", images, *constants,
            strides=stride, pads=pads, dilations=dilation, group=group, kernel_shape=kernel,
        ),
    )  # fmt: skip


@few
@given(st.integers(1, 5), st.sampled_from([0.0, 1e-5, 1e-3, 0.5]), st.integers(0, 99))
def test_batch_normalization(channels, epsilon, seed):
    images = noise(2, channels, 3, 2, seed=seed)
    gain, bias, mean = (noise(channels, seed=seed + 1 + i) for i in range(3))
    variance = np.abs(noise(channels, seed=seed + 4)) + np.float32(0.01)
    close(
        arithmetic.normalize(images, gain, bias, mean, variance, epsilon),
        onnxruntimes("BatchNormalization", images, gain, bias, mean, variance, epsilon=epsilon),
    )


def test_batch_normalization_of_rows():
    rows = noise(4, 3)
    ones = np.ones(3, np.float32)
    ours = arithmetic.normalize(rows, ones, ones, ones, 4 * ones, 0.0)
    assert_allclose(ours, (rows - 1) / 2 + 1, rtol=1e-6)


@few
@given(sizes, pair, pair, four, st.booleans(), st.integers(0, 99))
def test_largest_of_windows(size, kernel, stride, pads, ceil, seed):
    assume(fits(size, pads, kernel))
    assume(all(p < k for p, k in zip(pads, kernel * 2, strict=True)))
    images = noise(2, 2, *size, seed=seed)
    close(
        arithmetic.max_pool(images, kernel, stride, pads, ceil=ceil),
        onnxruntimes(
            "MaxPool", images, kernel_shape=kernel, strides=stride, pads=pads, ceil_mode=int(ceil)
        ),
    )


@few
@given(sizes, pair, pair, four, st.booleans(), st.booleans(), st.integers(0, 99))
def test_means_of_windows(size, kernel, stride, pads, ceil, count, seed):
    assume(fits(size, pads, kernel))
    assume(all(p < k for p, k in zip(pads, kernel * 2, strict=True)))
    images = noise(2, 2, *size, seed=seed)
    close(
        arithmetic.average_pool(images, kernel, stride, pads, ceil=ceil, count_pads=count),
        onnxruntimes(
            "AveragePool", images, kernel_shape=kernel, strides=stride, pads=pads,
            ceil_mode=int(ceil), count_include_pad=int(count), opset=19,
        ),
    )  # fmt: skip


def test_what_ceil_adds_does_not_count_and_padding_does_when_asked():
    images = np.ones((1, 1, 4, 4), np.float32)
    settled = {"kernel": (3, 3), "stride": (2, 2), "pads": (1, 1, 1, 1), "ceil": True}
    ours = arithmetic.average_pool(images, count_pads=True, **settled)
    # Windows begin at -1, 1 and 3; the last ends beyond the padding, which ends at 5.
    along = np.array([2 / 3, 1, 1 / 2])
    assert_allclose(ours[0, 0], np.outer(along, along), rtol=1e-6)
    assert_allclose(arithmetic.average_pool(images, **settled), 1, rtol=1e-6)


@few
@given(small, small, small, st.booleans(), st.integers(0, 99))
def test_fully_connected_layers(count, taken, given_, bias, seed):
    rows = noise(count, taken, seed=seed)
    constants = [noise(given_, taken, seed=seed + 1)]
    constants += [noise(given_, seed=seed + 2)] if bias else []
    ours = arithmetic.fully_connected(rows, *constants)
    close(ours, onnxruntimes("Gemm", rows, *constants, transB=1))


@few
@given(st.sampled_from([-1, 1, 2]), st.sampled_from([1.0, 100.0]), st.integers(0, 99))
def test_softmax(axis, scale, seed):
    scores = noise(2, 3, 4, seed=seed) * np.float32(scale)
    close(arithmetic.softmax(scores, axis), onnxruntimes("Softmax", scores, axis=axis))


def test_softmax_of_large_scores_does_not_overflow():
    assert_allclose(arithmetic.softmax(np.array([[1e4, 0]], np.float32)), [[1, 0]])


@pytest.mark.parametrize("size", [(1, 1), (1, 5)])
def test_an_image_that_is_smaller_than_the_window_is_an_error(size):
    with pytest.raises(ValueError, match="window"):
        arithmetic.max_pool(noise(1, 1, *size), (3, 3), (1, 1))
