import json
import time

import numpy as np
import pytest

from mxnet_files import classic_resnet
from quantize.conversion.mxnet_symbol import parse_symbol, read_symbol
from quantize.errors import ModelError, QuantizeError


def null(name, **more):
    return {"op": "null", "name": name, "inputs": [], **more}


def relu(name, *inputs, **more):
    return {"op": "relu", "name": name, "inputs": [list(i) for i in inputs], **more}


def parsed(nodes, heads=None, **more):
    graph = {"nodes": nodes, "heads": heads or [[len(nodes) - 1, 0, 0]], **more}
    return parse_symbol(json.dumps(graph).encode(), "net.json")


def test_inputs_have_two_numbers_or_three():
    symbol = parsed([null("x"), relu("a", (0, 0)), relu("b", (1, 0, 0))], [[2, 0]])
    assert [node.inputs for node in symbol.nodes] == [(), (0,), (1,)]
    assert symbol.heads == (2,)


@pytest.mark.parametrize("spelling", ["attrs", "attr", "param"])
def test_attributes_have_three_names(spelling):
    symbol = parsed([null("x"), relu("a", (0, 0), **{spelling: {"k": "(3L, 3L)"}})])
    assert symbol.nodes[1].attributes.integers("k") == (3, 3)


def test_old_files_give_two_kinds_of_attributes_at_once():
    node = relu("a", (0, 0), param={"k": "1"}, attr={"lr_mult": "0"}, backward_source_id=-1)
    attributes = parsed([null("x"), node]).nodes[1].attributes
    assert attributes.text("k", "") == "1"
    assert attributes.text("lr_mult", "") == "0"


def test_attributes_may_be_numbers_and_lists():
    attrs = {"a": 2, "b": True, "c": [3, 4], "d": None, "e": 0.5}
    attributes = parsed([null("x"), relu("a", (0, 0), attrs=attrs)]).nodes[1].attributes
    assert attributes.integer("a", None, 0, 9) == 2
    assert attributes.flag("b", False) is True
    assert attributes.integers("c") == (3, 4)
    assert attributes.text("d", "none") == "none"
    assert attributes.number("e", None) == 0.5


def test_only_what_the_outputs_need_is_kept_and_in_order():
    nodes = [relu("b", (2, 0)), null("unused"), relu("a", (3, 0)), null("x")]
    symbol = parsed(nodes, [[0, 0]])
    assert [node.name for node in symbol.nodes] == ["x", "a", "b"]
    assert [node.inputs for node in symbol.nodes] == [(), (0,), (1,)]
    assert symbol.heads == (2,)


def test_a_diamond_is_no_circle():
    nodes = [relu("sum", (1, 0), (2, 0)), relu("a", (3, 0)), relu("b", (3, 0)), null("x")]
    assert [n.name for n in parsed(nodes, [[0, 0]]).nodes][-1] == "sum"


def test_operators_with_one_name_are_told_apart_and_variables_keep_theirs():
    nodes = [null("x"), relu("a", (0, 0)), relu("a", (1, 0)), relu("x", (2, 0)), relu("", (3, 0))]
    names = [node.name for node in parsed(nodes).nodes]
    assert names[0] == "x"
    assert names[1] == "a"
    assert len(set(names)) == 5
    assert "" not in names


def test_running_statistics_that_old_files_leave_out_are_added():
    norm = {"op": "BatchNorm", "name": "bn", "inputs": [[0, 0], [1, 0], [2, 0]]}
    symbol = parsed([null("x"), null("bn_gamma"), null("bn_beta"), norm])
    read = [symbol.nodes[i].name for i in symbol.nodes[symbol.heads[0]].inputs]
    assert read == ["x", "bn_gamma", "bn_beta", "bn_moving_mean", "bn_moving_var"]


@pytest.mark.parametrize(
    ("attrs", "version"),
    [
        ({"mxnet_version": ["int", 10901]}, "1.9.1"),
        ({"mxnet_version": ["int", 904]}, "0.9.4"),
        ({"mxnet_version": ["int", "many"]}, ""),
        ({"mxnet_version": ["int", -5]}, ""),
        ([], ""),
    ],
)
def test_the_version_is_told_where_it_stands(attrs, version):
    assert parsed([null("x"), relu("a", (0, 0))], attrs=attrs).version == version


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a JSON file"),
        (b"\xff\xfe{", "is not a JSON file"),
        (b"[" * 200_000, "nested too deeply|is not a JSON file"),
        (b'{"nodes": ' + b"9" * 5000 + b', "heads": []}', "is not a JSON file"),
        (b"[]", "is not an MXNet symbol"),
        (b'{"nodes": [], "heads": [[0, 0]]}', "is not an MXNet symbol"),
        (b'{"nodes": [7], "heads": [[0, 0]]}', "node 0 is not an object"),
        (b'{"nodes": [{}], "heads": [[0, 0]]}', "no operator or no name"),
    ],
)
def test_files_that_are_something_else(content, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        parse_symbol(content, "net.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("nodes", "heads", "reason"),
    [
        ([null("x"), relu("a", (1, 0))], None, "in a circle"),
        ([relu("a", (1, 0)), relu("b", (0, 0))], None, "in a circle"),
        ([null("x"), relu("a", (7, 0))], None, "reads node 7, which is missing"),
        ([null("x"), relu("a", (-1, 0))], None, "reads node -1, which is missing"),
        ([null("x"), relu("a", (0, 0))], [[2, 0]], "the list of outputs reads node 2"),
        ([null("x"), relu("a", (0, 1))], None, "reads output 1 of node 0"),
        ([null("x"), relu("a", (0,))], None, r"not \[node, output\]"),
        ([null("x"), relu("a", (0, True))], None, r"not \[node, output\]"),
        ([null("x"), relu("a", (10**400, 0))], None, "which is missing"),
        ([null("x"), relu("a", (0.0, 0))], None, r"not \[node, output\]"),
        ([null("x"), relu("a", (float("nan"), 0))], None, r"not \[node, output\]"),
        ([null("x"), {**relu("a"), "inputs": {}}], None, "no list of inputs"),
        ([null("x"), relu("a", (0, 0), attrs=[1])], None, "its attrs are not an object"),
        ([null("x"), relu("a", (0, 0), attrs={"k": {"deep": 1}})], None, "k = something"),
        ([null("x"), null("x"), relu("a", (0, 0), (1, 0))], None, "two variables are called 'x'"),
        ([null("x"), relu("a", (0, 0), subgraphs=[])], None, "control flow"),
        ([null("x" * 5000)], None, "no name"),
    ],
)
def test_graphs_that_make_no_sense(nodes, heads, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        parsed(nodes, heads)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_long_chains_take_no_recursion():
    count = 20_000
    nodes = [relu(f"n{i}", (i + 1, 0)) for i in range(count)] + [null("x")]
    assert len(parsed(nodes, [[0, 0]]).nodes) == count + 1


def test_a_long_circle_is_found_quickly():
    count = 20_000
    nodes = [relu(f"n{i}", ((i + 1) % count, 0)) for i in range(count)]
    start = time.monotonic()
    with pytest.raises(ModelError, match="circle"):
        parsed(nodes)
    assert time.monotonic() - start < 10


def test_too_many_nodes_are_refused():
    with pytest.raises(ModelError, match="more than 100000"):
        parsed([null("x")] * 100_001, [[0, 0]])


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_symbol(tmp_path / "none-symbol.json")


def attack(count, seed):
    """Damaged texts: what JSON allows anywhere, and bytes that it does not."""
    rng = np.random.default_rng(seed)
    small = classic_resnet(units=(1,), filters=(4, 4), spelling="attr", entries=2, legacy=True)
    seeds = [
        json.dumps(classic_resnet(units=(1,), filters=(4, 4)).symbol()).encode(),
        json.dumps(small.symbol(version=None)).encode(),
    ]
    pieces = [b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'"', b"[[", b"99999999999", b"]"]
    pieces += [b"true", b'"op"', b'"(3, 3"', b"\x00", b"\xff", b"0", b"1", b",", b"[0, 1]"]
    refused = 0
    for number in range(count):
        content = bytearray(seeds[number % 2])
        for _ in range(rng.integers(1, 4)):
            at, cut = int(rng.integers(len(content))), int(rng.integers(0, 6))
            content[at : at + cut] = pieces[rng.integers(len(pieces))]
        try:
            parse_symbol(bytes(content), "net.json")
        except QuantizeError:
            refused += 1
    assert count / 4 < refused


def test_damaged_texts_are_refused_and_nothing_else_happens():
    attack(3_000, seed=1)


@pytest.mark.slow
def test_fifty_thousand_damaged_texts():
    attack(50_000, seed=2)
