"""The same numbers as `scipy.stats`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quantize.distributions import (
    binomial_above,
    binomial_cdf,
    fair_quantile,
    normal_cdf,
    normal_density,
    normal_quantile,
    wilson,
)

SHARES = st.floats(0.001, 0.999)


@given(st.floats(-9, 9))
def test_normal(x):
    assert float(normal_cdf(x)) == pytest.approx(stats.norm.cdf(x), rel=1e-12)
    assert float(normal_density(np.asarray(x))) == pytest.approx(stats.norm.pdf(x), rel=1e-12)


@given(SHARES)
def test_normal_quantile(p):
    assert normal_quantile(p) == pytest.approx(stats.norm.ppf(p), rel=1e-12, abs=1e-12)


@given(st.integers(1, 5000), st.data(), SHARES)
def test_binomial(n, data, p):
    k = data.draw(st.integers(-1, n))
    assert float(binomial_cdf(k, n, p)) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-9)
    assert float(binomial_above(k, n, p)) == pytest.approx(stats.binom.sf(k, n, p), rel=1e-9)


def test_binomial_of_arrays_and_at_the_ends():
    k, n = np.asarray([-1, 0, 3, 7]), np.asarray([0, 0, 3, 7])
    for p in (0.0, 0.25, 1.0):
        assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p))
        assert binomial_above(k, n, p) == pytest.approx(stats.binom.sf(k, n, p))


@given(SHARES, st.integers(1, 2000))
def test_fair_quantile(q, n):
    k = fair_quantile(q, n)
    close = 1 + 1e-12  # where q is a value of the distribution, the last bit decides
    assert stats.binom.cdf(k - 1, n, 0.5) <= q * close
    assert stats.binom.cdf(k, n, 0.5) * close >= q


def test_fair_quantile_of_five_coins():
    assert [fair_quantile(q, 5) for q in (0.03, 0.04, 0.4, 0.5, 0.6)] == [0, 1, 2, 2, 3]


@given(st.integers(1, 5000), st.data(), st.floats(0.5, 0.999))
def test_wilson(n, data, confidence):
    successes = data.draw(st.integers(0, n))
    theirs = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    low, high = wilson(successes, n, confidence)
    assert low == pytest.approx(theirs.low, abs=1e-12)
    assert high == pytest.approx(theirs.high, abs=1e-12)
