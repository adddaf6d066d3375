"""What OpenVINO makes of two files, side by side; OpenVINO itself is not in this environment."""

import sys
from types import SimpleNamespace

import pytest

from benchmarks import openvino_nodes
from benchmarks.openvino_nodes import Compiled, Node, differences, main, not_int8, page, ratio

OURS = [
    Node("a", "Convolution", "u8", 30.0),
    Node("b", "Convolution", "bf16", 50.0),
    Node("pool", "Pooling", "bf16", 5.0),
    Node("folded", "Convert", "i8", 0.0),
]
THEIRS = [Node("a", "Convolution", "u8", 31.0), Node("b", "Convolution", "i8", 20.0)]


class Told(dict):
    """A node of the graph that is run."""

    def __init__(self, name, kind, precision):
        super().__init__(
            layerType=SimpleNamespace(value=kind), runtimePrecision=SimpleNamespace(value=precision)
        )
        self.name = name

    def get_rt_info(self):
        return self

    def get_friendly_name(self):
        return self.name


def test_the_ratio_is_theirs_by_ours_with_its_interval():
    value, low, high = ratio([2.0] * 100, [1.0 + k / 100 for k in range(100)])
    assert value == pytest.approx(0.7475)
    assert (low, high) == (pytest.approx(0.7), pytest.approx(0.8))


def test_few_rounds_give_their_ends():
    assert ratio([1.0, 1.0, 1.0], [3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_the_largest_difference_comes_first_whoever_has_it():
    rows = differences(OURS, THEIRS)
    assert rows[:2] == [
        ("Convolution", "bf16", 1, 50.0, 0, 0.0),
        ("Convolution", "i8", 0, 0.0, 1, 20.0),
    ]
    assert ("Convolution", "u8", 1, 30.0, 1, 31.0) in rows


def test_a_layer_is_in_int8_with_either_sign():
    assert [node.name for node in not_int8(OURS)] == ["b"]
    assert not_int8(THEIRS) == []


def test_the_page_names_what_is_not_in_int8_and_leaves_out_what_was_done_at_loading():
    text = page(["x/ours.onnx", "y/int8.xml"], (OURS, THEIRS), ([2e-3] * 9, [1e-3] * 9))
    assert "`x/ours.onnx` 2 ms, `y/int8.xml` 1 ms: the first is 0.500 (0.500 to 0.500)" in text
    assert "| Convolution | bf16 | 1 | 50 | 0 | 0 | +50 |" in text
    assert "`x/ours.onnx`, layers that are not in int8: b (bf16, 50 µs)." in text
    assert "`y/int8.xml`, layers that are not in int8: none." in text
    assert "Convert" not in text


def test_a_node_takes_the_median_of_the_runs_and_constants_are_no_nodes():
    file = Compiled.__new__(Compiled)
    graph = [Told("c", "Const", "f32"), Told("conv", "Convolution", "u8"), Told("r", "Reshape", "")]
    file.model = SimpleNamespace(
        get_runtime_model=lambda: SimpleNamespace(get_ordered_ops=lambda: graph)
    )
    runs = [{"conv": 3.0}, {"conv": 90.0}, {"conv": 1.0}]
    assert file.nodes(runs) == [
        Node("conv", "Convolution", "u8", 3.0),
        Node("r", "Reshape", "", 0.0),
    ]


def test_files_take_turns_and_the_first_ones_do_not_count(monkeypatch):
    monkeypatch.setattr(openvino_nodes, "WARM", 1)
    seen = []

    def call(name):
        return lambda: seen.append(name) or len(seen)

    assert openvino_nodes._in_turn([call("a"), call("b")], 2) == [[6, 10], [8, 12]]
    assert seen == ["a", "a", "b", "b"] * 3


def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "a.onnx"), str(tmp_path / "b.xml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_openvino_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "a.onnx").write_bytes(b"")
    assert main([str(tmp_path / "a.onnx")] * 2) == 2
    error = capsys.readouterr().err
    assert "openvino" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("flags", [["--batch", "0"], ["--threads", "x"], ["--rounds", "-1"]])
def test_counts_are_at_least_one(flags):
    with pytest.raises(SystemExit) as ended:
        main(["a", "b", *flags])
    assert ended.value.code == 2
