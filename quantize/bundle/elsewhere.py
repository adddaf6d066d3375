"""A bundle's accuracy on emulated processors, without the float model: see `bundle.alone`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantize.bundle.alone import Alone, judge_alone
from quantize.bundle.expected import Expected
from quantize.job import Images
from quantize.measure import predictor
from quantize.plan import Cpu, Fidelity, Outcome
from quantize.portability import cannot_overflow, first_lines, seen_on
from quantize.report.values import finite


@dataclass(frozen=True)
class AloneElsewhere:
    """What one other processor shows.

    Attributes:
        cpu: that one.
        alone: of the answers there.
        images: that were run there.
        against_here: int8 there against int8 here on them.
        proven: whether the weights leave no sum of two products that could overflow.
    """

    cpu: Cpu
    alone: Alone
    images: int
    against_here: Fidelity
    proven: bool

    @property
    def outcome(self) -> Outcome:
        """Met, unmet or undecided there."""
        return self.alone.outcome

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return finite(asdict(self))  # type: ignore[no-any-return]

    def lines(self) -> list[str]:
        """For people."""
        return [*first_lines(self.cpu, self.images, self.against_here), self.alone.line()]


def alone_elsewhere(
    expected: Expected,
    int8_model: Path,
    images: Images,
    here: Alone,
    names: Sequence[str],
    budget: float,
    *,
    same_images: bool,
) -> tuple[AloneElsewhere, ...]:
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
        found.append(AloneElsewhere(seen.cpu, alone, there.images, seen.against_here, proven))
    return tuple(found)
