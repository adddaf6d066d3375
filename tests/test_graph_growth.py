"""Work on a graph grows with its nodes, not with their square: steps are counted, not timed."""

import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

import quantize
from graphs import build, noise, norm
from quantize.calibrate import calibrate
from quantize.candidates import finished
from quantize.engines import ort
from quantize.graph.apart import apart
from quantize.graph.coverage import coverage
from quantize.graph.expose import float_tensors, with_outputs
from quantize.graph.layers import absorbed_limits
from quantize.graph.order import sort_nodes
from quantize.graph.points import quantization_points
from quantize.graph.prepare import prepare
from quantize.graph.rounded import rounded_layers
from quantize.graph.variants import with_variants
from quantize.graph.watch import watch
from quantize.layer_table import _groups, layer_table
from quantize.plan import Plan
from quantize.probe import run_once, shapes_of
from quantize.remedies import plain_encodings
from quantize.repair.bench import with_all_biases
from quantize.repair.stages import Stages

PACKAGE = str(Path(quantize.__file__).parent)
SIZE = (4, 4, 4)

# Blocks of two convolutions: 4.5 times as many, as in ResNet-152 against ResNet-34.
SHALLOW, DEEP = 8, 36

ROUNDING = 4
"""Nodes before a layer that the layer table rounds alone."""

MOST = 1.5
"""Steps per node of the deep graph against the shallow one's; work that is square has 4.5."""


def chain(blocks):
    """A residual network with unfused BatchNormalization."""
    lines, constants, x = [], {"fc": (4, 3)}, "data"
    for block in range(blocks):
        entry = x
        for at in (f"{block}a", f"{block}b"):
            constants[f"w{at}"] = 0.3 * noise(4, 4, 1, 1, seed=block)
            parts = {f"{name}{at}": value for name, value in norm(4, block).items()}
            constants |= parts
            lines.append(f"c{at} = Conv ({x}, w{at})")
            lines.append(f"n{at} = BatchNormalization (c{at}, {', '.join(parts)})")
            lines.append(f"r{at} = Relu (n{at})")
            x = f"r{at}"
        lines.append(f"s{block} = Add ({x}, {entry})")
        x = f"s{block}"
    lines.append(f"pool = GlobalAveragePool ({x}) flat = Flatten (pool) y = Gemm (flat, fc)")
    return build(f"(float[N,4,4,4] data) => (float[N,3] y) {{ {' '.join(lines)} }}", **constants)


def steps(work):
    """How many lines of this package run, each turn of a loop counted; and what `work` gives."""
    counted = Counter()

    def line(frame, event, _):
        counted[event] += event == "line"
        return line

    def enter(frame, _, __):
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        made = work()
    finally:
        sys.settrace(before)
    return counted["line"], made


@cache
def network(blocks):
    """A chain at each station of the way to int8."""
    model = chain(blocks)
    prepared = prepare(model, run_once, SIZE).model
    statistics = calibrate(prepared, [noise(2, *SIZE)], threads=1)
    encodings = plain_encodings(prepared, statistics)
    made = ort.quantize(prepared, statistics, Plan("onnxruntime", "qdq"), encodings)
    return SimpleNamespace(
        model=model, prepared=prepared, statistics=statistics, encodings=encodings, made=made
    )


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def covered(model):
    return coverage(model, lambda names: shapes_of(model, names, SIZE))


ROOMS = {
    "prepare": lambda at: prepare(at.model, run_once, SIZE),
    "sort": lambda at: sort_nodes(copied(at.model).graph),
    "points": lambda at: quantization_points(at.prepared),
    "limits": lambda at: absorbed_limits(at.prepared),
    "expose": lambda at: with_outputs(at.prepared, float_tensors(at.prepared)),
    "watch": lambda at: watch(at.prepared),
    "calibrate": lambda at: calibrate(at.prepared, [noise(1, *SIZE)], threads=1),
    "encodings": lambda at: plain_encodings(at.prepared, at.statistics),
    "biases": lambda at: with_all_biases(at.prepared),
    "steps": lambda at: Stages(1).steps(at.prepared, at.encodings.tensors, frozenset()),
    "quantize": lambda at: ort.quantize(
        at.prepared, at.statistics, Plan("onnxruntime", "qdq"), at.encodings
    ),
    "qoperator": lambda at: ort.quantize(
        at.prepared, at.statistics, Plan("onnxruntime", "qoperator"), at.encodings
    ),
    "finish": lambda at: finished(copied(at.made), at.model),
    "coverage": lambda at: covered(at.made),
    "rounded": lambda at: rounded_layers(at.prepared, at.made),
}


@pytest.mark.parametrize("room", ROOMS)
def test_steps_per_node_do_not_grow_with_the_depth(room):
    each = []
    for blocks in (SHALLOW, DEEP):
        at = network(blocks)
        count, _ = steps(lambda at=at: ROOMS[room](at))
        assert count > len(at.prepared.graph.node) / 2, "nothing was counted"
        each.append(count / len(at.model.graph.node))
    assert each[1] <= MOST * each[0], f"{each[0]:.0f} steps a node became {each[1]:.0f}"


def copies(at):
    """Steps to copy what is behind each layer of the layer table, and how many nodes those are."""
    light, held = apart(at.prepared), rounded_layers(at.prepared, at.made)
    taken = made = 0
    for some in _groups(held, light):
        count, (copy, _) = steps(lambda some=some: with_variants(light, some))
        taken += count
        made += len(copy.model.graph.node) - len(at.prepared.graph.node)
    return taken, made, len(held)


def test_the_layer_table_is_square_only_in_the_nodes_behind_its_layers():
    """Each layer is rounded alone and seen in the scores: what is behind it is run for it."""
    rest, each = [], []
    for blocks in (SHALLOW, DEEP):
        at = network(blocks)
        nodes = len(at.prepared.graph.node)
        taken, made, layers = copies(at)
        assert made <= layers * (nodes + ROUNDING)
        whole, _ = steps(
            lambda at=at: layer_table(at.prepared, at.made, noise(1, *SIZE), at.statistics)
        )
        assert taken < whole
        rest.append((whole - taken) / nodes)
        each.append(taken / made)
    assert rest[1] <= MOST * rest[0], f"{rest[0]:.0f} steps a node became {rest[1]:.0f}"
    assert each[1] <= MOST * each[0], f"{each[0]:.0f} steps a copy became {each[1]:.0f}"


SQUARE = """
def square(nodes):
    for _ in nodes:
        for _ in nodes:
            pass
"""


def test_square_work_would_be_seen():
    names = {}
    exec(compile(SQUARE, f"{PACKAGE}/square.py", "exec"), names)
    few, many = (steps(lambda n=n: names["square"](range(n)))[0] / n for n in (50, 220))
    assert many > 2 * MOST * few
