import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.config import TopK, UnsupportedMetric, parse_config
from quantize.errors import ConfigError

MODEL = "model: {name: m, framework: onnxrt_qdq}\n"


def load(text: str = ""):
    config = parse_config(MODEL + text, name="a.yaml", folder="/base")
    assert parse_config(config.to_yaml(), folder="/elsewhere") == config
    hash(config)
    return config


def refused(text: str, model: str = MODEL) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(model + text, name="a.yaml")
    assert caught.value.cure
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults():
    config = load()
    quantization, evaluation, tuning = config.quantization, config.evaluation, config.tuning
    assert quantization.approach == "post_training_static_quant"
    assert quantization.engine == "auto"
    assert quantization.reduce_range is False
    assert quantization.calibration.sampling_size == (100,)
    assert quantization.calibration.dataloader is None
    assert quantization.recipes.first_conv_or_matmul_quantization is True
    assert quantization.recipes.fast_bias_correction is False
    assert evaluation.accuracy.metric == TopK((1,))
    assert evaluation.accuracy.label_shift == 0
    assert evaluation.accuracy.iteration == -1
    assert evaluation.performance.warmup == 10
    assert evaluation.performance.configs.num_of_instance == 1
    assert evaluation.performance.configs.cores_per_instance is None
    assert (evaluation.search_share, evaluation.max_unreadable) == (0.2, 0.01)
    assert (evaluation.cpus, evaluation.cpus_timeout) == ((), 300)
    assert evaluation.holdout is None
    assert tuning.strategy.name == "guided"
    assert tuning.accuracy_criterion.relative == 0.01
    assert tuning.accuracy_criterion.confidence is None
    assert tuning.speed_floor == 1.1
    assert tuning.exit_policy.timeout == 0
    assert tuning.exit_policy.max_trials == 100
    assert tuning.random_seed == 1978
    assert tuning.workspace.path is None


def test_empty_sections_are_sections_of_defaults():
    text = (
        "quantization: {calibration: , recipes: , model_wise: , optype_wise: , op_wise: {}}\n"
        "evaluation: {accuracy: {metric: , configs: , postprocess: {transform: }}, performance: }\n"
        "tuning: {strategy: , accuracy_criterion: , exit_policy: , workspace: , diagnosis: }\n"
    )
    assert load(text) == load() == load("quantization:\nevaluation:\ntuning:\n")


def test_every_key_of_inc_is_read():
    config = load("""
version: 1.0
device: cpu
use_bf16: false
quantization:
  approach: post_training_static_quant
  calibration: {sampling_size: [10]}
  recipes:
    scale_propagation_max_pooling: true
    scale_propagation_concat: false
    first_conv_or_matmul_quantization: true
    last_conv_or_matmul_quantization: false
    pre_post_process_quantization: true
    fast_bias_correction: true
    weight_correction: true
  model_wise:
    weight: {granularity: per_channel, scheme: "sym, asym", dtype: int8, algorithm: minmax, bit: 7}
    activation:
      {granularity: [per_tensor], scheme: asym, dtype: uint8 fp32, compute_dtype: uint8,
       algorithm: kl}
  optype_wise: {Conv: {weight: {dtype: [int8]}}}
  op_wise: {conv1: {activation: {dtype: [fp32]}}}
  quant_level: 0
evaluation:
  accuracy:
    metric: {topk: 5}
    configs:
      {cores_per_instance: 4, num_of_instance: 7, inter_num_of_threads: 1,
       intra_num_of_threads: 2, kmp_blocktime: 0, kmp_affinity: compact}
    iteration: 10
    postprocess: {transform: {LabelShift: -1}}
  performance: {warmup: 0, iteration: 100, postprocess: {transform: {LabelShift: 1}}}
tuning:
  strategy: {name: bayesian, accuracy_weight: 0.5, latency_weight: 2, confidence_batches: 3,
    sigopt_api_token: secret, sigopt_project_id: p, sigopt_experiment_name: e}
  accuracy_criterion: {absolute: 1%, higher_is_better: true}
  objective: modelsize
  multi_objectives:
    objective: accuracy, performance
    weight: 0.2 0.8
    higher_is_better: "True, False"
  exit_policy: {timeout: 60, max_trials: 5, performance_only: true}
  random_seed: 9527
  tensorboard: true
  workspace: {path: runs/a, resume: old}
  diagnosis: {diagnosis_after_tuning: true, op_list: "a, b", iteration_list: 3,
    inspect_type: weight, save_to_disk: false, save_path: out}
""")
    wide = config.quantization.model_wise
    assert wide.weight is not None
    assert wide.activation is not None
    assert wide.weight.scheme == ("sym", "asym")
    assert wide.weight.bit == (7.0,)
    assert wide.activation.dtype == ("uint8", "fp32")
    assert config.evaluation.accuracy.label_shift == -1
    assert config.evaluation.accuracy.configs.kmp_affinity == "compact"
    assert config.tuning.multi_objectives is not None
    assert config.tuning.multi_objectives.weight == (0.2, 0.8)
    assert config.tuning.multi_objectives.higher_is_better == (True, False)
    assert str(config.tuning.workspace.path) == "/base/runs/a"
    assert config.tuning.diagnosis.op_list == ("a", "b")


def test_diagnosis_may_be_a_switch():
    assert load("tuning: {diagnosis: true}").tuning.diagnosis.diagnosis_after_tuning is True


def test_a_credential_is_not_kept():
    config = load("tuning: {strategy: {name: sigopt, sigopt_api_token: hush}}")
    assert "hush" not in config.to_yaml()
    assert "hush" not in repr(config)


@pytest.mark.parametrize("version", ["1", "1.0", "'1.0'", "1.14", "2.0"])
def test_versions(version):
    load(f"version: {version}")


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("50, 100", (50, 100)), ("50", (50,)), ("[50, 100]", (50, 100)), ("'8, 16, 32'", (8, 16, 32))],
)
def test_sampling_sizes(text, sizes):
    block = f"quantization:\n  calibration:\n    sampling_size: {text}\n"
    assert load(block).quantization.calibration.sampling_size == sizes


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=6),
    st.sampled_from(["{}, ", "{},", "{} "]),
)
def test_sampling_sizes_in_any_spelling(sizes, spelling):
    text = "".join(spelling.format(size) for size in sizes).rstrip(" ,")
    block = f"quantization:\n  calibration:\n    sampling_size: {text}\n"
    assert load(block).quantization.calibration.sampling_size == tuple(sizes)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 3), st.sampled_from(["", " "]))
def test_percentages_are_exact(digits, places, blank):
    percent = f"{digits / 10**places:.{places}f}"
    if float(percent) >= 100:
        return
    criterion = load(
        f"tuning: {{accuracy_criterion: {{relative: '{percent}{blank}%'}}}}"
    ).tuning.accuracy_criterion
    assert criterion.relative == float(f"{digits}e-{places + 2}")


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("topk: 1", TopK((1,))),
        ("topk: 5", TopK((5,))),
        ("topk: [1]", TopK((1,))),
        ("topk: [1, 5]", TopK((1, 5))),
        ("F1: ", UnsupportedMetric("F1", "null")),
        ("MSE: {compare_label: false}", UnsupportedMetric("MSE", '{"compare_label": false}')),
    ],
)
def test_metrics(text, metric):
    assert (
        load(f"evaluation: {{accuracy: {{metric: {{{text}}}}}}}").evaluation.accuracy.metric
        == metric
    )


def test_tolerances_of_every_kind():
    def goal(text):
        return load(f"tuning: {{accuracy_criterion: {{{text}}}}}").goal()

    assert (goal("relative: 0.02").kind, goal("relative: 0.02").tolerance) == ("relative", 0.02)
    assert (goal("absolute: 1").kind, goal("absolute: 1").tolerance) == ("absolute", 1.0)
    assert goal("absolute: 1e-3").tolerance == 0.001
    assert goal("relative: 0").tolerance == 0
    assert goal("agreement: 1").kind == "agreement"
    assert goal("relative: null, absolute: 0.5%").tolerance == 0.005
    both = load("tuning: {speed_floor: 0, accuracy_criterion: {confidence: 0.95}}").goal()
    assert (both.kind, both.tolerance, both.confidence, both.speed_floor) == (
        "relative",
        0.01,
        0.95,
        0.0,
    )


CRITERION = "`tuning.accuracy_criterion."


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("{relative: 0.01, absolute: 0.1}", CRITERION + "absolute` stands beside relative"),
        ("{agreement: 0.9, absolute: 0.1}", CRITERION + "agreement` stands beside absolute"),
        ("{relative: -0.01}", CRITERION + "relative` is -0.01; write a number of at least 0"),
        ("{relative: -1%}", CRITERION + "relative` is '-1%'; write a number of at least 0"),
        ("{absolute: -1}", CRITERION + "absolute` is -1; write a number of at least 0"),
        ("{relative: 1}", CRITERION + "relative` is 1; write a number below 1"),
        ("{relative: one}", CRITERION + "relative` is 'one'; write a number"),
        ("{relative: one%}", CRITERION + "relative` is 'one%'; write a number"),
        ("{relative: .nan}", CRITERION + "relative` is nan; write a finite number"),
        ("{absolute: .inf}", CRITERION + "absolute` is inf; write a finite number"),
        ("{relative: yes}", CRITERION + "relative` is True; write a number"),
        ("{relative: [1]}", CRITERION + "relative` is [1]; write a number"),
        ("{agreement: 0}", CRITERION + "agreement` is 0; write a number above 0"),
        ("{agreement: 1.1}", CRITERION + "agreement` is 1.1; write a number of at most 1"),
        ("{confidence: 0.5}", CRITERION + "confidence` is 0.5; write a number above 0.5"),
        ("{confidence: 1}", CRITERION + "confidence` is 1; write a number below 1"),
        ("{relativ: 0.1}", CRITERION + "relativ` is an unknown key; write `relative`"),
        ("{higher_is_better: perhaps}", "is 'perhaps'; write true or false"),
        ("0.01", "`tuning.accuracy_criterion` is 0.01; write keys with values below it"),
    ],
)
def test_faulty_goals(criterion, message):
    assert refused(f"tuning:\n  accuracy_criterion: {criterion}").startswith("a.yaml, line 3: ")
    assert message in refused(f"tuning:\n  accuracy_criterion: {criterion}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", "a.yaml, line 2: `modle` is an unknown key; write `model`, the nearest"),
        ("xyzzy: {}", "`xyzzy` is an unknown key; remove it; known here: version, model"),
        ("TUNING: {}", "`TUNING` is an unknown key; write `tuning`"),
        ("Tuning: {}", "`Tuning` is an unknown key; write `tuning`"),
        ("quantization: []", "`quantization` is []; write keys with values below it"),
        ("device: tpu", "`device` is 'tpu'; write one of cpu, gpu"),
        ("version: 3.0", "`version` is 3.0; write 1.0"),
        ("version: new", "`version` is 'new'; write 1.0"),
        ("quantization: {approach: static}", "is 'static'; write one of post_training_static"),
        ("quantization: {engine: ort}", "`quantization.engine` is 'ort'; write one of auto, inc"),
        ("quantization: {reduce_range: 3}", "is 3; write true or false"),
        ("quantization: {calibration: {sampling_size: 0}}", "is 0; write whole numbers above 0"),
        ("quantization: {calibration: {sampling_size: []}}", "is []; write whole numbers"),
        ("quantization: {calibration: {sampling_size: 1.5}}", "is 1.5; write whole numbers"),
        ("quantization: {calibration: {sampling_size: yes}}", "is True; write whole numbers"),
        ("quantization: {calibration: {sampling_size: '50, x'}}", "is '50, x'; write whole"),
        ("quantization: {calibration: {sampling_size: {a: 1}}}", "write whole numbers"),
        ("evaluation: {accuracy: {metric: {topk: 3}}}", "metric.topk` is 3; write 1, 5 or [1, 5]"),
        ("evaluation: {accuracy: {metric: {topk: yes}}}", "metric.topk` is True; write 1, 5"),
        ("evaluation: {accuracy: {metric: {topk: []}}}", "metric.topk` is []; write 1, 5"),
        (
            "evaluation: {accuracy: {metric: {top: 1}}}",
            "metric.top` is an unknown key; write `topk`",
        ),
        ("evaluation: {accuracy: {metric: {topk: 1, F1: }}}", "write one metric, such as topk: 1"),
        ("evaluation: {accuracy: {metric: topk}}", "is 'topk'; write one metric"),
        (
            "evaluation: {accuracy: {metric: {topk: 1}, multi_metrics: {topk: 1, MSE: }}}",
            "multi_metrics` stands beside metric; keep one",
        ),
        ("evaluation: {search_share: 1}", "is 1; write a number below 1"),
        ("evaluation: {max_unreadable: 2}", "is 2; write a number of at most 1"),
        ("evaluation: {cpus: {haswell: 1}}", "write a list of names"),
        ("evaluation: {cpus: [3]}", "is [3]; write a list of names"),
        ("evaluation: {cpus_timeout: 0}", "is 0; write a number above 0"),
        ("evaluation: {cpu: haswell}", "is an unknown key; write `cpus`"),
        ("evaluation: {performance: {warmup: -1}}", "is -1; write a number of at least 0"),
        ("evaluation: {performance: {configs: {cores_per_instance: 0}}}", "write a number above 0"),
        (
            "evaluation: {accuracy: {postprocess: {transform: {LabelShif: 1}}}}",
            "write `LabelShift`",
        ),
        ("tuning: {strategy: {name: basik}}", "`tuning.strategy.name` is 'basik'; write `basic`"),
        ("tuning: {strategy: {name: }}", "`tuning.strategy.name` is empty; choose another"),
        ("tuning: {exit_policy: {timeout: 1.5}}", "is 1.5; write a whole number"),
        ("tuning: {exit_policy: {timeout: -1}}", "is -1; write a number of at least 0"),
        ("tuning: {exit_policy: {max_trials: 0}}", "is 0; write a number above 0"),
        ("tuning: {random_seed: 99999999999}", "is 99999999999; write a number below"),
        ("tuning: {objective: speed}", "`tuning.objective` is 'speed'; write one of performance"),
        (
            "tuning: {multi_objectives: {objective: a, weight: [1, 2]}}",
            "weight` has 2 values for 1",
        ),
        ("tuning: {workspace: {path: 3}}", "`tuning.workspace.path` is 3; write a path"),
        ("tuning: {speed_floor: -1}", "is -1; write a number of at least 0"),
        ("tuning: {speed_floor: fast}", "is 'fast'; write a number"),
    ],
)
def test_faulty_values_are_named_with_key_value_and_cure(text, message):
    assert message in refused(text)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tuning: {}\n", "a.yaml: `model` is missing; add it"),
        ("model:\n  name: m\n", "a.yaml, line 1: `model.framework` is missing; add it"),
        ("model: {framework: onnxrt_qdq}\n", "`model.name` is missing"),
        ("model: {name: 3, framework: onnxrt_qdq}\n", "`model.name` is 3; write text"),
        ("model: {name: '', framework: onnxrt_qdq}\n", "`model.name` is ''; write some text"),
        ("model: {name: m, framework: onnxrt_qdp}\n", "is 'onnxrt_qdp'; write `onnxrt_qdq`"),
        ("model: {name: m, framework: [a]}\n", "`model.framework` is ['a']; choose another"),
        ("model: m\n", "`model` is 'm'; write keys with values"),
    ],
)
def test_faulty_models(model, message):
    assert message in refused("", model)


def test_several_faults_are_counted():
    message = refused("tuning: {speed_floor: fast, random_seed: x, exit_policy: {timeout: no}}")
    assert "(the first of 3 faults)" in message


WORDS = ["model", "name", "framework", "onnxrt_qdq", "quantization", "op_wise", "weight", "dtype"]
WORDS += ["calibration", "dataloader", "dataset", "ImageFolder", "dummy", "root", "transform"]
WORDS += ["Resize", "size", "Preset", "Normalize", "mean", "evaluation", "accuracy", "metric"]
WORDS += ["topk", "configs", "tuning", "accuracy_criterion", "relative", "strategy", "1%", "a.b"]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(WORDS),
)
trees = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(st.sampled_from(WORDS), below, max_size=4)
    ),
    max_leaves=12,
)
paths = [
    (),
    ("model",),
    ("quantization", "calibration"),
    ("quantization", "calibration", "dataloader"),
    ("quantization", "calibration", "dataloader", "dataset"),
    ("quantization", "calibration", "dataloader", "dataset", "dummy"),
    ("quantization", "calibration", "dataloader", "transform"),
    ("quantization", "calibration", "dataloader", "transform", "Resize"),
    ("quantization", "op_wise"),
    ("evaluation", "accuracy"),
    ("tuning", "accuracy_criterion"),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(paths), trees)
def test_any_tree_loads_or_is_refused(path, tree):
    base: dict = {"model": {"name": "m", "framework": "onnxrt_qdq"}}
    if path[:3] == ("quantization", "calibration", "dataloader"):
        loader = {"dataset": {"ImageFolder": {"root": "a"}}}
        base["quantization"] = {"calibration": {"dataloader": loader}}
    branch = base
    for key in path:
        branch = branch.setdefault(key, {})
    if isinstance(tree, dict):
        branch.update(tree)
    try:
        config = parse_config(base, folder="/base")
    except ConfigError:
        return
    assert parse_config(config.to_yaml(), folder="/base") == config
    config.lacks()


def test_names_are_split():
    model = parse_config(
        "model: {name: m, framework: onnxrt_qdq, inputs: 'a,b', outputs: [c, d]}"
    ).model
    assert (model.inputs, model.outputs) == (("a", "b"), ("c", "d"))


def test_no_number_of_a_loaded_configuration_is_infinite():
    goal = load().goal()
    assert math.isfinite(goal.tolerance)
    assert math.isfinite(goal.speed_floor)
