"""MXNet's `*-symbol.json`: the graph, as every version from 0.x to 1.9 writes it.

Nodes lie in a list and refer to each other by position, `[node, output]` or with a version behind.
Parameters and inputs are nodes of the operator `null`. A node's attributes are called `attrs`, or
`attr` and `param` in old files, where both may be given. Files of 0.8 and older leave out the
running statistics of BatchNorm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.conversion.mxnet_attributes import Attributes
from quantize.conversion.mxnet_files import read_whole
from quantize.errors import ModelError

VARIABLE = "null"
"""The operator of whatever is not computed."""

BATCH_NORMS = frozenset(
    {"BatchNorm", "BatchNorm_v1", "CuDNNBatchNorm", "_contrib_SyncBatchNorm", "SyncBatchNorm"}
)

_MOST_BYTES = 16 << 20  # the deepest networks have half a megabyte, and Python's objects are large
_MOST_NODES = 100_000
_MOST_NAME = 1024
_STATISTICS = ("moving_mean", "moving_var")


@dataclass(frozen=True, eq=False)
class Node:
    """One operator, or a variable.

    Attributes:
        name: of its tensor: the node's own, made unique.
        operator: as MXNet calls it, `null` for a variable.
        attributes: as text.
        inputs: places of the nodes that it reads.
    """

    name: str
    operator: str
    attributes: Attributes
    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Symbol:
    """A graph, whoever is read before whoever reads.

    Attributes:
        nodes: those that the heads need.
        heads: places of the outputs.
        version: of the MXNet that wrote it, such as 1.9.1; empty where the file does not say.
    """

    nodes: tuple[Node, ...]
    heads: tuple[int, ...]
    version: str


def read_symbol(path: Path) -> Symbol:
    """Read a `*-symbol.json`.

    Raises:
        ModelError: not such a file, damaged, a cycle, a node that is missing, an input that is
            not the first output of its node.
    """
    return parse_symbol(read_whole(path, "symbol", _MOST_BYTES), str(path))


def parse_symbol(content: bytes, file: str) -> Symbol:
    """The same of bytes at hand; see `read_symbol`.

    Args:
        content: of the file.
        file: how errors call it.
    """
    graph = _json(content, file)
    raw = graph["nodes"]
    if "subgraphs" in graph or any(isinstance(node, dict) and "subgraphs" in node for node in raw):
        raise ModelError(f"{file} has subgraphs (control flow), which cannot be converted")
    if len(raw) > _MOST_NODES:
        raise ModelError(f"{file} has {len(raw)} nodes, more than {_MOST_NODES}")
    nodes = [_node(entry, index, file) for index, entry in enumerate(raw)]
    heads = [_entry(entry, "the list of outputs", len(nodes), file) for entry in graph["heads"]]
    _complete(nodes)
    order = _order([node.inputs for node in nodes], heads, file)
    place = {index: position for position, index in enumerate(order)}
    names = _unique([nodes[index] for index in order], file)
    kept = (
        Node(name, node.operator, node.attributes, tuple(place[i] for i in node.inputs))
        for name, node in zip(names, (nodes[index] for index in order), strict=True)
    )
    return Symbol(tuple(kept), tuple(place[index] for index in heads), _version(graph))


def _json(content: bytes, file: str) -> dict[str, Any]:
    try:
        graph = json.loads(content)
    except RecursionError as error:
        raise ModelError(f"{file} is nested too deeply") from error
    except ValueError as error:  # bad JSON, bad UTF-8, numbers with thousands of digits
        raise ModelError(
            f"{file} is not a JSON file: {error}", "name the *-symbol.json file"
        ) from error
    if not isinstance(graph, dict) or not all(
        isinstance(graph.get(key), list) and graph[key] for key in ("nodes", "heads")
    ):
        raise ModelError(
            f"{file} is not an MXNet symbol: it has no nodes and heads",
            "name the *-symbol.json file",
        )
    return graph


def _node(entry: object, index: int, file: str) -> Node:
    if not isinstance(entry, dict):
        raise ModelError(f"{file}: node {index} is not an object", "export it again")
    operator, name = entry.get("op"), entry.get("name")
    if not isinstance(operator, str) or not isinstance(name, str) or len(name) > _MOST_NAME:
        raise ModelError(f"{file}: node {index} has no operator or no name", "export it again")
    place = f"node {name!r} ({operator[:80]})" if operator != VARIABLE else f"variable {name!r}"
    inputs = entry.get("inputs", [])
    if not isinstance(inputs, list):
        raise ModelError(f"{file}: {place} has no list of inputs", "export it again")
    attributes = Attributes(f"{file}: {place}", _attributes(entry, f"{file}: {place}"))
    # How many nodes there are is looked at when they are followed.
    return Node(
        name, operator, attributes, tuple(_entry(i, place, _MOST_NODES, file) for i in inputs)
    )


def _attributes(entry: dict[str, Any], place: str) -> dict[str, str]:
    merged: dict[str, str] = {}
    for spelling in ("param", "attr", "attrs"):
        values = entry.get(spelling) or {}
        if not isinstance(values, dict):
            raise ModelError(f"{place}: its {spelling} are not an object", "export it again")
        for key, value in values.items():
            if isinstance(value, str | bool | int | float):
                merged[key] = str(value)
            elif isinstance(value, list) and all(isinstance(v, int) for v in value):
                merged[key] = str(tuple(value))
            elif value is not None:
                raise ModelError(f"{place} has {key[:60]} = something that is no text")
    return merged


def _entry(entry: object, reader: str, count: int, file: str) -> int:
    """`[node, output]` or `[node, output, version]` -> node."""
    if (
        not isinstance(entry, list)
        or len(entry) not in (2, 3)
        or not all(type(number) is int for number in entry)
    ):
        raise ModelError(f"{file}: an input of {reader} is not [node, output]", "export it again")
    node, output = entry[:2]
    if not 0 <= node < count:
        raise _missing(file, reader, node)
    if output != 0:
        raise ModelError(
            f"{file}: {reader} reads output {str(output)[:20]} of node {node}: only first outputs"
            " can be converted"
        )
    return int(node)


def _missing(file: str, reader: str, node: int) -> ModelError:
    return ModelError(
        f"{file}: {reader} reads node {str(node)[:20]}, which is missing", "export it again"
    )


def _complete(nodes: list[Node]) -> None:
    """Add, in place, the running statistics that old files leave out."""
    for index, node in enumerate(nodes):
        if node.operator in BATCH_NORMS and len(node.inputs) == 3:
            names = [f"{node.name}_{statistic}" for statistic in _STATISTICS]
            added = tuple(range(len(nodes), len(nodes) + len(names)))
            nodes.extend(
                Node(name, VARIABLE, Attributes(f"variable {name!r}", {}), ()) for name in names
            )
            nodes[index] = Node(node.name, node.operator, node.attributes, node.inputs + added)


def _order(inputs: list[tuple[int, ...]], heads: list[int], file: str) -> list[int]:
    """Places of the nodes that the heads need, each after those that it reads; no recursion."""
    needed, waiting = set(heads), list(heads)
    while waiting:
        index = waiting.pop()
        for read in inputs[index]:
            if read >= len(inputs):
                raise _missing(file, f"node {index}", read)
            if read not in needed:
                needed.add(read)
                waiting.append(read)
    if all(read < index for index in needed for read in inputs[index]):
        return sorted(needed)  # as MXNet writes them
    return list(_sorted(inputs, needed, file))


def _sorted(inputs: list[tuple[int, ...]], needed: set[int], file: str) -> Iterator[int]:
    open_inputs = {index: set(inputs[index]) for index in needed}
    readers: dict[int, list[int]] = {}
    for index, reads in open_inputs.items():
        for read in reads:
            readers.setdefault(read, []).append(index)
    ready = sorted((index for index, reads in open_inputs.items() if not reads), reverse=True)
    done = 0
    while ready:
        index = ready.pop()
        done += 1
        yield index
        for reader in readers.get(index, ()):
            open_inputs[reader].discard(index)
            if not open_inputs[reader]:
                ready.append(reader)
    if done < len(needed):
        raise ModelError(f"{file}: its nodes read each other in a circle", "export it again")


def _unique(nodes: Iterable[Node], file: str) -> list[str]:
    """A name for each tensor: variables keep theirs, since parameters are found by it."""
    kept = list(nodes)
    taken: set[str] = set()
    for node in kept:
        if node.operator == VARIABLE:
            if node.name in taken:
                raise ModelError(f"{file}: two variables are called {node.name!r}")
            taken.add(node.name)
    names = []
    for index, node in enumerate(kept):
        name = node.name
        if node.operator != VARIABLE:
            name = name or f"{node.operator}_{index}"
            if name in taken:
                name = f"{name}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
        names.append(name)
    return names


def _version(graph: dict[str, Any]) -> str:
    """`["int", 10901]` -> 1.9.1; it is only told, so whatever else stands there is passed over."""
    attributes = graph.get("attrs")
    entry = attributes.get("mxnet_version") if isinstance(attributes, dict) else None
    number = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if type(number) is not int or not 0 < number < 1_000_000:
        return ""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
