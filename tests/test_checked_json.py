"""JSON that nobody vouches for: typed values, or one line that names the place."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.checked_json import parse_json, read_json, to_json
from quantize.errors import BundleError, RunFolderError

FILE = Path("manifest.json")


def value(text):
    return parse_json(text.encode(), FILE, BundleError, "fetch it again")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "nul", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, '{"a": "\\ud800'],
)
def test_what_is_no_object_is_refused(text):
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        value(text)


@pytest.mark.parametrize(
    ("text", "read", "place"),
    [
        ('{"a": {}}', lambda v: v.at("a", "b"), "a.b is not there"),
        ('{"a": 1}', lambda v: v.at("a", "b"), "a is not an object"),
        ('{"a": "1"}', lambda v: v.at("a").number(), "a is not a number"),
        ('{"a": true}', lambda v: v.at("a").number(), "a is not a number"),
        ('{"a": 1e999}', lambda v: v.at("a").number(), "a is not a number from"),
        ('{"a": 2}', lambda v: v.at("a").number(0, 1), "a is not a number from 0 to 1"),
        ('{"a": 1.5}', lambda v: v.at("a").count(), "a is not a whole number"),
        ('{"a": -1}', lambda v: v.at("a").count(), "a is not a number"),
        ('{"a": 1}', lambda v: v.at("a").text(), "a is not a text of at most 65,536"),
        ('{"a": "x"}', lambda v: v.at("a").digest(), "a is not a sha256"),
        ('{"a": 0}', lambda v: v.at("a").flag(), "a is not true or false"),
        ('{"a": "z"}', lambda v: v.at("a").one_of("x", "y"), "a is not one of x, y"),
        ('{"a": [1, "x"]}', lambda v: [i.number() for i in v.at("a").items()], "a[1] is not a num"),
        ('{"a": "x"}', lambda v: v.at("a").number_or_none(), "a is not a number"),
        ('{"a": ["x", 1]}', lambda v: v.at("a").texts(), "a[1] is not a text"),
        ('{"a": []}', lambda v: v.at("a").names(), "a is not an object"),
        ('{"a": {}}', lambda v: list(v.at("a").items()), "a is not a list"),
        ('{"a": {"b": 1}}', lambda v: v.at("a").known("c", "d"), "a.b is not one of c, d"),
        ('{"a": []}', lambda v: v.at("a").known("c"), "a is not an object"),
        ('{"a": [2, 1]}', lambda v: v.at("a").interval(), "a is not an interval"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(text, read, place):
    with pytest.raises(BundleError) as caught:
        read(value(text))
    assert place in str(caught.value)


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(BundleError, match="larger than 1 MiB"):
        read_json(path, 1 << 20, BundleError, "")


def test_json_is_ascii_and_sorted():
    assert to_json({"b": "\x1b", "a": "é"}) == b'{\n  "a": "\\u00e9",\n  "b": "\\u001b"\n}\n'


@pytest.mark.parametrize("error", [BundleError, RunFolderError])
def test_the_reader_says_which_error_it_is_and_what_to_do(tmp_path, error):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    seen = read_json(path, 1 << 20, error, "tune again")
    with pytest.raises(error, match=r"x\.json is damaged: a is not an object; tune again"):
        seen.at("a", "b")
    with pytest.raises(error, match="a is not a text"):
        seen.at("a").text()
    with pytest.raises(error, match="is no regular file; tune again"):
        read_json(tmp_path, 1 << 20, error, "tune again")
    with pytest.raises(error, match="cannot be read"):
        read_json(tmp_path / ("x" * 300), 1 << 20, error, "tune again")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
READERS = (
    lambda v: v.text(), lambda v: v.number(0, 1), lambda v: v.count(), lambda v: v.flag(),
    lambda v: v.digest(), lambda v: v.interval(), lambda v: v.texts(), lambda v: v.names(),
    lambda v: list(v.items()), lambda v: v.at("x", "y"), lambda v: v.number_or_none(),
)  # fmt: skip


def complaint(read):
    """What is wrong, or nothing; any other exception is a failure."""
    try:
        read()
    except BundleError as error:
        return str(error)
    return None


@given(JSON, st.sampled_from(READERS))
def test_any_value_is_read_or_refused_in_one_line(content, read):
    found = value(json.dumps({"x": content}))
    seen = complaint(lambda: read(found.at("x")))
    assert seen is None or (seen.startswith("manifest.json is damaged: x") and "\n" not in seen)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(content):
    seen = complaint(lambda: parse_json(content, FILE, BundleError, ""))
    assert seen is None or seen.startswith("manifest.json is damaged")


@pytest.mark.parametrize(("text", "found"), [('{"a": 0}', 0), ('{"a": null}', None), ("{}", None)])
def test_what_may_be_left_out_is_none(text, found):
    there = value(text).maybe("a")
    assert (there and there.value) == found
