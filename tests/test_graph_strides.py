"""Strides of 1x1 convolutions that the layers before take over."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession

from quantize.graph.nodes import attribute
from quantize.graph.strides import advance
from quantize.graph.view import View

FLOAT = onnx.TensorProto.FLOAT


class Net:
    """A graph that is written node by node, rounded behind each layer or not."""

    def __init__(self, rounded):
        self.rounded, self.nodes, self.constants = rounded, [], []
        self.random = np.random.default_rng(3)

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def layer(self, kind, inputs, name, **attributes):
        self.add(kind, inputs, name, **attributes)
        if not self.rounded or (kind == "Conv" and name.endswith("!")):
            return name
        scale = self.constant(f"{name}.scale", np.float32(0.02))
        zero = self.constant(f"{name}.zero", np.uint8(120))
        self.add("QuantizeLinear", [name, scale, zero], f"{name}.q")
        return self.add("DequantizeLinear", [f"{name}.q", scale, zero], f"{name}.dq")

    def conv(self, source, name, size, stride=1, **more):
        weight = self.random.normal(0, 0.3, (4, 4, size, size)).astype(np.float32)
        self.constant(f"{name}.w", weight)
        more.setdefault("pads", [size // 2] * 4)
        same = {key: value for key, value in more.items() if value is not None}
        return self.layer(
            *("Conv", [source, f"{name}.w"], name),
            **{"kernel_shape": [size, size], "strides": [stride, stride], **same},
        )

    def model(self, outputs, opset=13):
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", FLOAT, ["n", 4, None, None])],
            [helper.make_tensor_value_info(name, FLOAT, ["n", 4, None, None]) for name in outputs],
            self.constants,
        )
        ids = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=ids, ir_version=8)


def residual(rounded, stride=2, auto_pad=None, opset=13):
    """A block whose sum two strided 1x1 convolutions read, as in ResNet-50 v1."""
    net = Net(rounded)
    start = net.layer("Relu", [net.conv("x", "stem", 3)], "start")
    padding = {"auto_pad": auto_pad, "pads": None} if auto_pad else {}
    three = net.layer("Relu", [net.conv(start, "three", 3, **padding)], "three.relu")
    one = net.conv(three, "one", 1)
    total = net.layer("Relu", [net.layer("Add", [one, start], "sum")], "sum.relu")
    net.conv(total, "left!", 1, stride)
    net.conv(total, "right!", 1, 2)
    return net, net.model(["left!", "right!"], opset)


def strides(model):
    return {
        node.name: attribute(node, "strides")[0]
        for node in model.graph.node
        if node.op_type in ("Conv", "MaxPool")
    }


def answers(model, side=9):
    onnx.checker.check_model(model, full_check=True)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(2, 4, side, side)).astype(np.float32)
    return session.run(None, {"x": x})


def changed(model):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    return advance(copy), copy


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("rounded", [False, True])
def test_the_3x3_takes_the_stride_and_a_pooling_picks_the_rest(rounded, side):
    _, model = residual(rounded)
    count, copy = changed(model)
    assert count == 2
    pooled = [name for name in strides(copy) if ".picked" in name]
    assert len(pooled) == 1
    assert pooled[0].startswith("start.q." if rounded else "start.")
    expected = {"stem": 1, "three": 2, "one": 1, "left!": 1, "right!": 1, pooled[0]: 2}
    assert strides(copy) == expected
    for before, after in zip(answers(model, side), answers(copy, side), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_a_second_time_there_is_nothing_to_move():
    _, copy = changed(residual(True)[1])
    assert advance(copy) == 0


@pytest.mark.parametrize(
    "model",
    [
        residual(True, stride=1)[1],  # a reader of all pixels
        residual(True, opset=11)[1],
        Net(False).model([]),
    ],
    ids=["all pixels", "old opset", "empty"],
)
def test_what_cannot_be_moved_stays(model):
    before = model.SerializeToString()
    assert advance(model) == 0
    assert model.SerializeToString() == before


def test_a_tensor_that_the_model_gives_stays_whole():
    net, _ = residual(False)
    model = net.model(["left!", "right!", "sum.relu"])
    assert advance(model) == 0


def test_padding_that_follows_the_stride_is_not_touched():
    _, model = residual(False, auto_pad="SAME_UPPER")
    count, copy = changed(model)
    assert count == 2
    assert strides(copy)["three"] == 1  # the 1x1 behind it reads every other pixel
    assert strides(copy)["one"] == 2
    for before, after in zip(answers(model, 8), answers(copy, 8), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_a_summand_without_pixels_keeps_everything():
    net = Net(False)
    net.constant("c", np.ones((4, 1, 1), np.float32))
    net.add("Identity", ["c"], "shift")
    net.add("Add", [net.conv("x", "stem", 3), "shift"], "sum")
    net.conv("sum", "end!", 1, 2)
    assert advance(net.model(["end!"])) == 0


def test_strides_multiply():
    net = Net(False)
    net.conv(net.conv("x", "stem", 3, 2), "end!", 1, 2)
    model = net.model(["end!"])
    count, copy = changed(model)
    assert (count, strides(copy)) == (1, {"stem": 4, "end!": 1})
    np.testing.assert_allclose(answers(copy, 17)[0], answers(model, 17)[0], rtol=0, atol=1e-5)


def test_many_sums_one_behind_the_other_are_no_burden():
    """Python's stack holds a thousand calls."""
    net = Net(False)
    first = total = net.conv("x", "stem", 1)
    for index in range(1500):
        total = net.add("Add", [total, first], f"sum{index}")
    net.conv(total, "end!", 1, 2)
    count, copy = changed(net.model(["end!"]))
    assert count == 0
    assert strides(copy) == {"stem": 1, "end!": 2}


def test_a_chain_of_sums_that_nobody_else_reads():
    net = Net(True)
    total = net.conv("x", "stem", 3)
    for index in range(60):
        total = net.layer("Add", [total, net.conv("x", f"conv{index}", 3)], f"sum{index}")
    net.conv(total, "end!", 1, 2)
    model = net.model(["end!"])
    count, copy = changed(model)
    assert count == 1
    np.testing.assert_array_equal(answers(copy)[0], answers(model)[0])


def test_visits_grow_with_the_graph():
    """A view of the graph is made once, and once more for each edit."""

    def views(blocks):
        net = Net(True)
        total = net.conv("x", "stem", 3)
        for index in range(blocks):
            total = net.layer("Add", [total, net.conv(total, f"conv{index}", 3)], f"sum{index}")
        net.conv(total, "end!", 1, 2)
        made = []

        class Counted(View):
            def __init__(self, graph):
                made.append(len(graph.node))
                super().__init__(graph)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("quantize.graph.strides.View", Counted)
            assert advance(net.model(["end!"])) == 1
        return len(made)

    assert views(4) == views(40) == 2
