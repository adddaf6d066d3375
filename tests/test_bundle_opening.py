"""Bundles that nobody vouches for: everything that can be wrong with one is named."""

import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from quantize.bundle.archive import pack
from quantize.bundle.opening import opened
from quantize.bundle.sums import SUMS, check_sums, listed, write_sums
from quantize.errors import BundleError

NAME = "float-int8"


@pytest.fixture
def bundle(released, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(released.folder, tmp_path / "bundle"))


def refused(path, digest=None):
    with pytest.raises(BundleError) as caught, opened(path, digest):
        pass
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    return str(caught.value)


def resigned(bundle):
    """SHA256SUMS anew: what an attacker would do."""
    (bundle / SUMS).unlink()
    write_sums(bundle)
    return refused(bundle)


def edited(bundle, name, change):
    content = json.loads((bundle / name).read_text())
    change(content)
    (bundle / name).write_text(json.dumps(content))


def test_folder_and_archive_open(released):
    for path in (released.folder, released.archive):
        with opened(path, released.digest) as found:
            manifest, contract = found.described()
            assert manifest.at("name").text() == NAME
            assert contract.size == (3, 16, 16)
            folder = found.folder
    assert not folder.exists()


def test_one_flipped_byte_in_any_file_is_found_and_named(released, bundle):
    names = sorted(listed(bundle))
    assert len(names) == 16
    for name in names:
        path = bundle / name
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            flipped = bytearray(content)
            flipped[place] ^= 1
            path.write_bytes(flipped)
            with pytest.raises(BundleError) as caught:
                check_sums(bundle, released.digest)
            wanted = f"{name} was changed"
            assert wanted in str(caught.value), (name, place)
        path.write_bytes(content)
    check_sums(bundle, released.digest)


def test_without_the_digest_a_new_list_hides_a_change_and_with_it_not(released, bundle):
    with (bundle / "README.md").open("a") as file:
        file.write("better than it is")
    (bundle / SUMS).unlink()
    write_sums(bundle)
    with opened(bundle):
        pass
    assert f"{SUMS} was changed" in refused(bundle, released.digest)


def test_missing_and_added_files_are_named(bundle):
    (bundle / "README.md").unlink()
    (bundle / "extra.bin").write_bytes(b"x")
    message = refused(bundle)
    assert "README.md is missing" in message
    assert "extra.bin was added" in message


@pytest.mark.parametrize("name", [".hidden", "a b", "a\x1b[2J", "-rf", "é"])
def test_odd_names_are_refused(bundle, name):
    (bundle / name).write_bytes(b"x")
    assert "holds a file called" in refused(bundle)


def test_links_and_devices_are_refused(bundle):
    (bundle / "README.md").rename(bundle.parent / "README.md")
    (bundle / "README.md").symlink_to(bundle.parent / "README.md")
    assert "'README.md', which is no regular file" in refused(bundle)
    (bundle / "README.md").unlink()
    os.mkfifo(bundle / "README.md")
    assert "'README.md', which is no regular file" in refused(bundle)
    (bundle / "README.md").unlink()
    (bundle / "deep").symlink_to(bundle)
    assert "'deep', which is no regular file" in refused(bundle)


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  ../evil",
        "0" * 64 + "  /etc/passwd",
        "0" * 64 + " README.md",
        "0" * 63 + "  x",
        "é",
        "0" * 64 + f"  {SUMS}",
    ],
)
def test_a_damaged_list_is_refused_by_its_line(bundle, line):
    with (bundle / SUMS).open("a") as file:
        file.write(line + "\n")
    assert "line 16" in refused(bundle)


def test_a_name_twice_in_the_list_is_refused(bundle):
    text = (bundle / SUMS).read_text()
    (bundle / SUMS).write_text(text + text.splitlines()[0] + "\n")
    assert "each name once" in refused(bundle)


def test_what_is_no_bundle(tmp_path, released):
    (tmp_path / "empty").mkdir()
    assert f"there is no {SUMS}" in refused(tmp_path / "empty")
    assert "does not exist" in refused(tmp_path / "none")
    assert "does not exist" in refused(tmp_path / f"{'x' * 300}.tar.gz")
    (tmp_path / "x.onnx").write_bytes(b"x")
    assert "is no bundle" in refused(tmp_path / "x.onnx")
    zoo = released.folder / f"{NAME}.tar.gz"
    assert "--digest says nothing" in refused(zoo, released.digest)
    with opened(zoo) as found, pytest.raises(BundleError, match="test data only"):
        found.described()


def test_an_archive_with_a_changed_file_is_refused(bundle, tmp_path, released):
    with (bundle / "README.md").open("a") as file:
        file.write("x")
    path = tmp_path / "x.tar.gz"
    pack({f"top/{name}": bundle / name for name in listed(bundle)}, path)
    assert "README.md was changed" in refused(path, released.digest)


@pytest.mark.parametrize("where", ["initializer", "attribute", "sparse"])
def test_external_data_is_refused_before_it_is_opened(bundle, where):
    path = bundle / f"{NAME}.onnx"
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model = onnx.load(path)
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["w"], value=tensor))
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    path.write_bytes(model.SerializeToString())
    assert "in another file" in resigned(bundle)


def test_another_model_under_a_new_list_is_not_the_verified_one(bundle):
    path = bundle / f"{NAME}.onnx"
    content = bytearray(path.read_bytes())
    at = content.find(b"conv0")
    content[at] ^= 1
    path.write_bytes(content)
    assert "is not the verified model" in resigned(bundle)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("manifest.json", lambda c: c.update(schema_version=2), "schema_version"),
        ("manifest.json", lambda c: c["model"].update(file="../x"), "model.file"),
        ("manifest.json", lambda c: c["model"].update(file=7), "model.file"),
        ("manifest.json", lambda c: c.pop("model"), "model is not there"),
        ("manifest.json", lambda c: c["model"]["verified"].update(bytes=-1), "verified.bytes"),
        ("preprocess.json", lambda c: c.update(steps={}), "steps is not a list"),
        ("preprocess.json", lambda c: c.update(steps=[{"Exec": {}}]), "Exec"),
        ("preprocess.json", lambda c: c.update(steps=[{"Rescale": {}}] * 2), "stands twice"),
        ("preprocess.json", lambda c: c.update(steps=[{"Resize": {"size": "x"}}]), "Resize"),
        ("preprocess.json", lambda c: c.update(steps=c["steps"][1:]), "key"),
        ("preprocess.json", lambda c: c["input"].update(size=[3, 16]), "[C, H, W]"),
        ("preprocess.json", lambda c: c["input"].update(size=[3, 1e9, 1]), "size[1]"),
    ],
)
def test_a_wrong_value_in_json_is_named(bundle, name, change, message):
    edited(bundle, name, change)
    assert message in resigned(bundle)


def test_too_many_files_are_not_listed(tmp_path):
    for number in range(1001):
        (tmp_path / f"f{number}").touch()
    with pytest.raises(BundleError, match="more than 1000 files"):
        listed(tmp_path)
