"""What a distrusted tar file holds, found by its headers alone: nothing is unpacked here.

Plain files and folders only. A link, a device, a name that leads elsewhere, a member that reaches
beyond the file: each is refused by name before the first image is written.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quantize.errors import DataError

_BLOCK = tarfile.BLOCKSIZE
_MOST_EXTRA = 1 << 16
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTRA = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_RECORD = re.compile(rb"(\d{1,6}) ([^=\n]+)=")


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        name: of the file, without its folder.
        offset: of its content, in bytes from the beginning of the outermost file.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Region:
    """A tar, or a tar within a tar.

    Attributes:
        path: of the file, for errors.
        start: where it begins, in bytes.
        end: where it ends.
        inside: what is between, for errors; empty for the file itself.
    """

    path: Path
    start: int
    end: int
    inside: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.inside}" if self.inside else str(self.path)

    def within(self, member: Member) -> Region:
        """The tar that a member is."""
        return Region(self.path, member.offset, member.offset + member.size, member.name)


def members(file: BinaryIO, region: Region) -> list[Member]:
    """Every file in a tar, by name.

    Raises:
        DataError: it is no tar, it is cut short, or a member is unsafe or there twice.
    """
    found: dict[str, Member] = {}
    for member in _walk(file, region):
        if member.name in found:
            raise _unsafe(region, f"{member.name} twice")
        found[member.name] = member
    return [found[name] for name in sorted(found)]


def read_member(file: BinaryIO, region: Region, member: Member) -> bytes:
    """Its content.

    Raises:
        DataError: the file became shorter meanwhile.
    """
    file.seek(member.offset)
    content = file.read(member.size)
    if len(content) < member.size:
        raise _cut_short(region)
    return content


def _walk(file: BinaryIO, region: Region) -> Iterator[Member]:
    at, extra = region.start, _Extra()
    while True:
        block = _read(file, region, at, _BLOCK)
        if not block.strip(b"\0"):
            return
        header = _header(block, region, first=at == region.start)
        at += _BLOCK
        size = extra.size if extra.size is not None else header.size
        name = extra.name if extra.name is not None else header.name
        padded = size + -size % _BLOCK
        if size < 0 or at + size > region.end:
            raise _cut_short(region)
        if header.type in _EXTRA:
            if size > _MOST_EXTRA:
                raise _unsafe(region, f"an extended header of {size} bytes")
            extra = extra.extended(header.type, _read(file, region, at, size), region)
        else:
            extra = _Extra()
            plain = _checked(name, header, region)
            if header.type in _FILES and not name.endswith("/"):
                yield Member(plain, at, size)
        at += padded


@dataclass(frozen=True)
class _Extra:
    """What extended headers say of the next member."""

    name: str | None = None
    size: int | None = None

    def extended(self, kind: bytes, content: bytes, region: Region) -> _Extra:
        """With what one more of them says."""
        if kind == tarfile.GNUTYPE_LONGNAME:
            return _Extra(content.split(b"\0")[0].decode("utf-8", "surrogateescape"), self.size)
        said = dict(_records(content, region))
        if any(key.startswith("GNU.sparse") for key in said):
            raise _unsafe(region, "a sparse file")
        if kind == tarfile.XGLTYPE:
            if "path" in said or "size" in said:
                raise _unsafe(region, "one name or size for all members")
            return self
        size = said.get("size", "")
        if size and not (size.isascii() and size.isdigit() and len(size) <= 15):
            raise _unsafe(region, "a member of an impossible size")
        return _Extra(said.get("path", self.name), int(size) if size else self.size)


def _records(content: bytes, region: Region) -> Iterator[tuple[str, str]]:
    """`length key=value` lines of an extended header."""
    at = 0
    while content[at : at + 1] not in (b"", b"\0"):
        match = _RECORD.match(content, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or content[end - 1 : end] != b"\n":
            raise DataError(f"{region} is damaged: an extended header", "fetch it again")
        value = content[match.end() : end - 1]
        yield match[2].decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
        at = end


def _header(block: bytes, region: Region, *, first: bool) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if first:
            packed = block[:2] == b"\x1f\x8b"
            raise DataError(
                f"{region} is no tar file" + (" but a gzip file" if packed else ""),
                "gunzip it first" if packed else "name ImageNet's .tar",
            ) from error
        raise DataError(f"{region} is damaged: {error}", "fetch it again") from error


def _checked(name: str, header: tarfile.TarInfo, region: Region) -> str:
    """The file's name, if the member is a plain file or folder that stays where it is put."""
    shown = repr(name[:100])
    if header.type not in _FILES and header.type != tarfile.DIRTYPE:
        raise _unsafe(region, f"{shown}, {_KINDS.get(header.type, 'a member of an unknown kind')}")
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        raise _unsafe(region, f"a file called {shown}")
    return parts[-1]


def _read(file: BinaryIO, region: Region, at: int, size: int) -> bytes:
    if at + size > region.end:
        raise _cut_short(region)
    file.seek(at)
    content = file.read(size)
    if len(content) < size:
        raise _cut_short(region)
    return content


def _cut_short(region: Region) -> DataError:
    return DataError(f"{region} is cut short", "fetch it again")


def _unsafe(region: Region, what: str) -> DataError:
    return DataError(f"{region} holds {what}, so it is not unpacked", "fetch it again")
