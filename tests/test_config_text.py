import os

import pytest

from quantize.config.text import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    dotted,
    parse_source,
    parse_value,
    read_source,
    shown,
    source_from,
)
from quantize.errors import ConfigError


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_source(text, "a.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_key_knows_its_line():
    source = parse_source("a:\n  b:\n    - x\n    - {c: 1}\n", "a.yaml")
    assert source.data == {"a": {"b": ["x", {"c": 1}]}}
    assert source.place(("a", "b")) == "a.yaml, line 2"
    assert source.place(("a", "b", "1", "c")) == "a.yaml, line 4"
    assert source.place(("a", "b", "nothing")) == "a.yaml, line 2"
    assert source.place(("nothing",)) == "a.yaml"


def test_keys_are_text_as_written():
    assert parse_source("2794: 1\non: 2\nnull: 3\n1.50: 4", "a").data == {
        "2794": 1,
        "on": 2,
        "null": 3,
        "1.50": 4,
    }


def test_plain_values_are_built_and_dates_stay_text():
    source = parse_source("a: [1, 1.5, true, ~, x, 2021-03-04, '7']", "a")
    assert source.data == {"a": [1, 1.5, True, None, "x", "2021-03-04", "7"]}


def test_anchors_aliases_and_merges_work():
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {y: 3, <<: *a}\nd: {<<: [{x: 5}, *a], z: 4}\n"
    assert parse_source(text, "a").data == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 3},
        "d": {"x": 5, "y": 2, "z": 4},
    }


def test_a_key_given_twice_is_named_with_both_lines():
    assert refused("a: 1\nb: 2\na: 3") == (
        "a.yaml, line 3: key a stands on line 1 already; correct the line"
    )
    assert "key << stands on line 1" in refused("{<<: {x: 1}, <<: {x: 2}}")
    assert "key b.c stands on line 2 already" in refused("b:\n  c: 1\n  c: 1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml is empty"),
        ("# nothing\n", "a.yaml is empty"),
        ("- a\n", "holds ['a'], not a mapping"),
        ("just words", "holds 'just words', not a mapping"),
        ("a: b: c", "a.yaml, line 1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2", "line 2: not valid YAML"),
        ("a: [1, 2", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "the tag 'python/object/apply:os.system'"),
        ("a: !!python/name:os.system", "the tag 'python/name:os.system'"),
        ("a: !Pruner {x: 1}", "the tag '!Pruner'"),
        ("a: !!set {x, y}", "the tag 'set'"),
        ("a: !!binary aGk=", "the tag 'binary'"),
        ("a: !!int x", "'x' is not a value"),
        ("a: !!bool perhaps", "'perhaps' is not a value"),
        ("a: " + "9" * 5000, "is not a value"),
        ("? [a, b]\n: 1", "a key is a list or a mapping"),
        ("a: {<<: 3}", "takes a mapping"),
        ('a: "\\ud800"', "surrogate"),
        ("a: \0", "a.yaml is not YAML text"),
        ("a: \x07", "a.yaml is not YAML text"),
    ],
)
def test_bad_text_is_refused_in_one_line(text, message):
    assert message in refused(text)


def nested(depth: int) -> str:
    return "a: " + "[" * depth + "]" * depth


def test_depth_is_limited():
    parse_source(nested(MAX_DEPTH - 1), "a")
    assert "nests deeper" in refused(nested(MAX_DEPTH + 1))
    assert "nests deeper" in refused(nested(200_000))
    assert "nests deeper" in refused("a: &a [*a]")


def test_values_are_counted_with_their_aliases():
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    assert "more than 10,000 values" in refused("\n".join(["a0: &a0 [x, x, x]", *lines]))
    lines = [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 25)]
    assert "more than 10,000 values" in refused("\n".join(["a0: &a0 {x: 1}", *lines]))
    assert "more than 10,000 values" in refused(f"a: [{'1, ' * MAX_VALUES}1]")


def test_another_library_cannot_change_how_null_reads():
    import yaml

    saved = dict(yaml.SafeLoader.yaml_constructors)
    try:
        yaml.SafeLoader.add_constructor("tag:yaml.org,2002:null", lambda *_: {})
        yaml.SafeLoader.add_constructor("!Pruner", lambda *_: 1)
        assert parse_source("a:", "a").data == {"a": None}
        assert "the tag '!Pruner'" in refused("a: !Pruner")
    finally:
        yaml.SafeLoader.yaml_constructors = saved


def test_a_value_alone_may_be_anything():
    assert parse_value("", "x") is None
    assert parse_value("[1, a]", "x") == [1, "a"]
    assert parse_value("{a: {b: 1}}", "x") == {"a": {"b": 1}}
    with pytest.raises(ConfigError, match="x, line 1: not valid YAML"):
        parse_value("[", "x")


def test_a_python_tree_is_made_plain_and_its_size_is_limited(tmp_path):
    assert source_from({1: (1, {2: tmp_path})}, "p").data == {"1": [1, {"2": str(tmp_path)}]}
    loop: dict = {}
    loop["a"] = loop
    with pytest.raises(ConfigError, match="nests deeper"):
        source_from(loop, "p")
    with pytest.raises(ConfigError, match="more than"):
        source_from({"a": [0] * (MAX_VALUES + 1)}, "p")


# ------------------------------------------------------------------------------- files


def file_refused(path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_source(path)
    assert str(path) in caught.value.message
    assert caught.value.cure
    return caught.value.message


def test_files_that_cannot_be_read_are_named(tmp_path):
    assert "does not exist" in file_refused(tmp_path / "none.yaml")
    assert "not a regular file" in file_refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in file_refused(tmp_path / "pipe")
    (tmp_path / "file").write_text("a: 1")
    assert "cannot read" in file_refused(tmp_path / "file" / "x.yaml")


def test_a_path_that_the_system_refuses_is_an_error_of_ours(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_source(tmp_path / "a\0b")
    with pytest.raises(ConfigError, match="cannot read"):
        read_source(tmp_path / ("x" * 5000))


def test_binary_and_oversized_files_are_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\x08\x07\x12\x0cpytorch\xff\xfe")
    assert "not UTF-8 text (byte 11)" in file_refused(path)
    path.write_bytes(b"a" * (MAX_BYTES + 1))
    assert "larger than 1 MiB" in file_refused(path)
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert "not a mapping" in file_refused(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa9\r\n")
    source = read_source(path)
    assert source.data == {"a": 1, "b": "é"}
    assert source.place(("b",)) == f"{path}, line 2"


def test_messages_escape_and_shorten():
    assert shown("a\x1b[31m") == "'a\\x1b[31m'"
    assert shown(None) == "empty"
    assert len(shown("x" * 1000)) == 60
    assert dotted(("a", "b\nc")) == "a.b\\nc"
