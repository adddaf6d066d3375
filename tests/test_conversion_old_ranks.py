"""How many axes a tensor has, told from the operators alone."""

import numpy as np
import pytest

from graphs import build
from old_models import old_resnet18
from quantize.conversion.old import upgrade
from quantize.conversion.old_ranks import ranks
from quantize.graph.upgrade import inferred_shapes

BODY = """
a = Flatten(x) b = Unsqueeze<axes=[0, 3]>(x) c = Squeeze<axes=[0]>(b) d = Squeeze(x)
e = ReduceMean<axes=[2, 3], keepdims=0>(x) f = ReduceMean<axes=[2, 3]>(x)
g = ReduceSum<keepdims=0>(x) h = Reshape<shape=[1, -1, 2]>(x) i = Reshape(x, three)
s = Shape(x) j = Reshape(x, s) k = Constant<value = float[2, 2] {1.0, 2.0, 3.0, 4.0}>()
l = MatMul(k, x) m = Sum(three, x) n = Transpose(x) o = Concat(c, c) p = Add(x, three)
q = Constant<value = int64[2] {3, -1}>() r = Reshape(x, q) t = Relu(j)
"""


def test_ranks_follow_from_operators():
    model = build(
        f"(float[N,3,4,4] x) => (float[N,3,4,4] y) {{ {BODY} y = Relu(x) }}",
        opset=4,
        three=np.array([1, 2, -1]),
    )
    known = ranks(model.graph)
    expected = {"x": 4, "a": 2, "b": 6, "c": 5, "e": 2, "f": 4, "g": 0, "h": 3, "i": 3, "k": 2}
    expected |= {"l": 4, "m": 4, "n": 4, "o": 5, "p": 4, "r": 2, "y": 4}
    assert {name: known.get(name) for name in expected} == expected
    assert not {"d", "j", "t"} & known.keys()


@pytest.mark.parametrize("version", [3, 6])
def test_equal_to_what_onnx_infers_once_upgraded(version):
    original = old_resnet18(version)
    newer = upgrade(original)[0]
    known = ranks(original.graph)
    shapes = inferred_shapes(newer)
    made = [name for node in original.graph.node for name in node.output]
    assert {n: known[n] for n in made} == {n: len(shapes[n]) for n in made}
