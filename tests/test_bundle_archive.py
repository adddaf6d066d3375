import gzip
import io
import os
import tarfile

import pytest

from quantize.bundle.archive import Limits, pack, unpack
from quantize.errors import BundleError


def member(name, content=b"x", kind=tarfile.REGTYPE, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = len(content) if kind == tarfile.REGTYPE else 0
    return made, content


def archive(path, *members, form=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w:gz", format=form) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def files(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {f"top/{name}": folder / name for name in contents}


def test_what_was_packed_comes_out(tmp_path):
    pack(files(tmp_path / "in", a=b"1" * 700, b=b""), tmp_path / "x.tar.gz")
    top = unpack(tmp_path / "x.tar.gz", tmp_path / "out")
    assert top == tmp_path / "out" / "top"
    assert {p.name: p.read_bytes() for p in top.iterdir()} == {"a": b"1" * 700, "b": b""}


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first = files(tmp_path / "one", b=b"2", a=b"1")
    second = files(tmp_path / "two", a=b"1", b=b"2")
    for path in second.values():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    pack(first, tmp_path / "first.tar.gz")
    pack(dict(reversed(second.items())), tmp_path / "other-name.tar.gz")
    content = (tmp_path / "first.tar.gz").read_bytes()
    assert content == (tmp_path / "other-name.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "first.tar.gz") as made:
        seen = [(m.name, m.uid, m.gid, m.uname, m.gname, m.mode, m.mtime) for m in made]
    assert seen == [("top/a", 0, 0, "", "", 0o644, 0), ("top/b", 0, 0, "", "", 0o644, 0)]
    assert content[3] == 0  # the gzip header has no name
    assert content[4:8] == bytes(4)  # and no time


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (member("/etc/passwd"), "'/etc/passwd'"),
        (member("top/../../evil"), "'top/../../evil'"),
        (member("../evil"), "'../evil'"),
        (member("top/.hidden"), "'top/.hidden'"),
        (member("top/a\x1b[2Jb"), "a file called 'top/a"),
        (member("top/a\nb"), "a file called 'top/a"),
        (member("top/a b"), "'top/a b'"),
        (member("top/a/b/c/d"), "'top/a/b/c/d'"),
        (member("top/l", kind=tarfile.SYMTYPE, link="/etc/passwd"), "a symbolic link"),
        (member("top/l", kind=tarfile.LNKTYPE, link="top/good"), "a hard link"),
        (member("top/d", kind=tarfile.CHRTYPE), "a device"),
        (member("top/d", kind=tarfile.BLKTYPE), "a device"),
        (member("top/p", kind=tarfile.FIFOTYPE), "a pipe"),
        (member("top/good"), "top/good twice"),
        (member("other/good"), "not one folder"),
        (member("bare"), "not one folder"),
    ],
)
def test_an_unsafe_member_is_refused_by_name(tmp_path, bad, word):
    path = archive(tmp_path / "x.tar.gz", member("top/good"), bad)
    room = tmp_path / "a" / "room"
    room.mkdir(parents=True)
    with pytest.raises(BundleError) as caught:
        unpack(path, room)
    assert word in str(caught.value)
    assert "\x1b" not in str(caught.value)
    outside = [p for p in tmp_path.rglob("*") if room not in p.parents and p.is_file()]
    assert outside == [path]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_extended_headers_are_refused_before_they_are_read(tmp_path, form):
    path = archive(tmp_path / "x.tar.gz", member("top/" + "n" * 200), form=form)
    with pytest.raises(BundleError, match="an extended header"):
        unpack(path, tmp_path / "room")


def test_a_bomb_is_stopped_by_its_bytes(tmp_path):
    path = tmp_path / "x.tar.gz"
    info = tarfile.TarInfo("top/zeros")
    info.size = 80 << 20
    with gzip.open(path, "wb") as stream:
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(80):
            stream.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BundleError, match=r"more than \d+ bytes"):
        unpack(path, tmp_path / "room")
    assert not (tmp_path / "room").exists()


def test_many_small_members_count_too(tmp_path):
    path = archive(tmp_path / "x.tar.gz", *(member(f"top/{i}") for i in range(20)))
    assert unpack(path, tmp_path / "enough", Limits(21, 1 << 20))
    with pytest.raises(BundleError, match="more than 10 files"):
        unpack(path, tmp_path / "room", Limits(10, 1 << 20))
    with pytest.raises(BundleError, match="more than 4096 bytes"):
        unpack(path, tmp_path / "other", Limits(100, 4096))


@pytest.mark.parametrize("cut", [5, 30, 0.5, -1, -9])
def test_a_cut_archive_is_refused(tmp_path, cut):
    path = archive(tmp_path / "x.tar.gz", member("top/good", os.urandom(3000)))
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content)) if cut == 0.5 else cut])
    with pytest.raises(BundleError, match=r"whole tar\.gz"):
        unpack(path, tmp_path / "room")


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "x.tar.gz"
    for content in (b"", b"no archive", gzip.compress(b"y" * 2000)):
        path.write_bytes(content)
        with pytest.raises(BundleError):
            unpack(path, tmp_path / "room")


def test_nothing_may_follow_the_end(tmp_path):
    path = archive(tmp_path / "x.tar.gz", member("top/good"))
    path.write_bytes(path.read_bytes() + gzip.compress(b"payload"))
    with pytest.raises(BundleError, match="behind its end"):
        unpack(path, tmp_path / "room")


def test_folders_count_as_bytes_too(tmp_path):
    folders = [member(f"top/d{number}", kind=tarfile.DIRTYPE) for number in range(20)]
    whole = archive(tmp_path / "whole.tar.gz", *folders, member("top/good"))
    assert unpack(whole, tmp_path / "enough", Limits(100, 1 << 20))
    path = archive(tmp_path / "x.tar.gz", *folders)
    with pytest.raises(BundleError, match="more than 4096 bytes"):
        unpack(path, tmp_path / "room", Limits(100, 4096))
