"""The plans of ResNets: what blocks they have, and that MXNet's dialect writes the real graph."""

import json
from pathlib import Path

import pytest

from mxnet_files import gluon_v1
from topologies import DEPTHS, Names, blocks, channels_of

GLUON_SYMBOL = Path(__file__).parents[2] / "shared/real-graphs/mxnet-resnet18_v1-symbol.json"
"""Called so by whoever keeps it; it holds the bottlenecks of ResNet-50."""


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_counts_the_layers(depth):
    branches = sum(len(block.branch) for block in blocks(depth))
    assert branches + 2 == depth  # the first convolution, the last layer
    assert channels_of(depth) == (512 if depth < 50 else 2048)


@pytest.mark.parametrize("depth", [18, 50])
def test_each_block_reads_what_the_one_before_gives(depth):
    given = 64
    for block in blocks(depth):
        first = block.stage > 1 and block.number == 0
        for branch in (block.branch, block.gluon_branch):
            assert branch[0].taken == given
            assert [layer.taken for layer in branch[1:]] == [layer.given for layer in branch[:-1]]
            assert sorted(layer.stride for layer in branch)[-1] == (2 if first else 1)
        assert (block.shortcut is not None) == (given != block.given)
        given = block.given


def test_names_are_counted_by_kind():
    names = Names("{}{}".format)
    assert [names.next(kind) for kind in ("conv", "norm", "conv")] == ["conv0", "norm0", "conv1"]


def test_mxnets_dialect_writes_the_real_graph():
    if not GLUON_SYMBOL.exists():
        pytest.skip("real graphs are not at ../shared")
    real, ours = json.loads(GLUON_SYMBOL.read_text())["nodes"], gluon_v1(50).symbol()["nodes"]
    assert [shown(node) for node in ours] == [shown(node) for node in real]
    for node, other in zip(ours, real, strict=True):
        assert node.get("attrs", {}).items() <= other.get("attrs", {}).items(), node["name"]


def shown(node):
    return node["op"], node["name"], [source[0] for source in node["inputs"]]
