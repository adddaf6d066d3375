import pytest

from quantize.bundle.names import code, license_id, prose, release_name, scalar
from quantize.errors import OutputError


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
