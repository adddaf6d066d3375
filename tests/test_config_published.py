"""Key trees of the 37 image-classification configurations of INC 1.14, and of older ones."""

from dataclasses import dataclass, replace

import pytest
import yaml

from quantize.config import TopK, check_tunable, parse_config, pinned_float
from quantize.data.steps import (
    BilinearImagenet,
    Cast,
    CenterCrop,
    Normalize,
    Rescale,
    Resize,
    ResizeCropImagenet,
    ResizeWithAspectRatio,
    Transpose,
)
from quantize.errors import ConfigError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FLAT = {"perm": [2, 0, 1]}
SIX = {
    "Rescale": None,
    "Resize": {"size": 256},
    "CenterCrop": {"size": 224},
    "Normalize": {"mean": MEAN, "std": STD},
    "Transpose": FLAT,
    "Cast": {"dtype": "float32"},
}
TORCH = {"ResizeCropImagenet": {"height": 224, "width": 224, "mean_value": MEAN}}
MLPERF = {
    "ResizeWithAspectRatio": {"height": 224, "width": 224},
    "CenterCrop": {"size": 224},
    "Normalize": {"mean": [123.68, 116.78, 103.94]},
    "Cast": {"dtype": "float32"},
    "Transpose": FLAT,
}
EFFICIENT = {
    "ResizeWithAspectRatio": {"height": 224, "width": 224},
    "CenterCrop": {"size": 224},
    "Normalize": {"mean": [127.0] * 3, "std": [128.0] * 3},
    "Cast": {"dtype": "float32"},
}
BILINEAR = {"BilinearImagenet": {"height": 224, "width": 224}}
DIGITS = {"Cast": {"dtype": "float32"}, "Transpose": FLAT}

BUILT = {
    "six": (
        Rescale(),
        Resize(256),
        CenterCrop(224),
        Normalize(tuple(MEAN), tuple(STD)),
        Transpose((2, 0, 1)),
        Cast("float32"),
    ),
    "torch": (ResizeCropImagenet(224, 224, mean_value=tuple(MEAN)),),
    "mlperf": (
        ResizeWithAspectRatio(224, 224),
        CenterCrop(224),
        Normalize((123.68, 116.78, 103.94)),
        Cast(),
        Transpose((2, 0, 1)),
    ),
    "bilinear": (BilinearImagenet(224, 224),),
}


@dataclass(frozen=True)
class Tree:
    """What one published file says, where it differs from the others."""

    name: str
    transform: dict | None = None
    qdq: bool = False
    dataset: str = "ImagenetRaw"
    sizes: str | int | None = None
    version: bool = False
    accuracy_batch: int = 1
    goal: tuple[str, float] = ("relative", 0.01)
    pins: tuple[str, ...] = ()
    shift: int | None = None
    topk: bool = True
    cores: int = 4
    instances: int = 1
    rounds: int = 1000
    model: tuple[tuple[str, str], ...] = ()

    def text(self) -> str:
        """The file."""
        tree = {
            "version": 1.0,
            "model": {
                "name": self.name,
                "framework": "onnxrt_qdq" if self.qdq else "onnxrt_qlinearops",
                **dict(self.model),
            },
            "quantization": {"approach": "post_training_static_quant", **self._calibration()},
            "evaluation": {"accuracy": self._accuracy(), "performance": self._performance()},
            "tuning": {
                "accuracy_criterion": dict([self.goal]),
                "exit_policy": {"timeout": 0},
                "random_seed": 9527,
            },
        }
        if not self.version:
            del tree["version"]
        return yaml.safe_dump(tree, sort_keys=False)

    def _loader(self, batch: int) -> dict:
        if self.transform is None:
            return {}
        options = {"root": "/path/to/dataset"}
        if self.dataset == "ImagenetRaw":
            options = {"data_path": "/path/to/dataset", "image_list": "/path/to/label"}
        dataset = {self.dataset: options}
        return {
            "dataloader": {"batch_size": batch, "dataset": dataset, "transform": self.transform}
        }

    def _calibration(self) -> dict:
        sizes = {} if self.sizes is None else {"sampling_size": self.sizes}
        float_only = {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}
        pins = {"op_wise": dict.fromkeys(self.pins, float_only)} if self.pins else {}
        calibration = {**sizes, **self._loader(1)}
        return {**({"calibration": calibration} if calibration else {}), **pins}

    def _post(self) -> dict:
        if self.shift is None:
            return {}
        return {"postprocess": {"transform": {"LabelShift": self.shift}}}

    def _accuracy(self) -> dict | None:
        metric = {"metric": {"topk": 1}} if self.topk else {}
        return {**metric, **self._loader(self.accuracy_batch), **self._post()} or None

    def _performance(self) -> dict:
        configs = {"cores_per_instance": self.cores, "num_of_instance": self.instances}
        if self.cores == 28:
            configs["kmp_blocktime"] = 1
        return {
            "warmup": 10,
            "iteration": self.rounds,
            "configs": configs,
            **self._loader(1),
            **self._post(),
        }


def both(tree: Tree) -> tuple[Tree, Tree]:
    """The file and its QDQ twin."""
    return tree, replace(tree, qdq=True)


def torch(name: str, *pins: str, sizes: str | int, goal: float = 0.01) -> tuple[Tree, Tree]:
    tree = Tree(name, TORCH, sizes=sizes, accuracy_batch=32, instances=7, rounds=100, pins=pins)
    return both(replace(tree, goal=("relative", goal)))


BARE = Tree("", version=True)
SEGMENTS = replace(
    BARE,
    name="fcn_rn50",
    topk=False,
    cores=28,
    rounds=100,
    goal=("absolute", 0.01),
    model=(("inputs", "image"), ("outputs", "out,aux")),
)
ZOO_VGG = Tree("vgg16", SIX, sizes=50, version=True, instances=7, rounds=100)
PUBLISHED = (
    *torch("mobilenet_v2", "Gather_.*?", "Gemm_174_MatMul", sizes="50, 100", goal=0.03),
    *both(Tree("mobilenet_v3", BILINEAR, sizes="50, 100", shift=-1, instances=7, rounds=500)),
    *both(replace(BARE, name="alexnet")),
    replace(BARE, name="arcface", topk=False, rounds=100),
    *both(replace(BARE, name="caffenet")),
    Tree("densenet", SIX, goal=("relative", 0.02), pins=("Conv_nc_rename_0", "Relu_nc_rename_1")),
    *both(Tree("efficientnet", EFFICIENT, version=True, instances=7, rounds=100)),
    *both(SEGMENTS),
    *both(replace(BARE, name="googlenet")),
    *both(replace(BARE, name="inception_v1")),
    Tree("mnist", DIGITS, dataset="MNIST", version=True, cores=28, rounds=100),
    *both(Tree("mobilenetv2", SIX, goal=("relative", 0.02))),
    *both(Tree("resnet50_v1_5", SIX, sizes="50, 100")),
    *both(Tree("shufflenetv2", SIX, sizes="50, 100")),
    *both(replace(BARE, name="squeezenet")),
    *both(ZOO_VGG),
    *both(replace(BARE, name="zfnet512")),
    *torch("resnet50_v1_5", "Gemm_174_MatMul", sizes="50, 100"),
    *both(
        Tree(
            "resnet50_mlperf",
            MLPERF,
            sizes="50, 100",
            accuracy_batch=32,
            shift=-1,
            instances=7,
            rounds=100,
            pins=("gemm_MatMul",),
        )
    ),
    *torch("vgg16", "Gemm_37_MatMul", sizes=50),
)


def test_the_census_is_complete():
    assert len(PUBLISHED) == 37
    assert sum(tree.transform is not None for tree in PUBLISHED) == 22
    assert sum(tree.dataset == "ImagenetRaw" for tree in PUBLISHED if tree.transform) == 21
    assert sum(tree.sizes is not None for tree in PUBLISHED) == 16
    assert sum(tree.shift is not None for tree in PUBLISHED) == 4
    assert sum(bool(tree.pins) for tree in PUBLISHED) == 9
    assert sum(tree.topk for tree in PUBLISHED) == 34


@pytest.mark.parametrize("tree", PUBLISHED, ids=lambda tree: f"{tree.name}-{tree.qdq}")
def test_every_published_tree_loads_and_says_what_it_lacks(tree):
    config = parse_config(tree.text(), name=tree.name)
    assert parse_config(config.to_yaml()) == config
    assert config.format() == ("qdq" if tree.qdq else "qoperator")
    assert (config.goal().kind, config.goal().tolerance) == tree.goal
    assert config.tuning.random_seed == 9527
    assert config.evaluation.performance.iteration == tree.rounds
    assert config.evaluation.performance.configs.num_of_instance == tree.instances
    assert config.evaluation.accuracy.label_shift == (tree.shift or 0)
    assert config.evaluation.accuracy.metric == TopK((1,))
    assert tuple(rule.pattern for rule in config.op_rules()) == tree.pins
    sizes = {"50, 100": (50, 100), 50: (50,), None: (100,)}
    assert config.quantization.calibration.sampling_size == sizes[tree.sizes]
    if tree.transform is None:
        assert config.lacks() == (
            "quantization.calibration.dataloader is missing; add it",
            "evaluation.accuracy.dataloader is missing; add it",
        )
        with pytest.raises(ConfigError, match=r"dataloader is missing \(and 1 more\); add it"):
            check_tunable(config)
        check_tunable(config, calibration_given=True, evaluation_given=True)
    else:
        assert config.lacks() == ()
        check_tunable(config)


@pytest.mark.parametrize(
    ("transform", "built"),
    [(SIX, "six"), (TORCH, "torch"), (MLPERF, "mlperf"), (BILINEAR, "bilinear")],
)
def test_transforms_come_out_in_order_with_their_numbers(transform, built):
    loader = parse_config(Tree("m", transform).text()).quantization.calibration.dataloader
    assert loader is not None
    assert loader.transforms == BUILT[built]


def test_published_pins_find_their_nodes():
    densenet = next(tree for tree in PUBLISHED if tree.name == "densenet")
    nodes = [("", "Conv"), ("", "Relu"), ("", "Conv")]
    named = [(f"{kind}_{index}", kind) for index, (_, kind) in enumerate(nodes)]
    rules = parse_config(densenet.text()).op_rules()
    assert pinned_float(rules, named) == ("Conv_0", "Relu_1")
    mobilenet = parse_config(PUBLISHED[0].text()).op_rules()
    nodes = [("Gather_100", "Gather"), ("Conv_0", "Conv"), ("Gemm_174", "Gemm")]
    assert pinned_float(mobilenet, nodes) == ("Gather_100", "Gemm_174")


# --------------------------------------------------------- other versions, other tasks

FIRST_ERA = """
model: {name: resnet50_v1_5, framework: onnxrt_qlinearops}
quantization:
  calibration:
    sampling_size: 50, 100
    dataloader: {batch_size: 1, dataset: {Imagenet: {root: /data}}, transform: &t
      {ResizeCropImagenet: {height: 224, width: 224, mean_value: [0.485, 0.456, 0.406]}}}
  op_wise: {'Gemm_174_MatMul': {'activation': {'dtype': ['fp32'], 'scheme':['sym']},
    'weight': {'dtype': ['fp32'], 'scheme':['sym']}}}
evaluation:
  accuracy:
    metric: {topk: 1}
    dataloader: {batch_size: 32, dataset: {Imagenet: {root: /data}}, transform: *t}
tuning: {accuracy_criterion: {relative: 0.01}, exit_policy: {timeout: 0}, random_seed: 9527}
"""

MIDDLE_ERA = """
model: {name: resnet50_v1_5, framework: onnxrt_qlinearops}
quantization:
  calibration:
    dataloader: {dataset: {ImageFolder: {root: /cal/}}, transform: &t
      {AlignImageChannel: {dim: 3}, Rescale: {}, Resize: {size: 256}, CenterCrop: {size: 224},
       Normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]},
       Transpose: {perm: [2, 0, 1]}, Cast: {dtype: float32}}}
evaluation:
  accuracy:
    metric: {topk: 1}
    configs: {cores_per_instance: 28, num_of_instance: 1, kmp_blocktime: 1}
    dataloader: {dataset: {ImageFolder: {root: /val/}}, transform: *t}
"""


@pytest.mark.parametrize("text", [FIRST_ERA, MIDDLE_ERA])
def test_older_files_load_and_can_be_tuned(text):
    assert parse_config(text).lacks() == ()


def test_the_old_name_of_the_format_is_read():
    assert parse_config("model: {name: m, framework: onnxrt_qdqops}").format() == "qdq"


LANGUAGE = """
model: {name: bert, framework: onnxrt_integerops}
quantization: {approach: post_training_dynamic_quant, calibration: {sampling_size: '8, 16, 32'}}
evaluation:
  accuracy:
    metric: {GLUE: {task: mrpc}}
    dataloader:
      batch_size: 8
      dataset: {GLUE: {data_dir: /d, model_name_or_path: bert, task: mrpc, dynamic_length: false}}
"""

DETECTION = """
model:
  {name: ssd, framework: onnxrt_qlinearops, inputs: image,
   outputs: 'boxes,classes,scores'}
quantization:
  calibration:
    dataloader:
      dataset: {COCORaw: {root: /d}}
      filter: {LabelBalance: {size: 1}}
      transform: {Resize: {size: 300}}
  model_wise: {weight: {algorithm: minmax, scheme: sym}, activation: {scheme: sym}}
evaluation:
  accuracy:
    metric:
      COCOmAPv2: {anno_path: a.yaml, output_index_mapping: {boxes: 0, classes: 1, scores: 2}}
    dataloader:
      dataset: {COCORaw: {root: /d}}
      transform: {Resize: {size: 300}}
  performance: {dataloader: {dataset: {dummy: {shape: [1, 3, 300, 300]}}}}
"""

REGRESSION = """
model: {name: superresolution, framework: onnxrt_qlinearops}
evaluation: {accuracy: {metric: {MSE: {compare_label: false}}}}
tuning: {accuracy_criterion: {absolute: 0.02, higher_is_better: false}}
"""


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        (
            LANGUAGE,
            (
                "model.framework onnxrt_integerops makes no static int8 ONNX file",
                "quantization.approach post_training_dynamic_quant is not static",
                "evaluation.accuracy.metric GLUE is for another task",
                "quantization.calibration.dataloader is missing",
                "evaluation.accuracy.dataloader.dataset GLUE is not read",
            ),
        ),
        (
            DETECTION,
            (
                "evaluation.accuracy.metric COCOmAPv2 is for another task",
                "quantization.calibration.dataloader.dataset COCORaw is not read",
                "quantization.calibration.dataloader.filter is for object detection",
                "evaluation.accuracy.dataloader.dataset COCORaw is not read",
            ),
        ),
        (
            REGRESSION,
            (
                "evaluation.accuracy.metric MSE is for another task",
                "tuning.accuracy_criterion.higher_is_better is false",
                "quantization.calibration.dataloader is missing",
                "evaluation.accuracy.dataloader is missing",
            ),
        ),
    ],
)
def test_other_tasks_load_and_say_all_that_they_lack(text, lacks):
    config = parse_config(text)
    assert parse_config(config.to_yaml()) == config
    found = config.lacks()
    assert len(found) == len(lacks)
    assert all(one.startswith(start) for one, start in zip(found, lacks, strict=True))
    with pytest.raises(ConfigError, match=rf"\(and {len(lacks) - 1} more\)"):
        check_tunable(config)
