"""Gram matrices are what float64 gives, of integers to the last digit."""

import numpy as np
import pytest

from graphs import noise
from quantize.plan import Encoding
from quantize.repair.gram import INTEGER_GRAM, grams_of
from quantize.runtime import Operator


@pytest.fixture(scope="module", params=[1, 2])
def product(request):
    return Operator(INTEGER_GRAM, threads=request.param, name="of the products")


def exact(columns):
    """The sums in float64, straight from the formula."""
    reals = columns.astype(np.float64)
    return np.einsum("gpi,gpj->gij", reals, reals)


@pytest.mark.parametrize("shape", [(1, 70, 5), (3, 1, 4), (2, 40, 300), (16, 9, 9)])
@pytest.mark.parametrize("zero_point", [0, 7, 255])
def test_integers_are_multiplied_without_an_error(product, shape, zero_point):
    columns = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    encoding = Encoding(np.float32(0.1), zero_point)
    [(groups, found)] = grams_of(iter([(slice(0, shape[0]), columns)]), encoding, product)
    assert groups == slice(0, shape[0])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, exact(columns.astype(np.int64) - zero_point))


@pytest.mark.parametrize("zero_point", [0, 255])
def test_the_largest_integers_neither_saturate_nor_leave_32_bits(product, zero_point):
    columns = np.full((1, 70_000, 3), 255 - zero_point, np.uint8)
    columns[:, ::2, 1] = 0
    encoding = Encoding(np.float32(1), zero_point)
    [(_, found)] = grams_of(iter([(slice(0, 1), columns)]), encoding, product)
    np.testing.assert_array_equal(found, exact(columns.astype(np.int64) - zero_point))
    assert found.max() > 2**31


def test_reals_are_multiplied_in_float64(product):
    columns = noise(3, 50, 7)
    parts = iter([(slice(0, 2), columns[:2]), (slice(2, 3), columns[2:])])
    found = np.concatenate([gram for _, gram in grams_of(parts, None, product)])
    np.testing.assert_allclose(found, exact(columns), rtol=1e-12, atol=1e-12)
