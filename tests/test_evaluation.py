"""Top-1, top-5 and closeness: as numpy computes them, whatever the batches."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.errors import DataError, ModelError
from quantize.evaluation import against, compare, evaluate, reference, sqnr_db, top_classes
from quantize.plan import NO_LABEL, Batch


def batches(cuts, count, labels=None):
    """Batches whose only pixel is the number of the image."""
    numbers = np.arange(count)
    labels = np.full(count, NO_LABEL) if labels is None else np.asarray(labels)
    return [
        Batch(part.reshape(-1, 1, 1, 1).astype(np.float32), labels[part], tuple(map(str, part)))
        for part in np.split(numbers, sorted(cuts))
        if len(part)
    ]


def model(logits):
    """A predictor that answers image number i with row i."""
    return lambda images: logits[images[:, 0, 0, 0].astype(int)]


def random_logits(seed, count=40, classes=7):
    """Coarse values, so that there are ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(-3, 4, (count, classes)).astype(np.float32)


def best_five(row):
    return sorted(range(len(row)), key=lambda k: (-row[k], k))[:5]


# ------------------------------------------------------------------------------- top-k


def test_ties_go_to_the_lower_index():
    logits = np.array([[1, 3, 3, 3, 0, 3, 3, 3], [0, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    assert top_classes(logits).tolist() == [[1, 2, 3, 5, 6], [0, 1, 2, 3, 4]]
    assert top_classes(logits).dtype == np.int64


@given(st.integers(0, 1000), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_best_classes_are_those_of_a_plain_sort(seed, classes):
    logits = random_logits(seed, 10, classes)
    assert top_classes(logits).tolist() == [best_five(row) for row in logits]


@pytest.mark.parametrize("classes", [63, 64, 65, 1000])
def test_of_many_classes_the_best_are_looked_for_and_they_are_the_same(classes):
    for seed in range(3):
        logits = random_logits(seed, 20, classes)
        before = logits.copy()
        assert top_classes(logits).tolist() == [best_five(row) for row in logits]
        assert top_classes(logits).dtype == np.int64
        np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("more", [0, 200])
def test_infinities_are_ordered(more):
    logits = np.array([[-np.inf, 1, np.inf, *[-np.inf] * (1 + more)]], np.float32)
    assert top_classes(logits).tolist() == [[2, 1, 0, 3, 4][: 4 + more]]


@pytest.mark.parametrize("classes", [1, 2, 4, 5, 6])
def test_few_classes_make_a_short_top_five(classes):
    labels = np.arange(40) % classes
    seen = evaluate(model(random_logits(0, 40, classes)), batches([], 40, labels))
    assert seen.top5.shape == (40, min(5, classes))
    assert seen.accuracy(5) == 1 or classes > 5


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 39), unique=True))
@settings(max_examples=25, deadline=None)
def test_accuracies_are_shares_of_images(seed, cuts):
    logits = random_logits(seed)
    labels = np.random.default_rng(seed + 1).integers(0, 7, 40)
    seen = evaluate(model(logits), batches(cuts, 40, labels))
    for k in (1, 2, 5):
        hits = [label in best_five(row)[:k] for row, label in zip(logits, labels, strict=True)]
        assert seen.accuracy(k) == pytest.approx(np.mean(hits))
    assert seen.images == 40
    assert seen.digests == tuple(map(str, range(40)))
    assert seen.labelled
    np.testing.assert_array_equal(seen.predicted, [best_five(row)[0] for row in logits])
    np.testing.assert_array_equal(seen.right, seen.predicted == labels)


def test_an_image_without_a_label_is_never_right():
    seen = evaluate(model(random_logits(0)), batches([10], 40, [NO_LABEL] * 39 + [2]))
    assert not seen.labelled
    assert not seen.right[:39].any()


@pytest.mark.parametrize("label", [7, 8, 1000])
def test_a_label_that_is_no_class_is_named_with_its_image(label):
    labels = [0] * 25 + [label] + [0] * 14
    with pytest.raises(DataError) as caught:
        evaluate(model(random_logits(0)), batches([10, 20], 40, labels))
    assert f"label {label} of image 25 is not one of the model's 7 classes" in str(caught.value)


def test_the_last_class_is_a_class():
    assert evaluate(model(random_logits(0)), batches([], 40, [6] * 40)).labelled


def test_no_image_is_an_error():
    for run in (evaluate, reference):
        with pytest.raises(DataError, match="no image to evaluate"):
            run(model(random_logits(0)), [])
    with pytest.raises(DataError, match="no image to evaluate"):
        compare(model(random_logits(0)), model(random_logits(0)), [])


def test_nan_is_an_error_that_names_the_image():
    logits = random_logits(0)
    logits[33, 4] = np.nan
    for run in (
        lambda: evaluate(model(logits), batches([10], 40)),
        lambda: compare(model(random_logits(0)), model(logits), batches([10], 40)),
        lambda: compare(model(logits), model(logits), batches([10], 40)),
    ):
        with pytest.raises(ModelError, match="scores of image 33 are NaN"):
            run()


# ---------------------------------------------------------------------------- fidelity


def test_the_formula_of_sqnr():
    assert sqnr_db(100.0, 1.0) == pytest.approx(20)
    assert sqnr_db(1.0, 2.0) == pytest.approx(-3.0103, abs=1e-4)
    assert sqnr_db(5.0, 0.0) == math.inf
    for signal, noise in ((0.0, 0.0), (0.0, 1.0), (math.nan, 1), (1, math.nan), (1, math.inf)):
        assert sqnr_db(signal, noise) == -math.inf
    assert sqnr_db(math.inf, 1.0) == -math.inf


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 39), unique=True))
@settings(max_examples=25, deadline=None)
def test_closeness_is_that_of_all_images_at_once_for_every_batching(seed, cuts):
    rng = np.random.default_rng(seed)
    exact = rng.normal(0, 3, (40, 7)).astype(np.float32)
    other = exact + rng.normal(0, 1, exact.shape).astype(np.float32)
    f, q = exact.astype(float), other.astype(float)
    expected = 10 * math.log10((f**2).mean() / ((f - q) ** 2).mean())
    agreement = (f.argmax(1) == q.argmax(1)).mean()
    whole = compare(model(exact), model(other), batches([], 40))
    parts = compare(model(exact), model(other), batches(cuts, 40))
    base = reference(model(exact), batches([], 40))
    later = against(base, model(other), batches(cuts, 40))
    assert whole.fidelity.sqnr_db == pytest.approx(expected, rel=1e-12)
    assert whole.fidelity.agreement == pytest.approx(agreement)
    for seen in (parts, later):
        assert seen.fidelity == whole.fidelity  # to the last bit
        assert seen.float_.digests == seen.int8.digests == whole.int8.digests
        np.testing.assert_array_equal(seen.float_.top5, whole.float_.top5)
        np.testing.assert_array_equal(seen.int8.top5, whole.int8.top5)


def test_a_model_agrees_with_itself():
    logits = random_logits(0)
    seen = compare(model(logits), model(logits), batches([7], 40))
    assert (seen.fidelity.sqnr_db, seen.fidelity.agreement) == (math.inf, 1.0)


def test_the_reference_keeps_logits_and_answers():
    logits = random_logits(3)
    base = reference(model(logits), batches([1, 30], 40))
    np.testing.assert_array_equal(base.logits, logits)
    seen = evaluate(model(logits), batches([], 40))
    for field in dataclasses.fields(seen):
        np.testing.assert_array_equal(
            getattr(base.evaluation, field.name), getattr(seen, field.name)
        )


@pytest.mark.parametrize("count", [38, 39, 41, 42, 80])
def test_more_or_fewer_images_than_the_references_are_an_error(count):
    base = reference(model(random_logits(0)), batches([10], 40))
    with pytest.raises(DataError, match="the images changed"):
        against(base, model(random_logits(0, count)), batches([10], count))


def test_other_images_than_the_references_are_an_error():
    base = reference(model(random_logits(0)), batches([], 40))
    others = [dataclasses.replace(b, digests=b.digests[::-1]) for b in batches([], 40)]
    with pytest.raises(DataError, match="the images changed"):
        against(base, model(random_logits(0)), others)


def test_models_with_other_classes_do_not_compare():
    seven, six = model(random_logits(0)), model(random_logits(0, classes=6))
    with pytest.raises(ModelError, match="one model has 7 classes and the other 6"):
        compare(seven, six, batches([], 40))
    with pytest.raises(ModelError, match="one model has 7 classes and the other 6"):
        against(reference(seven, batches([], 40)), six, batches([], 40))
