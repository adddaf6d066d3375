"""Small edits of graphs."""

import numpy as np
from onnx import helper

from graphs import build, ops
from quantize.graph.nodes import (
    add_constant,
    attribute,
    called,
    constants_out_of_inputs,
    drop,
    give,
    replace_nodes,
    unused_name,
)
from quantize.graph.view import View


def test_attributes():
    node = helper.make_node("Pad", ["x"], ["y"], mode="edge", pads=[1, 2], value=0.5)
    assert attribute(node, "mode") == "edge"
    assert list(attribute(node, "pads")) == [1, 2]
    assert attribute(node, "axes") is None
    assert attribute(node, "axes", 3) == 3
    give(node, mode="reflect", axis=1)
    assert (attribute(node, "mode"), attribute(node, "axis")) == ("reflect", 1)
    assert len(node.attribute) == 4
    drop(node, "mode", "nosuch", "pads")
    assert sorted(a.name for a in node.attribute) == ["axis", "value"]


def test_nodes_are_called_by_name_or_by_what_they_make():
    assert called(helper.make_node("Relu", ["x"], ["y"], name="first")) == "Relu 'first'"
    assert called(helper.make_node("Relu", ["x"], ["y"])) == "Relu 'y'"
    assert called(helper.make_node("Relu", ["x"], [])) == "Relu ''"


def test_new_names_are_new():
    graph = build("(float[N,3] x) => (float[N,3] y) { y = Add(x, k) }", k=(3,)).graph
    assert unused_name(graph, "z") == "z"
    assert [unused_name(graph, name) for name in "xyk"] == ["x_", "y_", "k_"]
    assert add_constant(graph, "k", np.zeros(2)) == "k_"
    assert add_constant(graph, "k", np.ones(2)) == "k__"
    assert list(View(graph).constant("k__")) == [1, 1]


def test_nodes_are_replaced_by_some_of_themselves():
    model = build("(float[N,3] x) => (float[N,3] y) { a = Relu(x) b = Abs(a) y = Neg(a) }")
    replace_nodes(model.graph, [node for node in model.graph.node if node.op_type != "Abs"])
    assert ops(model) == ["Relu", "Neg"]


def test_constants_leave_the_inputs():
    model = build("(float[3] k, float[N,3] x) => (float[N,3] y) { y = Add(x, k) }", k=(3,))
    assert constants_out_of_inputs(model.graph) == 1
    assert [value.name for value in model.graph.input] == ["x"]
    assert constants_out_of_inputs(model.graph) == 0
