"""Plans as engines get them; the files that they become are tested with the engines."""

import numpy as np
import pytest

from graphs import build
from quantize import planning
from quantize.errors import ConfigError
from quantize.graph.io import load
from quantize.planning import AT_ONCE, base_plan, equipped, plans


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


# -------------------------------------------------------------------------- the method

ALGORITHM = "quantization.model_wise.activation.algorithm"
MINMAX = '{"activation": {"algorithm": "minmax"}}'
ONE = 'quantization.op_wise={"conv0_fwd": {"activation": {"algorithm": "kl"}}}'


@pytest.fixture
def both(monkeypatch):
    """Intel Neural Compressor is there, as far as plans ask."""
    monkeypatch.setattr(planning.inc, "available", lambda: None)


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        ("minmax", "minmax"),
        ("percentile", "percentile"),
        ("kl", "kl"),
        ("mse", "mse"),
        ("[kl, minmax]", "minmax"),
        ("[placeholder, percentile, kl]", "percentile"),
    ],
)
@pytest.mark.parametrize("framework", ["onnxrt_qdq", "onnxrt_qlinearops"])
def test_the_method_is_what_the_configuration_asks_of_the_whole_model(
    job, asked, method, framework
):
    config = job.settings(f"{ALGORITHM}={asked}", f"model.framework={framework}")
    [plan] = plans(config, load(job.model))
    assert (plan.engine, plan.scheme.method) == ("onnxruntime", method)


@pytest.mark.parametrize(
    ("asked", "repairs"),
    [
        ((), AT_ONCE),
        ((f"{ALGORITHM}=placeholder",), AT_ONCE),
        ((f"{ALGORITHM}=minmax",), ("bias",)),
        (
            ('quantization.optype_wise={"Conv": {"activation": {"algorithm": "minmax"}}}',),
            ("bias",),
        ),
        ((f"{ALGORITHM}=[placeholder, kl]",), ("bias",)),
        (("quantization.model_wise.weight.granularity=per_tensor",), AT_ONCE),
    ],
)
def test_the_first_candidate_has_no_ranges_other_than_those_asked_for(job, asked, repairs):
    config = job.settings(*asked)
    plain = base_plan("onnxruntime", config, load(job.model))
    first = equipped(plain, config)
    assert (first.repairs, first.walked, first.scheme) == (repairs, 0, plain.scheme)


WHOLE = "quantization.model_wise.weight.granularity=per_tensor"


def narrower(granularity):
    return f'quantization.op_wise={{"conv0_fwd": {{"weight": {{"granularity": "{granularity}"}}}}}}'


def test_a_rule_may_repeat_the_granularity_of_the_model(job):
    model = load(job.model)
    for asked, granularity in (
        ((WHOLE, narrower("per_tensor")), "per_tensor"),
        ((narrower("per_channel"),), "per_channel"),
        (("quantization.model_wise.weight.granularity=[per_tensor, per_channel]",), "per_channel"),
    ):
        [plan] = plans(job.settings(*asked), model)
        assert plan.scheme.weight_granularity == granularity


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ((WHOLE, narrower("per_channel")), "'conv0_fwd' asks weight granularity per_channel"),
        ((narrower("per_tensor"),), "'conv0_fwd' asks weight granularity per_tensor"),
        (
            ("quantization.model_wise.activation.granularity=per_channel",),
            "'.*' asks activation granularity per_channel",
        ),
    ],
)
def test_another_granularity_for_a_part_of_the_model_is_refused(job, asked, says):
    with pytest.raises(ConfigError) as caught:
        plans(job.settings(*asked), load(job.model))
    assert says in str(caught.value)


def test_with_either_engine_the_first_candidate_is_ours_and_inc_is_told_by_its_rules(job, both):
    config = job.settings(f"{ALGORITHM}=kl", "quantization.engine=auto")
    model = load(job.model)
    ours, theirs = plans(config, model)
    assert (ours.engine, ours.scheme.method) == ("onnxruntime", "kl")
    assert theirs == base_plan("inc", job.settings(), model)
    told = planning.inc_rules(config, model).op_types
    assert all(each["activation"]["algorithm"] == ["kl"] for each in told.values())


def test_ranges_that_inc_has_not_are_ours_alone(job, both):
    config = job.settings(f"{ALGORITHM}=mse", "quantization.engine=auto")
    assert [plan.engine for plan in plans(config, load(job.model))] == ["onnxruntime"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [ONE],
            "quantization.op_wise 'conv0_fwd' asks activation algorithm kl where all"
            " others have minmax, which the onnxruntime engine cannot do;"
            " ask it of all in quantization.model_wise",
        ),
        (
            [f"{ALGORITHM}=percentile", ONE],
            "quantization.op_wise 'conv0_fwd' asks activation algorithm kl where all others"
            " have percentile, which",
        ),
        (
            ['quantization.optype_wise={"Conv": {"activation": {"algorithm": "percentile"}}}'],
            "quantization.optype_wise 'Conv' asks activation algorithm percentile where all",
        ),
        (
            [f"{ALGORITHM}=placeholder"],
            "quantization.model_wise '.*' asks activation algorithm placeholder, which the onnx"
            "runtime engine cannot do; write minmax, kl, percentile or mse, or use",
        ),
        (
            ["quantization.model_wise.weight.algorithm=kl"],
            "quantization.model_wise '.*' asks weight algorithm kl, which the onnxruntime engine"
            " cannot do; remove it, or use quantization.engine inc",
        ),
    ],
)
def test_another_method_for_a_part_of_the_model_is_refused(job, settings, message):
    config = job.settings(*settings)
    with pytest.raises(ConfigError) as caught:
        plans(config, load(job.model))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_may_repeat_the_methods_of_the_model(job, both):
    model = load(job.model)
    for wide in ("kl", "[kl, percentile]"):
        [plan] = plans(job.settings(f"{ALGORITHM}={wide}", ONE), model)
        assert plan.scheme.method == "kl"
    beyond = job.settings(ONE, "quantization.engine=auto")
    assert [plan.engine for plan in plans(beyond, model)] == ["inc"]
