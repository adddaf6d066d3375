import pytest

from quantize.config import INC_STRATEGIES, check_tunable, parse_config
from quantize.errors import ConfigError

GOOD = """
model: {name: m, framework: onnxrt_qdq}
quantization: {calibration: {dataloader: {dataset: {ImageFolder: {root: a}}}}}
evaluation: {accuracy: {dataloader: {dataset: {ImageFolder: {root: b}}}}}
"""
CALIBRATION = "quantization.calibration.dataloader"
ACCURACY = "evaluation.accuracy.dataloader"


def lacks(*settings: str, **given: bool) -> tuple[str, ...]:
    return parse_config(GOOD, settings).lacks(**given)


def test_a_good_configuration_lacks_nothing():
    assert lacks() == ()
    check_tunable(parse_config(GOOD))


@pytest.mark.parametrize(
    ("setting", "lack"),
    [
        (f"{CALIBRATION}=", f"{CALIBRATION} is missing; add it"),
        (f"{ACCURACY}=", f"{ACCURACY} is missing; add it"),
        ("model.framework=onnxrt_integerops", "model.framework onnxrt_integerops makes no"),
        ("model.framework=tensorflow", "model.framework tensorflow makes no static int8"),
        ("quantization.approach=quant_aware_training", "quantization.approach quant_aware"),
        ("quantization.approach=post_training_auto_quant", "quantization.approach post_training_a"),
        ("device=gpu", "device gpu: "),
        ("pruning={approach: {weight_compression: {}}}", "pruning is not done here; remove"),
        ("quantization.train={epoch: 1}", "quantization.train is not done here"),
        ("quantization.model_wise={weight: {dtype: fp32}}", "quantization.model_wise.weight.dtype"),
        ("evaluation.accuracy.metric.F1=", "evaluation.accuracy.metric F1 is for another task"),
        ("evaluation.accuracy.metric.topk=5", "evaluation.accuracy.metric topk 5: the verdict"),
        (
            "evaluation.accuracy={multi_metrics: {topk: 1}, dataloader: "
            "{dataset: {ImageFolder: {root: b}}}}",
            "evaluation.accuracy.multi_metrics has no verdict",
        ),
        (
            "evaluation.accuracy.postprocess.transform.Collect={length: 3}",
            "evaluation.accuracy.postprocess Collect is for another task",
        ),
        ("tuning.accuracy_criterion.higher_is_better=false", "tuning.accuracy_criterion.higher"),
        ("tuning.accuracy_criterion.absolute=1", "tuning.accuracy_criterion.absolute 1 allows"),
        (f"{CALIBRATION}.dataset.GLUE={{}}", f"{CALIBRATION}.dataset GLUE is not read"),
        (f"{ACCURACY}.filter={{LabelBalance: {{size: 1}}}}", f"{ACCURACY}.filter is for object"),
        (f"{ACCURACY}.transform={{ToTensor: }}", f"{ACCURACY}.transform ToTensor null is not"),
        (f"{CALIBRATION}.transform={{RandomCrop: {{size: 8}}}}", f"{CALIBRATION}.transform Random"),
        (f"{ACCURACY}.transform={{RandomHorizontalFlip: }}", f"{ACCURACY}.transform RandomHoriz"),
        (
            f"{ACCURACY}.transform.ResizeCropImagenet={{height: 8, width: 8, random_crop: true}}",
            f"{ACCURACY}.transform ResizeCropImagenet is random",
        ),
        (
            "evaluation.holdout={dataset: {ImageFolder: {root: c}}, "
            "transform: {RandomCrop: {size: 8}}}",
            "evaluation.holdout.transform RandomCrop is random",
        ),
        ("tuning.strategy.name=mse", "tuning.strategy.name mse fails on every network with a Relu"),
        ("tuning.strategy.name=tpe", "tuning.strategy.name tpe imports a package"),
        ("tuning.strategy.name=sigopt", "tuning.strategy.name sigopt imports a package"),
        ("tuning.strategy.name=hawq_v2", "tuning.strategy.name hawq_v2 calls a method"),
        ("tuning.strategy.name=conservative", "tuning.strategy.name conservative is not offered"),
        ("tuning.strategy.latency_weight=0.5", "tuning.strategy guided weighs nothing"),
        ("tuning.objective=modelsize", "tuning.strategy guided has one objective"),
        ("tuning.multi_objectives={objective: [accuracy]}", "tuning.strategy guided has one obj"),
        ("tuning.workspace.resume=old.snapshot", "tuning.workspace.resume is a pickle"),
    ],
)
def test_each_lack_is_one_line_and_refused(setting, lack):
    (found,) = lacks(setting)
    assert found.startswith(lack)
    assert "\n" not in found
    config = parse_config(GOOD, [setting], name="a.yaml")
    with pytest.raises(ConfigError) as caught:
        check_tunable(config)
    assert caught.value.message.startswith(f"configuration: {lack.split(';')[0]}")
    assert caught.value.cure


@pytest.mark.parametrize("name", sorted(INC_STRATEGIES))
def test_loops_of_inc_take_weights_and_objectives_but_need_inc(name):
    settings = [
        f"tuning.strategy.name={name}",
        "tuning.strategy.accuracy_weight=0.5",
        "tuning.objective=footprint",
    ]
    assert lacks(*settings) == ()
    assert lacks(*settings, "quantization.engine=inc") == ()
    (found,) = lacks(*settings, "quantization.engine=onnxruntime")
    assert found.startswith(f"tuning.strategy.name {name} is a loop of INC's")


def test_a_holdout_alone_can_be_judged():
    assert lacks(f"{ACCURACY}=", "evaluation.holdout.dataset.ImageFolder.root=c") == ()


def test_images_from_the_caller_need_no_datasets_but_keep_their_transforms():
    both = {"calibration_given": True, "evaluation_given": True}
    assert lacks(f"{CALIBRATION}=", f"{ACCURACY}=", **both) == ()
    assert lacks(f"{CALIBRATION}.dataset.GLUE={{}}", calibration_given=True) == ()
    assert len(lacks(f"{CALIBRATION}.dataset.GLUE={{}}", evaluation_given=True)) == 1
    assert len(lacks(f"{ACCURACY}.transform={{RandomVerticalFlip: }}", **both)) == 1


def test_the_loader_for_speed_does_not_matter():
    assert lacks("evaluation.performance.dataloader.dataset.GLUE={}") == ()


def test_an_empty_section_for_other_work_asks_for_nothing():
    assert lacks("pruning={}", "quantization.train=") == ()


def test_other_lacks_are_counted():
    config = parse_config(GOOD, ["device=gpu", "tuning.workspace.resume=x"])
    with pytest.raises(ConfigError, match=r"CPU \(and 1 more\); write cpu"):
        check_tunable(config)


@pytest.mark.parametrize(
    "settings", [("tuning.strategy.name=basic",), ("quantization.engine=inc",)]
)
def test_portable_weights_are_not_for_inc(settings):
    assert lacks("quantization.portable=true") == ()
    (found,) = lacks("quantization.portable=true", *settings)
    assert str(found).startswith("quantization.portable is true, but INC")


MSE = "quantization.model_wise.activation.algorithm=mse"


@pytest.mark.parametrize("settings", [["quantization.engine=inc"], ["tuning.strategy.name=basic"]])
def test_ranges_of_least_error_are_not_for_inc(settings):
    assert lacks(MSE) == ()
    assert lacks(MSE, "quantization.engine=onnxruntime") == ()
    (found,) = lacks(MSE, *settings)
    assert str(found).startswith("quantization.model_wise.activation.algorithm mse is none of INC")


@pytest.mark.parametrize("scope", ["optype", "op"])
def test_ranges_of_least_error_are_not_for_single_operators(scope):
    rule = '{"a": {"activation": {"algorithm": [minmax, mse]}}}'
    (found,) = lacks(f"quantization.{scope}_wise={rule}")
    assert str(found) == (
        f"quantization.{scope}_wise 'a' asks activation algorithm mse, which is the whole"
        " model's; ask it in quantization.model_wise"
    )
