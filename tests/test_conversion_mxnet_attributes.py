import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.conversion.mxnet_attributes import Attributes
from quantize.errors import ModelError, QuantizeError


def of(**values):
    return Attributes("net.json: node 'n' (Op)", values)


@given(
    st.lists(st.integers(-(10**12), 10**12), max_size=5),
    st.sampled_from(["()", "[]"]),
    st.sampled_from([",", ", ", " , "]),
    st.sampled_from(["", "L"]),
    st.booleans(),
)
def test_tuples_as_every_version_writes_them(numbers, brackets, comma, suffix, trailing):
    text = comma.join(f"{n}{suffix}" for n in numbers) + ("," if trailing and numbers else "")
    assert of(k=brackets[0] + text + brackets[1]).integers("k") == tuple(numbers)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    attributes = of(k=text)
    for read in (
        lambda: attributes.integers("k"),
        lambda: attributes.pair("k", None, 0, 9),
        lambda: attributes.integer("k", 0, 0, 9),
        lambda: attributes.number("k", 0.0),
        lambda: attributes.flag("k", False),
        lambda: attributes.text("k", "", ("a", "b")),
    ):
        with contextlib.suppress(QuantizeError):
            read()


def test_what_is_not_given_is_the_default():
    for attributes in (of(), of(k="None")):
        assert attributes.text("k", "max") == "max"
        assert attributes.flag("k", True) is True
        assert attributes.integer("k", 3, 0, 9) == 3
        assert attributes.number("k", 1e-3) == 1e-3
        assert attributes.integers("k") == ()
        assert attributes.pair("k", (1, 1), 1, 9) == (1, 1)
    assert of(k="()").pair("k", (1, 1), 1, 9) == (1, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-05", 1e-5), ("2e-05", 2e-5), ("0.001", 1e-3), (".5", 0.5), ("-3", -3.0), ("1f", 1.0)],
)
def test_numbers(text, value):
    assert of(k=text).number("k", None) == value


@pytest.mark.parametrize("text", ["True", "1", "true", "False", "0", "false"])
def test_flags(text):
    assert of(k=text).flag("k", False) is (text.lower() in ("true", "1"))


@pytest.mark.parametrize(
    ("text", "read", "reason"),
    [
        ("nan", "number", "not a finite"),
        ("inf", "number", "not a finite"),
        ("1e999", "number", "not a finite"),
        ("1e39", "number", "not a finite"),
        ("1_0", "number", "not a finite"),
        ("9" * 500, "number", "too long"),
        ("9" * 300, "integer", "not a whole"),
        ("7.0", "integer", "not a whole"),
        ("12", "integer", "not within 0 and 9"),
        ("(1, 2, 3)", "pair", "height and width"),
        ("(1, 12)", "pair", "not within 0 and 9"),
        ("(1, None)", "pair", "not a tuple"),
        ("(1, 2", "pair", "not a tuple"),
        ("__import__('os')", "pair", "not a tuple"),
        ("(" * 300, "pair", "not a tuple"),
        ("maybe", "flag", "neither True nor False"),
        ("sum", "text", "only max, avg"),
    ],
)
def test_the_node_the_key_and_the_reason_are_named(text, read, reason):
    reads = {
        "number": lambda a: a.number("k", None),
        "integer": lambda a: a.integer("k", None, 0, 9),
        "pair": lambda a: a.pair("k", None, 0, 9),
        "flag": lambda a: a.flag("k", True),
        "text": lambda a: a.text("k", "max", ("max", "avg")),
    }
    with pytest.raises(ModelError, match=reason) as caught:
        reads[read](of(k=text))
    assert re.match(r"net\.json: node 'n' \(Op\) has k = ", str(caught.value))
    assert len(str(caught.value)) < 250


def test_what_is_needed_and_not_given_is_named():
    with pytest.raises(ModelError, match="has no num_filter: it needs one"):
        of().integer("num_filter", None, 1, 9)
