import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quantize.config.patterns import MAX_LENGTH, Pattern

ATOMS = ["a", "b", ".", "[ab]", "[^a]", "[]a]", r"\d", r"\.", "_", "{", "-", "(?:ab|b)", "(a|)"]
REPEATS = ["", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,}", "{,2}", "{1,3}", "{0}"]

atoms = st.tuples(st.sampled_from(ATOMS), st.sampled_from(REPEATS)).map("".join)
patterns = st.recursive(
    atoms,
    lambda part: st.one_of(
        st.lists(part, max_size=4).map("".join),
        st.tuples(part, part).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(part, st.sampled_from(REPEATS)).map(lambda two: f"({two[0]}){two[1]}"),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(patterns, st.text("ab_1{-.]", max_size=8))
def test_answers_are_those_of_re(text, name):
    try:
        expected = re.fullmatch(text, name) is not None
        pattern = Pattern(text)
    except (re.error, ValueError):
        assume(False)
    assert pattern.matches(name) is expected


@pytest.mark.parametrize(
    ("text", "name", "matches"),
    [
        ("Gemm_174_MatMul", "Gemm_174_MatMul", True),
        ("Gemm_174_MatMul", "Gemm_174_MatMul_2", False),
        ("Gather_.*?", "Gather_19", True),
        ("Gather_*", "Gather_19", False),
        (r"Concat_[1-9]\d{2,}", "Concat_101", True),
        (r"Concat_[1-9]\d{2,}", "Concat_11", False),
        ("[6-9][0-9][0-9]$", "712", True),
        ("^conv1$|^conv2$", "conv2", True),
        ("a^b", "ab", False),
        ("bert/layer_10/MatMul", "bert/layer_10/MatMul", True),
        ("", "", True),
        ("", "a", False),
        ("^$", "", True),
        (".*", "", True),
    ],
)
def test_published_forms(text, name, matches):
    assert Pattern(text).matches(name) is matches


@pytest.mark.parametrize("text", ["(a+)+b", "(a|aa)+b", "(.*)*x", ".*.*.*.*.*x", "(a?){50}a{50}"])
def test_patterns_that_explode_elsewhere_take_linear_time(text):
    started = time.perf_counter()
    Pattern(text).matches("a" * 300)
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(", "no regular expression"),
        ("[a", "no regular expression"),
        ("*a", "no regular expression"),
        ("a" * (MAX_LENGTH + 1), "longer than 200"),
        ("(?=a)", "look-arounds"),
        ("(?i)a", "look-arounds"),
        ("(?P<x>a)", "look-arounds"),
        (r"(a)\1", "back-references"),
        (r"\bword", "back-references"),
        ("a*+", "possessive"),
        ("(a{100}){100}", "repeats too much"),
        ("(a{0}){100000000}", "repeats too much"),
        ("a{4294967290}", "repeats too much"),
        ("a{99999999999999}", "no regular expression"),
        ("(" * 50 + "a" + ")" * 50, "nests deeper"),
    ],
)
def test_what_cannot_be_matched_in_linear_time_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        Pattern(text)
