"""The order of nodes: ONNX asks that whoever makes a tensor stands before whoever reads it."""

from __future__ import annotations

from collections import deque

import onnx


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes in topological order, in place; otherwise their order stays.

    Graphs of classifiers have no subgraphs; a node with one is left where its inputs are ready.
    """
    made = {name for node in graph.node for name in node.output if name}
    waiting = [{name for name in node.input if name in made} for node in graph.node]
    readers: dict[str, list[int]] = {}
    for index, names in enumerate(waiting):
        for name in names:
            readers.setdefault(name, []).append(index)
    order: list[int] = []
    ready = deque(index for index, names in enumerate(waiting) if not names)
    while ready:
        index = ready.popleft()
        order.append(index)
        for name in graph.node[index].output:
            for reader in readers.get(name, ()):
                waiting[reader].discard(name)
                if not waiting[reader]:
                    ready.append(reader)
    copies = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    if len(copies) == len(graph.node):
        del graph.node[:]
        graph.node.extend(copies)
