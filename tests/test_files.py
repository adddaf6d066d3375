"""Atomic writing: the old content or the new one, whatever goes wrong."""

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from quantize.errors import Interrupted, OutputError
from quantize.files import (
    check_writable,
    is_file,
    is_folder,
    is_there,
    make_folder,
    npz_bytes,
    sha256,
    write_atomic,
)

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from quantize.errors import OutputError
from quantize.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomic(Path(sys.argv[1]), b"n" * 100_000)
except OutputError as error:
    print(error)
"""


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_content_is_written_and_replaced(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert names_in(tmp_path) == ["file"]


def test_a_new_file_has_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_longest_names_that_the_system_takes_can_be_written(tmp_path):
    for name in ("n" * 255, "\N{SNOWMAN}" * 85, "\N{GRINNING FACE}" * 63):
        write_atomic(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"


def test_a_write_past_the_limit_keeps_the_old_file_and_says_why(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(f"cannot write {path}: File too large; ")
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod", "fdopen"])
def test_a_full_disk_at_any_step_leaves_the_old_file_alone(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match=r"No space left on device; free some space"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Interrupted])
def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, stop):
    def interrupt(*_):
        raise stop

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(stop):
        write_atomic(tmp_path / "file", b"new")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("function", [lambda p: write_atomic(p, b""), check_writable])
def test_unusable_places_are_named_with_reason_and_cure(tmp_path, function):
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder").mkdir()
    for path, expected in (
        (tmp_path / "none" / "file", "No such file or directory; create the folder first"),
        (tmp_path / "plain" / "file", "Not a directory; name a path inside a folder"),
        (tmp_path / ("n" * 256), "File name too long; choose a shorter name"),
        (tmp_path / "folder", "a "),
    ):
        with pytest.raises(OutputError) as caught:
            function(path)
        assert str(path) in str(caught.value)
        assert expected in str(caught.value)
    assert names_in(tmp_path) == ["folder", "plain"]


def test_check_writable_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "new")
    (tmp_path / "old").write_text("kept")
    check_writable(tmp_path / "old")
    assert names_in(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "kept"


def test_folders_are_made_with_their_parents_once_or_twice(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "plain").write_text("")
    with pytest.raises(OutputError, match="plain"):
        make_folder(tmp_path / "plain" / "inner")
    with pytest.raises(OutputError, match="plain"):
        make_folder(tmp_path / "plain")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256_is_that_of_the_whole_file(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_an_impossible_name_is_a_no_and_no_exception(tmp_path):
    """Where pathlib raises: the name is too long, or a part of the path is a file."""
    (tmp_path / "file").touch()
    for name in ("x" * 300, "file/below", "a\0b"):
        for ask in (is_there, is_folder, is_file):
            assert not ask(tmp_path / name)
    assert is_there(tmp_path / "file")
    assert is_file(tmp_path / "file")
    assert is_folder(tmp_path)
    assert not is_file(tmp_path)


@pytest.mark.parametrize("ask", [check_writable, lambda path: write_atomic(path, b"new")])
def test_a_pipe_or_device_is_never_replaced(tmp_path, ask):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match=f"{name} is no regular file; name a file"):
            ask(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}


@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.int32])
def test_arrays_come_back_and_equal_ones_give_equal_bytes(dtype):
    values = np.random.default_rng(0).integers(-128, 128, (7, 300)).astype(dtype)
    written = npz_bytes({"a:b/c": values})
    assert npz_bytes({"a:b/c": values.copy()}) == written
    with np.load(io.BytesIO(written), allow_pickle=False) as back:
        assert back["a:b/c"].dtype == dtype
        assert np.array_equal(back["a:b/c"], values)
