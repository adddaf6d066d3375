import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.config import TopK, parse_config
from quantize.errors import ConfigError

FILE = """
model: {name: m, framework: onnxrt_qdq}
quantization:
  calibration:
    dataloader:
      dataset: {ImagenetRaw: {data_path: /images}}
evaluation: {accuracy: {metric: {GLUE: {task: mrpc}}}}
tuning:
  accuracy_criterion: {relative: 0.01, higher_is_better: true}
"""


def load(*settings):
    return parse_config(FILE, settings, name="a.yaml")


def refused(*settings) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*settings)
    return str(caught.value)


def test_a_value_is_laid_over_the_file_and_its_neighbours_stay():
    config = load("tuning.accuracy_criterion.relative=0.02", "tuning.random_seed=7")
    assert config.tuning.accuracy_criterion.relative == 0.02
    assert config.tuning.accuracy_criterion.higher_is_better is True
    assert config.tuning.random_seed == 7


def test_another_goal_replaces_the_one_in_the_file():
    criterion = load("tuning.accuracy_criterion.absolute=0.005").tuning.accuracy_criterion
    assert (criterion.relative, criterion.absolute) == (None, 0.005)
    criterion = load("tuning.accuracy_criterion.agreement=98%").tuning.accuracy_criterion
    assert (criterion.relative, criterion.agreement) == (None, 0.98)


def test_two_goals_on_the_command_line_contradict_each_other():
    message = refused(
        "tuning.accuracy_criterion.absolute=0.01", "tuning.accuracy_criterion.relative=0.02"
    )
    assert message.startswith("--set tuning.accuracy_criterion.absolute=0.01: ")
    assert "stands beside relative; keep one of them" in message


def test_another_dataset_or_metric_replaces_the_one_in_the_file():
    loader = load(
        "quantization.calibration.dataloader.dataset.ImageFolder.root=/folder"
    ).quantization.calibration.dataloader
    assert loader is not None
    assert (type(loader.dataset).__name__, str(loader.dataset.root)) == ("ImageFolder", "/folder")
    assert load("evaluation.accuracy.metric.topk=[1, 5]").evaluation.accuracy.metric == TopK((1, 5))


def test_keys_that_the_file_lacks_are_made_on_the_way():
    config = load("evaluation.performance.configs.cores_per_instance=2")
    assert config.evaluation.performance.configs.cores_per_instance == 2
    assert config == load("evaluation.performance={configs: {cores_per_instance: 2}}")


def test_everything_after_the_first_equals_sign_is_the_value():
    assert load("model.name=a=b=c").model.name == "a=b=c"
    assert load("model.name='x y'").model.name == "x y"
    assert load(" tuning.speed_floor =0").tuning.speed_floor == 0


def test_the_last_setting_of_a_key_counts():
    assert load("tuning.random_seed=1", "tuning.random_seed=2").tuning.random_seed == 2


def test_a_null_takes_a_section_back_to_its_defaults():
    assert load("tuning.accuracy_criterion=").tuning.accuracy_criterion.relative == 0.01
    assert load("quantization.calibration.dataloader=null").quantization == (
        parse_config("model: {name: m, framework: onnxrt_qdq}").quantization
    )


@pytest.mark.parametrize("setting", ["", "a", "=1", "a..b=1", ".a=1", "a.=1", "tuning"])
def test_settings_without_key_or_value_are_refused(setting):
    assert "is no KEY=VALUE; write it like" in refused(setting)


def test_faults_name_the_setting_and_not_the_file():
    assert refused("tuning.speed_flor=2").startswith(
        "--set tuning.speed_flor=2: `tuning.speed_flor` is an unknown key; write `speed_floor`"
    )
    assert refused("tuning.accuracy_criterion={relative: x}").startswith(
        "--set tuning.accuracy_criterion={relative: x}: "
        "`tuning.accuracy_criterion.relative` is 'x'; write a number"
    )
    assert refused("tuning.speed_floor=[").startswith("--set tuning.speed_floor=[, line 1: not")
    assert refused("model.name.first=x") == (
        "--set model.name.first=x: `model.name` is 'm', it has no keys below it; shorten the key"
    )


def test_faults_of_the_file_still_name_its_line():
    with pytest.raises(ConfigError, match=r"^a.yaml, line 9: `tuning.accuracy_criterion.relativ`"):
        parse_config(FILE.replace("relative", "relativ"), ["model.name=x"], name="a.yaml")


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 0.99),
    st.lists(st.integers(1, 10**6), min_size=1, max_size=4),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1),
)
def test_settings_survive_the_way_into_yaml_and_back(relative, sizes, name):
    config = load(
        f"tuning.accuracy_criterion.relative={relative!r}",
        f"quantization.calibration.sampling_size={', '.join(map(str, sizes))}",
        "model.name=" + yaml.safe_dump(name, default_style='"'),
    )
    assert config.tuning.accuracy_criterion.relative == relative
    assert config.quantization.calibration.sampling_size == tuple(sizes)
    assert config.model.name == name
    assert parse_config(config.to_yaml(), folder="/elsewhere") == config
