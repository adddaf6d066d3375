"""Candidates on the search images: stopped early where clear, whole where INC asks."""

import numpy as np
import onnx
import pytest

from conftest import CLASSES, SIZE
from models import labels_of, prepared, tiny_dataset
from quantize.answers import AnswerFolder
from quantize.evaluation import reference
from quantize.job import open_job
from quantize.judging import baseline, decidable, judge, probe, probe_images, probe_size
from quantize.measure import predictor

LOOSE = "tuning.accuracy_criterion.relative=0.3"


@pytest.fixture
def opened(job):
    """The job with 200 search images, and the float model's answers to them."""
    items = tiny_dataset(CLASSES, 54, SIZE, seed=2)
    images = list(zip(prepared(items), map(int, labels_of(items)), strict=True))
    found = open_job(job.model, job.settings(LOOSE), None, calibration=images)
    assert len(found.search.samples) == 200
    return found, reference(predictor(job.model), found.search)


@pytest.fixture
def broken(job):
    """A candidate with other weights in its head."""
    model = onnx.load(job.model)
    head = model.graph.initializer[-2]
    rng = np.random.default_rng(0)
    values = rng.normal(size=list(head.dims)).astype(np.float32)
    head.CopyFrom(onnx.numpy_helper.from_array(values, head.name))
    path = job.folder / "broken.onnx"
    onnx.save(model, path)
    return path


def test_a_clearly_good_candidate_needs_few_images(opened):
    job, base = opened
    seen = judge(job.model.path, job, base)
    assert (seen.outcome, seen.good) == ("met", True)
    assert seen.images < 100
    assert f"on {seen.images} of 200 search images" in seen.note


def test_a_clearly_bad_candidate_needs_few_images(opened, broken):
    job, base = opened
    seen = judge(broken, job, base)
    assert (seen.outcome, seen.good) == ("unmet", False)
    assert seen.images < 100
    assert job.search.tally.images == 200 + seen.images


def test_inc_is_told_of_all_images(opened, broken):
    job, base = opened
    for path in (job.model.path, broken):
        seen = judge(path, job, base, whole=True)
        assert seen.images == 200
        assert "of 200" not in seen.note


def test_answers_of_a_look_cut_short_are_used_again(opened, broken, tmp_path):
    job, base = opened
    folder = AnswerFolder(tmp_path / "answers", {})
    fresh = judge(broken, job, base)
    judge(broken, job, base, folder, whole=True)  # more rows than the first look wants
    before = job.search.tally.images
    assert judge(broken, job, base, folder) == fresh
    assert job.search.tally.images == before
    assert folder.reused == 200


def test_the_probe_is_the_first_of_the_search_images(opened):
    job, base = opened
    few = probe_images(job, base)
    assert few[0].evaluation.digests == base.evaluation.digests[: probe_size(200)]
    seen = probe(job.model.path, few)
    assert (seen.sqnr_db, seen.agreement) == (np.inf, 1.0)


def test_what_so_many_images_can_decide(opened):
    job, base = opened
    goal = job.config.goal()
    assert decidable(base, goal)
    assert not decidable(base.first(5), goal)
    assert baseline(base, goal) == base.evaluation.accuracy()
