"""A bundle's accuracy on emulated processors, without the float model: see `bundle.alone`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantize.bundle.alone import Alone, judge_alone
from quantize.bundle.expected import Expected
from quantize.job import Images
from quantize.measure import predictor
from quantize.portability import cannot_overflow, seen_on
from quantize.report.elsewhere import Elsewhere


def alone_elsewhere(
    expected: Expected,
    int8_model: Path,
    images: Images,
    here: Alone,
    names: Sequence[str],
    budget: float,
    *,
    same_images: bool,
) -> tuple[Elsewhere[Alone], ...]:
    """Compare the accuracy on other processors with the float accuracy as released.

    Args:
        expected: of the release.
        int8_model: the bundle's file.
        images: the user's.
        here: what the answers on this processor show.
        names: from `known_processors`.
        budget: seconds for all of them together.
        same_images: whether they are those of the release.

    Raises:
        EngineError: the emulated process ended.
    """
    proven = bool(names) and cannot_overflow(int8_model)
    reference = predictor(int8_model)
    found = []
    for name in names:
        seen = seen_on(name, reference, int8_model, images, budget / len(names))
        there = seen.comparison.int8
        whole = same_images and there.images == expected.images
        alone = judge_alone(expected, int(there.right.sum()), there.images, same_images=whole)
        if proven and np.isinf(seen.against_here.sqnr_db):
            reason = f"{here.reason}; nothing can overflow, and the scores are those seen here"
            alone = replace(here, reason=reason)
        near = seen.against_here
        found.append(Elsewhere(seen.cpu, there.images, near, proven, alone))
    return tuple(found)
