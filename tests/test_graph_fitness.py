"""What no int8 file can be made of is named."""

import numpy as np
import onnx
import pytest
from onnx import helper

from graphs import build, norm
from quantize.errors import ModelError
from quantize.graph.fitness import check_fit

TAIL = "p = GlobalAveragePool(c) f = Flatten(p) y = Gemm(f, v)"
WEIGHTS = {"w": (4, 4, 1, 1), "v": (4, 3)}


def fit(nodes, **constants):
    text = f"(float[N,4,6,6] x) => (float[N,3] y) {{ {nodes} {TAIL} }}"
    text = text.replace("to=HALF", "to=10").replace("to=FLOAT", "to=1")
    model = build(text, opset=15, **WEIGHTS, **constants)
    return onnx.shape_inference.infer_shapes(model)


def test_an_ordinary_classifier_is_fit():
    check_fit(fit("a = Conv(x, w) b = Dropout(a) c = Relu(b)"))


def test_layers_in_float16_are_refused():
    half = np.ones((4, 4, 1, 1), np.float16)
    model = fit("h = Cast<to=HALF>(x) [conv] d = Conv(h, half) c = Cast<to=FLOAT>(d)", half=half)
    with pytest.raises(ModelError, match=r"Conv 'conv' computes in 16 bits.*the float32 model"):
        check_fit(model)


def test_weights_that_are_stored_in_float16_alone_are_no_layers_in_float16():
    half = np.ones((4, 4, 1, 1), np.float16)
    check_fit(fit("h = Cast<to=FLOAT>(half) c = Conv(x, h)", half=half))


def test_layers_behind_an_operator_that_nobody_knows_are_refused():
    model = fit("a = Conv(x, w) c = Relu(a)")
    del model.graph.value_info[:]
    model.graph.node[1].CopyFrom(helper.make_node("Odd", ["a"], ["c"], name="odd", domain="acme"))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(ModelError, match="behind the model's Odd 'odd' of acme; export"):
        check_fit(onnx.shape_inference.infer_shapes(model))


def test_such_an_operator_behind_all_layers_is_no_harm():
    model = fit("c = Conv(x, w)")
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Odd", ["z"], ["y"], domain="acme"))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    check_fit(onnx.shape_inference.infer_shapes(model))


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        ("a = Conv(x, w) [d] c = Dropout(a, half, yes)", "Dropout 'd'"),
        (
            "a = Conv(x, w)"
            " [n] c, m, s = BatchNormalization<training_mode=1>(a, gamma, beta, mean, var)",
            "BatchNormalization 'n'",
        ),
        ("[r] k = RandomNormal<shape=[4,4,1,1]>() c = Conv(x, k)", "RandomNormal 'r'"),
    ],
)
def test_what_gives_other_answers_each_time_is_refused(nodes, named):
    chosen = {"half": np.float32(0.5), "yes": np.array(True), **norm(4)}
    model = fit(nodes, **{name: value for name, value in chosen.items() if name in nodes})
    with pytest.raises(ModelError, match=f"{named} is in training mode or draws at random"):
        check_fit(model)
