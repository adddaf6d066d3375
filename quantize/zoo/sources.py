"""Where a model may come from: an https address, or a folder or file of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from quantize.errors import ModelError
from quantize.zoo.table import Entry
from quantize.zoo.transport import Refused, check_https

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True)
class Source:
    """One place.

    Attributes:
        url: https address of the file, or None for a local one.
        path: of the local file, or None.
    """

    url: str | None = None
    path: Path | None = None

    def __str__(self) -> str:
        """For a message: without the query, which may be a secret."""
        if self.url is None:
            return str(self.path)
        return f"https://{urlsplit(self.url).netloc}{urlsplit(self.url).path}"


def parse_source(text: str, entry: Entry) -> Source:
    """What a user or the table names.

    Args:
        text: an https address or a file: one, or a path. `{name}`, `{file}` and `{folder}` stand
            for those of the model; an address without them that does not end with `.onnx` is a
            folder, to which the file's name is added.
        entry: the model.

    Raises:
        ModelError: it is neither.
    """
    if not _SCHEME.match(text):
        return _local(Path(text), text, entry)
    if text.lower().startswith("file:"):
        return _local(_path_of(text), text, entry)
    url = _filled(text, entry)
    bare, mark, query = url.partition("?")
    if url == text and not bare.endswith(".onnx"):
        url = f"{bare.rstrip('/')}/{entry.file}{mark}{query}"
    try:
        check_https(url)
    except Refused as error:
        raise ModelError(
            f"source {_without_secret(text)!r} {error}", "give an https address or a local folder"
        ) from error
    return Source(url=url)


def _filled(text: str, entry: Entry) -> str:
    for key in ("name", "file", "folder"):
        text = text.replace(f"{{{key}}}", getattr(entry, key))
    return text


def _path_of(address: str) -> Path:
    """The path in a file: address of this machine."""
    host, path = "", address.partition(":")[2]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = slash + path
    if host not in ("", "localhost"):
        raise ModelError(f"source {address[:200]!r} is on another machine", "name a local path")
    return Path(unquote(path))


def _local(path: Path, text: str, entry: Entry) -> Source:
    if not text or "\0" in str(path):
        raise ModelError(f"source {text!r} is no path", "name a folder that holds the model")
    try:
        return Source(path=path / entry.file if path.is_dir() else path)
    except OSError as error:
        raise ModelError(
            f"source {text[:200]!r} cannot be read: {error.strerror or error}", "check the path"
        ) from error


def _without_secret(text: str) -> str:
    """An address without name, password and query."""
    return re.sub(r"//[^/?#]*@", "//", text).partition("?")[0][:200]
