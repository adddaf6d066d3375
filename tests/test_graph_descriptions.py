"""Descriptions and metadata: what names a place is found, and gone from what ships."""

import platform

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from quantize.graph.descriptions import names_a_place, places, without_descriptions

TRACE = 'File "/home/anna/exports/model.py", line 3, in forward'


@pytest.mark.parametrize(
    "text",
    [
        TRACE,
        "/home/anna",
        "at /data/x.pt",
        "cwd=/srv/models/resnet",
        "C:\\Users\\anna",
        "d:/models/x",
        "\\\\fileserver\\models",
        "file:///x",
        "~/models/x",
        "~anna/x",
        "(/opt/x/y)",
    ],
)
def test_texts_that_name_a_place(text):
    assert names_a_place(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "N/A",
        "a/b/c",
        "https://github.com/onnx/models",
        "mean=0.5/0.5/0.5",
        "images/second",
        "Apache-2.0 and/or MIT",
        "layer1/conv1/Conv",
        "ratio: 1/2",
        "~ 3 %",
        "at 10:30",
    ],
)
def test_texts_that_name_none(text):
    assert not names_a_place(text)


def test_the_name_of_this_machine(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "trainer7.example.org")
    assert names_a_place("made on trainer7")
    assert not names_a_place("made by mytrainer7x")
    for short in ("gpu", "localhost", ""):
        monkeypatch.setattr(platform, "node", lambda short=short: short)
        assert not names_a_place("made on a gpu, localhost")


@pytest.fixture
def model():
    """One that tells of its maker everywhere: in a branch, in a function, on tensors."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value_float=1.0, doc_string=TRACE)],
        "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )  # fmt: skip
    made = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Add", ["x", "w"], ["y"], name="/layer1/Add", doc_string=TRACE),
                helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
            ],
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1], doc_string=TRACE)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
            [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])],
            doc_string=TRACE,
        ),
        doc_string=TRACE,
        producer_name="pytorch",
        producer_version="/home/anna/torch",
    )
    made.graph.initializer[0].doc_string = TRACE
    made.metadata_props.add(key="source", value=TRACE)
    made.metadata_props.add(key="labels", value="cat, dog")
    if hasattr(made.graph.node[0], "metadata_props"):
        made.graph.node[0].metadata_props.add(key="trace", value=TRACE)
    made.functions.append(helper.make_function("d", "f", ["a"], ["a2"], [], [], doc_string=TRACE))
    return made


def test_every_place_is_found_and_goes(model):
    found = places(model)
    assert len(found) >= 9
    assert "the description of node '/layer1/Add'" in found
    assert "metadata 'source' of model ''" in found
    before = [node.op_type for node in model.graph.node]
    without_descriptions(model)
    assert places(model) == []
    assert b"anna" not in model.SerializeToString()
    assert [node.op_type for node in model.graph.node] == before
    assert [(p.key, p.value) for p in model.metadata_props] == [("labels", "cat, dog")]
    assert model.producer_name == "pytorch"
    assert list(model.graph.initializer[0].float_data) == [1.0]


def test_a_name_in_a_home_is_found_and_stays(model):
    without_descriptions(model)
    model.graph.node[0].name = "/home/anna/Add"
    without_descriptions(model)
    assert places(model) == ["the name of node '/home/anna/Add'"]


def test_a_model_that_says_nothing_keeps_its_bytes(tiny_model):
    copy = onnx.ModelProto.FromString(tiny_model.SerializeToString())
    without_descriptions(copy)
    assert copy == tiny_model


@given(st.text(max_size=60))
def test_any_text_is_decided(text):
    assert names_a_place(text) in (True, False)
    assert names_a_place(f"{text} /home/anna/x")
