"""The walk's steps are the model's nodes, and its means are the model's."""

import numpy as np
import pytest

from graphs import answers, build, noise
from models import prepared, tiny_dataset, tiny_resnet
from quantize.calibrate import calibrate
from quantize.graph.expose import with_outputs
from quantize.graph.layers import absorbed, absorbed_limits, constants_of, layers, with_constants
from quantize.graph.prepare import prepare
from quantize.probe import run_once
from quantize.repair.grids import activation_encodings, integers_of
from quantize.repair.stages import Stages, layer_means
from quantize.repair.walk import Plain, Remedies, Repairable, walk
from quantize.runtime import Operator

IMAGES = prepared(tiny_dataset(per_class=6))


@pytest.fixture(scope="module")
def model():
    made = prepare(tiny_resnet(), run_once, (3, 16, 16)).model
    values = constants_of(made)
    missing = {
        one.name: np.zeros(len(one.matrix(values[one.weight])), np.float32)
        for one in layers(made)
        if one.bias is None
    }
    return with_constants(made, {}, missing)


@pytest.fixture(scope="module")
def encodings(model):
    found = activation_encodings(model, calibrate(model, [IMAGES], threads=1))
    return {name: one for name, one in found.items() if name not in absorbed(model)}


def follow(steps, tensors):
    """Every tensor of the walk with the layers as they are, none let go."""
    tensors = dict(tensors)
    for step in steps:
        if isinstance(step, Plain):
            made = step.run(tensors)
        else:
            given = step.run(tensors, step.weight, step.bias)
            made = [step.finish(given, np.zeros(len(step.weight), np.float32))]
        tensors.update(zip(step.outputs, made, strict=True))
    return tensors


def test_without_rounding_the_steps_compute_the_model(model):
    steps = Stages(1).steps(model, {}, frozenset())
    seen = follow(steps, {"data": IMAGES} if "data" in steps[0].inputs else feed(model))
    names = [name for name in seen if name not in feed(model)]
    exact = dict(zip(names, answers(with_outputs(model, names), IMAGES)[1:], strict=False))
    output = model.graph.output[0].name
    np.testing.assert_allclose(seen[output], answers(model, IMAGES)[0], atol=1e-4)
    for name, value in exact.items():
        np.testing.assert_allclose(seen[name], value, atol=1e-4 * max(1, np.abs(value).max()))


def feed(model):
    return {model.graph.input[0].name: IMAGES}


def test_each_layer_is_a_step_and_no_activation_behind_it_is_one(model):
    steps = Stages(1).steps(model, {}, frozenset())
    found = {step.layer for step in steps if isinstance(step, Repairable)}
    assert found == {layer.name for layer in layers(model)}
    behind = set(absorbed(model).values())
    assert not any(set(step.inputs) & set(absorbed(model)) for step in steps)
    assert behind <= {name for step in steps for name in step.outputs}


def test_what_int8_rounds_is_handed_on_as_integers(model, encodings):
    image = model.graph.input[0].name
    steps = Stages(1).steps(model, encodings, frozenset())
    seen = follow(steps, {image: integers_of(IMAGES, encodings[image])})
    for name, value in seen.items():
        assert value.dtype == (np.uint8 if name in encodings else np.float32), name
    assert any(value.dtype == np.uint8 for name, value in seen.items() if name != image)


def test_layers_that_stay_float_are_plain_steps(model):
    one = layers(model)[0].name
    steps = Stages(1).steps(model, {}, frozenset({one}))
    assert one not in {step.layer for step in steps if isinstance(step, Repairable)}


def test_sessions_without_weights_are_used_again(model, encodings):
    stages = Stages(1)
    stages.steps(model, encodings, frozenset())
    known = dict(stages.kept)
    assert known
    stages.steps(model, encodings, frozenset())
    assert stages.kept == known


def test_means_are_those_behind_the_relu(model):
    limits = absorbed_limits(model)
    found = layer_means(model, IMAGES, threads=1)
    known = layers(model)
    outputs = answers(with_outputs(model, [one.output for one in known]), IMAGES)
    named = dict(
        zip([model.graph.output[0].name, *(o.output for o in known)], outputs, strict=False)
    )
    for layer in known:
        value = named[layer.output]
        clipped = np.clip(value, *limits.get(layer.output, (-np.inf, np.inf)))
        axes = (0, *range(2, value.ndim))
        np.testing.assert_allclose(found[layer.name], clipped.mean(axis=axes), atol=1e-5)


def test_number_of_threads_changes_nothing(model, encodings):
    image = model.graph.input[0].name
    found = []
    for threads in (1, 2):
        steps = Stages(threads).steps(model, encodings, frozenset())
        means = layer_means(model, IMAGES, threads=threads)
        images = {image: integers_of(IMAGES, encodings[image])}
        found.append(walk(images, steps, means, Remedies(rounding=True, bias=True)))
    for name, one in found[0].items():
        np.testing.assert_array_equal(one.integers, found[1][name].integers)
        np.testing.assert_array_equal(one.bias, found[1][name].bias)


SIZES = """(float[N,3,8,8] x) => (float[N,16] y) {
    [c] c = Conv(x, w, b) [r] r = Relu(c)
    [s] s = Shape(r) [g] n = Gather<axis=0>(s, first) [k] t = Concat<axis=0>(n, rest)
    [z] z = Reshape(r, t)
    [o] o = Transpose<perm=[2,0,3,1]>(z)
    [p] p = Gather<axis=0>(o, one) [q] q = Gather<axis=0>(o, two)
    [l] lead = Concat<axis=0>(n, shape) [e] e = Expand(token, lead)
    [a] a = Add(p, q) [v] d = Concat<axis=2>(a, e)
    [i] f = If <then_branch = yes () => (float[N,16,12] u) { u = Neg(d) },
                else_branch = no () => (float[N,16,12] h) { h = Mul(d, half) }> (sure)
    [m] y = ReduceMean<axes=[2], keepdims=0>(f) }"""


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_sizes_and_images_that_are_not_in_front_go_whole(monkeypatch, at_once, rounded):
    """As exporters write a free batch axis, attention's three parts, and a class token."""
    made = build(
        SIZES,
        w=(6, 3, 1, 1),
        b=(6,),
        token=(1, 16, 6),
        first=np.array([0]),
        rest=np.array([6, 4, 16]),
        one=np.array(1),
        two=np.array(2),
        shape=np.array([16, 6]),
        half=np.float32(0.5),
        sure=np.array(False),
    )
    made = prepare(made, run_once, (3, 8, 8)).model
    images = noise(5, 3, 8, 8)
    found = activation_encodings(made, calibrate(made, [images], threads=1)) if rounded else {}
    known = {name: one for name, one in found.items() if name not in absorbed(made)}
    monkeypatch.setattr(Operator, "_VALUES", at_once)
    steps = Stages(1).steps(made, known, frozenset())
    seen = follow(steps, {"x": integers_of(images, known["x"]) if rounded else images})["y"]
    if "y" in known:
        seen = (seen.astype(np.float32) - known["y"].zero_point) * known["y"].scale
    exact = answers(made, images)[0]
    np.testing.assert_allclose(seen, exact, atol=0.05 if rounded else 1e-5)
