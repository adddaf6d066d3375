"""Bad input, through the command line: one line that says what, where and the cure; exit 2."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import quantize
from conftest import CLASSES, SIZE, Answer, TinyJob, tree
from models import tiny_dataset, tiny_resnet, write_imagenet_raw
from quantize.engines import inc

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(quantize.__file__).parent.parent)}


@pytest.fixture
def refuse(cli):
    """Run `tune`, which has to refuse the job and leave every file as it was."""

    def check(job, *says, more=(), verb=None):
        job.output.exists() or job.output.write_bytes(b"an older output")
        before = tree(job.folder)
        answer = cli(*(verb or job.arguments(*more)))
        one_line(answer, *says)
        assert tree(job.folder) == before
        return answer.err

    return check


def one_line(answer, *says):
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.startswith("quantize: error: ")
    assert answer.err.count("\n") == 1
    assert answer.err.endswith("\n")
    for words in says:
        assert words in answer.err


def in_a_process(job, *more, prefix=(), **options):
    return subprocess.run(
        [*prefix, sys.executable, "-m", "quantize", *job.arguments(*more)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def rewrite(job, change):
    """Edit the YAML as a tree."""
    content = yaml.safe_load(job.config.read_text())
    change(content)
    job.config.write_text(yaml.safe_dump(content, sort_keys=False))


# ------------------------------------------------------------------------------ the model


def test_a_missing_model(job, refuse):
    job.model.unlink()
    refuse(job, f"model {job.model} does not exist; check the path")


def test_an_empty_model(job, refuse):
    job.model.write_bytes(b"")
    refuse(job, f"model {job.model} is empty; fetch or export it again")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model(job, refuse, share):
    content = job.model.read_bytes()
    job.model.write_bytes(content[: int(share * len(content))])
    refuse(job, str(job.model), "cut short", "fetch or export it again")


def test_a_git_lfs_pointer(job, refuse):
    job.model.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refuse(job, f"model {job.model} is a Git LFS pointer, not the model; run: git lfs pull")


def test_a_model_that_is_something_else(job, refuse):
    job.model.write_text("<html>404</html>")
    refuse(job, f"model {job.model} is not an ONNX file")


def test_a_folder_or_a_pipe_for_a_model(job, refuse):
    job.model.unlink()
    job.model.mkdir()
    refuse(job, f"model {job.model} is not a file")
    job.model.rmdir()
    os.mkfifo(job.model)
    answer = in_a_process(job)  # with a time limit: opening a pipe would wait for ever
    assert answer.returncode == 2
    assert "is not a file" in answer.stderr


def edited(job, change):
    model = onnx.load(job.model)
    change(model.graph)
    onnx.save(model, job.model)


def add_input(graph):
    graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 3]))


def add_output(graph):
    graph.output.append(helper.make_tensor_value_info("fc_in", TensorProto.FLOAT, None))
    graph.output[-1].name = graph.node[-1].input[0]


def give_feature_map(graph):
    graph.output[0].CopyFrom(helper.make_tensor_value_info("relu2", TensorProto.FLOAT, None))


def give_declared_feature_map(graph):
    shape = ["N", 16, SIZE, SIZE]
    graph.output[0].CopyFrom(helper.make_tensor_value_info("relu2", TensorProto.FLOAT, shape))


def take_vectors(graph):
    graph.input[0].CopyFrom(helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 768]))


def take_bytes(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def give_one_score(graph):
    graph.node.append(
        helper.make_node("ReduceMax", ["logits"], ["score"], name="score", axes=[1], keepdims=1)
    )
    graph.output[0].CopyFrom(helper.make_tensor_value_info("score", TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (add_input, "it has 2 inputs ('data', 'mask'), not one"),
        (add_output, "it has 2 outputs"),
        (give_feature_map, "not [1,K]"),
        (give_declared_feature_map, "output 'relu2' is not [N,K] scores"),
        (take_vectors, "input 'data' is not [N,C,H,W]"),
        (take_bytes, "'data' is not float32"),
        (give_one_score, "it gives one score, not one per class"),
    ],
)
def test_a_model_that_is_no_image_classifier(job, refuse, change, says):
    edited(job, change)
    refuse(job, str(job.model), says)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(job, refuse, value):
    def spoil(graph):
        tensor = next(t for t in graph.initializer if t.name == "conv1_weight")
        array = numpy_helper.to_array(tensor).copy()
        array[0, 0, 0, 0] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    edited(job, spoil)
    refuse(job, "NaN", "check")


def test_an_already_quantized_model(job, refuse, done):
    shutil.copy(done[0].output, job.model)
    refuse(job, f"model {job.model} is already quantized", "QuantizeLinear", "give the float model")


def test_an_old_opset_names_the_verb_that_upgrades(job, refuse):
    model = tiny_resnet(8, SIZE, CLASSES, opset=7)
    model.opset_import[0].version = 6
    onnx.save(model, job.model)
    refuse(job, f"model {job.model} has opset 6", "quantize convert")


def externalised(job):
    model = onnx.load(job.model)
    onnx.save(
        model,
        job.model,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return job.folder / "weights.bin"


def test_external_data_is_read(job):
    externalised(job)
    assert job.tune().verdict.outcome == "met"
    assert not [t for t in onnx.load(job.output).graph.initializer if t.external_data]


def test_missing_or_short_external_data(job, refuse):
    weights = externalised(job)
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    refuse(job, str(job.model), "weights.bin")
    weights.unlink()
    refuse(job, str(job.model), "weights.bin")


def test_external_data_outside_the_models_folder(job, refuse):
    externalised(job).rename(job.folder.parent / "weights.bin")

    def point_outside(graph):
        for tensor in graph.initializer:
            tensor.external_data[0].value = "../weights.bin"

    model = onnx.load(job.model, load_external_data=False)
    point_outside(model.graph)
    job.model.write_bytes(model.SerializeToString())
    refuse(job, str(job.model), "lies outside its folder")


# ------------------------------------------------------------------------ labels and folders


def test_a_class_folder_too_few(job, refuse):
    shutil.rmtree(job.evaluation / "003")
    err = refuse(job, f"ImageFolder.root {job.evaluation} has 3 class folders", "4 classes")
    assert "LabelShift: -1 if class 0 is the background" in err


def test_a_class_folder_too_many(job, refuse):
    shutil.copytree(job.calibration / "000", job.calibration / "004")
    err = refuse(job, f"ImageFolder.root {job.calibration} has 5 class folders, but", "4 classes")
    assert "LabelShift" not in err


def test_a_label_shift_has_to_explain_the_number_of_folders(job, refuse):
    shift = "--set=evaluation.accuracy.postprocess.transform.LabelShift=-1"
    refuse(job, "has 4 class folders, but the model has 4 classes", more=[shift])


def test_evaluate_checks_the_class_folders_too(job, refuse):
    shutil.rmtree(job.evaluation / "003")
    verb = ("evaluate", job.model, "--config", job.config, "--quiet")
    refuse(job, "has 3 class folders", verb=verb)


def listed(job, labels=None):
    """The job with label files: one line an image, in the order of the list."""
    for seed, root, per_class in ((2, job.calibration, 6), (3, job.evaluation, 15)):
        shutil.rmtree(root)
        items = tiny_dataset(CLASSES, per_class, SIZE, seed)
        items = [(image, (labels or int)(label)) for image, label in items]
        write_imagenet_raw(root, items)

    def use_lists(content):
        for loader, name in (
            (content["quantization"]["calibration"]["dataloader"], "calibration"),
            (content["evaluation"]["accuracy"]["dataloader"], "evaluation"),
        ):
            loader["dataset"] = {"ImagenetRaw": {"data_path": name}}

    rewrite(job, use_lists)
    return job.evaluation / "val.txt"


def test_a_label_that_is_no_class(job, refuse):
    lines = listed(job).read_text().splitlines()
    lines[7] = lines[7].split()[0] + " 12"
    (job.evaluation / "val.txt").write_text("\n".join(lines))
    err = refuse(job, "image image_00007.png has label 12", "4 classes, 0 to 3")
    assert "correct the label file" in err


def test_labels_that_count_from_one(job, refuse):
    listed(job, labels=lambda label: label + 1)
    refuse(job, "has label 4", "the labels count from 1: set LabelShift: 1")
    job.tune("evaluation.accuracy.postprocess.transform.LabelShift=1")


def test_a_label_shift_below_zero(job, refuse):
    listed(job)
    shift = "--set=evaluation.accuracy.postprocess.transform.LabelShift=1"
    refuse(job, "has label -1 after LabelShift 1", "correct LabelShift", more=[shift])


@pytest.mark.parametrize("line", ["image_00003.png three", "image_00003.png 1 2", "a b", "x -1"])
def test_a_bad_line_in_the_label_file(job, refuse, line):
    file = listed(job)
    lines = file.read_text().splitlines()
    lines[3] = line
    file.write_text("\n".join(lines))
    refuse(job, f"{file}, line 4: {line!r}")


def test_a_label_file_that_is_missing_or_empty(job, refuse):
    file = listed(job)
    file.write_text("")
    refuse(job, f"{file} is empty")
    file.unlink()
    refuse(job, "ImagenetRaw.image_list", "val.txt")


# -------------------------------------------------------------- a float model that guesses

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
RGB_WEIGHTS = [(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, 1)]


def painted(levels, seed, per_class=10):
    """Noisy images of one colour each, and which one."""
    rng = np.random.default_rng(seed)
    return [
        ((255 * np.array(level) + rng.normal(0, 4, (8, 8, 3))).clip(0, 255).astype(np.uint8), k)
        for _ in range(per_class)
        for k, level in enumerate(levels)
    ]


def mean_colour_model(weights, biases):
    """logits = weights @ (mean of each channel) + biases."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], name="fc", transB=1),
    ]
    constants = [
        numpy_helper.from_array(np.array(values, np.float32), name)
        for name, values in (("w", weights), ("b", biases))
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("data", ["N", 3, 8, 8]), ("logits", ["N", len(biases)]))
    ]
    graph = helper.make_graph(nodes, "colour", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def colour_job(tmp_path):
    """Makes a job of a model, images and transforms."""

    def make(model, items, *transforms):
        job = TinyJob(tmp_path / "colours")
        job.folder.mkdir()
        onnx.save(model, job.model)
        half = len(items) // 2
        write_imagenet_raw(job.calibration, items[:half])
        write_imagenet_raw(job.evaluation, items[half:])
        recipe = {name: options for step in transforms for name, options in step.items()}

        def loader(name):
            return {"dataset": {"ImagenetRaw": {"data_path": name}}, "transform": recipe}

        content = {
            "model": {"name": "colour", "framework": "onnxrt_qdq"},
            "quantization": {
                "engine": "onnxruntime",
                "calibration": {"sampling_size": half, "dataloader": loader("calibration")},
            },
            "evaluation": {"accuracy": {"metric": {"topk": 1}, "dataloader": loader("evaluation")}},
            "tuning": {"accuracy_criterion": {"relative": 0.01}},
        }
        job.config.write_text(yaml.safe_dump(content, sort_keys=False))
        return job

    return make


RESCALE = {"Rescale": {}}
LAYOUT = {"Transpose": {"perm": [2, 0, 1]}, "Cast": {"dtype": "float32"}}
NORMALIZE = {"Normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}


@pytest.mark.parametrize("shift", [-1, 1])
def test_chance_because_of_shifted_labels(colour_job, refuse, cli, shift):
    """Classes 1 to 3 listed as 0 to 2, and the other way round."""
    model = mean_colour_model(RGB_WEIGHTS, [0, 0, 0, -1])
    shown = [1, 2, 3] if shift < 0 else [0, 1, 2]
    items = [(x, k + shift) for x, k in painted(COLOURS.values(), 1) if k in shown]
    job = colour_job(model, items, RESCALE, LAYOUT)
    err = refuse(job, "no better than chance: top-1 0.0 % of 15 images with 4 classes")
    assert f"it would be right with LabelShift {shift} (top-1 100 %)" in err
    advice = f"--set=evaluation.accuracy.postprocess.transform.LabelShift={shift}"
    assert cli(*job.arguments("--dry-run", advice)).code == 0


def test_chance_after_a_wrong_label_shift_names_the_right_one(colour_job, refuse, cli):
    model = mean_colour_model([*RGB_WEIGHTS, (-9, -9, -9)], [0, 0, 0, -1, 0])
    job = colour_job(model, painted(COLOURS.values(), 1), RESCALE, LAYOUT)
    key = "--set=evaluation.accuracy.postprocess.transform.LabelShift"
    refuse(job, "with LabelShift 0 (top-1 100 %)", more=[f"{key}=-1"])
    assert cli(*job.arguments("--dry-run", f"{key}=0")).code == 0


def test_chance_because_of_swapped_channels(colour_job, refuse):
    bgr = [weights[::-1] for weights in RGB_WEIGHTS[:3]]
    items = painted(list(COLOURS.values())[:3], 1, per_class=20)
    job = colour_job(mean_colour_model(bgr, [0, 0, 0]), items, RESCALE, LAYOUT)
    err = refuse(job, "no better than chance: top-1 33.3 % of 30 images with 3 classes")
    assert "it would be right with BGR instead of RGB (top-1 100 %)" in err


BRIGHTER_THAN_MEAN = mean_colour_model([(-1, -1, -1), (1, 1, 1)], [0, 0])
DARK_AND_BRIGHT = [(0.2, 0.2, 0.2), (0.8, 0.8, 0.8)]


def test_chance_because_normalize_is_missing(colour_job, refuse):
    items = painted(DARK_AND_BRIGHT, 1, per_class=20)
    job = colour_job(BRIGHTER_THAN_MEAN, items, RESCALE, LAYOUT)
    err = refuse(job, "no better than chance: top-1 50.0 % of 20 images with 2 classes")
    assert "with ImageNet's mean and std in Normalize (top-1 100 %)" in err


def test_chance_because_rescale_and_normalize_are_missing(colour_job, refuse):
    items = painted(DARK_AND_BRIGHT, 1, per_class=20)
    job = colour_job(BRIGHTER_THAN_MEAN, items, LAYOUT)
    err = refuse(job, "no better than chance")
    assert "with Rescale first and ImageNet's mean and std in Normalize (top-1 100 %)" in err


def test_chance_because_normalize_is_one_too_many(colour_job, refuse):
    model = mean_colour_model([(-1, -1, -1), (1, 1, 1)], [2.4, -2.4])  # brighter than 0.8?
    items = painted([(0.7, 0.7, 0.7), (0.9, 0.9, 0.9)], 1, per_class=20)
    job = colour_job(model, items, RESCALE, NORMALIZE, LAYOUT)
    err = refuse(job, "no better than chance")
    assert "without Normalize (top-1 100 %)" in err


def test_chance_without_any_usual_cause(colour_job, refuse):
    model = mean_colour_model([(0, 0, 0), (0, 0, 0)], [1, 0])
    job = colour_job(model, painted(DARK_AND_BRIGHT, 1, per_class=20), RESCALE, LAYOUT)
    refuse(job, "no usual mistake explains it", "mend labels or transform in the config")
    refuse(job, "no better than chance", more=["--dry-run"])


def test_too_few_images_to_tell_a_model_from_chance(job, refuse):
    for image in list(job.evaluation.glob("*/*.png"))[3:]:
        image.unlink()
    refuse(job, "of 3 images with 4 classes; even all right would prove nothing on so few images")


def test_verify_refuses_a_float_model_that_guesses(job, done, cli):
    onnx.save(tiny_resnet(16, SIZE, CLASSES, seed=5), job.model)
    one_line(
        cli("verify", job.model, done[0].output, "--config", job.config, "--quiet"),
        "no better than chance",
    )


# ----------------------------------------------------------------------------- the images


@pytest.mark.parametrize("part", ["calibration", "evaluation"])
def test_a_data_path_that_is_wrong_empty_or_a_file(job, refuse, part):
    root = getattr(job, part)
    shutil.rmtree(root)
    refuse(job, f"ImageFolder.root {root} does not exist")
    root.mkdir()
    refuse(job, f"ImageFolder.root {root} holds no images")
    (root / "000").mkdir()
    (root / "000" / "notes.txt").write_text("no image")
    refuse(job, f"ImageFolder.root {root} holds no images")
    shutil.rmtree(root)
    root.write_text("a file")
    refuse(job, str(root))


def test_fewer_images_than_asked(job, refuse):
    err = refuse(
        job,
        "calibration asks for 25 images and its dataset has 24",
        more=["--set=quantization.calibration.sampling_size=25"],
    )
    assert "lower quantization.calibration.sampling_size to 24, or add images" in err


def test_no_image_left_for_the_verdict(job, refuse):
    def same_images(content):
        content["evaluation"]["accuracy"]["dataloader"]["dataset"]["ImageFolder"]["root"] = (
            "calibration"
        )

    rewrite(job, same_images)
    refuse(
        job,
        "no image is left for the verdict",
        more=["--set=quantization.calibration.sampling_size=24"],
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"CenterCrop": {"size": 8}}, "[3, 8, 8], but the model takes [3, 16, 16]"),
        ({"Transpose": None}, "add the transform Transpose"),
        ({"AlignImageChannel": {"dim": 1}}, "[1, 16, 16]"),
        ({"CenterCrop": {"size": 17}}, "CenterCrop"),
    ],
)
def test_a_transform_that_does_not_suit_the_model(job, refuse, change, says):
    def edit(content):
        for loader in (
            content["quantization"]["calibration"]["dataloader"],
            content["evaluation"]["accuracy"]["dataloader"],
        ):
            rest = {k: v for k, v in loader["transform"].items() if k not in change}
            added = {k: v for k, v in change.items() if v is not None}
            normalize = {} if "AlignImageChannel" in change else rest
            loader["transform"] = {**added, **(normalize or LAYOUT)}

    rewrite(job, edit)
    refuse(job, says)


def test_sane_images_of_every_kind_work(job, cli):
    rng = np.random.default_rng(0)
    folder = job.evaluation / "000"
    pixels = rng.integers(0, 255, (20, 30, 3), np.uint8)
    odd = {
        "grey.png": Image.fromarray(pixels[:, :, 0]),
        "cmyk.jpg": Image.fromarray(pixels).convert("CMYK"),
        "rgba.png": Image.fromarray(pixels).convert("RGBA"),
        "deep.png": Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257),
        "palette.gif": Image.fromarray(pixels).convert("P"),
        "dot.png": Image.fromarray(pixels[:1, :1]),
        "strip.png": Image.fromarray(rng.integers(0, 255, (20, 20_000, 3), np.uint8)),
    }
    for name, image in odd.items():
        image.save(folder / name)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=turned)

    def resize_first(content):
        for loader in (
            content["quantization"]["calibration"]["dataloader"],
            content["evaluation"]["accuracy"]["dataloader"],
        ):
            loader["transform"] = {"Resize": {"size": SIZE}, **loader["transform"]}

    rewrite(job, resize_first)
    result = job.tune("tuning.accuracy_criterion.relative=0.3")
    assert result.verdict.images == 60 + len(odd) + 1
    assert result.report["data"]["holdout"]["unreadable"]["images"] == 0


def bad_images(folder):
    """Files that claim to be images, each unreadable for another reason."""
    (folder / "text.png").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "huge.ppm").write_bytes(b"P6 20000 6000 255\n")
    good = next(folder.glob("*.png")).read_bytes()
    (folder / "short.png").write_bytes(good[: len(good) // 2])
    return {"text.png", "empty.jpg", "huge.ppm", "short.png"}


def test_too_many_unreadable_images_to_verify_on(job, cli):
    """They come last: a search was done, an older output is set aside, and the journal goes on."""
    bad = bad_images(job.evaluation / "001")
    job.output.write_bytes(b"older")
    answer = cli(*job.arguments())
    one_line(answer, "4 of 64 images cannot be used, such as", "evaluation.max_unreadable")
    assert any(name in answer.err for name in bad)
    assert not job.output.exists()
    assert (job.folder / "int8.onnx.old").read_bytes() == b"older"
    assert not (job.run / "report.json").exists()


def test_too_many_unreadable_calibration_images(job, refuse):
    bad_images(job.calibration / "000")
    refuse(job, "images cannot be used, such as", "evaluation.max_unreadable")


def test_few_unreadable_images_are_counted_and_named(job):
    bad = bad_images(job.evaluation / "001")
    result = job.tune("evaluation.max_unreadable=0.1")
    assert result.verdict.images == 60
    unreadable = result.report["data"]["holdout"]["unreadable"]
    reasons = unreadable["first"]
    assert unreadable["images"] == len(bad)
    assert set(reasons) == bad
    assert "120" in reasons["huge.ppm"] or "100 megapixels" in reasons["huge.ppm"]
    assert "holdout: 4 unreadable" in (job.run / "summary.txt").read_text()


def test_not_one_readable_image(job, refuse):
    for image in job.calibration.glob("*/*.png"):
        image.write_text(f"not an image but {image}")
    err = refuse(job, "no image of calibrate is readable, such as")
    assert "not a JPEG, PNG, WebP, BMP, TIFF, GIF or PPM file" in err


# ------------------------------------------------------------------------ the configuration


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "speed_floor: 0",
            "speed_flor: 0",
            ("job.yaml, line 24", "`tuning.speed_flor`", "`speed_floor`"),
        ),
        ("sampling_size: 16", "sampling_size: many", ("line 5", "sampling_size", "'many'")),
        ("{relative: 0.1}", "{relative: 0.1, absolute: 0.1}", ("relative", "absolute")),
        ("{relative: 0.1}", "{relative: -0.1}", ("relative", "-0.1")),
        ("{relative: 0.1}", "{relative: [}", ("line 23", "not valid YAML")),
        ("batch_size: 8", "batch_size: 0", ("batch_size", "0")),
        ("{topk: 1}", "{topk: 5}", ("topk 5", "write topk: 1")),
        ("onnxrt_qdq", "pytorch", ("pytorch",)),
        ("ImageFolder: {root: calibration}", "ImageFoldr: {root: x}", ("`ImageFolder`",)),
        ("ImageFolder: {root: calibration}", "dummy: {shape: [1]}", ("dummy", "random")),
        ("Rescale:", "Rescle:", ("`Rescale`",)),
    ],
)
def test_a_configuration_with_a_fault(job, refuse, old, new, says):
    text = job.config.read_text()
    assert old in text
    job.config.write_text(text.replace(old, new))
    refuse(job, *says)


def test_a_configuration_that_is_missing_empty_or_no_file(job, refuse):
    job.config.write_text("")
    refuse(job, f"{job.config} is empty")
    job.config.unlink()
    refuse(job, f"configuration {job.config} does not exist")
    job.config.mkdir()
    refuse(job, f"configuration {job.config} is not a regular file")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("tuning.speed_floor", "is no KEY=VALUE"),
        ("tuning.nothing=1", "unknown key"),
        ("quantization.op_wise={no_such: {weight: {dtype: fp32}}}", "matches none of the model's"),
        ("tuning.strategy.name=tpe", "imports a package that INC does not bring"),
        ("tuning.workspace.resume=x.snapshot", "pickle"),
    ],
)
def test_a_setting_with_a_fault(job, refuse, setting, says):
    refuse(job, says, more=[f"--set={setting}"])


@pytest.mark.inc
def test_rules_for_incs_loops_are_checked_before_anything_starts(job, refuse):
    if inc.available() is not None:
        pytest.skip("without Intel Neural Compressor")
    rule = "--set=quantization.op_wise={no_such: {weight: {dtype: fp32}}}"
    settings = ["--set=quantization.engine=inc", "--set=tuning.strategy.name=basic", rule]
    refuse(job, "matches none of the model's", more=settings)
    refuse(job, "matches none of the model's", more=[*settings, "--dry-run"])


@pytest.mark.parametrize("more", [[], ["--set=tuning.strategy.name=basic"], ["--dry-run"]])
def test_inc_asked_for_where_there_is_none(job, refuse, monkeypatch, more):
    monkeypatch.setattr(inc, "available", lambda: "there is no module neural_compressor")
    err = refuse(job, "neural_compressor", more=["--set=quantization.engine=inc", *more])
    assert "pip install 'quantize[inc]'" in err


# ---------------------------------------------------------------------------- the output


def test_the_output_is_the_input(job, refuse):
    refuse(replace_output(job, job.model), "is the input model itself; name another file")
    (job.folder / "sub").mkdir()
    refuse(replace_output(job, job.folder / "sub/../float.onnx"), "is the input model itself")


def replace_output(job, output):
    return _Elsewhere(job.folder, output)


class _Elsewhere(TinyJob):
    """The job with another output path."""

    def __init__(self, folder, output):
        super().__init__(folder)
        object.__setattr__(self, "elsewhere", output)

    @property
    def output(self):
        return self.elsewhere


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_the_output_is_the_input_by_another_name(job, refuse, link):
    alias = job.folder / "alias.onnx"
    link(alias, job.model)
    refuse(replace_output(job, alias), "is the input model itself")


def test_the_output_is_the_configuration(job, refuse):
    refuse(replace_output(job, job.config), "is the configuration itself")


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("missing/int8.onnx", "No such file or directory; create the folder first"),
        ("job.yaml/int8.onnx", "Not a directory; name a path inside a folder"),
        ("calibration", "is a folder; name a file"),
        (".", "is a folder; name a file"),
        ("x" * 300, "File name too long; choose a shorter name"),
        ("/proc/int8.onnx", "cannot write /proc/int8.onnx"),
        ("/sys/int8.onnx", "cannot write /sys/int8.onnx"),
    ],
)
def test_an_output_that_cannot_be_written(job, cli, where, says):
    before = tree(job.folder)
    elsewhere = replace_output(job, job.folder / where)
    one_line(
        cli(*elsewhere.arguments()), "output" if "folder; name" in says else "cannot write", says
    )
    one_line(cli(*elsewhere.arguments("--dry-run")), says)
    assert tree(job.folder) == before


def test_an_output_folder_without_permission(job):
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    locked = job.folder / "locked"
    locked.mkdir(mode=0o500)
    answer = in_a_process(replace_output(job, locked / "int8.onnx"))
    assert answer.returncode == 2
    assert "Permission denied" in answer.stderr


def test_a_run_folder_that_is_a_file(job, refuse):
    job.run.write_text("not a folder")
    refuse(job, f"cannot write {job.run}: File exists")


def limited(size):
    """What a child process does to have every file end at so many bytes."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def stopped_short(job, size):
    """Run the job where no file can have more than so many bytes; the complaint."""
    answer = in_a_process(job, preexec_fn=limited(size))
    assert answer.returncode == 2
    assert answer.stdout == ""
    *warnings, last = answer.stderr.splitlines()
    assert last.startswith("quantize: error: ")
    assert "File too large" in last
    assert all(line.startswith("WARNING: ") for line in warnings)
    assert not job.output.exists()
    assert not list(job.folder.rglob(".quantize.*"))
    return last


def test_answers_that_cannot_grow(job):
    assert f"{job.run / 'answers'}/search-" in stopped_short(job, 500)


def test_temporary_files_that_cannot_grow_and_the_way_on(job, done):
    """Those of onnxruntime's quantizer: no fault of the model, so no advice about its nodes."""
    last = stopped_short(job, 10_000)
    assert f"cannot write {tempfile.gettempdir()}: " in last
    assert "op_wise" not in last
    assert in_a_process(job).returncode == 0  # with room again, the same command goes on
    assert job.output.read_bytes() == done[0].output.read_bytes()


def test_a_full_disk(job):
    """On a tiny file system of its own, in a mount namespace that ends with the process."""
    disk = job.folder / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=24k tmpfs "{disk}" && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting is not permitted here")
    after = f'"$@"; code=$?; ls -A "{disk}" >&2; exit $code'
    answer = in_a_process(
        replace_output(job, disk / "int8.onnx"), prefix=(*prefix, "sh", "-c", after, "sh")
    )
    assert answer.returncode == 2
    assert f"cannot write {disk}/int8.onnx.run/" in answer.stderr
    assert "No space left on device; free some space" in answer.stderr
    listing = answer.stderr.splitlines()
    left = {line for line in listing if line.startswith("int8.onnx")}
    assert left <= {"int8.onnx.run"}  # gone again where nothing had been finished


# -------------------------------------------------------------------------------- for real


def test_the_real_command_says_one_line_too(job):
    job.model.write_bytes(job.model.read_bytes()[:-50])
    before = tree(job.folder)
    answer = in_a_process(job)
    one_line(Answer(answer.returncode, answer.stdout, answer.stderr), "cut short")
    assert tree(job.folder) == before
