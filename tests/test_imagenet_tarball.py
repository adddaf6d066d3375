import io
import os
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.errors import DataError
from quantize.imagenet.tarball import Region, members, read_member
from tars import member, tar_bytes

FORMS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read(content):
    """Name -> content of a tar."""
    file, region = io.BytesIO(content), Region(Path("x.tar"), 0, len(content))
    return {m.name: read_member(file, region, m) for m in members(file, region)}


@pytest.mark.parametrize("form", FORMS)
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}\.JPEG", fullmatch=True), st.binary(max_size=1500)
    )
)
def test_what_was_packed_is_found(form, files):
    assert read(tar_bytes(files, form=form)) == files


@pytest.mark.parametrize("form", FORMS)
def test_as_tools_write_it(tmp_path, form):
    """Real files: folders come along, and times with fractions make extended headers."""
    (tmp_path / "in" / "val").mkdir(parents=True)
    (tmp_path / "in" / "val" / "a.JPEG").write_bytes(b"1" * 600)
    (tmp_path / "in" / "b.JPEG").write_bytes(b"")
    os.utime(tmp_path / "in" / "b.JPEG", (1.25, 1.25))
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as made:
        made.add(tmp_path / "in", arcname=".")
    assert read((tmp_path / "x.tar").read_bytes()) == {"a.JPEG": b"1" * 600, "b.JPEG": b""}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_large_sizes_stand_in_extra_headers(form):
    name = "d" * 150 + "/" + "n" * 150
    assert read(tar_bytes(member(name, b"12"), member("b", b"3"), form=form)) == {
        "n" * 150: b"12",
        "b": b"3",
    }


def test_a_tar_within_a_tar():
    inner = tar_bytes({"a.JPEG": b"1", "b.JPEG": b"22"})
    content = tar_bytes({"first.tar": b"0" * 700, "n01440764.tar": inner})
    file, region = io.BytesIO(content), Region(Path("x.tar"), 0, len(content))
    _, second = members(file, region)
    inside = region.within(second)
    assert str(inside) == "x.tar: n01440764.tar"
    found = members(file, inside)
    assert [read_member(file, inside, m) for m in found] == [b"1", b"22"]


def test_a_tar_within_a_tar_does_not_reach_out_of_it():
    inner = tar_bytes({"a.JPEG": bytes(3000)})[:1024]
    content = tar_bytes({"n01440764.tar": inner, "other": bytes(9000)})
    file, region = io.BytesIO(content), Region(Path("x.tar"), 0, len(content))
    with pytest.raises(DataError, match=r"x.tar: n01440764.tar is cut short"):
        members(file, region.within(members(file, region)[0]))


def pax(**records):
    made = b""
    for key, value in records.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        size = len(body) + 2
        made += (str(size) if len(str(size)) == 2 else str(size + 1)).encode() + body
    return made


def extended(kind, content, size=None):
    """An extended header before a file."""
    info = tarfile.TarInfo("extra")
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (tar_bytes(member("/etc/passwd")), "'/etc/passwd'"),
        (tar_bytes(member("a/../../evil")), "'a/../../evil'"),
        (tar_bytes(member("..")), "'..'"),
        (tar_bytes(member("a\\b")), "a file called"),
        (tar_bytes(member("a\x1b[2Jb")), "a file called"),
        (tar_bytes(member("a\nb")), "a file called"),
        (tar_bytes(member("l", kind=tarfile.SYMTYPE, link="/etc/passwd")), "a symbolic link"),
        (tar_bytes(member("l", kind=tarfile.LNKTYPE, link="good")), "a hard link"),
        (tar_bytes(member("d", kind=tarfile.CHRTYPE)), "a device"),
        (tar_bytes(member("d", kind=tarfile.BLKTYPE)), "a device"),
        (tar_bytes(member("p", kind=tarfile.FIFOTYPE)), "a pipe"),
        (tar_bytes(member("s", kind=tarfile.GNUTYPE_SPARSE)), "a sparse file"),
        (tar_bytes(member("u", kind=b"Z")), "a member of an unknown kind"),
        (tar_bytes(member("a"), member("b"), member("a")), "a twice"),
        (tar_bytes(member("one/a"), member("two/a")), "a twice"),
        (extended(tarfile.XHDTYPE, pax(path="../x")) + tar_bytes(member("a")), "'../x'"),
        (extended(tarfile.XHDTYPE, pax(size="-1")) + tar_bytes(member("a")), "impossible size"),
        (extended(tarfile.XHDTYPE, pax(size="99999")) + tar_bytes(member("a")), "cut short"),
        (extended(tarfile.XHDTYPE, pax(GNU__sparse__map="1")) + tar_bytes(member("a")), "sparse"),
        (extended(tarfile.XHDTYPE, b"99 path=x\n") + tar_bytes(member("a")), "extended header"),
        (extended(tarfile.XHDTYPE, b"3 path=x\n") + tar_bytes(member("a")), "extended header"),
        (extended(tarfile.XHDTYPE, b"nonsense") + tar_bytes(member("a")), "extended header"),
        (extended(tarfile.XHDTYPE, b"", 1 << 34) + tar_bytes(member("a")), "cut short"),
        (extended(tarfile.XHDTYPE, bytes(70_000)) + tar_bytes(member("a")), "of 70000 bytes"),
        (extended(tarfile.XGLTYPE, pax(path="x")) + tar_bytes(member("a")), "for all members"),
        (extended(tarfile.GNUTYPE_LONGNAME, b"/abs\0") + tar_bytes(member("a")), "'/abs'"),
        (b"\x1f\x8b" + bytes(600), "no tar file but a gzip file; gunzip it first"),
        (b"hello" * 200, "x.tar is no tar file"),
        (b"", "cut short"),
        (b"hello", "cut short"),
        (tar_bytes(member("a", bytes(2000)))[:1500], "cut short"),
        (tar_bytes(member("a"))[:1024], "cut short"),
        (tar_bytes(member("a"))[:1024] + b"x" * 512, "is damaged"),
    ],
)
def test_what_is_unsafe_or_damaged_is_refused_by_name(content, word):
    with pytest.raises(DataError) as caught:
        read(content)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_file_that_shrank_meanwhile():
    content = tar_bytes(member("a", bytes(2000)))
    region = Region(Path("x.tar"), 0, len(content))
    (found,) = members(io.BytesIO(content), region)
    with pytest.raises(DataError, match="cut short"):
        read_member(io.BytesIO(content[:1000]), region, found)


GOOD = {
    form: tar_bytes({f"{i}.JPEG": bytes(i * 300) for i in range(4)}, form=form) for form in FORMS
}
GOOD["pax"] = extended(tarfile.XHDTYPE, pax(path="long", size="5")) + GOOD[FORMS[0]]


@settings(max_examples=300)
@given(st.sampled_from(list(GOOD)), st.integers(0, 4000), st.binary(max_size=40))
def test_any_bytes_are_a_tar_or_a_complaint(form, at, junk):
    content = GOOD[form][:at] + junk + GOOD[form][at + len(junk) :]
    try:
        found = read(content)
    except DataError:
        return
    assert sum(map(len, found.values())) <= len(content)


@pytest.mark.slow
def test_a_hundred_thousand_damaged_tars():
    random.seed(5)
    kinds = list(GOOD.values())
    for _ in range(100_000):
        content = bytearray(random.choice(kinds))
        for _ in range(random.randint(1, 4)):
            content[random.randrange(4000)] = random.randrange(256)
        try:
            found = read(bytes(content[: random.choice([None, random.randrange(5000)])]))
        except DataError:
            continue
        assert sum(map(len, found.values())) <= len(content)
