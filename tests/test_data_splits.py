"""Which image lands where: the rules, the worked examples, and what must never happen."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.data.splits import LEAST_POOL, MAX_SEARCH, split
from quantize.errors import DataError
from quantize.plan import Sample


def images(start, stop, label=lambda i: i % 10, prefix="d"):
    return [Sample(None, label(i), f"{prefix}{i:06d}") for i in range(start, stop)]


def digests(samples):
    return [sample.digest for sample in samples]


def sizes(splits):
    return len(splits.calibration), len(splits.search), len(splits.holdout)


def test_five_hundred_images_for_everything():
    data = images(0, 500)
    splits = split(data, data, sampling_size=100, seed=1)
    assert sizes(splits) == (100, 100, 400)
    assert splits.search_is_calibration
    assert splits.search == splits.calibration
    assert digests(splits.calibration) == digests(data[:100])
    assert digests(splits.holdout) == digests(data[100:])
    assert splits.duplicates == 0
    assert any("100 of the 500" in note for note in splits.notes)


def test_a_training_set_to_calibrate_and_a_test_set_to_evaluate():
    splits = split(images(0, 1000), images(1000, 6000), sampling_size=100, seed=1)
    assert sizes(splits) == (100, 900, 5000)
    assert not splits.search_is_calibration
    assert set(digests(splits.search)) == set(digests(images(100, 1000)))
    assert splits.notes == ()


def test_the_search_takes_a_share_of_many_evaluation_images():
    data = images(0, 1100)
    splits = split(data, data, sampling_size=100, seed=1)
    assert sizes(splits) == (100, 200, 800)
    assert sizes(split(data, data, sampling_size=100, seed=1, search_share=0.5)) == (100, 500, 500)
    assert sizes(split(data, data, sampling_size=101, seed=1)) == (101, 101, 999)
    assert split(data, data, sampling_size=100, seed=1, search_share=0.0).search_is_calibration


def test_the_search_is_bounded():
    many = images(0, 40_000)
    assert sizes(split(many[:50], many, sampling_size=50, seed=1)) == (50, MAX_SEARCH, 37_950)
    spare = images(50_000, 53_000)
    assert sizes(split(spare, many, sampling_size=50, seed=1)) == (50, MAX_SEARCH, 40_000)


def test_a_holdout_of_its_own_leaves_all_evaluation_images_to_the_search():
    evaluation, holdout = images(0, 300), images(250, 600)
    splits = split(images(0, 50), evaluation, sampling_size=50, seed=1, holdout=holdout)
    assert sizes(splits) == (50, 200, 350)
    assert set(digests(splits.search)) == set(digests(images(50, 250)))
    assert digests(splits.holdout) == digests(holdout)


def test_a_holdout_that_is_the_evaluation_set_leaves_calibration_to_the_search():
    evaluation = images(100, 300)
    splits = split(
        images(0, 80), evaluation, sampling_size=50, seed=1, holdout=list(reversed(evaluation))
    )
    assert sizes(splits) == (50, 30, 200)


def test_copies_under_other_names_never_leak_and_are_counted():
    calibration = images(0, 10) + images(0, 3)
    evaluation = images(5, 30) + images(20, 22) + images(0, 1)
    splits = split(calibration, evaluation, sampling_size=10, seed=1)
    assert set(digests(splits.holdout)) == set(digests(images(10, 30)))
    assert len(splits.holdout) == 20
    assert splits.duplicates == 5


def test_repeats_of_a_dataset_that_serves_twice_count_once():
    data = images(0, 50) + images(0, 7)
    assert split(data, data, sampling_size=10, seed=1).duplicates == 7


def test_equal_bytes_with_different_labels_are_noted():
    data = [*images(0, 50), Sample(None, 3, "d000020"), Sample(None, None, "d000021")]
    splits = split(data, data, sampling_size=10, seed=1)
    assert {s.digest: s.label for s in splits.holdout}["d000020"] == 0  # the first one counts
    notes = splits.notes
    assert any("1 images occur with different labels" in note for note in notes)
    across = split(images(0, 20), images(15, 40, label=lambda i: 99), sampling_size=10, seed=1)
    assert any("5 images occur with different labels" in note for note in across.notes)


def test_calibration_images_of_one_class_are_noted():
    data = images(0, 200, label=lambda i: i // 100)
    assert any(
        "all 100 calibration images are of class 0" in note
        for note in split(data, data, sampling_size=100, seed=1).notes
    )
    assert not any("class" in n for n in split(data, data, sampling_size=101, seed=1).notes)
    unlabelled = images(0, 200, label=lambda i: None)
    assert not any("class" in n for n in split(unlabelled, data, sampling_size=9, seed=1).notes)


def test_too_few_images_to_calibrate_are_refused_with_their_number():
    with pytest.raises(DataError, match=r"asks for 100 images and its dataset has 60.*to 60"):
        split(images(0, 60) * 2, images(0, 500), sampling_size=100, seed=1)


def test_nothing_left_for_the_verdict_is_refused_with_a_cure():
    with pytest.raises(DataError, match=r"no image is left for the verdict.*sampling_size"):
        split(images(0, 100), images(0, 100), sampling_size=100, seed=1)
    with pytest.raises(DataError, match="no image is left"):
        split(images(0, 9), [], sampling_size=5, seed=1)


def test_the_choice_depends_on_seed_and_bytes_alone():
    data = images(0, 3000)
    calibration = images(5000, 5050)
    first = split(calibration, data, sampling_size=50, seed=1)
    shuffled = data.copy()
    random.Random(0).shuffle(shuffled)
    again = split(calibration, shuffled, sampling_size=50, seed=1)
    other = split(calibration, data, sampling_size=50, seed=2)
    assert digests(again.search) == digests(first.search)
    assert set(digests(again.holdout)) == set(digests(first.holdout))
    assert set(digests(other.search)) != set(digests(first.search))
    assert digests(first.search)[:3] == ["d000153", "d000342", "d002829"]  # on any machine
    labels = [sample.label for sample in first.search[:100]]
    assert len(set(labels)) == 10  # any prefix is a mixture


NUMBERS = st.lists(st.integers(0, 40), max_size=60)


@settings(deadline=None, max_examples=200)
@given(
    calibration=NUMBERS,
    evaluation=NUMBERS,
    holdout=st.none() | NUMBERS,
    size=st.integers(1, 20),
    share=st.floats(0, 0.9),
)
def test_the_sets_never_share_an_image(calibration, evaluation, holdout, size, share):
    def samples(numbers):
        return [Sample(None, n % 5, f"d{n:03d}") for n in numbers]

    try:
        splits = split(
            samples(calibration),
            samples(evaluation),
            sampling_size=size,
            seed=3,
            search_share=share,
            holdout=None if holdout is None else samples(holdout),
        )
    except DataError:
        return  # too few images, as other tests have it
    chosen, search, held = map(digests, (splits.calibration, splits.search, splits.holdout))
    assert len(chosen) == size
    assert held
    assert not set(held) & (set(chosen) | set(search))
    assert splits.search_is_calibration == (search == chosen)
    if not splits.search_is_calibration:
        assert not set(search) & set(chosen)
    for one in (chosen, search, held):
        assert len(one) == len(set(one))
    everything = set(digests(samples([*calibration, *evaluation, *(holdout or [])])))
    assert set(chosen) | set(search) | set(held) <= everything
    assert LEAST_POOL > 40  # so that no share is taken here
