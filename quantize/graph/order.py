"""The order of nodes: ONNX asks that whoever makes a tensor stands before whoever reads it."""

from __future__ import annotations

import heapq

import onnx

from quantize.graph.view import captures


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes in topological order, in place; an ordered graph stays as it is.

    Of the nodes that are ready the first comes first. A graph with a cycle is left alone.
    """
    made = {name for node in graph.node for name in node.output if name}
    waiting = [
        made.intersection(node.input).union(made.intersection(captures(node)))
        for node in graph.node
    ]
    readers: dict[str, list[int]] = {}
    for index, names in enumerate(waiting):
        for name in names:
            readers.setdefault(name, []).append(index)
    order: list[int] = []
    ready = [index for index, names in enumerate(waiting) if not names]
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for name in graph.node[index].output:
            for reader in readers.get(name, ()):
                waiting[reader].discard(name)
                if not waiting[reader]:
                    heapq.heappush(ready, reader)
    if len(order) == len(graph.node) and order != sorted(order):
        copies = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(copies)
