"""Remedies on small models: what they decide is what the int8 file holds, bit for bit."""

import io
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from graphs import answers, build, noise
from models import prepared, tiny_dataset, tiny_resnet
from quantize.calibrate import calibrate
from quantize.candidates import finished
from quantize.engines import ort
from quantize.errors import EngineError
from quantize.files import npz_bytes
from quantize.graph.expose import with_outputs
from quantize.graph.layers import absorbed, constants_of, layers, with_constants
from quantize.graph.points import quantization_points
from quantize.graph.prepare import prepare
from quantize.overflow import overflows
from quantize.plan import Encoding, Encodings, Plan, Range, Scheme
from quantize.probe import run_once
from quantize.remedies import REPAIRS, at_work, plain_encodings, repair, rounded_from
from quantize.repair.bench import Bench
from quantize.repair.grids import encoding_of, off_the_grid

FORMATS = ["qdq", "qoperator"]
STRIPES = prepared(tiny_dataset(per_class=8))


def depthwise_net():
    """Convolution, depthwise, pointwise, with weights whose means are not 0 and a dead channel."""
    rng = np.random.default_rng(11)

    def skewed(*shape):
        spread = np.exp(rng.normal(0, 0.8, (shape[0], 1, 1, 1)))
        return (spread * rng.gamma(0.5, 0.4, shape) - 0.1).astype(np.float32)

    weights = {"w": skewed(8, 3, 3, 3), "v": skewed(8, 1, 3, 3), "u": skewed(12, 8, 1, 1)}
    weights["v"][5] = 0
    biases = {
        name: rng.normal(0.2, 0.3, n).astype(np.float32)
        for name, n in (("a", 8), ("b", 8), ("fc", 4))
    }
    biases["b"][5] = 1.5
    model = build(
        """(float[N,3,16,16] x) => (float[N,4] y) {
            [c0] h0 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, a)
            [r0] x0 = Clip(h0, zero, six)
            [c1] h1 = Conv<group=8, pads=[1,1,1,1]>(x0, v, b)
            [r1] x1 = Clip(h1, zero, six)
            [c2] h2 = Conv(x1, u)
            [r2] x2 = Relu(h2)
            [p] q = GlobalAveragePool(x2)
            [f] z = Flatten(q)
            [g] y = Gemm<transB=1>(z, k, fc)
        }""",
        k=rng.normal(0, 1, (4, 12)).astype(np.float32),
        zero=np.float32(0),
        six=np.float32(6),
        **weights,
        **biases,
    )
    return prepare(model, run_once, (3, 16, 16)).model


def matmul_net():
    """A pool that moves data, and a MatMul, which can carry no bias."""
    model = build(
        """(float[N,3,8,8] x) => (float[N,4] y) {
            [c] h = Conv<pads=[1,1,1,1]>(x, w)
            [r] r = Relu(h)
            [m] m = MaxPool<kernel_shape=[4,4], strides=[4,4]>(r)
            [f] z = Flatten(m)
            [d] t = MatMul(z, k)
            [n] y = Add(t, e)
        }""",
        w=(6, 3, 3, 3),
        k=(24, 4),
        e=(4,),
    )
    return prepare(model, run_once, (3, 8, 8)).model


NETS = {
    "resnet": (lambda: prepare(tiny_resnet(), run_once, (3, 16, 16)).model, STRIPES),
    "depthwise": (depthwise_net, STRIPES),
    "matmul": (matmul_net, noise(20, 3, 8, 8)),
}


@pytest.fixture(scope="module", params=NETS)
def bench(request):
    make, images = NETS[request.param]
    model = make()
    return Bench(model, calibrate(model, [images], threads=1), images, 1)


@pytest.fixture(scope="module")
def skewed():
    model = depthwise_net()
    return Bench(model, calibrate(model, [STRIPES], threads=1), STRIPES, 1)


def plan(*repairs, form="qdq", keep=(), walked=None, **scheme):
    made = Plan("onnxruntime", form, Scheme(**scheme), tuple(sorted(repairs)), tuple(keep))
    return replace(made, walked=walked)


def written(bench, plan, encodings):
    made = ort.quantize(bench.model, bench.statistics, plan, encodings)
    onnx.checker.check_model(made)
    return made


def sqnr(bench, *repairs, form="qdq", keep=(), walked=None):
    wanted = plan(*repairs, form=form, keep=keep, walked=walked)
    encodings = repair(bench, wanted).leaving(keep)
    exact = answers(bench.model, bench.images)[0].astype(np.float64)
    seen = answers(written(bench, wanted, encodings), bench.images)[0]
    return 10 * np.log10((exact**2).sum() / ((exact - seen) ** 2).sum())


def weights_of(model, encodings):
    return [layer for layer in layers(model) if layer.weight in encodings.tensors]


# ----------------------------------------------------------------- the file's integers


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("repairs", [REPAIRS, ("rounding",), ("equalize", "scales")])
def test_the_file_holds_the_encodings_bit_for_bit(bench, form, repairs):
    """Nothing is computed again from max|W| or from the range."""
    wanted = plan(*repairs, form=form)
    encodings = repair(bench, wanted).encodings
    held = constants_of(written(bench, wanted, encodings))
    arrays = encodings.to_arrays()
    found = weights_of(bench.model, encodings)
    assert len(found) == len(layers(bench.model))
    for layer in found:
        name = layer.weight
        assert held[f"{name}_quantized"].dtype == np.int8
        np.testing.assert_array_equal(held[f"{name}_quantized"], arrays[f"integer:{name}"])
        assert held[f"{name}_scale"].dtype == np.float32
        np.testing.assert_array_equal(held[f"{name}_scale"], arrays[f"scale:{name}"])
        assert not held[f"{name}_zero_point"].any()


@pytest.mark.parametrize("form", FORMATS)
def test_the_file_holds_the_activations_scales_and_zero_points(bench, form):
    wanted = plan("ranges", "bias", form=form)
    encodings = repair(bench, wanted).encodings
    held = constants_of(written(bench, wanted, encodings))
    before = {behind: name for name, behind in absorbed(bench.model).items()}
    points = quantization_points(bench.model)
    if bench.model.graph.node[-1].op_type == "Gemm":
        points = points[:-1]  # scores stay float
    assert len(points) > 3
    for name in points:
        encoding = encodings.tensors[name]
        # QOperator gives the result of an absorbed Relu the name of what the Relu read.
        stem = name if f"{name}_scale" in held else before[name]
        assert held[f"{stem}_scale"] == encoding.scale
        assert held[f"{stem}_zero_point"] == encoding.zero_point
        assert held[f"{stem}_zero_point"].dtype == np.uint8


@pytest.mark.parametrize("form", FORMATS)
def test_biases_survive_in_int32(bench, form):
    """Those of channels whose weights are 0 too."""
    wanted = plan("bias", "scales", form=form)
    encodings = repair(bench, wanted).encodings
    made = written(bench, wanted, encodings)
    held = constants_of(made)
    with_bias = [la for la in weights_of(bench.model, encodings) if la.name in encodings.biases]
    assert with_bias
    for layer in with_bias:
        [name] = [
            n for n in held if n in (f"{layer.bias}_quantized", f"{layer.name}.bias_quantized")
        ]
        assert held[name].dtype == np.int32
        unit = bias_unit(made, held, name, f"{layer.weight}_scale")
        back, bias = held[name] * unit, encodings.biases[layer.name]
        # Where the unit is tiny, float32 itself is the coarser grid.
        assert (np.abs(back - bias) <= unit * 0.51 + np.finfo(np.float32).eps * np.abs(bias)).all()


def bias_unit(made, held, bias, weight_scale):
    """Input scale times weight scale, as the file's operators have it."""
    if f"{bias}_scale" in held:  # QDQ says it
        return held[f"{bias}_scale"].astype(np.float64)
    [node] = [node for node in made.graph.node if bias in node.input]
    return held[node.input[1]].astype(np.float64) * held[weight_scale]


def test_reduced_weights_have_seven_bits(bench):
    wanted = plan("rounding", "scales", reduce_range=True)
    arrays = repair(bench, wanted).encodings.to_arrays()
    integers = [value for key, value in arrays.items() if key.startswith("integer:")]
    assert integers
    assert max(np.abs(value.astype(int)).max() for value in integers) <= 63


# ------------------------------------------------------------------------- granularity


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("repairs", [("bias",), REPAIRS])
def test_where_one_scale_a_tensor_is_asked_repairs_give_no_more(bench, repairs, form):
    wanted = plan(*repairs, form=form, weight_granularity="per_tensor")
    encodings = repair(bench, wanted).encodings
    weights = [encodings.tensors[name] for name in encodings.constants if name in encodings.tensors]
    assert len(weights) >= 2
    assert {(seen.scale.shape, seen.axis) for seen in weights} == {((), None)}
    assert _scale_sizes(written(bench, wanted, encodings)) == {1}
    free = plan(*repairs, form=form)
    assert _scale_sizes(written(bench, free, repair(bench, free).encodings)) > {1}


def _scale_sizes(made):
    """How many scales each tensor has; a bias has as many as it has values in either case."""
    held = constants_of(made).items()
    return {v.size for k, v in held if k.endswith("_scale") and "bias" not in k}


# --------------------------------------------------------------------------- portable


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("repairs", [(), REPAIRS])
def test_portable_files_have_no_pair_that_can_overflow(bench, repairs, form):
    wanted = plan(*repairs, form=form, portable=True)
    encodings = repair(bench, wanted).encodings
    made = finished(written(bench, wanted, encodings), bench.model)  # perhaps wider
    assert {seen.possible for seen in overflows(made, bench.images[:0]).values()} == {0}
    free = written(bench, plan(*repairs, form=form), repair(bench, plan(*repairs)).encodings)
    assert max(seen.possible for seen in overflows(free, bench.images[:0]).values()) > 0


def test_portable_weights_use_the_eighth_bit_where_their_neighbour_is_small(bench):
    arrays = repair(bench, plan("rounding", "scales", portable=True)).encodings.to_arrays()
    integers = [value for key, value in arrays.items() if key.startswith("integer:")]
    assert max(np.abs(value.astype(int)).max() for value in integers) > 100


def test_layers_that_repairs_do_not_know_have_seven_bits_where_portable():
    shared = build(
        """(float[N,3,8,8] x) => (float[N,4] y) {
            [a] h = Conv<auto_pad="SAME_UPPER">(x, w)
            [p] q = GlobalAveragePool(h)
            [f] z = Flatten(q)
            [g] y = Gemm<transB=1>(z, k)
        }""",
        w=np.ones((4, 3, 3, 3), np.float32),
        k=(4, 4),
    )
    ready = prepare(shared, run_once, (3, 8, 8)).model
    images = noise(8, 3, 8, 8)
    ground = Bench(ready, calibrate(ready, [images], threads=1), images, 1)
    wanted = plan("rounding", portable=True)
    made = written(ground, wanted, repair(ground, wanted).encodings)
    held = constants_of(made)["w_quantized"]
    assert held.max() == 64
    assert {seen.possible for seen in overflows(made, images).values()} == {0}


# -------------------------------------------------------------------------- encodings


def test_encodings_survive_a_file(bench):
    encodings = repair(bench, plan(*REPAIRS)).leaving(["c0", "conv0_fwd"])
    with np.load(io.BytesIO(npz_bytes(encodings.to_arrays())), allow_pickle=False) as arrays:
        back = Encodings.from_arrays(arrays)
    assert back.sha256 == encodings.sha256
    assert back.tensors.keys() == encodings.tensors.keys()
    for name, encoding in encodings.tensors.items():
        other = back.tensors[name]
        assert (other.zero_point, other.axis) == (encoding.zero_point, encoding.axis)
        np.testing.assert_array_equal(other.scale, encoding.scale)
    for mine, theirs in ((encodings.constants, back.constants), (encodings.biases, back.biases)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    for form in FORMATS:
        one, two = (written(bench, plan(form=form), each) for each in (encodings, back))
        assert one.SerializeToString() == two.SerializeToString()


def test_the_float_file_survives_too():
    named = Encodings({}, {}, {}, source="0f" * 32)
    assert Encodings.from_arrays(named.to_arrays()).source == named.source
    assert Encodings.from_arrays({}).source is None


def test_the_hash_tells_every_change():
    scale = np.array([0.5, 0.25], np.float32)
    base = Encodings(
        {"w": Encoding(scale, 0, 0), "x": Encoding(np.float32(0.1), 3)},
        {"w": np.ones((2, 2), np.float32)},
        {"c": np.zeros(2, np.float32)},
    )
    others = [
        replace(base, tensors={**base.tensors, "x": Encoding(np.float32(0.1), 4)}),
        replace(base, tensors={**base.tensors, "x": Encoding(np.float32(0.2), 3)}),
        replace(base, tensors={**base.tensors, "w": Encoding(scale, 0, 1)}),
        replace(base, constants={"w": np.zeros((2, 2), np.float32)}),
        replace(base, biases={"c": np.ones(2, np.float32)}),
        replace(base, biases={"d": np.zeros(2, np.float32)}),
    ]
    assert len({each.sha256 for each in (base, *others)}) == 7
    assert replace(base, biases=dict(base.biases)).sha256 == base.sha256
    assert replace(base, source="ab" * 32).sha256 == base.sha256


@pytest.mark.parametrize(
    "arrays",
    [
        {"scale:w": np.ones(2, np.float32)},
        {"integer:w": np.ones((2, 2), np.int8)},
        {"scale:w": np.ones(2, np.float32), "point:w": np.zeros(3, np.int32)},
        {"other:w": np.ones(2)},
        {"w": np.ones(2)},
        {"source:sha256": np.zeros(31, np.uint8)},
        {"source:sha256": np.zeros(32, np.float32)},
    ],
)
def test_arrays_of_another_form_are_refused(arrays):
    with pytest.raises(ValueError, match=r"encodings|values to unpack"):
        Encodings.from_arrays(arrays)


def test_repairs_are_deterministic_and_order_is_theirs(bench):
    one = repair(bench, plan(*REPAIRS)).encodings
    two = repair(bench, replace(plan(), repairs=tuple(reversed(REPAIRS)))).encodings
    assert one.sha256 == two.sha256


def test_every_repair_changes_something(skewed):
    assert len({repair(skewed, plan(name)).encodings.sha256 for name in REPAIRS}) == len(REPAIRS)


def test_the_number_of_threads_changes_nothing(skewed):
    one = repair(skewed, plan(*REPAIRS)).encodings
    assert repair(replace(skewed, threads=2), plan(*REPAIRS)).encodings.sha256 == one.sha256


OFFLINE = tuple(name for name in REPAIRS if name != "rounding")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("repairs", [OFFLINE, ("bias",), ("equalize", "scales")])
def test_what_follows_from_calibration_alone_is_what_the_file_holds(bench, form, repairs):
    wanted = plan(*repairs, form=form, walked=0)
    encodings = repair(bench, wanted).encodings
    held = constants_of(written(bench, wanted, encodings))
    for layer in weights_of(bench.model, encodings):
        found = encodings.tensors[layer.weight]
        integers = held[f"{layer.weight}_quantized"]
        shape = [-1 if axis == layer.axis else 1 for axis in range(integers.ndim)]
        reals = integers * np.asarray(found.scale).reshape(shape)
        np.testing.assert_allclose(reals, encodings.constants[layer.weight], rtol=1e-6)


def test_no_session_is_needed_where_no_image_is_looked_at(skewed):
    fresh = replace(skewed)
    repair(fresh, plan("bias", "pixels", "ranges", "scales", walked=0))
    repair(fresh, plan("pixels", "ranges", "scales"))
    assert not fresh.stages.kept
    repair(fresh, plan("bias"))
    assert fresh.stages.kept


def test_the_bias_offline_gets_most_of_what_a_walk_gets(skewed):
    plain, offline, walked = (
        sqnr(skewed, *repairs, walked=walked)
        for repairs, walked in (((), None), (("bias",), 0), (("bias",), None))
    )
    assert offline > plain + 0.5 * (walked - plain) > plain + 0.5


def test_what_equalized_layers_read_has_the_means_that_it_has(skewed):
    ground = skewed.equalized
    assert ground.moved
    reads = {layer.name: layer.input for layer in layers(ground.model)}
    exposed = with_outputs(ground.model, [name for name in reads.values() if name != "x"])
    session = onnxruntime.InferenceSession(exposed.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    seen = dict(zip(names, session.run(None, {"x": skewed.images}), strict=True))
    for name, read in reads.items():
        values = skewed.images if read == "x" else seen[read]
        exact = values.mean(axis=(0, *range(2, values.ndim)), dtype=np.float64)
        np.testing.assert_allclose(ground.input_means[name], exact, rtol=1e-4, atol=1e-5)


def test_offline_it_matters_to_no_other_layer_what_stays_float(skewed):
    keep = (layers(skewed.model)[1].name,)
    wanted = plan("bias", "ranges", keep=keep, walked=0)
    whole = repair(skewed, replace(wanted, keep_float=()))
    assert repair(skewed, wanted).leaving(keep).sha256 == whole.leaving(keep).sha256


def test_rounding_needs_images(skewed):
    with pytest.raises(EngineError, match="'rounding' needs images"):
        repair(skewed, plan("rounding", walked=0))


def test_an_unknown_repair_is_refused(skewed):
    with pytest.raises(EngineError, match="there is no repair 'magic'"):
        repair(skewed, plan("bias", "magic"))


# ------------------------------------------------------------------------ float layers


@pytest.mark.parametrize("form", FORMATS)
def test_a_layer_left_float_has_its_exact_weights(bench, form):
    known = layers(bench.model)
    keep = (known[1].name,)
    wanted = plan("rounding", "scales", "bias", form=form, keep=keep)
    encodings = repair(bench, wanted).leaving(keep)
    made = written(bench, wanted, encodings)
    held, exact = constants_of(made), constants_of(bench.model)
    assert f"{known[1].weight}_quantized" not in held
    np.testing.assert_array_equal(held[known[1].weight], exact[known[1].weight])
    if known[1].bias:
        np.testing.assert_array_equal(held[known[1].bias], exact[known[1].bias])
    assert f"{known[0].weight}_quantized" in held


def test_with_all_layers_float_nothing_is_lost(skewed):
    names = tuple(node.name for node in skewed.model.graph.node)
    assert sqnr(skewed, *REPAIRS, keep=names) > 100


def test_leaving_none_is_all_that_was_decided(skewed):
    found = repair(skewed, plan("bias"))
    assert found.leaving(()).sha256 == found.encodings.sha256
    assert found.leaving(["no layer"]).sha256 == found.encodings.sha256


def mean_error(bench, plan, encodings):
    exact = answers(bench.model, bench.images)[0]
    seen = answers(written(bench, plan, encodings), bench.images)[0]
    return float(np.abs((exact - seen).mean(axis=0)).max())


def test_layers_make_up_for_those_that_are_rounded_and_for_no_others(skewed):
    """A bias that corrects for a layer before it is wrong once that layer stays float."""
    model = planted(skewed.model)
    coarse = Bench(model, calibrate(model, [STRIPES], threads=1), STRIPES, 1)
    keep = ("c2",)
    wanted = plan("bias", keep=keep)
    stale = repair(coarse, plan("bias")).leaving(keep)
    fresh = repair(coarse, wanted).leaving(keep)
    assert mean_error(coarse, wanted, fresh) < 0.2 * mean_error(coarse, wanted, stale)
    assert "u" not in fresh.tensors
    np.testing.assert_array_equal(fresh.constants["u"], constants_of(model)["u"])


def planted(model):
    """In c2 the weights of a channel that is always 0 leave no integers for the others."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if tensor.name == "b":
            value[5] = -1
        if tensor.name == "u":
            value[:, 5] = 500
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return changed


def test_a_layer_left_float_keeps_the_equalized_weights(skewed):
    keep = ("c1",)
    wanted = plan("equalize", "bias", keep=keep)
    fresh = repair(skewed, wanted).encodings
    assert not np.array_equal(fresh.constants["v"], constants_of(skewed.model)["v"])
    every = tuple(node.name for node in skewed.model.graph.node)
    floats = repair(skewed, plan("equalize", "bias", keep=every)).encodings
    made = written(skewed, plan(keep=every), floats)
    exact = answers(skewed.model, skewed.images)[0]
    np.testing.assert_allclose(answers(made, skewed.images)[0], exact, atol=1e-4)


def test_pinned_layers_are_not_repaired(skewed):
    found = repair(replace(skewed, pinned=frozenset({"c1"})), plan(*REPAIRS))
    assert "c1" not in found.weights
    assert "v" not in found.encodings.constants
    assert {"c0", "c2", "g"} == found.weights.keys()


def front_nodes(model):
    return [n.name for n in model.graph.node if n.op_type in ("Pad", "Mul")]


def test_a_first_layer_left_float_reads_the_image_as_it_is(skewed):
    """Told with the others and by itself, and as written without its front."""
    whole = repair(skewed, plan("pixels"))
    made = written(skewed, plan("pixels"), whole.encodings)
    assert front_nodes(made) == ["x.padded", "x.factor.output"]
    keep = ("c0",)
    for encodings in (whole.leaving(keep), repair(skewed, plan("pixels", keep=keep)).encodings):
        made = written(skewed, plan("pixels", keep=keep), encodings)
        assert front_nodes(made) == []
        np.testing.assert_array_equal(constants_of(made)["w"], constants_of(skewed.model)["w"])
    pinned = repair(replace(skewed, pinned=frozenset(keep)), plan("pixels")).encodings
    assert "x.factor" not in pinned.constants


@pytest.mark.parametrize("form", FORMATS)
def test_the_front_is_rebuilt_from_the_encodings_alone(skewed, form):
    wanted = plan(*REPAIRS, form=form)
    encodings = repair(skewed, wanted).encodings
    file = io.BytesIO(npz_bytes(encodings.to_arrays()))
    again = Encodings.from_arrays(dict(np.load(file)))
    blind = replace(
        skewed.statistics, ranges=dict.fromkeys(skewed.statistics.ranges, Range(0.0, 1.0))
    )
    made = written(skewed, wanted, encodings)
    assert ort.quantize(skewed.model, blind, wanted, again) == made
    assert len(front_nodes(made)) == 2


# ------------------------------------------------------------------------------- gains


@pytest.mark.parametrize("form", FORMATS)
def test_bias_correction_helps_skewed_weights(skewed, form):
    assert sqnr(skewed, "bias", form=form) > sqnr(skewed, form=form) + 1


@pytest.mark.parametrize("form", FORMATS)
def test_exact_pixels_take_their_share_of_the_noise_away(form):
    """What is left is that of the first layer's weights and of its result."""
    model = prepare(tiny_resnet(), run_once, (3, 16, 16)).model
    bench = Bench(model, calibrate(model, [STRIPES], threads=1), STRIPES, 1)
    keep = [node.name for node in model.graph.node if node.name != "conv0_fwd"]
    noisy, exact = (sqnr(bench, *r, form=form, keep=keep) for r in (("ranges",), ("pixels",)))
    assert exact > noisy + 2


def test_bias_correction_makes_the_means_behind_the_clip_right(skewed):
    encodings = repair(skewed, plan("bias")).encodings
    int8 = with_constants(skewed.model, encodings.constants, encodings.biases)
    scale, zero = encodings.tensors["x"].scale, encodings.tensors["x"].zero_point
    rough = (np.clip(np.rint(skewed.images / scale) + zero, 0, 255) - zero) * scale
    exact, seen = (
        answers(with_outputs(model, ["x0"]), images)[1].mean(axis=(0, 2, 3), dtype=np.float64)
        for model, images in ((skewed.model, skewed.images), (int8, rough))
    )
    np.testing.assert_allclose(seen, exact, atol=1e-4)


def test_images_on_no_grid_are_rounded_as_before():
    make, images = NETS["matmul"]
    model = make()
    bench = Bench(model, calibrate(model, [images], threads=1), images, 1)
    with_pixels, without = (repair(bench, plan(*r)) for r in (("bias", "pixels"), ("bias",)))
    assert with_pixels.encodings.sha256 == without.encodings.sha256


def test_only_repairs_that_find_something_are_at_work(skewed):
    wanted = plan(*REPAIRS)
    assert at_work(skewed, wanted) == wanted
    pinned = replace(skewed, pinned=frozenset({"c0", "c1", "c2"}))
    assert set(REPAIRS) - set(at_work(pinned, wanted).repairs) == {"equalize"}
    off_grid = replace(skewed, images=noise(*skewed.images.shape))
    assert set(REPAIRS) - set(at_work(off_grid, wanted).repairs) == {"pixels"}


@pytest.mark.parametrize("repairs", [("equalize",), ("pixels",), REPAIRS])
def test_what_weights_are_rounded_from_computes_the_same(skewed, repairs):
    """And its weights, not the prepared model's, are those next to the repaired."""
    wanted = plan(*repairs)
    model, _ = rounded_from(skewed, wanted)
    exact = answers(skewed.model, skewed.images)[0]
    np.testing.assert_allclose(answers(model, skewed.images)[0], exact, rtol=1e-4, atol=1e-4)
    own, plain = constants_of(model), constants_of(skewed.model)
    found = repair(skewed, wanted).encodings
    names = [layer.weight for layer in layers(skewed.model)]
    for name in names:
        lost = np.abs(found.constants[name] - own[name]).max()
        assert lost < 3 * np.max(found.tensors[name].scale), name
    assert any(not np.array_equal(own[name], plain[name]) for name in names)


def test_all_remedies_together_help_most(skewed):
    assert sqnr(skewed, *REPAIRS) > max(sqnr(skewed), sqnr(skewed, "bias"), sqnr(skewed, "scales"))


def test_plain_encodings_are_those_of_onnxruntime(skewed):
    """Without repairs only the rounding of the last digit differs."""
    engine = written(skewed, plan(), Encodings({}, {}, {}))
    ours = written(skewed, plan(), repair(skewed, plan()).encodings)
    one, two = constants_of(engine), constants_of(ours)
    for layer in layers(skewed.model):
        difference = one[f"{layer.weight}_quantized"].astype(int) - two[f"{layer.weight}_quantized"]
        assert np.abs(difference).max() <= 1


# ------------------------------------------------------------------------- activations


def test_an_absorbed_result_has_the_encoding_of_its_relu(bench):
    encodings = repair(bench, plan("ranges")).encodings.tensors
    pairs = absorbed(bench.model)
    assert pairs
    for before, behind in pairs.items():
        assert encodings[before] == encodings[behind]


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(0.0, 2.55, 0), (-1.0, 1.0, 127), (0.5, 2.55, 0), (-5.1, -1.0, 255)]
)
def test_a_range_becomes_scale_and_zero_point(low, high, zero):
    encoding = encoding_of(Range(low, high))
    assert encoding.scale == np.float32((max(high, 0) - min(low, 0)) / 255)
    assert encoding.scale.dtype == np.float32
    assert encoding.zero_point == zero
    assert encoding.axis is None


def test_a_range_of_nothing_has_a_scale_too():
    encoding = encoding_of(Range(0.0, 0.0))
    assert (encoding.scale, encoding.zero_point) == (1, 0)


def grid_error(values, span):
    encoding = encoding_of(span)
    integers = np.clip(np.rint(values / encoding.scale) + encoding.zero_point, 0, 255)
    return np.square((integers - encoding.zero_point) * encoding.scale - values).mean()


def test_pixels_from_minus_one_to_one_are_moved_off_the_half():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 30, 30))
    images = (pixels / np.float32(127.5) - 1).astype(np.float32)
    span = Range(-1.0, 1.0)
    found = off_the_grid(span, images)
    assert -1.02 <= found.low <= -1
    assert 1 <= found.high <= 1.02
    assert grid_error(images, found) < 0.5 * grid_error(images, span)


def test_pixels_that_are_on_the_grid_stay():
    images = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(1, 1, 16, 16)
    assert off_the_grid(Range(0.0, 1.0), images) == Range(0.0, 1.0)


def activations_of(bench, wanted):
    """Scales of what no constant has."""
    found = repair(bench, wanted).encodings
    return {
        name: (float(each.scale), each.zero_point)
        for name, each in found.tensors.items()
        if name not in found.constants
    }


@pytest.mark.parametrize("method", ["minmax", "percentile", "kl", "mse"])
def test_repairs_keep_the_ranges_of_the_method_save_the_one_that_chooses_them(skewed, method):
    plain = plain_encodings(skewed.model, skewed.statistics, method).tensors
    wanted = {name: (float(each.scale), each.zero_point) for name, each in plain.items()}
    assert activations_of(skewed, plan("bias", "scales", walked=0, method=method)) == wanted
    chosen = plan("ranges", walked=0)
    other = replace(chosen, scheme=Scheme(method=method))
    assert activations_of(skewed, other) == activations_of(skewed, chosen)


@pytest.mark.parametrize(
    ("repairs", "method"), [(("ranges",), "minmax"), ((), "mse"), ((), "percentile")]
)
def test_ranges_of_equalized_activations_follow_their_new_values(skewed, repairs, method):
    """An old histogram, of channels that were small, would clip those that are large now."""
    model, statistics = skewed.model, skewed.statistics
    narrow = {name: np.zeros_like(counts) for name, counts in statistics.histograms.items()}
    for name, counts in statistics.histograms.items():
        narrow[name][np.flatnonzero(counts)[len(np.flatnonzero(counts)) // 2]] = 10**6
    stale = replace(skewed, statistics=replace(statistics, histograms=narrow))
    options = {"walked": 0, "method": method}
    both = repair(stale, plan("equalize", *repairs, **options)).encodings.tensors
    alone = repair(stale, plan(*repairs, **options)).encodings.tensors
    equal = repair(skewed, plan("equalize")).encodings.tensors
    grown = [n for n in narrow if n in both and n != "x" and both[n].scale > 1.5 * alone[n].scale]
    assert set(grown) & {"x0", "x1"}
    for name in set(grown) & {"x0", "x1"}:
        assert both[name].scale > 0.5 * equal[name].scale
    assert model is skewed.model


def test_the_models_bytes_hold_no_other_weights(skewed):
    """What travels is the repaired weight, not the float one beside it."""
    encodings = repair(skewed, plan(*REPAIRS)).encodings
    made = written(skewed, plan(*REPAIRS), encodings)
    floats = [
        t.name
        for t in made.graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT and numpy_helper.to_array(t).ndim > 1
    ]
    assert floats == ["x.factor", "x.shift"]
