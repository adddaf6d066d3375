"""Names and texts that come from files, made harmless for paths, YAML, Markdown and code."""

from __future__ import annotations

import json
import re

from quantize.errors import OutputError

MOST_NAME = 80
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
_MARKUP = re.compile(r"([\\`*_\[\]{}|#~!$])")


def is_name(text: str) -> bool:
    """Whether a text can be a file's name everywhere: ASCII, not hidden, no blanks, no folders."""
    return len(text) <= MOST_NAME + 40 and _NAME.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """Whether a text is a relative path of at most three such names, with `/` between them."""
    parts = text.split("/")
    return 1 <= len(parts) <= 3 and all(map(is_name, parts))


def release_name(asked: str | None, file: str) -> str:
    """What the release is called: as asked, else the float file's name with `-int8`.

    Raises:
        OutputError: the name asked for cannot be a file's name everywhere.
    """
    if asked is None:
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", file.removesuffix(".onnx")).strip("-._+")
        return f"{stem[: MOST_NAME - 5] or 'model'}-int8"
    if not is_name(asked) or len(asked) > MOST_NAME:
        raise OutputError(
            f"--name {asked!r} cannot be the name of a file everywhere",
            f"use at most {MOST_NAME} letters, digits and . _ + -",
        )
    return asked


def license_id(asked: str | None) -> str | None:
    """An SPDX identifier in lower case, as model hubs write it.

    Raises:
        OutputError: it is none.
    """
    if asked is not None and not _LICENSE.fullmatch(asked):
        raise OutputError(f"--license {asked!r} is no SPDX identifier", "such as Apache-2.0")
    return asked.lower() if asked else None


def dataset_id(asked: str | None) -> str | None:
    """The name of a data set, `name` or `owner/name`.

    Raises:
        OutputError: it is none.
    """
    if asked is not None and not _DATASET.fullmatch(asked):
        raise OutputError(f"--dataset {asked!r} is no name of a data set", "such as cifar10")
    return asked


def printable(text: str) -> str:
    """The text on one line, whatever steers a terminal replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def scalar(text: str) -> str:
    """A text as a YAML scalar: JSON strings are YAML in double quotes."""
    return json.dumps(printable(text))


def prose(text: str) -> str:
    """A text within Markdown prose or a table cell: nothing in it is markup or HTML."""
    escaped = _MARKUP.sub(r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """A text as a Markdown code span, also in a table cell."""
    clean = printable(text).replace("|", "\N{BROKEN BAR}")
    fence = "`" * (max((len(run) for run in re.findall("`+", clean)), default=0) + 1)
    pad = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{pad}{clean}{pad}{fence}" if clean else "(empty)"
