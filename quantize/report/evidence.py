"""The tables of a finished run: gathered from its answers, and measured layer by layer."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantize.candidates import Workshop
from quantize.deadline import NEVER
from quantize.errors import BudgetError, ModelError
from quantize.graph import io
from quantize.graph.layers import layers
from quantize.graph.rounded import rounded_layers
from quantize.job import Job, Tally
from quantize.layer_table import layer_table
from quantize.measure import Verified
from quantize.overflow import overflows
from quantize.plan import LayerRow, OnProgress, Plan, SearchResult
from quantize.report.changes import changes, class_drops
from quantize.report.tables import Tables
from quantize.runtime import cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_LEAST_PROBED, _MOST_PROBED, _RUNS = 4, 8, 256

FORECAST = 16
"""Calibration images on which sums that overflow 16 bits are counted."""


def evidence(
    job: Job,
    workshop: Workshop,
    found: SearchResult,
    proof: Verified,
    best: Path,
    on_progress: OnProgress | None = None,
) -> Tables:
    """Gather the tables of a run.

    Args:
        job: the inputs.
        workshop: knows the float model that the plan rounds.
        found: the search's result; its best candidate was verified.
        proof: both models' answers on the holdout.
        best: the file that was verified.
        on_progress: told while layers are measured.
    """
    if found.best is None:
        raise ValueError("the search has no candidate to look into")
    seen = proof.comparison
    differing = np.flatnonzero(seen.float_.predicted != seen.int8.predicted)
    few = {seen.float_.digests[index] for index in differing}
    names = {sample.digest: sample.name for sample in job.holdout.samples if sample.digest in few}
    drops = class_drops(seen)
    return Tables(
        _with_overflows(
            _layer_rows(job, workshop, found.best.plan, best, on_progress), job, workshop, best
        ),
        tuple(changes(seen, names)),
        None if drops is None else tuple(drops),
    )


def probed(count: int) -> int:
    """Search images that each of so many layers is measured on: each is a run of the model."""
    return max(_LEAST_PROBED, min(_MOST_PROBED, _RUNS // max(1, count)))


def _layer_rows(
    job: Job, workshop: Workshop, plan: Plan, best: Path, on_progress: OnProgress | None
) -> tuple[LayerRow, ...]:
    """One row per layer of the file that ships; what cannot be measured any more is left out.

    The deadline of the holdout is that of the whole run.
    """
    deadline, int8_model = job.holdout.deadline, io.load(best)
    none: NDArray[np.float32] = np.zeros((0, *job.model.size), np.float32)
    try:
        model, statistics = workshop.rounded_from(plan)
        # Not a pass of the search: whoever counts those does not count these.
        few = job.search.spread(probed(len(layers(model))))
        few = replace(few, deadline=deadline, tally=Tally())
        return layer_table(
            model,
            int8_model,
            np.concatenate([none, *few.arrays()]),
            statistics,
            threads=cores(),
            expired=lambda: deadline.passed,
            on_progress=on_progress,
        )
    except (BudgetError, ModelError) as error:  # the verdict is there, and this is no part of it
        log.warning("the layers were not measured one by one: %s", error)
        return layer_table(workshop.prepared.model, int8_model, none)


def _with_overflows(
    rows: tuple[LayerRow, ...], job: Job, workshop: Workshop, best: Path
) -> tuple[LayerRow, ...]:
    """The rows with what each layer overflows in 16 bits, on a few calibration images."""
    deadline, int8_model = job.holdout.deadline, io.load(best)
    few = replace(job.calibration.spread(FORECAST), deadline=NEVER, tally=Tally())
    try:
        seen = overflows(
            int8_model,
            np.concatenate(list(few.arrays())),
            threads=cores(),
            expired=lambda: deadline.passed,
        )
    except ModelError as error:  # as above
        log.warning("what overflows without VNNI is not known: %s", error)
        return rows
    held = rounded_layers(workshop.prepared.model, int8_model)
    known = {name: seen[layer.node] for name, layer in held.items() if layer.node in seen}
    return tuple(
        replace(row, overflow_possible=known[row.name].possible, overflow=known[row.name].seen)
        if row.int8 and row.name in known
        else row
        for row in rows
    )
