import fcntl
import os
import time

import pytest

from quantize.errors import OutputError
from quantize.zoo.shelf import is_right, locked, open_shelf
from quantize.zoo.table import Entry

ENTRY = Entry("net", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")  # abc


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"QUANTIZE_CACHE": "{0}/mine", "XDG_CACHE_HOME": "{0}/xdg"}, "mine/zoo"),
        ({"XDG_CACHE_HOME": "{0}/xdg"}, "xdg/quantize/zoo"),
        ({"XDG_CACHE_HOME": "not/absolute"}, "home/.cache/quantize/zoo"),
        ({}, "home/.cache/quantize/zoo"),
    ],
)
def test_where_models_stay(tmp_path, monkeypatch, environment, folder):
    for name in ("QUANTIZE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    shelf = open_shelf(None)
    assert shelf == tmp_path / folder
    assert shelf.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_given_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    assert open_shelf(tmp_path).stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert open_shelf(tmp_path) == tmp_path / "zoo"


def test_a_folder_that_others_could_fill_is_refused(tmp_path):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo").chmod(0o777)
    with pytest.raises(OutputError, match="written by other users"):
        open_shelf(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "zoo").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="no folder of this user"):
        open_shelf(tmp_path / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        open_shelf(tmp_path / "file")


def test_the_lock_is_waited_for_but_not_for_ever(tmp_path):
    began = time.monotonic()
    with (
        locked(tmp_path, ENTRY, 5),
        pytest.raises(OutputError, match="net is being fetched by another process"),
        locked(tmp_path, ENTRY, 0.2),
    ):
        pass
    assert 0.2 <= time.monotonic() - began < 3
    with locked(tmp_path, ENTRY, 0):
        pass


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path):
    (tmp_path / "net.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path, ENTRY, 1):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="cannot be locked"), locked(tmp_path, ENTRY, 1):
        pass


def test_what_is_right(tmp_path):
    path = tmp_path / "net.onnx"
    assert not is_right(path, ENTRY)
    for content, right in ((b"abc", True), (b"abd", False), (b"abcd", False), (b"", False)):
        path.write_bytes(content)
        assert is_right(path, ENTRY) is right
    assert not is_right(tmp_path, ENTRY)
    os.mkfifo(tmp_path / "pipe")
    assert not is_right(tmp_path / "pipe", ENTRY)
