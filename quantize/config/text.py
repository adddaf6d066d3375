"""Configuration text -> a tree of plain values that remembers where each key was written.

The text is untrusted. Its size, depth and number of values (aliases counted as often as they are
used) are limited, only plain YAML types are built, and a key given twice is an error.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from quantize.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 30
MAX_VALUES = 10_000

KeyPath = tuple[str, ...]

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Source:
    """A configuration as it was written, before anything is known of its meaning.

    Attributes:
        name: how messages call it, such as the path of the file.
        data: dictionaries with text keys, lists, text, numbers, booleans, None.
        places: key path -> where it was written, such as `a.yaml, line 3`.
    """

    name: str
    data: Mapping[str, Any]
    places: Mapping[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where a key, or else the nearest key above it, was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.name


def read_source(path: Path) -> Source:
    """Read and parse a YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, no regular file, empty, too large, not
            UTF-8, not YAML, or not a mapping.
    """
    return parse_source(_read(path), str(path))


def parse_source(text: str, name: str) -> Source:
    """Parse YAML text whose top level is a mapping.

    Args:
        text: the YAML.
        name: how messages call it.

    Raises:
        ConfigError: as `read_source`, naming the line.
    """
    tree = _Tree(name)
    data = tree.load(text)
    if data is None:
        raise ConfigError(f"{name} is empty", "start from a file in configs/")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{name} holds {shown(data)}, not a mapping of keys to values",
            "start from a file in configs/",
        )
    return Source(name, data, tree.places)


def parse_value(text: str, name: str) -> Any:
    """Parse YAML text that may be any plain value, such as the right side of an override.

    Raises:
        ConfigError: the text is no YAML.
    """
    return _Tree(name).load(text)


def source_from(data: Mapping[str, Any], name: str) -> Source:
    """Take a tree that was built in Python.

    Raises:
        ConfigError: the tree is too deep or too large.
    """
    count = iter(range(MAX_VALUES))
    return Source(name, {str(key): _plain(data[key], name, 1, count) for key in data})


def shown(value: object, limit: int = 60) -> str:
    """A value as a message shows it: on one line, shortened, control characters escaped."""
    if value is None:
        return "empty"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def dotted(path: KeyPath) -> str:
    """A key path as a message shows it."""
    return ".".join(repr(key)[1:-1] for key in path)


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"configuration {path} is not a regular file", "name a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"configuration {path} does not exist", "check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read configuration {path}: {reason}", "check it") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"configuration {path} is larger than {MAX_BYTES >> 20} MiB", "name a YAML file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration {path} is not UTF-8 text (byte {error.start})",
            "name a YAML file, saved as UTF-8",
        ) from error


def _plain(value: Any, name: str, depth: int, count: Iterator[int]) -> Any:
    if depth > MAX_DEPTH or next(count, None) is None:
        raise _too_large(name)
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key], name, depth + 1, count) for key in value}
    if isinstance(value, list | tuple):
        return [_plain(item, name, depth + 1, count) for item in value]
    return str(value) if isinstance(value, Path) else value


class _Loader(yaml.SafeLoader):
    """Composes nodes of limited depth; its constructors are nobody else's to change."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = dict(
        yaml.constructor.SafeConstructor.yaml_constructors
    )

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.source = name

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _too_large(self.source)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Tree:
    """Turns one text into plain values, and notes on the way where each key stands."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, str] = {}
        self._count = 0

    def load(self, text: str) -> Any:
        try:
            self._loader = _Loader(text, self.name)
            node = self._loader.get_single_node()
            return None if node is None else self._build(node, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{self.name}, line {mark.line + 1}" if mark else self.name
            raise ConfigError(
                f"{place}: not valid YAML: {error.problem or error.context}",
                "correct the line, or the one above it",
            ) from error
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{self.name} is not YAML text: {error}", "name a YAML file"
            ) from error

    def _build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise _too_large(self.name)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._item(child, (*path, str(i))) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise self._error(node, f"the tag {node.tag.removeprefix(_TAG)!r} is not read")

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.places[path] = self._place(node)
        return self._build(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = self._key(key)
            if name in own:
                first = own[name][0].start_mark.line + 1
                raise self._error(
                    key, f"key {dotted((*path, name))} stands on line {first} already"
                )
            own[name] = key, value
            if key.tag == _TAG + "merge":
                merged = self._merge(value, path)
        for name, (key, value) in own.items():
            if key.tag == _TAG + "merge":
                continue
            self.places[(*path, name)] = self._place(key)
            merged[name] = self._build(value, (*path, name))
        return merged

    def _merge(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """The keys that `<<` brings in; of several mappings the first one wins."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in reversed(parts):
            built = self._build(part, path)
            if not isinstance(built, dict):
                raise self._error(part, "`<<` takes a mapping or a list of mappings")
            merged |= built
        return merged

    def _key(self, node: yaml.Node) -> str:
        # The key as written: a node may be called 2794, a setting `on`.
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key is a list or a mapping, not text")
        return self._text(node)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind in ("str", "timestamp"):
            return self._text(node)
        if kind not in ("null", "bool", "int", "float"):
            raise self._error(node, f"the tag {kind!r} is not read")
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError) as error:
            raise self._error(node, f"{shown(node.value)} is not a value") from error

    def _text(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error(node, "half of a surrogate pair is no text")
        return text

    def _place(self, node: yaml.Node) -> str:
        return f"{self.name}, line {node.start_mark.line + 1}"

    def _error(self, node: yaml.Node, problem: str) -> ConfigError:
        return ConfigError(f"{self._place(node)}: {problem}", "correct the line")


def _too_large(name: str) -> ConfigError:
    return ConfigError(
        f"{name} nests deeper than {MAX_DEPTH} levels or holds more than {MAX_VALUES:,} values",
        "start from a file in configs/",
    )
