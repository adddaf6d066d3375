"""Each rewrite: how many edits, a graph that checks, and the same outputs before and after."""

import copy

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from graphs import answers, build, noise, norm, ops
from models import tiny_resnet
from quantize.graph import fold

BN = "BatchNormalization"
NORM = "(c, gamma, beta, mean, var)"
OF_X = f"{BN}(x, gamma, beta, mean, var)"
CONV = f"(float[N,4,6,6] x) => (float[N,8,A,B] y) {{ c = Conv(x, w) y = {BN}{NORM} }}"


def applied(rewrite, model, images=None, tolerance=1e-5):
    """Apply a rewrite in place, check the graph and its outputs; the count of edits."""
    images = noise(2, 4, 6, 6) if images is None else images
    before = answers(model, images, plain=True)
    count = rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    for old, new in zip(before, answers(model, images, plain=True), strict=True):
        np.testing.assert_allclose(new, old, atol=tolerance * max(1, np.abs(old).max()), rtol=0)
    return count


def constant(model, name):
    tensors = {t.name: t for t in model.graph.initializer}
    return onnx.numpy_helper.to_array(tensors[name])


def declined(model, images=None):
    before = model.SerializeToString()
    assert applied(fold.batch_normalizations, model, images) == 0
    assert model.SerializeToString() == before


# ---------------------------------------------------------------- BatchNormalization


SCALED = "s = Mul(b, m) y = Add(s, a)"


@pytest.mark.parametrize("order", ["(b, m)", "(m, b)"])
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1, 1)])
def test_a_scale_layer_is_folded_into_batch_normalization(order, shape):
    tail = SCALED.replace("(b, m)", order)
    model = build(
        f"(float[N,4,6,6] x) => (float[N,8,A,B] y) {{ c = Conv(x, w) b = {BN}{NORM} {tail} }}",
        w=(8, 4, 3, 3),
        m=shape,
        a=shape,
        **norm(8),
    )
    assert applied(fold.channel_factors, model) == 2
    assert ops(model) == ["Conv", BN]
    assert applied(fold.batch_normalizations, model) == 1
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize("tail", ["s = Add(b, a) y = Mul(s, m)", "y = Mul(b, m)", "y = Add(a, b)"])
def test_scale_layers_without_a_convolution(tail):
    model = build(
        f"(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ b = {OF_X} {tail} }}",
        m=(4, 1, 1),
        a=(4, 1, 1),
        **norm(4),
    )
    assert applied(fold.channel_factors, model) == tail.count("=")
    assert ops(model) == [BN]


@pytest.mark.parametrize(
    ("tail", "shape"),
    [
        ("y = Mul(b, m)", (1, 6, 6)),
        ("y = Mul(b, m)", (1, 1, 1)),
        ("y = Mul(b, m)", (6,)),
        ("y = Mul(b, m) z = Relu(b)", (4, 1, 1)),
        ("y = Mul(b, b)", (4, 1, 1)),
        ("y = Sub(b, m)", (4, 1, 1)),
        ("m2 = Relu(m3) y = Mul(b, m2)", (4, 1, 1)),
    ],
)
def test_other_products_stay(tail, shape):
    model = build(
        f"(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ b = {OF_X} {tail} }}",
        m=shape,
        m3=shape,
        **norm(4),
    )
    before = model.SerializeToString()
    assert applied(fold.channel_factors, model) == 0
    assert model.SerializeToString() == before


def test_a_factor_along_another_axis_of_fewer_axes_stays():
    model = build(
        f"""(float[4,4,6] x) => (float[4,4,6] y) {{
        b = {BN}(x, gamma, beta, mean, var) y = Mul(b, m) }}""",
        m=(4, 1, 1),
        **norm(4),
    )
    assert applied(fold.channel_factors, model, noise(4, 4, 6)) == 0


@given(
    group=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    pad=st.integers(0, 1),
    biased=st.booleans(),
    epsilon=st.sampled_from([1e-5, 1e-3, 0.1]),
    opset=st.sampled_from([9, 13, 15, 17]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_batch_normalization_is_folded_into_conv(group, kernel, pad, biased, epsilon, opset, seed):
    bias = ", b" if biased else ""
    text = f"""(float[N,4,6,6] x) => (float[N,8,A,B] y) {{
        c = Conv<group={group}, kernel_shape=[{kernel},{kernel}], pads=[{pad},{pad},{pad},{pad}]>
            (x, w{bias})
        y = {BN}<epsilon={epsilon!r}>{NORM} }}"""
    constants = {"w": (8, 4 // group, kernel, kernel), **norm(8, seed)}
    if biased:
        constants["b"] = (8,)
    model = build(text, opset=opset, seed=seed, **constants)
    assert applied(fold.batch_normalizations, model) == 1
    assert ops(model) == ["Conv"]


def test_folded_weights_follow_the_formula():
    given = norm(8)
    model = build(CONV.replace("(x, w)", "(x, w, b)"), w=(8, 4, 1, 1), b=(8,), **given)
    w, b = constant(model, "w").astype(float), constant(model, "b").astype(float)
    s = given["gamma"].astype(float) / np.sqrt(given["var"].astype(float) + 1e-5)
    fold.batch_normalizations(model)
    conv = model.graph.node[0]
    new_w, new_b = constant(model, conv.input[1]), constant(model, conv.input[2])
    assert new_w.dtype == new_b.dtype == np.float32
    np.testing.assert_array_equal(new_w, (w * s[:, None, None, None]).astype(np.float32))
    np.testing.assert_array_equal(new_b, ((b - given["mean"]) * s + given["beta"]).astype("f"))


def test_an_empty_bias_counts_as_none():
    model = build(CONV.replace("(x, w)", '(x, w, "")'), w=(8, 4, 1, 1), **norm(8))
    assert applied(fold.batch_normalizations, model) == 1


def test_every_conv_of_a_network_takes_its_norm():
    model = tiny_resnet()
    assert applied(fold.batch_normalizations, model, noise(2, 3, 16, 16)) == 3
    assert BN not in ops(model)


def test_shared_weights_are_folded_for_each_conv_alone():
    text = f"""(float[N,4,6,6] x) => (float[N,8,6,6] y, float[N,8,6,6] z, float[N,8,6,6] p) {{
        c = Conv(x, w) y = {BN}{NORM} d = Conv(x, w) z = {BN}(d, mean, gamma, beta, var)
        p = Conv(x, w) }}"""
    model = build(text, w=(8, 4, 1, 1), **norm(8))
    weight = constant(model, "w").copy()

    def fold_namesakes(model):  # which onnxruntime would not run
        for node in model.graph.node:
            node.name = "same"
        count = fold.batch_normalizations(model)
        for node in model.graph.node:
            node.name = ""
        return count

    assert applied(fold_namesakes, model) == 2
    np.testing.assert_array_equal(constant(model, "w"), weight)
    assert model.graph.node[-1].input[1] == "w"
    names = [t.name for t in model.graph.initializer]
    assert len(names) == len(set(names))


def test_new_constants_never_take_a_name_that_is_taken():
    taken = {"w__y": (8,), "w__y__bias": (8,)}
    model = build(CONV, w=(8, 4, 1, 1), **taken, **norm(8))
    assert applied(fold.batch_normalizations, model) == 1
    names = [t.name for t in model.graph.initializer]
    assert len(names) == len(set(names)) == 9


def test_declined_where_something_else_reads_the_conv():
    text = f"""(float[N,4,6,6] x) => (float[N,8,A,B] z) {{
        c = Conv(x, w) y = {BN}{NORM} z = Add(y, c) }}"""
    declined(build(text, w=(8, 4, 1, 1), **norm(8)))


def test_declined_where_the_conv_is_an_output():
    text = CONV.replace("(float[N,8,A,B] y)", "(float[N,8,A,B] y, float[N,8,A,B] c)")
    declined(build(text, w=(8, 4, 1, 1), **norm(8)))


def test_declined_where_a_subgraph_reads_the_conv():
    text = f"""(float[N,4,6,6] x) => (float[N,8,A,B] y, float z) {{
        c = Conv(x, w) y = {BN}{NORM}
        z = If <then_branch = then () => (float t) {{ t = ReduceMax<keepdims=0>(c) }},
                else_branch = other () => (float e) {{ e = Identity(v) }}> (yes) }}"""
    declined(
        build(text, w=(8, 4, 1, 1), yes=np.array(True), v=np.array(1.0, np.float32), **norm(8))
    )


@pytest.mark.parametrize("operand", ["w", "b", "gamma", "var"])
def test_declined_where_an_operand_is_computed(operand):
    text = CONV.replace("(x, w)", "(x, w, b)").replace("{ ", f"{{ {operand} = Neg(raw) ", 1)
    constants = {"w": (8, 4, 1, 1), "b": (8,), **norm(8)}
    constants["raw"] = constants.pop(operand)
    if operand == "var":
        constants["raw"] = -constants["raw"]
    declined(build(text, **constants))


def test_declined_after_another_operator():
    text = f"(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ c = Relu(x) y = {BN}{NORM} }}"
    declined(build(text, **norm(4)))


def test_declined_where_the_norm_trains():
    model = build(CONV.replace(BN, f"{BN}<training_mode=1>"), opset=15, w=(8, 4, 1, 1), **norm(8))
    before = model.SerializeToString()
    assert fold.batch_normalizations(model) == 0
    text = CONV.replace("y = ", "y, a, b = ").replace(BN, f"{BN}<training_mode=1>")
    assert fold.batch_normalizations(build(text, opset=15, w=(8, 4, 1, 1), **norm(8))) == 0
    assert model.SerializeToString() == before


def test_declined_in_other_precision():
    text = CONV.replace("float[", "double[")
    constants = {k: v.astype(np.float64) for k, v in norm(8).items()}
    model = build(text, w=noise(8, 4, 1, 1).astype(np.float64), **constants)
    assert fold.batch_normalizations(model) == 0  # onnxruntime has no Conv of doubles to run


def test_declined_where_statistics_are_per_element():
    per_element = {k: np.ones((8, 6, 6), np.float32) for k in norm(8)}
    model = build(CONV.replace(BN, f"{BN}<spatial=0>"), opset=8, w=(8, 4, 1, 1), **per_element)
    assert fold.batch_normalizations(model) == 0


def test_only_the_first_of_two_norms_is_folded():
    text = f"""(float[N,4,6,6] x) => (float[N,8,6,6] z) {{
        c = Conv(x, w) y = {BN}{NORM} z = {BN}(y, beta, mean, gamma, var) }}"""
    model = build(text, w=(8, 4, 1, 1), **norm(8))
    assert applied(fold.batch_normalizations, model) == 1
    assert ops(model) == ["Conv", BN]


# --------------------------------------------------------------------------- constants


def test_chains_of_constants_become_initializers():
    text = """(float[N,4,6,6] x) => (float[N,8,6,6] y) {
        k = Constant<value = float[1] {2.0}>()
        t = Transpose<perm=[1,0,2,3]>(w)
        m = Mul(t, k)
        y = Conv(x, m) }"""
    model = build(text, w=(4, 8, 1, 1))
    assert applied(fold.constants, model) == 3
    assert ops(model) == ["Conv"]
    expected = 2 * constant(model, "w").transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(constant(model, "m"), expected)


def test_several_outputs_are_folded_together():
    text = """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
        a, b = Split<axis=0>(w, sizes) c = Add(x, a) y = Mul(c, b) }"""
    model = build(text, w=(2, 4, 6, 6), sizes=np.array([1, 1]))
    assert applied(fold.constants, model) == 1
    assert ops(model) == ["Add", "Mul"]


def test_empty_optional_inputs_do_not_stop_folding():
    model = build(
        '(float[N,4,6,6] x) => (float[N,4,6,6] y) { a = Clip(v, "", hi) y = Add(x, a) }',
        v=(1, 4, 1, 1),
        hi=np.array(0.1, np.float32),
    )
    assert applied(fold.constants, model) == 1


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Relu(x) y = Neg(a)",  # not constant
        "y = Neg(v)",  # feeds an output
        "a = RandomNormal<shape=[4,6,6]>() b = Mul(a, zero) y = Add(x, b)",
        "a = RandomNormalLike(v) b = Mul(a, zero) y = Add(x, b)",
        "a = RandomUniformLike(v) b = Mul(a, zero) y = Add(x, b)",
        "a = SequenceConstruct(v, v) b = SequenceAt(a, at) y = Add(x, b)",
    ],
)
def test_what_is_not_constant_stays(nodes):
    model = build(
        f"(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ {nodes} }}",
        v=(4, 6, 6),
        zero=np.zeros(1, np.float32),
        at=np.array(0),
    )
    before = model.SerializeToString()
    if "y = Neg(v)" in nodes:
        model.graph.output[0].type.tensor_type.shape.dim.pop(0)
        before = model.SerializeToString()
    assert applied(fold.constants, model) == 0
    assert model.SerializeToString() == before


def test_other_domains_and_subgraphs_stay():
    model = build(
        """(float[N,4] x) => (float[N,4] y) {
        a = com.microsoft.Gelu(v)
        b = If <then_branch = t () => (float[4] p) { p = Neg(v) },
                else_branch = e () => (float[4] q) { q = Abs(v) }> (yes)
        c = Add(a, b) y = Add(x, c) }""",
        v=(4,),
        yes=np.array(True),
    )
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert fold.constants(model) == 0


def test_large_results_stay_computed(monkeypatch):
    monkeypatch.setattr(fold, "_MOST_FOLDED_BYTES", 4 * 100)
    text = """(float[N,4] x) => (float[N,4] y) {
        a = ConstantOfShape(large) s = ReduceMax<keepdims=0>(a) y = Add(x, s) }"""
    assert fold.constants(build(text, large=np.array([101]))) == 0
    assert fold.constants(build(text, large=np.array([100]))) == 2


# -------------------------------------------------------------------------- identities


def test_chains_of_identities_vanish():
    model = build("""(float[N,4,6,6] x) => (float[N,4,6,6] y) {
        a = Identity(x) b = Relu(a) c = Identity(b) d = Identity(c) e = Neg(d) y = Add(e, c) }""")
    assert applied(fold.identities, model) == 3
    assert ops(model) == ["Relu", "Neg", "Add"]


def test_an_identity_that_makes_an_output_stays():
    model = build("""(float[N,4,6,6] x) => (float[N,4,6,6] y, float[N,4,6,6] z) {
        a = Identity(x) b = Relu(a) y = Identity(b) z = Neg(y) }""")
    assert applied(fold.identities, model) == 1
    assert ops(model) == ["Relu", "Identity", "Neg"]


@pytest.mark.parametrize(
    ("opset", "node", "count"),
    [
        (7, "a = Dropout<ratio=0.5>(x)", 1),
        (13, "a = Dropout(x)", 1),
        (13, "a = Dropout(x, half)", 1),
        (13, 'a = Dropout(x, half, "")', 1),
        (13, "a, mask = Dropout(x, half)", 0),
        (13, "a = Dropout(x, half, no)", 1),
        (13, "a = Dropout(x, none, yes)", 0),
        (13, "a = Dropout(x, none, asked)", 0),
    ],
)
def test_dropout_vanishes_unless_it_trains_or_gives_its_mask(opset, node, count):
    model = build(
        f"(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ {node} y = Relu(a) }}",
        opset=opset,
        half=np.array(0.5, np.float32),
        none=np.array(0.0, np.float32),
        no=np.array(False),
        yes=np.array(True),
    )
    if "asked" in node:  # only the running model knows
        asked = onnx.helper.make_node("Not", ["no"], ["asked"])
        model.graph.node.insert(0, asked)
    assert applied(fold.identities, model) == count


def test_an_identity_that_a_subgraph_reads_stays():
    text = """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
        a = Identity(x)
        b = If <then_branch = t () => (float p) { p = ReduceMax<keepdims=0>(a) },
                else_branch = e () => (float q) { q = ReduceMin<keepdims=0>(a) }> (yes)
        y = Add(a, b) }"""
    model = build(text, yes=np.array(True))
    assert applied(fold.identities, model) == 0


# --------------------------------------------------------------------------- leftovers


def test_constants_that_nothing_reads_are_dropped():
    text = """(float[N,4,6,6] x) => (float[N,4,6,6] y, float[4] kept) {
        b = If <then_branch = t () => (float p) { p = Identity(deep) },
                else_branch = e () => (float q) { q = Identity(deep) }> (yes)
        y = Mul(x, b) }"""
    constants = {"deep": np.array(2.0, np.float32), "yes": np.array(True), "kept": (4,)}
    model = build(text, unused=(2,), spare=(3,), **constants)
    assert applied(fold.unused_initializers, model) == 2
    assert [t.name for t in model.graph.initializer] == ["deep", "yes", "kept"]
    assert fold.unused_initializers(model) == 0


def test_rewrites_do_nothing_twice():
    model = tiny_resnet()
    rewrites = (
        fold.constants,
        fold.identities,
        fold.batch_normalizations,
        fold.unused_initializers,
    )
    for rewrite in rewrites:
        rewrite(model)
    before = copy.deepcopy(model)
    assert [rewrite(model) for rewrite in rewrites] == [0, 0, 0, 0]
    assert model == before
    assert all(t.data_type == TensorProto.FLOAT for t in model.graph.initializer)


# ------------------------------------------------------------------------------ Sum


def test_a_sum_of_two_is_an_add():
    model = build(
        """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
        a = Relu(x) b = Sum(a, x) c = Sum(a, b, x) y = Sum(c) }"""
    )
    assert applied(fold.sums, model) == 1
    assert ops(model) == ["Relu", "Add", "Sum", "Sum"]
