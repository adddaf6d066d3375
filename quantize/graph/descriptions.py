"""What a model says beside what it computes: descriptions and metadata, which nothing runs on.

Exporters write stack traces into them, with the folders of whoever exported. What ships says none
of that.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from typing import Any

import onnx

_PLACES = re.compile(
    r"(?<![\w.:/~+-])(?:/[\w.@+ -]+){2,}"  # /a/b, yet not a/b, https://a/b, N/A
    r"|(?<![\w/])~[\w.-]*/"  # ~/a, ~user/a
    r"|\bfile:/"
    r"|\b[A-Za-z]:[\\/](?!/)"  # C:\a, C:/a
    r"|\\\\[\w.-]+\\"  # \\host\a
)
_HOMES = re.compile(r"(?:^|(?<=[\s\"'(=]))(?:/home/|/Users/|/root/|/mnt/|/tmp/|[A-Za-z]:\\)")
_LEAST_HOST = 4
"""A shorter name of this machine is a word like any other."""

_TEXTS = ("producer_name", "producer_version", "domain")


def without_descriptions(model: onnx.ModelProto) -> None:
    """Take every description away, and the metadata that name a place, in place."""
    for message in list(_messages(model)):
        if hasattr(message, "doc_string"):
            message.ClearField("doc_string")
        if hasattr(message, "metadata_props"):
            kept = [entry for entry in message.metadata_props if not _told(entry)]
            if len(kept) < len(message.metadata_props):
                copies = [onnx.StringStringEntryProto(key=e.key, value=e.value) for e in kept]
                del message.metadata_props[:]
                message.metadata_props.extend(copies)
    for key in _TEXTS:
        if names_a_place(getattr(model, key)):
            model.ClearField(key)


def places(model: onnx.ModelProto) -> list[str]:
    """Where a model names a folder or a machine: fields, and what they belong to."""
    found = [key for key in _TEXTS if names_a_place(getattr(model, key))]
    for message in _messages(model):
        whose = f"{type(message).__name__.removesuffix('Proto').lower()} {_name(message)!r}"
        if names_a_place(getattr(message, "doc_string", "")):
            found.append(f"the description of {whose}")
        found += [
            f"metadata {entry.key!r} of {whose}"
            for entry in getattr(message, "metadata_props", ())
            if _told(entry)
        ]
        if _HOMES.search(_name(message)):  # names of nodes may begin with / and mean nothing
            found.append(f"the name of {whose}")
    return found


def names_a_place(text: str) -> bool:
    """Whether a text holds an absolute path, or the name of this machine."""
    host = platform.node().partition(".")[0]
    if len(host) < _LEAST_HOST or host == "localhost":
        return _PLACES.search(text) is not None
    machine = rf"(?<![\w-]){re.escape(host)}(?![\w-])"
    return _PLACES.search(text) is not None or re.search(machine, text) is not None


def _told(entry: onnx.StringStringEntryProto) -> bool:
    return names_a_place(entry.key) or names_a_place(entry.value)


def _name(message: Any) -> str:
    name = getattr(message, "name", "")
    return name if isinstance(name, str) else ""


def _messages(message: Any) -> Iterator[Any]:
    """A message and all messages in it; protobuf itself bounds how deep they nest."""
    yield message
    for _, value in message.ListFields():
        if hasattr(value, "ListFields"):
            yield from _messages(value)
        elif not isinstance(value, str | bytes | int | float):
            for item in value:
                if not hasattr(item, "ListFields"):
                    break  # numbers: the weights themselves
                yield from _messages(item)
