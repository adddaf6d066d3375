"""Rows of an evaluation: none is lost, none is another's, none is half."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.answers import AnswerFolder, Answers
from quantize.errors import OutputError

ROW = np.dtype([("digest", "S64"), ("value", "<f8")])
IMAGES = [f"{number:064x}" for number in range(6)]


def rows(*numbers):
    return np.array([(IMAGES[n].encode(), n / 7) for n in numbers], ROW)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers" / "verify.rows"


def opened(path, wanted=IMAGES):
    return Answers((path, ROW), wanted)


def test_rows_outlive_the_process_that_wrote_them(path):
    with opened(path) as first:
        assert (first.done, first.reused, first.rows()) == (frozenset(), 0, None)
        first.add(rows(0, 1))
        first.add(rows(2))
        # Nothing is closed or flushed by name: another process sees them at once.
        second = opened(path)
    assert second.done == set(IMAGES[:3])
    assert second.reused == 3
    np.testing.assert_array_equal(second.rows(), rows(0, 1, 2))


def test_rows_come_in_the_order_of_the_images(path):
    with opened(path) as first:
        first.add(rows(4, 0))
    with opened(path) as second:
        second.add(rows(3, 1))
        np.testing.assert_array_equal(second.rows(), rows(0, 1, 3, 4))


@given(cut=st.integers(0, 3 * ROW.itemsize))
@settings(max_examples=30, deadline=None)
def test_a_file_cut_anywhere_loses_only_what_was_cut(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("rows") / "x.rows"
    path.write_bytes(rows(0, 1, 2).tobytes()[:cut])
    with opened(path) as answers:
        whole = cut // ROW.itemsize
        assert answers.reused == whole
        answers.add(rows(5))
    np.testing.assert_array_equal(opened(path).rows(), rows(*range(whole), 5))


@pytest.mark.parametrize("wrong", [[IMAGES[1]], [], IMAGES[:1]], ids=["other", "none", "fewer"])
def test_rows_of_other_images_are_not_taken(path, wrong):
    with opened(path) as first:
        first.add(rows(0, 2))
    answers = opened(path, wrong)
    assert answers.rows() is None
    assert not path.exists()


def test_a_row_that_stands_twice_is_damage(path):
    with opened(path) as first:
        first.add(rows(0))
        first.add(rows(0))
    assert opened(path).reused == 0


def test_in_memory_nothing_is_written(tmp_path):
    answers = Answers()
    answers.add(rows(3, 1))
    np.testing.assert_array_equal(answers.rows(), rows(3, 1))  # as they came
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "answers").write_text("a file")
    with opened(tmp_path / "answers" / "x.rows") as answers, pytest.raises(OutputError):
        answers.add(rows(0))


def test_what_decides_the_rows_decides_the_file(tmp_path):
    folder = AnswerFolder(tmp_path / "answers", {"isa": "here"})
    with folder.of("verify", ROW, {"int8": "a"}, IMAGES) as answers:
        answers.add(rows(0, 1))
    elsewhere = AnswerFolder(folder.path, {"isa": "there"})
    assert elsewhere.of("verify", ROW, {"int8": "a"}, IMAGES).reused == 0
    assert folder.of("verify", ROW, {"int8": "b"}, IMAGES).reused == 0
    assert folder.of("judge", ROW, {"int8": "a"}, IMAGES).reused == 0
    assert folder.reused == 0
    assert folder.of("verify", ROW, {"int8": "a"}, IMAGES).reused == 2
    assert folder.reused == 2


def test_a_refused_job_takes_only_its_own_rows_away(tmp_path):
    folder = AnswerFolder(tmp_path / "answers", {})
    for name in ("mine", "another's"):
        with folder.of(name, ROW, {}, IMAGES) as answers:
            answers.add(rows(0))
    later = AnswerFolder(folder.path, {})
    later.of("mine", ROW, {}, IMAGES)
    later.forget_used()
    assert [path.name.split("-")[0] for path in folder.path.iterdir()] == ["another's"]
    later.forget()
    assert not folder.path.exists()
