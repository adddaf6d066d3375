"""A drawing made fit to stand inside a page: no styles, no foreign names, colours of the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as Tree

from quantize.report.values import shown

_KEPT = re.compile(r"fill|stroke|opacity|text-anchor|font-size|font-weight")
_LONG = re.compile(r"-?\d+\.\d{3,}")
_TOKEN = re.compile(r"#(\d+)")
_NUMBERS = ("d", "x", "y", "transform", "width", "height")


def inline(
    source: str,
    key: str,
    title: str,
    description: str,
    texts: Sequence[str],
    colours: Mapping[str, str],
) -> str:
    """Turn an SVG file into an element for a page with a strict policy.

    Styles become attributes, ids get the key in front, coordinates two digits, and a text `#3`
    becomes `texts[3]`: whatever is in it is escaped and never measured by the drawing library.

    Args:
        source: the file, made by our own drawing library.
        key: of the drawing on its page.
        title: its short name for who cannot see it.
        description: what it shows.
        texts: by number.
        colours: `#rrggbb` of the source -> what stands for it in the page.
    """
    root = Tree.fromstring(source)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    wanted = _referenced(root)
    for element in root.iter():
        _clean(element, key, wanted, texts, colours)
    _unwrap(root)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": box,
            "class": key.rsplit("-", 1)[-1],
            "role": "img",
            "aria-labelledby": f"{key}-title {key}-desc",
        }
    )
    for name, text in (("desc", description), ("title", title)):
        told = Tree.Element(name, {"id": f"{key}-{name}"})
        told.text = shown(text)
        root.insert(0, told)
    root.tail = None
    return re.sub(r">\s+<", "><", Tree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _referenced(root: Tree.Element) -> set[str]:
    found: set[str] = set()
    for element in root.iter():
        for value in element.attrib.values():
            found.update(re.findall(r"url\(#([^)]+)\)", value))
            if value.startswith("#"):
                found.add(value[1:])
    return found


def _clean(
    element: Tree.Element,
    key: str,
    wanted: set[str],
    texts: Sequence[str],
    colours: Mapping[str, str],
) -> None:
    element.tag = _local(element.tag)
    values = {_local(name): value for name, value in element.attrib.items()}
    for part in values.pop("style", "").split(";"):
        name, _, value = part.partition(":")
        if _KEPT.match(name.strip()):
            values[name.strip()] = value.strip()
    if values.get("id") not in wanted:
        values.pop("id", None)
    for name, value in values.items():
        value = colours.get(value, value)
        if name == "id":
            value = f"{key}-{value}"
        elif name == "href":
            value = f"#{key}-{value[1:]}"
        elif name in _NUMBERS:
            value = _LONG.sub(lambda found: f"{float(found[0]):.2f}", value)
        values[name] = value.replace("url(#", f"url(#{key}-")
    element.attrib.clear()
    element.attrib.update(values)
    token = _TOKEN.fullmatch((element.text or "").strip())
    if token:
        element.text = shown(texts[int(token[1])])


def _unwrap(parent: Tree.Element) -> None:
    """Take out groups that say nothing."""
    children: list[Tree.Element] = []
    for child in parent:
        _unwrap(child)
        bare = child.tag in ("g", "defs") and not child.attrib
        if bare and (child.tag == "g" or len(child) == 0):
            children.extend(child)
        else:
            children.append(child)
    parent[:] = children
