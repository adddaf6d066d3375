"""tar.gz files: written with the same bytes for the same content, read as a distrusted stream.

Only what is written here is read: plain files with short names (USTAR). A link, a device or an
extended header is not skipped but refused.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from quantize.bundle.names import is_path, printable
from quantize.errors import BundleError
from quantize.files import cannot_write, make_folder

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_LEVEL = 6
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
    tarfile.GNUTYPE_LONGNAME: "an extended header",
    tarfile.GNUTYPE_LONGLINK: "an extended header",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to.

    Attributes:
        members: files and folders.
        bytes: of all of them, their headers included.
    """

    members: int
    bytes: int

    @classmethod
    def of(cls, compressed: int) -> Limits:
        """For an archive of that many bytes: weights hardly compress, so 20 times is plenty."""
        return cls(1000, min(8 << 30, (64 << 20) + 20 * compressed))


def pack(files: Mapping[str, Path], target: Path) -> None:
    """Write a tar.gz: sorted, owner 0, mode 644, no times, no names in the gzip header.

    Args:
        files: path in the archive -> file.
        target: the archive.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with (
            target.open("wb") as raw,
            gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name in sorted(files):
                member = tarfile.TarInfo(name)
                member.size = files[name].stat().st_size
                member.mode = 0o644
                with files[name].open("rb") as content:
                    archive.addfile(member, content)
    except OSError as error:
        raise cannot_write(target, error) from error


def unpack(archive: Path, folder: Path, limits: Limits | None = None) -> Path:
    """Unpack an archive of one folder, member by member, nothing outside.

    Args:
        archive: a tar.gz.
        folder: an empty one of our own.
        limits: None: by the archive's size.

    Returns:
        The one folder in it.

    Raises:
        BundleError: not such an archive, damaged, too large, or with a member that is unsafe.
    """
    try:
        allowed = limits or Limits.of(archive.stat().st_size)
        with archive.open("rb") as raw, gzip.GzipFile(fileobj=raw) as stream:
            seen = _Reader(cast("BinaryIO", stream), archive.name, allowed).members(folder)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BundleError(
            f"archive {archive.name} is no whole tar.gz file: {error}", "fetch it again"
        ) from error
    except OSError as error:
        raise BundleError(
            f"archive {archive.name} cannot be unpacked: {error.strerror or error}", "check it"
        ) from error
    tops = {name.split("/")[0] for name in seen}
    if len(tops) != 1 or any("/" not in name for name in seen):
        raise BundleError(
            f"archive {archive.name} is not one folder of files", "name a release bundle"
        )
    return folder / tops.pop()


class _Reader:
    """Reads one stream, counting what comes out of it."""

    def __init__(self, stream: BinaryIO, name: str, limits: Limits) -> None:
        self.stream = stream
        self.name = name
        self.limits = limits
        self.bytes = 0

    def members(self, folder: Path) -> set[str]:
        """Write every file below `folder`; returns their paths."""
        seen: set[str] = set()
        for _ in range(self.limits.members):
            header = self._read(_BLOCK)
            if not header.strip(b"\0"):
                self._drain()
                return seen
            member = self._member(header)
            name = member.name.rstrip("/") if member.isdir() else member.name
            if not is_path(name.partition("/")[2] or name) or not is_path(name.split("/")[0]):
                raise self._unsafe(f"a file called {printable(name)[:200]!r}")
            if name in seen:
                raise self._unsafe(f"{name} twice")
            if not member.isdir():
                seen.add(name)
                self._write(folder / name, member.size)
        raise self._unsafe(f"more than {self.limits.members} files")

    def _member(self, header: bytes) -> tarfile.TarInfo:
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BundleError(
                f"archive {self.name} is damaged: {error}", "fetch it again"
            ) from error
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            kind = _KINDS.get(member.type, "a member of an unknown kind")
            raise self._unsafe(f"{printable(member.name)[:200]!r}, {kind}")
        if member.size < 0 or (member.isdir() and member.size):
            raise self._unsafe(f"{printable(member.name)[:200]!r} of an impossible size")
        if self.bytes + member.size > self.limits.bytes:
            raise self._unsafe(f"more than {self.limits.bytes} bytes")
        return member

    def _write(self, target: Path, size: int) -> None:
        make_folder(target.parent)
        left = size
        with target.open("xb") as file:
            while left:
                chunk = self._read(min(left, _CHUNK))
                file.write(chunk)
                left -= len(chunk)
        self._read(-size % _BLOCK)

    def _read(self, count: int) -> bytes:
        self.bytes += count
        content = self.stream.read(count)
        if len(content) < count:
            raise EOFError("it is cut short")
        return content

    def _drain(self) -> None:
        """Read to the end, so that the checksum is tested; only padding may follow."""
        while chunk := self.stream.read(_CHUNK):
            self.bytes += len(chunk)
            if chunk.strip(b"\0") or self.bytes > self.limits.bytes:
                raise self._unsafe("something behind its end")

    def _unsafe(self, what: str) -> BundleError:
        return BundleError(
            f"archive {self.name} holds {what}, so it is not unpacked", "fetch it again"
        )
