"""A planted bad layer is found, and mended by equalization where that is possible."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import quantize
from conftest import CLASSES, SIZE
from graphs import answers
from models import fit_head, labels_of, prepared, tiny_dataset, tiny_resnet
from quantize.graph.prepare import prepare
from quantize.probe import run_once

TRAINING = tiny_dataset(CLASSES, 40, SIZE, seed=1)
CALIBRATION = tiny_dataset(CLASSES, 79, SIZE, seed=2)
EVALUATION = tiny_dataset(CLASSES, 25, SIZE, seed=3)
SAMPLED = 16
"""As the job's configuration has it; the rest of the calibration images serve the search."""


def as_given(items):
    return [(image, label) for image, (_, label) in zip(prepared(items), items, strict=True)]


def scale(model, **factors):
    """Multiply constants in place; a double underscore in a name stands for a dot."""
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            value = numpy_helper.to_array(tensor) * np.asarray(factors[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))


def channels(**chosen):
    """Ones for 16 channels, but for those given as c<index>."""
    factors = np.ones(16, np.float32)
    for name, factor in chosen.items():
        factors[int(name[1:])] = factor
    return factors


def tuned(job, model, *overrides):
    onnx.save(model, job.model)
    result = quantize.tune(
        job.model,
        job.settings("tuning.accuracy_criterion.relative=0.03", *overrides),
        job.output,
        calibration=as_given(CALIBRATION),
        evaluation=as_given(EVALUATION),
    )
    return result, json.loads((result.run / "plan.json").read_text())


def trials(result):
    """(repairs, nodes left float) -> SQNR on the probe, in the order of the search."""
    lines = (result.run / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {
        (tuple(e["plan"]["repairs"]), tuple(e["plan"]["keep_float"])): e["probe"]["sqnr_db"]
        for e in events
        if e["event"] == "trial" and e["probe"]
    }


@pytest.fixture(scope="module")
def equalizable(tiny_model):
    """Between conv1 and conv2 stands only a Relu: two channels 300 times as large, and back."""
    model = prepare(tiny_model, run_once, (3, SIZE, SIZE)).model
    before = answers(model, prepared(EVALUATION))[0]
    factors = channels(c3=300, c11=120)
    scale(
        model,
        **{
            "conv1_weight.bn1_fwd": factors.reshape(-1, 1, 1, 1),
            "conv1_weight.bn1_fwd.bias": factors,
            "conv2_weight.bn2_fwd": (1 / factors).reshape(1, -1, 1, 1),
        },
    )
    after = answers(model, prepared(EVALUATION))[0]
    np.testing.assert_allclose(after, before, atol=1e-3 * np.abs(before).max())
    return model


def test_scaled_channels_are_repaired_by_equalization(job, equalizable):
    result, plan = tuned(job, equalizable)
    assert result.verdict.outcome == "met"
    assert "equalize" in plan["repairs"]
    assert plan["keep_float"] == []
    assert job.output.exists()
    seen = trials(result)
    plain, best = seen[(), ()], seen[tuple(plan["repairs"]), ()]
    assert best > plain + 15
    without = [db for (repairs, _), db in seen.items() if "equalize" not in repairs]
    assert best > max(without) + 10


@pytest.fixture(scope="module")
def beyond_equalization():
    """What conv1 reads is read by an Add too. A channel's scale went from conv0 to conv1."""
    model = tiny_resnet(16, SIZE, CLASSES)
    small = 1e-4
    scale(
        model,
        bn0_gamma=channels(c5=small),
        bn0_beta=channels(c5=small),
        conv1_weight=channels(c5=1 / small).reshape(1, -1, 1, 1),
    )
    return fit_head(model, prepared(TRAINING), labels_of(TRAINING))


def test_a_layer_that_no_repair_saves_is_left_float_as_the_only_one(job, beyond_equalization):
    result, plan = tuned(job, beyond_equalization)
    assert plan["keep_float"] == ["conv1_fwd"]
    assert result.verdict.outcome == "met"
    seen = trials(result)
    unsaved = max(db for (_, floats), db in seen.items() if not floats)
    assert seen[tuple(plan["repairs"]), ("conv1_fwd",)] > unsaved + 6
    held = onnx.load(job.output)
    convolutions = [n.name for n in held.graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 3
    quantized = {t.name for t in held.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert sum(name.endswith("weight_quantized") or ".bn" in name for name in quantized) >= 3
    assert not any(name.startswith("conv1_weight") for name in quantized)


def test_the_same_layer_unplanted_needs_no_help(job, tiny_model):
    """Without the plant the first candidate is good enough: the plant is what was found.

    The goal is one that so few search images can show to be met.
    """
    result, plan = tuned(job, tiny_model, "tuning.accuracy_criterion.relative=0.05")
    assert result.verdict.outcome == "met"
    assert (plan["repairs"], plan["walked"], plan["keep_float"]) == (["bias", "ranges"], 0, [])
