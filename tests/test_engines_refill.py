"""One graph, other numbers: byte for byte what onnxruntime's quantizer writes."""

from dataclasses import replace

import numpy as np
import pytest

from graphs import build
from models import prepared, tiny_dataset, tiny_resnet
from quantize.calibrate import calibrate
from quantize.engines import ort
from quantize.engines.refill import integers, refilled, shape_of
from quantize.graph.io import to_bytes
from quantize.graph.prepare import prepare
from quantize.plan import Encoding, Encodings, Plan
from quantize.probe import run_once
from quantize.remedies import repair
from quantize.repair.bench import Bench

IMAGES = prepared(tiny_dataset(per_class=4))
FORMATS = ["qdq", "qoperator"]


def depthwise():
    """Conv, Clip, depthwise Conv, Relu, pool, MatMul without a bias."""
    rng = np.random.default_rng(5)
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)),
        "b1": rng.normal(size=8),
        "w2": rng.normal(size=(8, 1, 3, 3)),
        "w3": rng.normal(size=(8, 4)),
        "low": np.zeros(()),
        "high": np.full((), 6.0),
    }
    graph = """
        (float[N,3,16,16] image) => (float[N,4] scores) {
            [first] c1 = Conv <pads = [1,1,1,1]> (image, w1, b1)
            [clip] a1 = Clip (c1, low, high)
            [second] c2 = Conv <pads = [1,1,1,1], group = 8> (a1, w2)
            [relu] a2 = Relu (c2)
            [pool] p = GlobalAveragePool (a2)
            [flat] f = Flatten (p)
            [last] scores = MatMul (f, w3)
        }"""
    return build(graph, **{name: value.astype(np.float32) for name, value in weights.items()})


class Network:
    """A prepared model, its statistics, and encodings of some candidates."""

    def __init__(self, model):
        self.model = prepare(model, run_once, (3, 16, 16)).model
        self.statistics = calibrate(self.model, [IMAGES], threads=1)
        self.bench = Bench(self.model, self.statistics, IMAGES, 1)

    def encodings(self, *repairs, keep=()):
        plan = Plan("onnxruntime", "qdq", repairs=repairs, keep_float=keep)
        return repair(self.bench, plan).leaving(keep)

    def written(self, form, encodings, keep=()):
        plan = Plan("onnxruntime", form, keep_float=keep)
        return ort.quantize(self.model, self.statistics, plan, encodings)


@pytest.fixture(scope="module", params=[tiny_resnet, depthwise], ids=["resnet", "depthwise"])
def network(request):
    return Network(request.param())


def others(given, seed):
    """Encodings of the same tensors with other numbers."""
    rng = np.random.default_rng(seed)
    tensors, constants = {}, {}
    for name, encoding in given.tensors.items():
        scale = encoding.scale * rng.uniform(0.5, 2, encoding.scale.shape).astype(np.float32)
        scale = np.asarray(scale, np.float32)
        point = encoding.zero_point if name in given.constants else int(rng.integers(0, 256))
        tensors[name] = Encoding(scale, point, encoding.axis)
        if name in given.constants:
            constants[name] = dealt(rng, given.constants[name].shape, tensors[name])
    for name in given.constants.keys() - constants.keys():
        constants[name] = given.constants[name] + np.float32(0.25)
    biases = {
        name: rng.normal(size=value.shape).astype(np.float32)
        for name, value in sorted(given.biases.items())
    }
    return Encodings(tensors, constants, biases)


def dealt(rng, shape, encoding):
    steps = rng.integers(-127, 128, shape)
    sides = [1] * len(shape)
    if encoding.axis is not None:
        sides[encoding.axis] = -1
    return (steps * encoding.scale.reshape(sides)).astype(np.float32)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_the_same_bytes_as_the_quantizer(network, form, seed):
    first = network.encodings("bias")
    other = others(first, seed)
    made = network.written(form, first)
    wanted = to_bytes(network.written(form, other))
    assert to_bytes(made) != wanted
    assert to_bytes(refilled(made, other)) == wanted


@pytest.mark.parametrize("form", FORMATS)
def test_repairs_of_one_graph_and_layers_left_float(network, form):
    keep = ("second",) if any(n.name == "second" for n in network.model.graph.node) else ()
    keep = keep or tuple(n.name for n in network.model.graph.node if n.op_type == "Conv")[1:2]
    first, other = (network.encodings(*names, keep=keep) for names in (("bias",), ("rounding",)))
    assert shape_of(first) == shape_of(other)
    wanted = to_bytes(network.written(form, other, keep))
    assert to_bytes(refilled(network.written(form, first, keep), other)) == wanted


def test_what_is_given_stays_as_it_was(network):
    first = network.encodings("bias")
    made = network.written("qdq", first)
    before = to_bytes(made)
    refilled(made, others(first, 9))
    assert to_bytes(made) == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_bias_beyond_int32_is_the_quantizers_business(network, form):
    first = network.encodings("bias")
    name = min(first.biases)
    huge = {**first.biases, name: np.full_like(first.biases[name], 1e9)}
    assert refilled(network.written(form, first), replace(first, biases=huge)) is None


@pytest.mark.parametrize("form", FORMATS)
def test_a_bias_that_no_repair_knows_is_the_quantizers_business(form):
    """It is in steps of its input's scale, which the other candidate has changed."""
    odd = """
        (float[N,3,16,16] image) => (float[N,4] scores) {
            [first] c1 = Conv <pads = [1,1,1,1]> (image, w1, b1)
            [relu] a1 = Relu (c1)
            [odd] c2 = Conv <auto_pad = "SAME_UPPER"> (a1, w2BIAS)
            [pool] p = GlobalAveragePool (c2)
            [flat] f = Flatten (p)
            [last] scores = Gemm <transB = 1> (f, w3, b3)
        }"""
    weights = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (4, 8), "b3": (4,)}
    for biased in (True, False):
        extra = {"b2": (8,)} if biased else {}
        graph = odd.replace("BIAS", ", b2" if biased else "")
        network = Network(build(graph, **weights, **extra))
        first, other = network.encodings("bias"), network.encodings("bias", "ranges")
        assert "odd" not in first.biases
        made, wanted = (network.written(form, each) for each in (first, other))
        again = refilled(made, other)
        assert again is None if biased else to_bytes(again) == to_bytes(wanted)


def test_integers_of_each_channel():
    weight = np.asarray([[0.5, -1.0], [0.5, -20.0]], np.float32)
    found = integers(weight, Encoding(np.asarray([0.5, 0.1], np.float32), 0, 0))
    assert found.dtype == np.int8
    assert found.tolist() == [[1, -2], [5, -128]]
