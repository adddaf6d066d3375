"""One address to one file of known size: resumed where it broke off, never longer than promised."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantize.files import cannot_write, write_atomic
from quantize.zoo.table import Entry
from quantize.zoo.transport import Answer, Broken, Refused, Transport, WrongRange

log = logging.getLogger(__name__)

LFS_MARK = b"version https://git-lfs"
"""How the text begins that Git keeps where the file should be."""

_HEAD = 512
_WORTHWHILE = 1 << 20
_MOST_TAG = 4096
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml")


@dataclass(frozen=True)
class Download:
    """A file that comes in.

    Attributes:
        entry: what it shall be.
        part: where its bytes go; what is there is the beginning of the file.
        transport: how to ask.
        tell: called with the number of bytes that are there.
    """

    entry: Entry
    part: Path
    transport: Transport
    tell: Callable[[int], None]

    def run(self, url: str) -> bool:
        """Bring the file to its full size; the sha256 is the caller's business.

        Returns:
            Whether every byte came from this address now, none from an earlier attempt.

        Raises:
            Refused: the address does not give such a file, or not within our patience.
            OutputError: the disk is full or the folder cannot be written.
        """
        fresh = self._have() == 0
        patience, failures = self.transport.patience, 0
        while (before := self._have()) < self.entry.size:
            try:
                self._once(url, before)
            except Broken as broken:
                if isinstance(broken, WrongRange):
                    self.forget()
                gained = self._have() - before
                failures = 1 if gained >= _WORTHWHILE else failures + 1
                log.info("%s: %s after %d bytes", url.partition("?")[0], broken, self._have())
                if failures >= patience.attempts:
                    far = f"{self._have()} of {self.entry.size} bytes"
                    raise Refused(f"{broken} ({failures} attempts, {far})") from broken
                pause = max(broken.after_s, patience.backoff_s * 2 ** (failures - 1))
                time.sleep(min(pause, patience.most_backoff_s))
        return fresh

    def forget(self) -> None:
        """Start over."""
        try:
            self.part.unlink(missing_ok=True)
            self._tag().unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.part, error) from error

    def _once(self, url: str, start: int) -> None:
        """One connection.

        Raises:
            Broken: it ended early.
            Refused: this is another file.
        """
        with self.transport.opened(url, start, self._known_tag(url)) as answer:
            if answer.total is not None and answer.total != self.entry.size:
                raise Refused(self._other(answer))
            if answer.start == 0:
                self.forget()
            if answer.etag:
                write_atomic(self._tag(), f"{url}\n{answer.etag}".encode())
            self._receive(answer)
        if self._have() < self.entry.size:
            known = _known_kind(self._head())
            if known:
                self.forget()
                raise Refused(known)
            raise Broken("breaks off")

    def _receive(self, answer: Answer) -> None:
        """Append what comes; a byte too many and nothing is kept."""
        have = answer.start
        try:
            with self.part.open("ab") as file:
                for chunk in answer.chunks():
                    have += len(chunk)
                    if have > self.entry.size:
                        break
                    file.write(chunk)
                    self.tell(have)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.part, error) from error
        if have > self.entry.size:
            self.forget()
            raise Refused(f"sends more than the {self.entry.size} bytes of the model")

    def _other(self, answer: Answer) -> str:
        """What a file of the wrong size is."""
        head = b""
        if answer.start == 0:
            for chunk in answer.chunks():
                head += chunk
                if len(head) >= _HEAD:
                    break
        size = f"has {answer.total} bytes instead of {self.entry.size}"
        return _known_kind(head) or size

    def _have(self) -> int:
        """Bytes that are there; a part that is too long is none."""
        try:
            size = self.part.stat().st_size
        except OSError:
            return 0
        if size > self.entry.size:
            self.forget()
            return 0
        return size

    def _head(self) -> bytes:
        try:
            with self.part.open("rb") as file:
                return file.read(_HEAD)
        except OSError:
            return b""

    def _tag(self) -> Path:
        return self.part.with_name(f"{self.part.name}.etag")

    def _known_tag(self, url: str) -> str | None:
        """The tag of the file whose beginning is there, if it came from this address."""
        try:
            with self._tag().open("rb") as file:
                seen, _, tag = file.read(_MOST_TAG).decode("ascii").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        return tag if seen == url else None


def _known_kind(head: bytes) -> str:
    """What servers send instead of a model, in words; empty for anything else."""
    if head.startswith(LFS_MARK):
        return "sends a Git LFS pointer, not the model"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "sends a web page, not the model"
    return ""
