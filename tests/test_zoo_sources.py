from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.errors import ModelError
from quantize.zoo.sources import Source, parse_source
from quantize.zoo.table import Entry

ENTRY = Entry("net", 3, "0" * 64)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://h/a", "https://h/a/net.onnx"),
        ("https://h", "https://h/net.onnx"),
        ("https://h/a/", "https://h/a/net.onnx"),
        ("https://h:8443/a?x=1", "https://h:8443/a/net.onnx?x=1"),
        ("https://h/a/other.onnx?x=1", "https://h/a/other.onnx?x=1"),
        ("https://h/{name}/{folder}/{file}", "https://h/net/model/net.onnx"),
        ("https://h/{name}", "https://h/net"),
    ],
)
def test_addresses(text, url):
    assert parse_source(text, ENTRY) == Source(url=url)


def test_paths(tmp_path):
    file = Source(path=tmp_path / "net.onnx")
    assert parse_source(str(tmp_path), ENTRY) == file
    assert parse_source(f"file://{tmp_path}", ENTRY) == file
    assert parse_source(f"file://localhost{tmp_path}/net.onnx", ENTRY) == file
    (tmp_path / "a b").mkdir()
    assert parse_source(f"file://{tmp_path}/a%20b", ENTRY).path == tmp_path / "a b" / "net.onnx"
    assert parse_source("nowhere", ENTRY) == Source(path=Path("nowhere"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://h/a", "leads to http:, which is not https"),
        ("ftp://h/a", "leads to ftp:"),
        ("https:///a", "without a host"),
        ("https://user:secret@h/a?token=secret", "a name or a password"),
        ("https://user@h/a", "a name or a password"),
        ("https://h:port/a", "is no address"),
        ("https://[::1/a", "is no address"),
        ("https://h/ä", "characters that no address has"),
        ("https://h/a b", "characters that no address has"),
        ("https://h/a\r\nX: y", "characters that no address has"),
        ("https://h/\ud800", "characters that no address has"),
        ("file://other/a", "on another machine"),
        ("", "is no path"),
        ("a\0b", "is no path"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, reason):
    with pytest.raises(ModelError) as caught:
        parse_source(text, ENTRY)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_message_shows_no_query():
    assert str(parse_source("https://h/a.onnx?token=secret", ENTRY)) == "https://h/a.onnx"


@given(
    st.one_of(
        st.text(),
        st.builds(
            "{}{}".format, st.sampled_from(["https://", "https:", "file:", "file://"]), st.text()
        ),
    )
)
def test_any_text_is_a_source_or_a_complaint(text):
    try:
        source = parse_source(text, ENTRY)
    except ModelError:
        return
    assert (source.url is None) != (source.path is None)
    assert source.url is None or source.url.startswith("https://")
