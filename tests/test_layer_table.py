"""The per-layer table on small models: what is planted is found, what is exact costs nothing."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs import answers, build, noise
from models import prepared, tiny_dataset, tiny_resnet
from quantize import layer_table as room
from quantize.calibrate import calibrate
from quantize.engines import inc, ort
from quantize.graph import io
from quantize.graph.prepare import prepare
from quantize.histogram import Counter
from quantize.layer_table import cut_off, layer_table, weight_range_ratios
from quantize.plan import Plan, Progress, Range, Scheme, Statistics
from quantize.probe import run_once
from quantize.remedies import REPAIRS, repair, rounded_from
from quantize.repair.bench import Bench
from quantize.runtime import Session

FORMATS = ["qdq", "qoperator"]
STRIPES = prepared(tiny_dataset(per_class=8))
LAYERS = ["conv0_fwd", "conv1_fwd", "conv2_fwd", "logits"]


def scaled(model, **factors):
    """A copy with constants multiplied; a double underscore in a name stands for a dot."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {name.replace("__", "."): factor for name, factor in factors.items()}
    for tensor in copy.graph.initializer:
        if tensor.name in known:
            value = numpy_helper.to_array(tensor) * np.float32(known.pop(tensor.name))
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    assert not known
    return copy


@cache
def ready():
    return prepare(tiny_resnet(), run_once, (3, 16, 16)).model


@cache
def planted():
    """One channel between conv1 and conv2 is 300 times as large, and small again behind."""
    factor = np.ones(8, np.float32)
    factor[3] = 300
    return scaled(
        ready(),
        conv1_weight__bn1_fwd=factor.reshape(-1, 1, 1, 1),
        conv1_weight__bn1_fwd__bias=factor,
        conv2_weight__bn2_fwd=(1 / factor).reshape(1, -1, 1, 1),
    )


@cache
def measured(model):
    return calibrate(model(), [STRIPES], threads=1)


def table(model, *repairs, form="qdq", keep=(), images=STRIPES[:6], **options):
    """(rows by name, the int8 file) of one plan."""
    plan = Plan("onnxruntime", form, repairs=repairs, keep_float=keep)
    bench = Bench(model(), measured(model), STRIPES, 1)
    encodings = repair(bench, plan).encodings if repairs else None
    made = ort.quantize(model(), measured(model), plan, encodings)
    base, statistics = rounded_from(bench, plan)
    rows = layer_table(base, made, images, statistics, **options)
    assert [row.name for row in rows] == LAYERS
    return {row.name: row for row in rows}, made


def noise_of(row):
    return 10 ** (-row.sqnr_db / 10)


# ------------------------------------------------------------------------------ the noise


def test_the_layers_of_a_sound_model_make_little_noise():
    rows, _ = table(ready)
    for row in rows.values():
        assert row.int8
        assert 20 < row.sqnr_db < 70
    assert sum(row.noise_share for row in rows.values()) == pytest.approx(1)
    assert sum(row.multiply_add_share for row in rows.values()) == pytest.approx(1)
    total = sum(map(noise_of, rows.values()))
    for row in rows.values():
        assert row.noise_share == pytest.approx(noise_of(row) / total)


def test_a_planted_layer_is_the_worst_and_equalization_mends_it():
    sound, bad = table(ready)[0], table(planted)[0]
    worst = min(bad.values(), key=lambda row: row.sqnr_db)
    assert worst.name == "conv2_fwd"  # its input has one scale for all channels
    assert worst.noise_share > 0.9
    assert worst.sqnr_db < sound["conv2_fwd"].sqnr_db - 15
    assert bad["conv1_fwd"].weight_range_ratio > 30 * sound["conv1_fwd"].weight_range_ratio
    mended = table(planted, "equalize")[0]
    assert mended["conv2_fwd"].sqnr_db > worst.sqnr_db + 15


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("repairs", [(name,) for name in REPAIRS] + [tuple(sorted(REPAIRS))])
@pytest.mark.parametrize("model", [ready, planted])
def test_every_repair_has_a_float_model_that_it_rounds(model, repairs, form):
    """Scales that a repair moved between layers must not count as noise.

    A bias that makes up for what layers before lose does count, but for a planted layer that
    loses much there is only a bias left to make up for it.
    """
    rows, _ = table(model, *repairs, form=form)
    plain, _ = table(model, form=form)
    for name, row in rows.items():
        if name == "logits" and repairs == ("bias",) and model is planted:
            continue
        assert row.sqnr_db > min(plain[name].sqnr_db, 35) - 6, name


@pytest.mark.parametrize("repairs", [(), tuple(sorted(REPAIRS))])
def test_both_formats_give_the_same_table(repairs):
    one, two = (table(ready, *repairs, form=form)[0] for form in FORMATS)
    for name, row in one.items():
        assert row.sqnr_db == pytest.approx(two[name].sqnr_db, abs=0.01)
        assert replace(row, sqnr_db=0, noise_share=0) == replace(
            two[name], sqnr_db=0, noise_share=0
        )


def test_one_layer_alone_is_the_file_with_all_others_left_float():
    """The int8 file that keeps the others float rounds besides what comes out of the layer."""
    others = tuple(name for name in LAYERS if name != "conv1_fwd")
    rows, made = table(ready, keep=others)
    exact, seen = (answers(model, STRIPES[:6])[0] for model in (ready(), made))
    both = 10 * math.log10((exact.astype(float) ** 2).sum() / ((exact - seen) ** 2).sum())
    assert both < rows["conv1_fwd"].sqnr_db < both + 10
    for name in others:
        row = rows[name]
        assert (row.int8, row.sqnr_db, row.noise_share, row.saturation) == (False, *[None] * 3)
        assert row.weight_range_ratio > 1
    assert rows["conv1_fwd"].int8
    assert rows["conv1_fwd"].noise_share == 1


def test_what_int8_holds_exactly_costs_nothing():
    """Weights and pixels are integers times a power of two: conv `a`; `b` has no such luck."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-64, 64, (4, 3, 3, 3)).astype(np.float32)
    whole[:, 0, 0, 0] = 127
    model = build(
        """(float[N,3,8,8] x) => (float[N,2] y) {
            [a] h = Conv<pads=[1,1,1,1]>(x, w)
            [r] r = Relu(h)
            [p] q = GlobalAveragePool(r)
            [f] z = Flatten(q)
            [b] y = Gemm<transB=1>(z, v)
        }""",
        w=whole / 64,
        v=(2, 4),
    )
    model = prepare(model, run_once, (3, 8, 8)).model
    pixels = rng.integers(0, 256, (5, 3, 8, 8)).astype(np.float32)
    pixels[0, 0, 0, :2] = 0, 255
    statistics = calibrate(model, [pixels], threads=1)
    made = ort.quantize(model, statistics, Plan("onnxruntime", "qdq"))
    exact, other = layer_table(model, made, pixels, statistics)
    assert (exact.sqnr_db, exact.noise_share) == (math.inf, 0)
    assert (other.noise_share, math.isfinite(other.sqnr_db)) == (1, True)


def test_without_any_noise_there_are_no_shares_to_divide(monkeypatch):
    monkeypatch.setattr(room, "rounded_layers", lambda *_: {})
    assert {row.noise_share for row in table(ready)[0].values()} == {None}


def test_a_softmax_at_the_end_is_left_out():
    plain = table(ready)[0]
    soft = onnx.ModelProto()
    soft.CopyFrom(ready())
    soft.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["p"], "p", axis=1))
    soft.graph.output[0].name = "p"
    soft = prepare(soft, run_once, (3, 16, 16)).model

    def with_softmax():
        return soft

    rows = table(with_softmax)[0]
    for name, row in rows.items():
        assert row.sqnr_db == pytest.approx(plain[name].sqnr_db, abs=1e-6)


@pytest.mark.inc
@pytest.mark.skipif(inc.available() is not None, reason=str(inc.available()))
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_inc_is_understood_though_it_renames_and_splits(tmp_path, form):
    # The largest bias must not be matched by an equal one below zero: INC's uint8 wraps there.
    model = scaled(ready(), fc_bias=np.float32([1, 0.9, 0.8, 0.7]))
    io.save(model, tmp_path / "float.onnx")
    made = inc.quantize_default(
        tmp_path / "float.onnx", [STRIPES], Plan("inc", form), tmp_path / "work"
    )
    plain = table(ready, form=form)[0]
    for row in layer_table(model, io.load(made), STRIPES[:6]):
        assert row.int8
        assert row.sqnr_db == pytest.approx(plain[row.name].sqnr_db, abs=8)
        assert row.saturation == pytest.approx(0, abs=0.01)


# ------------------------------------------------------------------ the same numbers again


def test_threads_and_company_do_not_change_a_number(monkeypatch):
    one = table(ready)[0]
    assert table(ready, threads=2)[0] == one
    monkeypatch.setattr(room, "_MOST_AT_ONCE", 1)
    alone = table(ready)[0]
    for name, row in alone.items():
        assert row.sqnr_db == pytest.approx(one[name].sqnr_db, abs=1e-3)
    monkeypatch.setattr(room, "_MOST_BYTES", 1)
    monkeypatch.setattr(room, "_MOST_AT_ONCE", 8)
    assert table(ready)[0] == alone


def test_images_that_go_through_together_do_not_change_a_number(monkeypatch):
    together = table(ready)[0]
    seen = count_runs(monkeypatch)
    monkeypatch.setattr(room, "_MOST_VALUES", 4 * 3 * 16 * 16)
    assert table(ready)[0] == together
    assert seen == [4, 2]
    monkeypatch.setattr(room, "_MOST_VALUES", 1)
    assert table(ready)[0] == together
    assert seen[2:] == [1] * 6


def count_runs(monkeypatch):
    """How many images each run of a table's session gets, as they come."""
    seen, run = [], Session.run

    def counted(session, images):
        if "layer table" in session.name:
            seen.append(len(images))
        return run(session, images)

    monkeypatch.setattr(Session, "run", counted)
    return seen


def test_a_fixed_batch_is_filled():
    fixed = onnx.ModelProto()
    fixed.CopyFrom(ready())
    for value in (fixed.graph.input[0], fixed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    made = ort.quantize(ready(), measured(ready), Plan("onnxruntime", "qdq"))
    free = layer_table(ready(), made, STRIPES[:3])
    for one, other in zip(layer_table(fixed, made, STRIPES[:3]), free, strict=True):
        assert one.sqnr_db == pytest.approx(other.sqnr_db, abs=1e-3)


# -------------------------------------------------------------------------- cut off, ranges


def test_what_is_cut_off_is_told_by_histogram_and_by_counting_alike():
    plan = Plan("onnxruntime", "qdq")
    half = {name: Range(r.low / 2, r.high / 2) for name, r in measured(ready).ranges.items()}
    made = ort.quantize(ready(), replace(measured(ready), ranges=half), plan)
    told = layer_table(ready(), made, STRIPES, measured(ready))
    counted = layer_table(ready(), made, STRIPES)
    for one, other in zip(told, counted, strict=True):
        if "Conv" in one.operator:
            assert other.saturation > 0.001
        assert one.saturation == pytest.approx(other.saturation, rel=0.05, abs=1e-4)
        assert (one.sqnr_db, one.noise_share) == (other.sqnr_db, other.noise_share)
    assert {row.saturation for row in table(ready)[0].values()} == {0}


def test_an_equalized_activation_is_counted_anew():
    plan = Plan("onnxruntime", "qdq", repairs=("equalize",))
    bench = Bench(planted(), measured(planted), STRIPES, 1)
    model, statistics = rounded_from(bench, plan)
    gone = measured(planted).histograms.keys() - statistics.histograms.keys()
    assert gone == {"relu1"}
    for name in measured(planted).histograms.keys() - gone:
        assert statistics.histograms[name] is measured(planted).histograms[name]
    exact, same = (answers(m, STRIPES)[0] for m in (planted(), model))
    np.testing.assert_allclose(same, exact, atol=1e-4 * np.abs(exact).max())


def seen(values, span=None):
    counter = Counter()
    counter.add("x", np.asarray(values, np.float32))
    low, high = span or (float(np.min(values)), float(np.max(values)))
    return Statistics({"x": Range(low, high)}, 1, {"x": counter.counts("x")})


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        ((0.0, 1000.0), 0),
        ((-1e9, 999.0), 0),
        ((0.0, 500.0), 0.5),
        ((100.0, 1000.0), 0.1),
        ((250.0, 750.0), 0.5),
        ((2000.0, 3000.0), 1),
        ((-3.0, -2.0), 1),
    ],
)
def test_the_share_beyond_two_limits(limits, share):
    assert cut_off(limits, "x", seen(np.arange(1000))) == pytest.approx(share, abs=0.002)


def test_a_grid_that_holds_the_exact_range_cuts_nothing_off():
    """The range ends within a bin, whose other end is far outside."""
    values = np.float32([1.0, 1.01, 64.9])
    assert cut_off((0, 64.91), "x", seen(values)) == 0
    assert cut_off((0, 64.0), "x", seen(values)) == pytest.approx(1 / 3)
    assert 0 < cut_off((0, 64.5), "x", seen(values)) < 1 / 3
    assert cut_off((-64.91, 0), "x", seen(-values)) == 0
    assert cut_off((-64.0, 0), "x", seen(-values)) == pytest.approx(1 / 3)


def test_a_tensor_of_one_value():
    assert cut_off((0, 5), "x", seen([2.0, 2.0])) == 0
    assert cut_off((3, 5), "x", seen([2.0, 2.0])) == 1
    assert cut_off((-1, 1), "x", seen([0.0])) == 0


def test_weight_range_ratios_leave_channels_of_zeros_out():
    model = build(
        """(float[N,2,4,4] x) => (float[N,2] y) {
            [c] h = Conv(x, w)
            [p] q = GlobalAveragePool(h)
            [f] z = Flatten(q)
            [g] y = Gemm(z, v)
            [o] o = Relu(y)
        }""",
        w=np.float32([[[[0.5]], [[-2]]], [[[0]], [[0]]], [[[0.25]], [[0.1]]]]),
        v=np.float32([[1, 10], [2, -40], [-4, 20]]),
    )
    assert weight_range_ratios(model) == {"c": 8, "g": 10}


def test_a_layer_of_zeros_has_no_ratio():
    model = build(
        "(float[N,2] x) => (float[N,2] y) { [g] y = Gemm(x, v) }", v=np.zeros((2, 2), np.float32)
    )
    assert weight_range_ratios(model) == {}


# --------------------------------------------------------------------------- out of time


def test_time_that_is_over_leaves_the_rest_unmeasured(monkeypatch):
    monkeypatch.setattr(room, "_MOST_AT_ONCE", 2)
    asked = iter([False, True])
    rows = table(ready, expired=lambda: next(asked))[0]
    whole = table(ready)[0]
    first, rest = LAYERS[:2], LAYERS[2:]
    assert all(rows[name].sqnr_db == whole[name].sqnr_db for name in first)
    assert all((rows[name].sqnr_db, rows[name].noise_share) == (None, None) for name in rest)
    assert sum(rows[name].noise_share for name in first) == pytest.approx(1)
    assert rows["conv2_fwd"].saturation == 0  # the histogram tells
    for name in LAYERS:
        assert rows[name].weight_range_ratio == whole[name].weight_range_ratio
        assert rows[name].multiply_add_share == whole[name].multiply_add_share


def test_time_that_is_over_between_images_leaves_all_layers_of_the_session_unmeasured(monkeypatch):
    monkeypatch.setattr(room, "_MOST_VALUES", 1)
    monkeypatch.setattr(room, "_MOST_AT_ONCE", 2)
    asked = iter([False] * 7 + [True] * 2)  # 6 images of the first two layers, one of the next
    rows = table(ready, expired=lambda: next(asked))[0]
    whole = table(ready)[0]
    assert [row.sqnr_db for row in rows.values()] == [
        *(whole[name].sqnr_db for name in LAYERS[:2]), None, None
    ]  # fmt: skip


def test_without_images_nothing_is_measured():
    rows = table(ready, images=STRIPES[:0])[0]
    assert {row.sqnr_db for row in rows.values()} == {None}
    assert all(row.int8 for row in rows.values())


def test_progress_counts_layers(monkeypatch):
    monkeypatch.setattr(room, "_MOST_AT_ONCE", 3)
    told = []
    table(ready, on_progress=told.append)
    assert told == [Progress("layers", 3, 4, "layers"), Progress("layers", 4, 4, "layers")]


def test_per_tensor_weights_and_seven_bits():
    statistics = measured(ready)
    for scheme in (Scheme("per_tensor"), Scheme(reduce_range=True)):
        plan = Plan("onnxruntime", "qoperator", scheme)
        made = ort.quantize(ready(), statistics, plan)
        plain = table(ready)[0]
        for row in layer_table(ready(), made, STRIPES[:6], statistics):
            assert 15 < row.sqnr_db != plain[row.name].sqnr_db


def test_noise_images_do_not_matter_to_the_shares_of_work():
    made = ort.quantize(ready(), measured(ready), Plan("onnxruntime", "qdq"))
    rows = layer_table(ready(), made, noise(2, 3, 16, 16))
    work = [16 * 16 * 8 * 27, 16 * 16 * 8 * 72, 16 * 16 * 8 * 72, 8 * 4]
    expected = [part / sum(work) for part in work]
    assert [row.multiply_add_share for row in rows] == pytest.approx(expected)
