"""Sessions, and what the machine is and allows."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import answers, build, noise
from models import tiny_resnet
from quantize import runtime
from quantize.errors import Interrupted, ModelError
from quantize.runtime import Operator, Session, cores, cpu


@pytest.fixture(scope="module")
def free():
    return Session(tiny_resnet().SerializeToString())


@pytest.fixture(scope="module")
def fixed():
    return Session(tiny_resnet(batch=4).SerializeToString())


# ---------------------------------------------------------------------------- sessions


def test_a_session_knows_its_ends(free, fixed):
    assert (free.input, free.outputs, free.batch) == ("data", ["logits"], None)
    assert fixed.batch == 4


def test_a_file_and_its_bytes_answer_alike(tmp_path, free):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_resnet().SerializeToString())
    images = noise(3, 3, 16, 16)
    np.testing.assert_array_equal(Session(path).predict(images), free.predict(images))
    np.testing.assert_array_equal(free.predict(images), answers(tiny_resnet(), images)[0])


def test_threads_do_not_change_the_answer(free):
    images = noise(3, 3, 16, 16)
    two = Session(tiny_resnet().SerializeToString(), threads=2)
    np.testing.assert_array_equal(two.predict(images), free.predict(images))


@given(count=st.integers(1, 13))
@settings(max_examples=13, deadline=None)
def test_a_fixed_batch_takes_any_number_of_images(free, fixed, count):
    images = noise(13, 3, 16, 16)[:count]
    seen = fixed.predict(images)
    assert seen.shape == (count, 4)
    np.testing.assert_allclose(seen, free.predict(images), rtol=1e-5, atol=1e-5)


@given(count=st.integers(1, 13))
@settings(max_examples=13, deadline=None)
def test_pieces_hold_all_images_and_fill_up_with_the_last(free, fixed, count):
    images = noise(count, 3, 16, 16)
    assert [piece is images for piece in free.pieces(images)] == [True]
    pieces = list(fixed.pieces(images))
    assert [len(piece) for piece in pieces] == [4] * -(-count // 4)
    together = np.concatenate(pieces)
    np.testing.assert_array_equal(together[:count], images)
    assert (together[count:] == images[-1]).all()


def test_all_outputs_come_in_order():
    model = build("(float[N,3] x) => (float[N,3] b, float[N,3] a) { a = Neg(x) b = Abs(x) }")
    session = Session(model.SerializeToString())
    assert session.outputs == ["b", "a"]
    b, a = session.run(-np.ones((1, 3), np.float32))
    assert (b == 1).all()
    assert (a == 1).all()


# --------------------------------------------------------------------------- operators

SUM = build(
    "(float[N,3] x, float[N,3] y) => (float[N,3] d, float[N,3] s) { d = Sub(x,y) s = Add(x,y) }"
)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("count", "most"), [(1, 1), (3, 1), (8, 2), (9, 3), (21, 6)])
def test_pieces_come_in_order_and_are_at_least_four_where_there_are_images(threads, count, most):
    x, y = noise(count, 3), noise(count, 3, seed=1)
    operator = Operator(SUM.SerializeToString(), threads=threads, name="s")
    differences, sums = operator.pieces([x, y])
    np.testing.assert_array_equal(np.concatenate(differences), x - y)
    np.testing.assert_array_equal(np.concatenate(sums), x + y)
    assert [len(piece) for piece in sums] == [len(piece) for piece in differences]
    assert max(map(len, sums)) == most


def test_large_images_come_one_at_a_time(monkeypatch):
    monkeypatch.setattr(Operator, "_VALUES", 5)
    operator = Operator(SUM.SerializeToString(), threads=2, name="s")
    differences, _ = operator.pieces([noise(9, 3), noise(9, 3)])
    assert [len(piece) for piece in differences] == [1] * 9


def test_what_fails_in_a_thread_is_an_error_of_the_node():
    operator = Operator(SUM.SerializeToString(), threads=2, name="s")
    wide = noise(2, 4)
    with pytest.raises(ModelError) as caught:
        operator.each([[noise(2, 3), noise(2, 3)], [wide, noise(2, 3)]])
    one_line(caught, "node s fails on images [2, 4]: ")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system lists no threads")
def test_many_operators_share_their_threads():
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    made = [Operator(SUM.SerializeToString(), threads=2, name="s") for _ in range(20)]
    for operator in made:
        operator.pieces([noise(8, 3), noise(8, 3)])
    assert len(list(tasks.iterdir())) <= before + 2


# ------------------------------------------------------------------------------ errors


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text
    assert "[ONNXRuntimeError]" not in text
    for word in words:
        assert word in text


def test_what_does_not_load_is_an_error_with_onnxruntimes_reason(tmp_path):
    garbage = tmp_path / "m.onnx"
    garbage.write_bytes(b"garbage")
    model = build("(float[N,3] x) => (float[N,3] y) { y = NoSuchOperator(x) }")
    for file, words in (
        (tmp_path / "none.onnx", ["none.onnx does not load: ", "doesn't exist"]),
        (garbage, ["m.onnx does not load: "]),
        (model.SerializeToString(), ["the model does not load: ", "NoSuchOperator"]),
    ):
        with pytest.raises(ModelError) as caught:
            Session(file)
        one_line(caught, *words)
    with pytest.raises(ModelError, match=r"^candidate 7 does not load"):
        Session(b"garbage", name="candidate 7")


def test_an_axis_whose_name_is_no_text_is_an_error_of_the_model():
    content = tiny_resnet(batch="AXIS").SerializeToString()
    with pytest.raises(ModelError, match="does not load: 'utf-8' codec can't decode"):
        Session(content.replace(b"AXIS", b"\xa1XIS"))


def test_a_model_without_input_is_an_error():
    model = build("() => (float[1] y) { y = Neg(w) }", w=(1,))
    with pytest.raises(ModelError, match="takes no input"):
        Session(model.SerializeToString())


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 3, 15, 16), (3, 16, 16)])
def test_images_that_do_not_fit_are_named_by_shape(free, shape):
    with pytest.raises(ModelError) as caught:
        free.run(noise(*shape))
    one_line(caught, f"the model fails on images {list(shape)}: ", "check that the transform")


@pytest.mark.parametrize(
    ("shape", "nodes"),
    [
        ([5, 3, 2, 2], "y = Relu(x)"),
        ([60], "y = Reshape(x, one)"),
        ([1, 60], "y = Reshape(x, row)"),
        ([], "y = ReduceMax<keepdims=0>(x)"),
    ],
)
def test_scores_of_another_shape_are_refused(shape, nodes):
    model = build(
        f"(float[N,3,2,2] x) => (float[?] y) {{ {nodes} }}",
        one=np.array([-1]),
        row=np.array([1, -1]),
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    session = Session(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        session.predict(noise(5, 3, 2, 2))
    one_line(caught, "not an image classifier", f"5 images give scores of shape {shape}, not [5,K]")


def test_pooled_scores_are_given_as_rows():
    model = build("(float[N,3,2,2] x) => (float[N,3,1,1] y) { y = GlobalAveragePool(x) }")
    images = noise(5, 3, 2, 2)
    scores = Session(model.SerializeToString()).predict(images)
    np.testing.assert_allclose(scores, images.mean(axis=(2, 3)), atol=1e-6)


def test_an_interrupt_passes_through(free, monkeypatch):
    def interrupt(*_):
        raise Interrupted

    monkeypatch.setattr(free, "_session", type("Stub", (), {"run": interrupt})())
    with pytest.raises(Interrupted):
        free.run(noise(1, 3, 16, 16))


# ----------------------------------------------------------------------------- machine


def files(monkeypatch, **contents):
    """Only these files of /sys and /proc can be read."""

    def read_text(self, **_):
        for end, text in contents.items():
            if str(self).replace("/", "_").replace(".", "_").endswith(end):
                return text
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({}, 8),
        ({"cpu_max": "max 100000\n"}, 8),
        ({"cpu_max": "200000 100000\n"}, 2),
        ({"cpu_max": "150000 100000\n"}, 2),
        ({"cpu_max": "10000 100000\n"}, 1),
        ({"cpu_max": "9900000 100000\n"}, 8),
        ({"cpu_max": "\n"}, 8),
        ({"cfs_quota_us": "-1\n", "cfs_period_us": "100000\n"}, 8),
        ({"cfs_quota_us": "300000\n", "cfs_period_us": "100000\n"}, 3),
        ({"cfs_quota_us": "300000\n"}, 8),
        ({"cfs_quota_us": "300000\n", "cfs_period_us": "0\n"}, 8),
    ],
)
def test_cores_are_the_lesser_of_affinity_and_quota(monkeypatch, contents, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    files(monkeypatch, **contents)
    assert cores() == expected


def test_cores_without_affinity_are_the_machines(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    files(monkeypatch)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


INTEL = "model name\t: Some CPU @ 2 GHz \nflags\t\t: fpu sse4_1 avx2 {}\n\nmodel name\t: Other\n"


@pytest.mark.parametrize(
    ("info", "name", "isa", "saturates"),
    [
        (INTEL.format(""), "Some CPU @ 2 GHz", "x86-64 AVX2 without VNNI", True),
        (INTEL.format("avx512f avx512bw"), "Some CPU @ 2 GHz", "x86-64 AVX512 without VNNI", True),
        (INTEL.format("avx_vnni"), "Some CPU @ 2 GHz", "x86-64 AVX-VNNI", False),
        (INTEL.format("avx512bw avx512_vnni"), "Some CPU @ 2 GHz", "x86-64 AVX512-VNNI", False),
        (INTEL.format("avx512_vnni amx_int8"), "Some CPU @ 2 GHz", "x86-64 AMX-INT8", False),
        ("flags : sse4_1\n", "machine", "x86-64 SSE4.1", True),
        ("Features : fp asimd asimddp\n", "machine", "AArch64 dot product", False),
        ("Features : fp asimd\n", "machine", "AArch64 NEON", False),
        ("Features : asimd asimddp i8mm\n", "machine", "AArch64 I8MM", False),
        ("", "machine", "machine", False),
    ],
)
def test_the_processor_is_named_with_what_decides_int8(monkeypatch, info, name, isa, saturates):
    monkeypatch.setattr(runtime.platform, "processor", lambda: "")
    monkeypatch.setattr(runtime.platform, "machine", lambda: "machine")
    files(monkeypatch, cpuinfo=info)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    cpu.cache_clear()
    try:
        seen = cpu()
    finally:
        cpu.cache_clear()
    assert (seen.name, seen.isa, seen.saturates, seen.cores) == (name, isa, saturates, 3)


def test_this_machine_has_a_name_and_cores():
    assert cpu().name
    assert 1 <= cpu().cores == cores() <= os.cpu_count()


def test_a_dynamic_batch_called_by_any_name_is_free():
    for batch in ("N", "batch_size", "None"):
        assert Session(tiny_resnet(batch=batch).SerializeToString()).batch is None
    model = tiny_resnet()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    assert Session(model.SerializeToString()).batch is None
