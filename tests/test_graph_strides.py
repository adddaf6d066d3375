"""Strides of 1x1 convolutions that the layers before take over."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphs import answers, build, noise
from quantize import candidates
from quantize.calibrate import calibrate
from quantize.conversion.int8 import change_format
from quantize.engines import inc, ort
from quantize.graph import io
from quantize.graph.nodes import attribute
from quantize.graph.prepare import prepare
from quantize.graph.strides import advance
from quantize.graph.view import View
from quantize.plan import Plan, Scheme
from quantize.probe import run_once
from random_nets import random_net

FLOAT = onnx.TensorProto.FLOAT
FORMS = ["qdq", "qoperator"]


class Net:
    """An int8 graph that is written node by node, each result rounded."""

    def __init__(self):
        self.nodes, self.constants = [], []
        self.random = np.random.default_rng(3)
        self.constant("scale", np.float32(0.02))
        self.constant("zero", np.uint8(0))
        self.constant("step", np.float32(0.01))
        self.constant("none", np.int8(0))
        self.rounded("x")

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def rounded(self, name, kept="scale"):
        self.add("QuantizeLinear", [name, "scale", "zero"], f"{name}.q")
        return self.add("DequantizeLinear", [f"{name}.q", kept, "zero"], f"{name}.dq")

    def layer(self, kind, inputs, name, **attributes):
        return self.rounded(self.add(kind, inputs, name, **attributes))

    def weight(self, name, *shape):
        self.constant(f"{name}.w", self.random.integers(-40, 40, shape).astype(np.int8))
        return self.add("DequantizeLinear", [f"{name}.w", "step", "none"], f"{name}.w.dq")

    def conv(self, source, name, size, stride=1, **more):
        more.setdefault("pads", [size // 2] * 4)
        same = {key: value for key, value in more.items() if value is not None}
        shape = {"kernel_shape": [size, size], "strides": [stride, stride]}
        weight = self.weight(name, 4, 4 // more.get("group", 1), size, size)
        return self.layer("Conv", [source, weight], name, **{**shape, **same})

    def model(self, outputs, form="qdq", opset=13):
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", FLOAT, ["n", 4, None, None])],
            [helper.make_tensor_value_info(name, FLOAT, ["n", 4, None, None]) for name in outputs],
            self.constants,
        )
        ids = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=ids, ir_version=8)
        return model if form == "qdq" else change_format(model, form)


def residual(form="qdq", stride=2, auto_pad=None, opset=13, outputs=()):
    """A block whose sum two strided 1x1 convolutions read, as in ResNet-50 v1."""
    net = Net()
    start = net.layer("Relu", [net.add("Conv", ["x.dq", net.weight("stem", 4, 4, 3, 3)], "stem",
                      kernel_shape=[3, 3], pads=[1] * 4)], "start")  # fmt: skip
    padding = {"auto_pad": auto_pad, "pads": None} if auto_pad else {}
    one = net.conv(net.conv(start, "three", 3, **padding), "one", 1)
    net.add("Add", [one, start], "sum")
    total = net.layer("Relu", ["sum"], "sum.relu")
    net.conv(total, "left", 1, stride)
    net.conv(total, "right", 1, 2)
    return net.model(["left.dq", "right.dq", *outputs], form, opset)


def strides(model):
    return {
        node.name.removesuffix("_quant"): (attribute(node, "strides") or [1])[0]
        for node in model.graph.node
        if node.op_type in ("Conv", "QLinearConv", "MaxPool")
    }


def copied(model):
    return onnx.ModelProto.FromString(model.SerializeToString())


def changed(model):
    copy = copied(model)
    count = advance(copy)
    onnx.checker.check_model(copy, full_check=True)
    return count, copy


def assert_same(before, after, *shape):
    """To the last bit."""
    images = noise(*shape)
    for one, other in zip(answers(before, images), answers(after, images), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("form", FORMS)
def test_the_3x3_takes_the_stride_and_a_pooling_picks_the_rest(form, side):
    model = residual(form)
    assert ("QLinearConv" in {node.op_type for node in model.graph.node}) == (form == "qoperator")
    count, copy = changed(model)
    assert count == 2
    (pool,) = (node for node in copy.graph.node if node.op_type == "MaxPool")
    assert pool.input[0] == "start.q"
    expected = {"stem": 1, "three": 2, "one": 1, "left": 1, "right": 1, pool.name: 2}
    assert strides(copy) == expected
    assert_same(model, copy, 2, 4, side, side)


def test_both_forms_of_what_was_moved_are_the_same_file():
    """Moved and then converted, or the other way round."""
    first = change_format(changed(residual("qdq"))[1], "qoperator")
    second = changed(residual("qoperator"))[1]
    assert list(strides(first).values()) == list(strides(second).values())
    assert [n.op_type for n in first.graph.node] == [n.op_type for n in second.graph.node]
    assert_same(first, second, 2, 4, 9, 9)
    assert_same(second, change_format(second, "qdq"), 2, 4, 9, 9)


@pytest.mark.parametrize("form", FORMS)
def test_a_second_time_there_is_nothing_to_move(form):
    _, copy = changed(residual(form))
    assert advance(copy) == 0


@pytest.mark.parametrize(
    "model",
    [
        residual(stride=1),  # a reader of all pixels
        residual("qoperator", stride=1),
        residual(stride=3),
        residual("qoperator", stride=3),
        residual(opset=11),
        residual(outputs=["sum.relu.dq"]),
        residual("qoperator", outputs=["sum.relu.dq"]),
        Net().model([]),
    ],
    ids=[
        "all pixels",
        "all integer pixels",
        "two strides",
        "two of integers",
        "old opset",
        "given",
        "given integers",
        "empty",
    ],
)
def test_what_cannot_be_moved_stays(model):
    before = model.SerializeToString()
    assert advance(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize("form", FORMS)
def test_padding_that_follows_the_stride_is_not_touched(form):
    model = residual(form, auto_pad="SAME_UPPER")
    count, copy = changed(model)
    assert count == 2
    assert strides(copy)["three"] == 1  # the 1x1 behind it reads every other pixel
    assert strides(copy)["one"] == 2
    assert_same(model, copy, 2, 4, 8, 8)


@pytest.mark.parametrize("form", FORMS)
def test_a_1x1_that_looks_beyond_the_edge_is_a_window_like_others(form):
    net = Net()
    padded = {"pads": [1, 0, 1, 0]}
    net.conv(net.conv(net.conv("x.dq", "stem", 3), "middle", 1, **padded), "end", 1, 2)
    model = net.model(["end.dq"], form)
    count, copy = changed(model)
    assert (count, strides(copy)) == (1, {"stem": 1, "middle": 2, "end": 1})
    assert_same(model, copy, 2, 4, 7, 8)
    net = Net()
    net.conv(net.conv("x.dq", "stem", 3), "end", 1, 2, **padded)
    assert advance(net.model(["end.dq"], form)) == 0


@pytest.mark.parametrize("float_one", ["stem", "end"])
def test_a_float_convolution_keeps_its_stride(float_one):
    """Its sum depends on the order, and that on the kernel that onnxruntime takes for the shape."""
    net = Net()
    net.conv(net.conv("x.dq", "stem", 3), "end", 1, 2)
    (kept,) = (node for node in net.nodes if node.name == float_one)
    side = attribute(kept, "kernel_shape")[0]
    kept.input[1] = net.constant("float", noise(4, 4, side, side))
    assert advance(net.model(["end.dq"])) == 0


def test_a_convolution_whose_result_is_not_rounded_is_float():
    net = Net()
    net.conv(net.conv("x.dq", "stem", 3), "end", 1, 2)
    assert advance(net.model(["end"])) == 0
    assert advance(net.model(["end.dq"])) == 1


@pytest.mark.parametrize("attributes", [{"axis": 2}, {"axis": 1, "block_size": 2}])
def test_scales_of_rows_stay_with_their_rows(attributes):
    net = Net()
    net.conv("x.dq", "stem", 3)
    net.add("Relu", ["stem.dq"], "relu")
    net.conv(by_rows(net, "relu", **attributes), "end", 1, 2)
    assert advance(net.model(["end.dq"], opset=21)) == 0


def test_a_summand_rounded_by_rows_keeps_everything():
    net = Net()
    net.conv("x.dq", "stem", 3)
    rows = by_rows(net, "stem.dq", axis=2)
    net.layer("Add", [net.conv(rows, "three", 3), rows], "sum")
    net.conv("sum.dq", "end", 1, 2)
    assert advance(net.model(["end.dq"])) == 0


def by_rows(net, name, **attributes):
    """Rounded with one scale for each of six rows."""
    scales = net.constant("rows", np.linspace(0.01, 0.03, 6, dtype=np.float32))
    zeros = net.constant("zeros", np.zeros(6, np.uint8))
    net.add("QuantizeLinear", [name, scales, zeros], "rows.q", **attributes)
    return net.add("DequantizeLinear", ["rows.q", scales, zeros], "rows.dq", **attributes)


def test_a_summand_without_pixels_keeps_everything():
    net = Net()
    net.constant("c", np.ones((4, 1, 1), np.float32))
    net.add("Identity", ["c"], "shift")
    net.layer("Add", [net.conv("x.dq", "stem", 3), net.rounded("shift")], "sum")
    net.conv("sum.dq", "end", 1, 2)
    assert advance(net.model(["end.dq"])) == 0


def test_a_summand_of_another_rank_keeps_everything():
    """A row of pixels is no picture: it cannot skip along two axes."""
    net = Net()
    net.constant("shape", np.array([1, 4, -1]))
    net.rounded(net.add("Reshape", ["x.dq", "shape"], "row"))
    line = {"kernel_shape": [1], "strides": [1]}
    net.layer("Conv", ["row.dq", net.weight("line", 4, 4, 1)], "line", **line)
    net.layer("Add", [net.conv("x.dq", "stem", 3), "line.dq"], "sum")
    net.conv("sum.dq", "end", 1, 2)
    assert advance(net.model(["end.dq"])) == 0


def test_two_summands_of_the_same_integers_are_picked_each():
    net = Net()
    net.constant("other", np.float32(0.03))
    net.conv("x.dq", "stem", 3)
    net.add("DequantizeLinear", ["stem.q", "other", "zero"], "stem.again")
    net.layer("Add", [net.conv("stem.dq", "three", 3), "stem.dq"], "sum")
    net.layer("Add", ["sum.dq", "stem.again"], "more")
    net.conv("more.dq", "end", 1, 2)
    model = net.model(["end.dq"])
    count, copy = changed(model)
    assert count == 1
    assert sum(node.op_type == "MaxPool" for node in copy.graph.node) == 2
    assert_same(model, copy, 2, 4, 7, 7)


@pytest.mark.parametrize("form", FORMS)
def test_strides_multiply(form):
    net = Net()
    net.conv(net.conv("x.dq", "stem", 3, 2), "end", 1, 2)
    model = net.model(["end.dq"], form)
    count, copy = changed(model)
    assert (count, strides(copy)) == (1, {"stem": 4, "end": 1})
    assert_same(model, copy, 2, 4, 17, 17)


@pytest.mark.parametrize("form", FORMS)
def test_a_chain_of_sums_that_nobody_else_reads(form):
    net = Net()
    total = net.conv("x.dq", "stem", 3)
    for index in range(60):
        total = net.layer("Add", [total, net.conv("x.dq", f"conv{index}", 3)], f"sum{index}")
    net.conv(total, "end", 1, 2)
    model = net.model(["end.dq"], form)
    count, copy = changed(model)
    assert count == 1
    assert set(strides(copy).values()) == {1, 2}
    assert_same(model, copy, 2, 4, 9, 9)


def test_a_long_way_to_the_convolution_is_no_burden():
    """Python's stack holds a thousand calls."""
    net = Net()
    total = net.conv("x.dq", "stem", 3)
    for index in range(600):
        total = net.layer(
            "Add", [net.layer("Relu", [total], f"relu{index}"), "x.dq"], f"sum{index}"
        )
    net.conv(total, "end", 1, 2)
    net.nodes[0:0] = [helper.make_node("MaxPool", ["input"], ["x"], kernel_shape=[1, 1])]
    count, copy = changed_input(net.model(["end.dq"]))
    assert count == 1
    assert strides(copy)["stem"] == 2


def changed_input(model):
    model.graph.input[0].name = "input"
    return changed(model)


def test_a_tensor_added_to_itself_is_looked_at_once():
    """Looked at twice a sum, 40 of them would take longer than anybody waits."""
    net = Net()
    total = net.add("MaxPool", ["x.dq"], "pool", kernel_shape=[1, 1])
    for index in range(40):
        total = net.add("Add", [total, total], f"sum{index}")
    net.rounded(total)
    net.conv(f"{total}.dq", "end", 1, 2)
    assert advance(net.model(["end.dq"])) == 0


def test_visits_grow_with_the_graph():
    """A view of the graph is made once, and once more for each edit."""

    def views(blocks):
        net = Net()
        total = net.conv("x.dq", "stem", 3)
        for index in range(blocks):
            total = net.layer("Add", [total, net.conv(total, f"conv{index}", 3)], f"sum{index}")
        net.conv(total, "end", 1, 2)
        made = []

        class Counted(View):
            def __init__(self, graph):
                made.append(len(graph.node))
                super().__init__(graph)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("quantize.graph.strides.View", Counted)
            assert advance(net.model(["end.dq"])) == 1
        return len(made)

    assert views(4) == views(40) == 2


# ------------------------------------------------------------------- whole files, by an engine


def shipped(made, model):
    """An engine's file as it ships, without moved strides and with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "advance", lambda _: 0)
        before = candidates.finished(copied(made), model)
    return before, candidates.finished(copied(made), model)


def written(model, shape, form, kept=(), **scheme):
    ready = prepare(copied(model), run_once, shape).model
    statistics = calibrate(ready, [noise(2, *shape)], threads=1)
    plan = Plan("onnxruntime", form, Scheme(**scheme), keep_float=tuple(kept))
    return ort.quantize(ready, statistics, plan)


def compared(seeds, form):
    """Random networks, each held against itself; how many were moved, and how many pools came."""
    moved = pools = 0
    for seed in seeds:
        model, shape = random_net(seed)
        random = np.random.default_rng(seed)
        ready = prepare(copied(model), run_once, shape).model
        kept = [n.name for n in ready.graph.node if seed % 3 == 0 and random.random() < 0.2]
        before, after = shipped(written(model, shape, form, kept), model)
        assert_same(before, after, 2, *shape)
        moved += before != after
        pools += any(".picked." in node.name for node in after.graph.node)
    return moved, pools


@pytest.mark.parametrize("form", FORMS)
def test_random_networks_answer_the_same_to_the_last_bit(form):
    moved, pools = compared(range(40), form)
    assert moved >= 10
    assert pools >= 1


@pytest.mark.inc
@pytest.mark.skipif(inc.available() is not None, reason=f"without INC: {inc.available()}")
@pytest.mark.parametrize("form", FORMS)
def test_files_by_inc_are_read_as_well(form, tmp_path):
    model, shape = bottlenecks(), (3, 12, 12)
    io.save(prepare(copied(model), run_once, shape).model, tmp_path / "float.onnx")
    plan = Plan("inc", form, Scheme())
    path = inc.quantize_default(tmp_path / "float.onnx", [noise(2, *shape)], plan, tmp_path)
    assert_moved(*shipped(io.load(path), model), shape)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_files_by_onnxruntimes_quantizer_leave_out_what_nobody_reads(form, granularity):
    model, shape = bottlenecks(), (3, 12, 12)
    made = written(model, shape, form, weight_granularity=granularity)
    assert_moved(*shipped(made, model), shape)


def assert_moved(before, after, shape):
    """The bottleneck's 3x3 has the stride, one pooling picks the shortcut's integers."""
    assert strides(before)["left"] == 2
    moved = strides(after)
    assert (moved["three"], moved["left"], moved["right"]) == (2, 1, 1)
    (pool,) = (
        node
        for node in after.graph.node
        if ".picked." in node.output[0] and node.op_type == "MaxPool"
    )
    maker = View(after.graph).producers[pool.input[0]]
    assert maker.op_type in ("QuantizeLinear", "QLinearConv")
    assert_same(before, after, 2, *shape)


def bottlenecks():
    """Float: the end of one stage of ResNet-50 v1 and the start of the next."""
    text = """
    (float[N,3,12,12] x) => (float[N,5] logits) {
        [stem] c = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (x, w0)
        start = Relu(c)
        [before] d = Conv <kernel_shape = [1,1]> (start, w1, b1)
        e = Relu(d)
        [three] f = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (e, w2)
        g = Relu(f)
        [one] h = Conv <kernel_shape = [1,1]> (g, w3, b3)
        i = Add(h, start)
        j = Relu(i)
        [left] k = Conv <kernel_shape = [1,1], strides = [2,2]> (j, w4, b4)
        l = Relu(k)
        [behind] m = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (l, w5)
        [right] n = Conv <kernel_shape = [1,1], strides = [2,2]> (j, w6)
        o = Add(m, n)
        p = Relu(o)
        q = GlobalAveragePool(p)
        r = Flatten(q)
        [head] logits = Gemm(r, w7)
    }"""
    sizes = {"w0": (8, 3, 3, 3), "w7": (8, 5)}
    sizes |= {f"w{at}": (8, 8, 1, 1) for at in (1, 3, 4, 6)}
    sizes |= {f"w{at}": (8, 8, 3, 3) for at in (2, 5)}
    return build(text, **sizes, **{f"b{at}": (8,) for at in (1, 3, 4)})


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_many_random_networks_answer_the_same_to_the_last_bit(form):
    moved, pools = compared(range(40, 340), form)
    assert moved >= 100
    assert pools >= 10
