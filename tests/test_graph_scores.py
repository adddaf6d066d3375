"""Scores are floats in int8 models, too."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise, ops
from quantize.calibrate import calibrate
from quantize.engines import ort
from quantize.graph.coverage import coverage
from quantize.graph.prepare import prepare
from quantize.graph.scores import float_scores
from quantize.plan import Plan
from quantize.probe import run_once, shapes_of

IMAGES = noise(16, 3, 8, 8)
ENDS = {
    "gemm": "[g] y = Gemm(z, k, e)",
    "softmax": "[g] t = Gemm(z, k, e) [s] y = Softmax(t)",
    "relu": "[g] t = Gemm(z, k, e) [s] y = Relu(t)",
    "matmul": "[g] t = MatMul(z, k) [s] y = Add(t, e)",
}


def made(end, form):
    model = build(
        f"""(float[N,3,8,8] x) => (float[N,5] y) {{
            [c] h = Conv(x, w)
            [p] q = GlobalAveragePool(h)
            [f] z = Flatten(q)
            {ENDS[end]}
        }}""",
        w=(6, 3, 3, 3),
        k=(6, 5),
        e=(5,),
    )
    model = prepare(model, run_once, (3, 8, 8)).model
    return model, ort.quantize(
        model, calibrate(model, [IMAGES], threads=1), Plan("onnxruntime", form)
    )


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("end", ["gemm", "softmax"])
def test_the_last_product_gives_floats(end, form):
    model, int8 = made(end, form)
    onnx.checker.check_model(int8)
    scores = answers(int8, 40 * IMAGES)[0] if end == "gemm" else answers(int8, IMAGES)[0]
    assert len(np.unique(scores)) > 0.9 * scores.size
    last = next(node for node in reversed(int8.graph.node) if "Gemm" in node.op_type)
    assert last.op_type == ("Gemm" if form == "qdq" else "QGemm")
    assert not [t.name for t in int8.graph.initializer if t.name.startswith(("y_", "t_"))]
    seen = coverage(int8, lambda names: shapes_of(int8, names, (3, 8, 8)))
    assert all(layer.int8 for layer in seen.layers)
    exact = answers(model, IMAGES)[0]
    assert np.abs(answers(int8, IMAGES)[0] - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("end", ["relu", "matmul"])
def test_what_is_rounded_for_another_reason_stays(end, form):
    """The rounding of a Relu's result is the Relu."""
    model, int8 = made(end, form)
    onnx.checker.check_model(int8)
    assert ops(int8)[-1] == "DequantizeLinear"
    before = int8.SerializeToString()
    assert float_scores(int8, model) == 0
    assert int8.SerializeToString() == before
