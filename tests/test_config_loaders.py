from pathlib import Path

import pytest

from quantize.config import DataLoader, UnsupportedDataset, UnsupportedTransform, parse_config
from quantize.data.datasets import DATASETS, ImageFolder, ImagenetRaw
from quantize.data.presets import Preset
from quantize.data.steps import (
    CenterCrop,
    Normalize,
    Rescale,
    Resize,
    ResizeCropImagenet,
    Transpose,
)
from quantize.data.transforms import TRANSFORMS
from quantize.errors import ConfigError


def load(text: str, folder="/base") -> DataLoader:
    config = parse_config(
        "model: {name: m, framework: onnxrt_qdq}\n"
        f"quantization: {{calibration: {{dataloader: {text}}}}}\n",
        folder=folder,
        name="a.yaml",
    )
    loader = config.quantization.calibration.dataloader
    assert loader is not None
    assert parse_config(config.to_yaml(), folder="/elsewhere") == config
    return loader


def transforms(text: str) -> tuple:
    return load(f"{{dataset: {{ImageFolder: {{root: a}}}}, transform: {text}}}").transforms


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.cure
    return str(caught.value)


def refused_transform(text: str) -> str:
    return refused(f"{{dataset: {{ImageFolder: {{root: a}}}}, transform: {text}}}")


def test_defaults_of_a_loader():
    loader = load("{dataset: {ImageFolder: {root: a}}}")
    assert loader.batch_size == 64
    assert loader.last_batch == "rollover"
    assert loader.transforms == ()
    assert loader.filter.label_balance is None
    assert (loader.shuffle, loader.distributed) == (False, False)


def test_relative_paths_start_in_the_given_folder():
    loader = load("{dataset: {ImagenetRaw: {data_path: images, image_list: ../val.txt}}}")
    assert loader.dataset == ImagenetRaw(Path("/base/images"), Path("/base/../val.txt"))
    assert load("{dataset: {ImageFolder: {root: /abs}}}").dataset == ImageFolder(Path("/abs"))


def test_defaults_of_a_dataset_are_those_of_its_class():
    dataset = load("{dataset: {ImagenetRaw: {data_path: a, image_list: null}}}").dataset
    assert dataset == ImagenetRaw(Path("/base/a"))


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_dataset_of_the_data_room_loads(name):
    options = {
        "ImagenetRaw": "{data_path: a}",
        "dummy": "{shape: [4, 3, 8, 8], low: 0, high: [1.0], label: false}",
        "dummy_v2": "{input_shape: [3, 8, 8], dtype: [float32]}",
    }.get(name, "{root: a}")
    assert type(load(f"{{dataset: {{{name}: {options}}}}}").dataset) is DATASETS[name]


OPTIONS = {
    "BilinearImagenet": "{height: 8, width: 8}",
    "CenterCrop": "{size: 8}",
    "CropResize": "{x: 0, y: 0, width: 8, height: 8, size: [8, 8]}",
    "CropToBoundingBox": "{offset_height: 0, offset_width: 0, target_height: 4, target_width: 4}",
    "Preset": "{name: short_side}",
    "RandomCrop": "{size: 8}",
    "RandomResizedCrop": "{size: 8}",
    "Resize": "{size: 8, interpolation: bicubic}",
    "ResizeCropImagenet": "{height: 8, width: 8}",
    "ResizeWithAspectRatio": "{height: 8, width: 8}",
    "Transpose": "{perm: [2, 0, 1]}",
}


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_transform_of_the_data_room_loads(name):
    (found,) = transforms(f"{{{name}: {OPTIONS.get(name, '')}}}")
    assert type(found) is TRANSFORMS[name]


def test_transforms_keep_their_order_and_null_means_no_options():
    text = "{Transpose: {perm: [2, 0, 1]}, Rescale: , Resize: {size: 256}, CenterCrop: {size: 8}}"
    assert transforms(text) == (Transpose((2, 0, 1)), Rescale(), Resize(256), CenterCrop(8))


def test_numbers_may_be_whole_or_text():
    assert transforms("{Normalize: {mean: [0, 1, 0], std: [1, 1, 2]}}") == (
        Normalize((0.0, 1.0, 0.0), (1.0, 1.0, 2.0)),
    )
    assert transforms("{ResizeCropImagenet: {height: 8, width: 8, mean_value: 1.5 2 3}}") == (
        ResizeCropImagenet(8, 8, mean_value=(1.5, 2.0, 3.0)),
    )
    assert transforms("{Resize: {size: [16, 8]}}") == (Resize((16, 8)),)
    assert transforms("{Resize: {size: '16, 8'}}") == (Resize((16, 8)),)


def test_a_preset_takes_mean_and_std():
    assert transforms("{Preset: {name: squash256, mean: [0, 0, 0], std: [1, 1, 1]}}") == (
        Preset("squash256", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    )


def test_what_inc_knows_for_other_tasks_loads_as_unsupported():
    loader = load(
        "{dataset: {COCORaw: {root: /d, x: [1, {y: null}]}}, "
        "filter: {LabelBalance: {size: 1}}, "
        "transform: {ParseDecodeCoco: {}, ToTensor: , Normalize: {rescale: [1, 2]}}}"
    )
    assert loader.dataset == UnsupportedDataset("COCORaw", '{"root": "/d", "x": [1, {"y": null}]}')
    assert loader.transforms == (
        UnsupportedTransform("ParseDecodeCoco", "{}"),
        UnsupportedTransform("ToTensor", "null"),
        UnsupportedTransform("Normalize", '{"rescale": [1, 2]}'),
    )
    assert loader.filter.label_balance is not None
    assert loader.filter.label_balance.size == 1


def test_a_loader_is_one_immutable_value():
    text = "{dataset: {dummy: {shape: [1, 3, 8, 8]}}, transform: {Rescale: {}}}"
    assert {load(text), load(text)} == {load(text)}
    with pytest.raises(ValueError, match="frozen"):
        load(text).batch_size = 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "dataloader.dataset` is missing; add it"),
        ("{dataset: {}}", "dataset` names none; name one dataset out of"),
        ("{dataset: ImageFolder}", "dataset` is 'ImageFolder'; write names with options"),
        ("{dataset: {ImageFolder: {root: a}, MNIST: {root: b}}}", "names ImageFolder, MNIST"),
        ("{dataset: {Imagefolder: {root: a}}}", "write `ImageFolder`"),
        ("{dataset: {ImageFolder: a}}", "dataset.ImageFolder` is 'a'; write names"),
        ("{dataset: {ImageFolder: {}}}", "dataset.ImageFolder.root` is missing; add it"),
        ("{dataset: {ImageFolder: {rot: a}}}", "dataset.ImageFolder.rot` is an unknown key"),
        ("{dataset: {ImageFolder: {root: 3}}}", "dataset.ImageFolder.root` is 3; write a path"),
        ("{dataset: {ImageFolder: {root: ''}}}", "root` is ''; write a path"),
        ("{dataset: {ImageFolder: {root: null}}}", "root` is empty; write a path"),
        ('{dataset: {ImageFolder: {root: "a\\0b"}}}', "write a path"),
        ("{dataset: {MNIST: {root: a, train: 7}}}", "train` is 7; write true or false"),
        ("{dataset: {Imagenet: {}}}", "dataset.Imagenet` cannot be used: give exactly one"),
        ("{dataset: {dummy: {shape: {a: 1}}}}", "dummy.shape` is {'a': 1}; write a value"),
        ("{dataset: {ImageFolder: {root: a}}, batch_size: 0}", "batch_size` is 0; write"),
        ("{dataset: {ImageFolder: {root: a}}, batch_size: yes}", "batch_size` is True; write"),
        ("{dataset: {ImageFolder: {root: a}}, batchsize: 1}", "write `batch_size`"),
        ("{dataset: {ImageFolder: {root: a}}, last_batch: roll}", "write one of rollover, discard"),
        ("{dataset: {ImageFolder: {root: a}}, filter: {LabelBalance: {}}}", "size` is missing"),
    ],
)
def test_faulty_loaders_are_named_down_to_the_key(text, message):
    assert message in refused(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{Resizee: {size: 8}}", "transform.Resizee` is an unknown key; write `Resize`"),
        ("[Rescale]", "transform` is ['Rescale']; write names with options"),
        ("{Resize: 8}", "transform.Resize` is 8; write names with options"),
        ("{Resize: {}}", "transform.Resize.size` is missing"),
        ("{Resize: {size: big}}", "size` is 'big'; write a whole number or a list of 2 whole"),
        ("{Resize: {size: yes}}", "size` is True; write a whole number"),
        ("{Resize: {size: [1, 2, 3]}}", "size` is [1, 2, 3]; write a whole number or a list"),
        ("{Resize: {size: 8, interpolation: cubic}}", "write one of bilinear, nearest, bicubic"),
        ("{Normalize: {mean: [a, b]}}", "mean` is ['a', 'b']; write a list of numbers"),
        ("{Normalize: {mean: [.nan]}}", "mean` is [nan]; write a list of numbers"),
        ("{Normalize: {std: [0.0]}}", "transform.Normalize` cannot be used: std"),
        ("{Transpose: {perm: [0, 0, 1]}}", "transform.Transpose` cannot be used: perm"),
        ("{Preset: {name: zoo}}", "Preset.name` is 'zoo'; write one of zoo_snippet"),
        ("{Rescale: {by: 255}}", "transform.Rescale.by` is an unknown key; remove it"),
    ],
)
def test_faulty_transforms_are_named_down_to_the_key(text, message):
    assert message in refused_transform(text)
