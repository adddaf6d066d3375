"""`--set KEY=VALUE`: dotted keys laid over what the file says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantize.config.text import KeyPath, Source, dotted, parse_value, shown
from quantize.errors import ConfigError

_GOALS = frozenset({"relative", "absolute", "agreement"})


def overridden(source: Source, settings: Sequence[str]) -> Source:
    """The configuration as if each setting stood in the file.

    A value replaces what the file has at its key. Where the file chose one out of several (the
    goal, the dataset, the metric), a setting of another one replaces the choice.

    Args:
        source: what the file says.
        settings: `KEY=VALUE`, the value as YAML; it may hold further `=`.

    Raises:
        ConfigError: a setting has no `=` or no key, its value is no YAML, or its key leads
            through a value.
    """
    data = _copy(source.data)
    places = dict(source.places)
    written: set[KeyPath] = set()
    for setting in settings:
        path, value = _split(setting)
        name = f"--set {shown(setting, 80)[1:-1]}"
        _lay(data, path, value, name, written)
        places = {key: place for key, place in places.items() if key[: len(path)] != path}
        places[path] = name
    return Source(source.name, data, places)


def _split(setting: str) -> tuple[KeyPath, Any]:
    key, equals, text = setting.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise ConfigError(
            f"--set {shown(setting)} is no KEY=VALUE",
            "write it like tuning.accuracy_criterion.relative=0.02",
        )
    return path, parse_value(text, f"--set {shown(setting, 80)[1:-1]}")


def _lay(data: dict[str, Any], path: KeyPath, value: Any, name: str, written: set[KeyPath]) -> None:
    """Put one value into the tree, in place."""
    branch = data
    for depth, key in enumerate(path):
        here = path[: depth + 1]
        for rival in _rivals(branch, path[:depth], key):
            if (*path[:depth], rival) not in written:
                del branch[rival]
        written.add(here)
        if depth == len(path) - 1:
            branch[key] = value
            return
        if branch.get(key) is None:
            branch[key] = {}
        if not isinstance(branch[key], dict):
            raise ConfigError(
                f"{name}: `{dotted(here)}` is {shown(branch[key])}, it has no keys below it",
                "shorten the key",
            )
        branch = branch[key]


def _rivals(branch: dict[str, Any], parent: KeyPath, key: str) -> list[str]:
    """Keys beside `key` that cannot stand together with it."""
    if parent[-1:] in (("dataset",), ("metric",)):
        return [other for other in branch if other != key]
    if parent[-1:] == ("accuracy_criterion",) and key in _GOALS:
        return [other for other in branch if other != key and other in _GOALS]
    return []


def _copy(value: Any) -> Any:
    """A copy whose dictionaries are its own (aliases share them)."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value
