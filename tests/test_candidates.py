"""Plans as engines get them; the files that they become are tested with the engines."""

import numpy as np

from graphs import build
from quantize.candidates import base_plan


def test_inc_is_told_to_keep_the_relu_and_clip_that_it_would_lose(job):
    model = build(
        """(float[N,3,8,8] x) => (float[N,8,8,8] y) {
        [c] c = Conv(x, w) [alone] r = Relu(c) [d] d = Conv(r, v) [beside] s = Relu(d)
        [a] a = Add(s, d) [above] y = Clip(a, one) }""",
        w=(8, 3, 1, 1),
        v=(8, 8, 1, 1),
        one=np.float32(1),
    )
    config = job.settings()
    assert base_plan("inc", config, model).keep_float == ("above", "beside")
    assert base_plan("onnxruntime", config, model).keep_float == ()
