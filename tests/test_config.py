import pickle
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import config as package
from quantize.config import TopK, load_config, parse_config
from quantize.config.section import Section
from quantize.data.datasets import DATASETS, ImageFolder, ImagenetRaw
from quantize.data.presets import PresetName
from quantize.data.steps import CenterCrop, Normalize, Rescale, Resize, Transpose
from quantize.data.transforms import TRANSFORMS
from quantize.errors import ConfigError
from quantize.plan import Goal

CONFIGS = Path(__file__).parents[1] / "configs"

FILE = """
model: {name: m, framework: onnxrt_qlinearops}
quantization:
  calibration: {dataloader: {dataset: {ImageFolder: {root: cal}}, transform: {Rescale: }}}
evaluation:
  accuracy: {dataloader: {dataset: {ImageFolder: {root: val}}, transform: {Resize: {size: 8}}}}
tuning: {workspace: {path: runs}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "folder" / "a.yaml"
    path.parent.mkdir()
    path.write_text(FILE)
    return path


# ------------------------------------------------------------------------------ loading


def test_relative_paths_start_in_the_folder_of_the_file(file, monkeypatch):
    monkeypatch.chdir(file.parents[1])
    for path in (file, str(file), "folder/a.yaml"):
        config = load_config(path)
        assert config.source == Path(path)
        assert config.quantization.calibration.dataloader.dataset == ImageFolder(
            file.parent / "cal"
        )
        assert config.tuning.workspace.path == file.parent / "runs"


def test_loading_reads_text_only_and_never_writes(file):
    before = {path: path.stat().st_mtime_ns for path in file.parent.iterdir()}
    load_config(file, ["quantization.calibration.dataloader.dataset.ImageFolder.root=/none"])
    assert {path: path.stat().st_mtime_ns for path in file.parent.iterdir()} == before
    assert file.read_text() == FILE


def test_faults_name_the_file_and_the_line(file):
    file.write_text(FILE.replace("workspace", "workspce"))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == (
        f"{file}, line 7: `tuning.workspce` is an unknown key; write `workspace`, the nearest "
        "known one"
    )


def test_a_tree_of_python_values_is_read_too(tmp_path):
    tree = {
        "model": {"name": "m", "framework": "onnxrt_qdq"},
        "quantization": {"calibration": {"dataloader": {"dataset": {"ImageFolder": {}}}}},
    }
    tree["quantization"]["calibration"]["dataloader"]["dataset"]["ImageFolder"]["root"] = tmp_path
    config = parse_config(tree)
    assert config.quantization.calibration.dataloader.dataset == ImageFolder(tmp_path)
    with pytest.raises(ConfigError, match=r"^mine: `modle` is an unknown key"):
        parse_config({"modle": {}}, name="mine")


def test_equal_says_the_same_wherever_it_came_from(file):
    config = load_config(file)
    again = parse_config(config.to_yaml())
    assert again == config
    assert hash(again) == hash(config)
    assert again.source is None
    assert again.to_yaml() == config.to_yaml()
    assert load_config(file, ["tuning.random_seed=3"]) != config


def test_a_configuration_can_be_sent_to_another_process(file):
    config = load_config(file)
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_configuration_cannot_be_changed(file):
    config = load_config(file)
    with pytest.raises(ValueError, match="frozen"):
        config.tuning.random_seed = 3
    with pytest.raises(AttributeError):
        config.source = None


# ------------------------------------------------------------------------------ meaning


@pytest.mark.parametrize(
    ("framework", "format_"),
    [
        ("onnxrt_qdq", "qdq"),
        ("onnxrt_qlinearops", "qoperator"),
        ("onnxrt_qoperator", "qoperator"),
    ],
)
def test_the_framework_decides_the_format(framework, format_):
    assert parse_config(f"model: {{name: m, framework: {framework}}}").format() == format_


@pytest.mark.parametrize("framework", ["onnxrt_integerops", "pytorch", "NA"])
def test_other_frameworks_load_but_have_no_format(framework):
    config = parse_config(f"model: {{name: m, framework: {framework}}}")
    with pytest.raises(ConfigError, match=f"model.framework {framework} makes no static int8"):
        config.format()


def test_the_goal_holds_everything_that_decides(file):
    assert load_config(file).goal() == Goal(0.01, "relative", None, 1.1)
    asked = load_config(
        file,
        [
            "tuning.accuracy_criterion={agreement: 98%, confidence: 0.95}",
            "tuning.speed_floor=1.5",
        ],
    )
    assert asked.goal() == Goal(0.98, "agreement", 0.95, 1.5)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tuning.accuracy_criterion": st.one_of(
                st.fixed_dictionaries({"relative": st.floats(0, 0.999)}),
                st.fixed_dictionaries({"absolute": st.floats(0, 1e9)}),
                st.fixed_dictionaries(
                    {"agreement": st.floats(1e-9, 1), "confidence": st.floats(0.501, 0.999)}
                ),
            ),
            "tuning.speed_floor": st.floats(0, 1e6),
            "tuning.random_seed": st.integers(0, 2**32 - 1),
            "tuning.workspace.path": st.text(
                st.characters(codec="utf-8", exclude_characters="\0"), min_size=1
            ),
            "model.name": st.text(st.characters(codec="utf-8"), min_size=1),
            "quantization.op_wise": st.dictionaries(
                st.text("ab_1.", min_size=1),
                st.fixed_dictionaries(
                    {
                        "weight": st.fixed_dictionaries(
                            {"dtype": st.sets(st.sampled_from(["int8", "fp32"])).map(sorted)}
                        )
                    }
                ),
            ),
            "evaluation.accuracy.metric": st.sampled_from(
                [{"topk": 1}, {"topk": [1, 5]}, {"F1": None}, {"mAP": {"iou_thrs": 0.5}}]
            ),
        },
    )
)
def test_the_effective_configuration_reads_back_equal(values):
    tree: dict = {"model": {"name": "m", "framework": "onnxrt_qdq"}}
    for key, value in values.items():
        *sections, last = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[last] = value
    config = parse_config(tree)
    text = config.to_yaml()
    assert parse_config(text, folder="/elsewhere") == config
    assert parse_config(text).to_yaml() == text


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\ufeff", "\r\n", "\x1b", " "])
def test_text_with_odd_characters_reads_back_equal(mark):
    config = parse_config({"model": {"name": f"é{mark}b{mark}", "framework": "NA"}})
    assert parse_config(config.to_yaml()).model.name == f"é{mark}b{mark}"


# -------------------------------------------------------------------------- 2.x flags


def test_flags_put_every_loader_on_one_dataset(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(
        file,
        [
            "evaluation.holdout.dataset.ImageFolder.root=h",
            "evaluation.performance.dataloader.dataset.ImageFolder.root=p",
        ],
    )
    moved = config.with_flags("images", "labels.txt", "QDQ")
    dataset = ImagenetRaw(tmp_path / "images", tmp_path / "labels.txt")
    evaluation = moved.evaluation
    loaders = (
        moved.quantization.calibration.dataloader,
        evaluation.accuracy.dataloader,
        evaluation.performance.dataloader,
        evaluation.holdout,
    )
    assert [loader.dataset for loader in loaders] == [dataset] * 4
    assert loaders[0].transforms == (Rescale(),)
    assert loaders[1].transforms == (Resize(8),)
    assert moved.format() == "qdq"
    assert moved.source == config.source
    assert parse_config(moved.to_yaml()) == moved
    assert config.evaluation.accuracy.dataloader.dataset == ImageFolder(file.parent / "val")


def test_labels_lie_beside_the_images_unless_said():
    config = parse_config(FILE).with_flags("/data/val")
    assert config.evaluation.accuracy.dataloader.dataset == ImagenetRaw(
        Path("/data/val"), Path("/data/val/../val.txt")
    )


@pytest.mark.parametrize("missing", ["calibration", "accuracy"])
def test_a_missing_loader_becomes_a_copy_of_the_other(missing):
    key = {
        "calibration": "quantization.calibration.dataloader",
        "accuracy": "evaluation.accuracy.dataloader",
    }[missing]
    config = parse_config(FILE, [f"{key}="]).with_flags("/d", "/l")
    assert config.quantization.calibration.dataloader == config.evaluation.accuracy.dataloader
    assert config.evaluation.performance.dataloader is None
    assert config.lacks() == ()


def test_without_any_loader_there_is_no_preprocessing_to_borrow():
    bare = parse_config("model: {name: m, framework: onnxrt_qdq}").with_flags("/d", "/l")
    assert len(bare.lacks()) == 2


@pytest.mark.parametrize(
    ("flag", "framework"),
    [
        ("default", "onnxrt_qlinearops"),
        ("QOperator", "onnxrt_qlinearops"),
        ("QDQ", "onnxrt_qdq"),
        ("qdq", "onnxrt_qdq"),
    ],
)
def test_quant_format(flag, framework):
    assert parse_config(FILE).with_flags(quant_format=flag).model.framework == framework


def test_no_flags_change_nothing():
    assert parse_config(FILE).with_flags() == parse_config(FILE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"quant_format": "int4"}, "--quant_format 'int4' is unknown; write default, QOperator"),
        ({"quant_format": ""}, "--quant_format '' is unknown"),
        ({"dataset_location": ""}, "--dataset_location is '', no path; give a path"),
        ({"dataset_location": "d", "label_path": ""}, "--label_path is '', no path"),
        ({"label_path": "l"}, "--label_path is given without --dataset_location; give the folder"),
    ],
)
def test_faulty_flags(flags, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(FILE).with_flags(**flags)
    assert message in str(caught.value)


# ---------------------------------------------------------------------- files that ship


def test_the_published_resnet50_has_its_six_transforms():
    config = load_config(CONFIGS / "resnet50_v1_5.yaml")
    loaders = (
        config.quantization.calibration.dataloader,
        config.evaluation.accuracy.dataloader,
        config.evaluation.performance.dataloader,
    )
    for loader in loaders:
        assert [type(step).__name__ for step in loader.transforms] == [
            "Rescale",
            "Resize",
            "CenterCrop",
            "Normalize",
            "Transpose",
            "Cast",
        ]
        assert loader.transforms[1:5] == (
            Resize(256),
            CenterCrop(224),
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            Transpose((2, 0, 1)),
        )
        assert loader.batch_size == 1
        assert isinstance(loader.dataset, ImagenetRaw)
    assert config.model.name == "resnet50_v1_5"
    assert config.format() == "qoperator"
    assert config.quantization.calibration.sampling_size == (50, 100)
    assert config.goal() == Goal(0.01, "relative", None, 1.1)
    assert config.evaluation.accuracy.metric == TopK((1,))
    performance = config.evaluation.performance
    assert (performance.warmup, performance.iteration) == (10, 1000)
    assert performance.configs.cores_per_instance == 4
    assert config.tuning.random_seed == 9527
    assert config.lacks() == ()


def test_cifar10_is_read_as_it_is():
    config = load_config(CONFIGS / "cifar10_resnet20.yaml")
    root = CONFIGS.absolute() / "../data/cifar10"
    assert config.quantization.calibration.dataloader.dataset == ImageFolder(root / "train")
    assert config.evaluation.accuracy.dataloader.dataset == ImageFolder(root / "test")
    assert config.evaluation.accuracy.dataloader.batch_size == 64
    assert config.format() == "qdq"
    assert config.goal() == Goal(0.01, "relative", None, 1.1)
    assert config.lacks() == ()


TOLD_AS_A_WHOLE = {"recipes", "diagnosis"}


def keys_of(section: Section) -> set[str]:
    found = set()
    for name, info in type(section).model_fields.items():
        below = getattr(section, name)
        found.add(info.alias or name)
        if isinstance(below, Section) and name not in TOLD_AS_A_WHOLE:
            found |= keys_of(below)
    return found


def test_every_key_and_every_name_is_documented():
    text = (CONFIGS / "README.md").read_text()
    document = parse_config(FILE, ["tuning.multi_objectives={}"]).document
    mentioned = set(re.findall(r"\w+", text))
    assert keys_of(document) - mentioned == set()
    assert {*DATASETS, *TRANSFORMS, *get_args(PresetName)} - mentioned == set()
    options = {
        field.name for cls in (*DATASETS.values(), *TRANSFORMS.values()) for field in fields(cls)
    }
    assert options - mentioned == set()


# -------------------------------------------------------------------------------- doors


def test_importing_the_configuration_imports_no_model_library():
    code = "import sys, quantize.config; print({'onnx', 'onnxruntime', 'cv2'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_all_is_sorted_and_complete():
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
