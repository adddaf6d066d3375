import pytest

from quantize.bundle.names import code, license_id, prose, release_name, scalar
from quantize.bundle.values import LARGEST_JSON, parse_json, read_json, to_json
from quantize.errors import BundleError, OutputError


def value(text):
    return parse_json(text.encode(), "manifest.json")


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
        ('{"a": 1}', lambda v: v.at("a").text(), "a is not a short text"),
        ('{"a": "x"}', lambda v: v.at("a").digest(), "a is not a sha256"),
        ('{"a": 0}', lambda v: v.at("a").flag(), "a is not true or false"),
        ('{"a": "z"}', lambda v: v.at("a").one_of("x", "y"), "a is not one of x, y"),
        ('{"a": [1, "x"]}', lambda v: [i.number() for i in v.at("a").items()], "a[1] is not a num"),
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
        file.truncate(LARGEST_JSON + 1)
    with pytest.raises(BundleError, match="16 MiB"):
        read_json(path)


def test_json_is_ascii_and_sorted():
    assert to_json({"b": "\x1b", "a": "é"}) == b'{\n  "a": "\\u00e9",\n  "b": "\\u001b"\n}\n'


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("resnet.onnx", "resnet-int8"),
        ("a b/ü</script>.onnx", "a-b-script-int8"),
        ("..", "model-int8"),
        (".onnx", "model-int8"),
        ("x" * 300 + ".onnx", "x" * 75 + "-int8"),
        ("\x1b[2J.onnx", "2J-int8"),
    ],
)
def test_a_name_is_made_of_any_file(file, name):
    assert release_name(None, file) == name


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a b", "a\n", "é", "x" * 81, "-rf"])
def test_a_name_that_is_no_file_everywhere_is_refused(name):
    with pytest.raises(OutputError, match="--name"):
        release_name(name, "model.onnx")


def test_licences():
    assert license_id("Apache-2.0") == "apache-2.0"
    assert license_id(None) is None
    with pytest.raises(OutputError, match="--license"):
        license_id("mine: yes\nevil: 1")


def test_texts_are_no_markup():
    nasty = 'a|b `c` **d** <script>alert("x")</script>\n# e\x1b[2J\u202e'
    for made in (prose(nasty), code(nasty)):
        assert "\n" not in made
        assert "\x1b" not in made
        assert "\u202e" not in made
    assert not {"<", ">"} & set(prose(nasty))
    assert code(nasty).startswith("``a")
    assert code(nasty).endswith("``")
    assert "|" not in code(nasty)
    assert scalar('x"\n- y') == '"x\\"\ufffd- y"'.replace("\ufffd", "\\ufffd")
