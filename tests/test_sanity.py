from dataclasses import replace

import numpy as np
import pytest

from conftest import CLASSES, SIZE
from models import prepared, run, tiny_dataset
from quantize import sanity
from quantize.data.steps import Cast, Normalize, Rescale, Transpose
from quantize.data.transforms import Pipeline
from quantize.errors import DataError
from quantize.evaluation import evaluate
from quantize.graph.io import to_bytes
from quantize.job import Images, open_job
from quantize.plan import Sample
from quantize.runtime import Session
from quantize.sanity import check_above_chance, check_float

MEAN = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
RIGHT = (Rescale(), MEAN, Transpose((2, 0, 1)), Cast())


def images_of(items, steps=RIGHT, **options):
    samples = tuple(Sample(x, label, f"{i:064d}") for i, (x, label) in enumerate(items))
    return Images("search", samples, Pipeline(tuple(steps)), batch_size=7, workers=1, **options)


def relabelled(items, rule):
    return [(x, rule(label)) for x, label in items]


@pytest.fixture(scope="module")
def predict(tiny_model):
    return Session(to_bytes(tiny_model)).predict


@pytest.fixture(scope="module")
def items():
    return tiny_dataset(CLASSES, 15, SIZE, seed=4)


def wrong(label):
    return (label + 2) % CLASSES


def refused(images, predict, classes=CLASSES):
    with pytest.raises(DataError) as caught:
        check_above_chance(evaluate(predict, images), images, predict, classes)
    return caught.value.message


def test_a_model_that_knows_its_classes_passes(predict, items):
    images = images_of(items)
    check_above_chance(evaluate(predict, images), images, predict, CLASSES)


def test_images_without_labels_are_not_judged(predict, items):
    images = images_of(relabelled(items, lambda _: None))
    check_above_chance(evaluate(predict, images), images, predict, CLASSES)


def test_shuffled_labels_have_no_usual_cause(predict, items):
    rng = np.random.default_rng(0)
    message = refused(images_of(relabelled(items, lambda _: int(rng.integers(4)))), predict)
    assert "no usual mistake explains it" in message


def test_variants_are_named_with_their_true_accuracy_best_first(predict, items):
    one_less = [(x, label - 1) for x, label in items if label]
    message = refused(images_of(one_less), predict)
    answers = run_float(predict, one_less)
    share = np.mean(answers == [label + 1 for _, label in one_less])
    assert f"it would be right with LabelShift -1 (top-1 {100 * share:.0f} %)" in message


def run_float(predict, items):
    return predict(prepared(items)).argmax(axis=1)


def test_the_shift_that_is_set_already_counts(predict, items):
    """The labels at hand are those of the file minus the shift: the advice names the whole."""
    one_less = [(x, label - 1) for x, label in items if label]
    message = refused(images_of(one_less, label_shift=3), predict)
    assert "with LabelShift 2 (" in message


def test_swapped_channels_are_recognised(predict, items):
    swapped = [(np.ascontiguousarray(x[:, :, ::-1]), label) for x, label in items]

    def only_rgb(batch):
        """Blind to all but the difference of red and blue."""
        redness = (batch[:, 0] - batch[:, 2]).mean(axis=(1, 2))
        return np.stack([redness, -redness], axis=1)

    label_of = lambda x: int(x[:, :, 2].mean() > x[:, :, 0].mean())  # noqa: E731
    known = [(x, label_of(x[:, :, ::-1])) for x, _ in swapped]
    steps = (Rescale(), Transpose((2, 0, 1)), Cast())
    message = refused(images_of(known, steps), only_rgb, classes=2)
    assert "with BGR instead of RGB (top-1 100 %)" in message


def test_the_three_best_causes_are_named_in_order(monkeypatch, predict, items):
    plain = evaluate(predict, images_of(items))

    def tried(*_):
        for wrong_ones in (30, 0, 20, 10, 25):
            labels = plain.predicted.copy()
            labels[:wrong_ones] = (labels[:wrong_ones] + 1) % CLASSES
            yield f"without {wrong_ones} wrong", replace(plain, labels=labels)

    monkeypatch.setattr(sanity, "_tried", tried)
    message = refused(images_of(relabelled(items, wrong)), predict)
    assert message.endswith(
        "it would be right without 0 wrong (top-1 100 %), or without 10 wrong (top-1 83 %),"
        " or without 20 wrong (top-1 67 %)"
    )


def test_prepared_arrays_cannot_be_prepared_otherwise(predict, items):
    arrays = prepared(items)
    wrong = [(array, (label + 2) % 4) for array, (_, label) in zip(arrays, items, strict=True)]
    assert "no usual mistake explains it" in refused(images_of(wrong, ()), predict)


@pytest.mark.parametrize(("count", "few"), [(4, True), (5, False)])
def test_so_few_that_even_all_right_would_prove_nothing(predict, items, count, few):
    """With four classes, five right answers in a row have a probability of 1 in 1,024."""
    wrong = relabelled(items[:count], lambda label: (label + 2) % 4)
    message = refused(images_of(wrong), predict)
    assert ("even all right would prove nothing" in message) == few


# ------------------------------------------------------------------------ before a search


@pytest.fixture
def opened(job):
    return open_job(job.model, job.settings(), None)


def with_labels(images, rule):
    samples = tuple(replace(s, label=rule(s.label)) for s in images.samples)
    return replace(images, samples=samples)


def test_wrong_labels_of_the_holdout_are_found(opened, predict):
    opened = replace(opened, holdout=with_labels(opened.holdout, wrong))
    with pytest.raises(DataError, match="of 60 images"):
        check_float(opened, evaluate(predict, opened.search), predict)


def test_a_goal_on_agreement_asks_nothing_of_labels(job, predict):
    settings = job.settings("tuning.accuracy_criterion.agreement=0.9")
    opened = open_job(job.model, settings, None)
    opened = replace(opened, holdout=with_labels(opened.holdout, wrong))
    check_float(opened, evaluate(predict, opened.search), predict)


def test_few_search_images_prove_nothing_against_the_model(opened, predict):
    opened = replace(opened, search=with_labels(opened.search, wrong))
    check_float(opened, evaluate(predict, opened.search), predict)


def test_many_search_images_do(job, predict):
    opened = open_job(
        job.model,
        job.settings(),
        None,
        calibration=tiny_dataset(CLASSES, 60, SIZE, seed=8),
    )
    assert len(opened.search.samples) == 240 - 16
    opened = replace(opened, search=with_labels(opened.search, wrong))
    with pytest.raises(DataError, match="of 224 images"):
        check_float(opened, evaluate(predict, opened.search), predict)


def test_the_models_of_the_tests_are_run_alike_by_both(tiny_model, predict, items):
    np.testing.assert_allclose(predict(prepared(items)), run(tiny_model, prepared(items))[0])
