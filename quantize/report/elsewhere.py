"""What another processor shows, with the float model or without: as JSON values and as lines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from quantize.plan import Cpu, Fidelity, Outcome, Verdict
from quantize.report.cpus import row
from quantize.report.values import finite
from quantize.report.verdict import verdict_lines, verdict_to_json

if TYPE_CHECKING:
    from quantize.bundle.alone import Alone

Judged = TypeVar("Judged", bound="Verdict | Alone", covariant=True)
"""A verdict with the float model; without it, what the accuracy of int8 alone shows."""


@dataclass(frozen=True)
class Elsewhere(Generic[Judged]):
    """What one other processor shows.

    Attributes:
        cpu: that one.
        images: that were run there.
        against_here: int8 there against int8 here on them.
        proven: whether the weights leave no sum of two products that could overflow.
        judged: how good int8 is there, against the float model here where that is at hand; time is
            not measured.
    """

    cpu: Cpu
    images: int
    against_here: Fidelity
    proven: bool
    judged: Judged

    @property
    def outcome(self) -> Outcome:
        """Met, unmet or undecided there."""
        return self.judged.outcome

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, those of a verdict beside the others."""
        against_here = finite(asdict(self.against_here))
        if isinstance(self.judged, Verdict):
            return {
                **verdict_to_json(self.judged),
                "emulated_images": self.images,
                "against_here": against_here,
                "proven": self.proven,
            }
        return {
            "cpu": asdict(self.cpu),
            "alone": finite(asdict(self.judged)),
            "images": self.images,
            "against_here": against_here,
            "proven": self.proven,
        }

    def row(self: Elsewhere[Verdict]) -> dict[str, Any]:
        """What a report keeps of it; a report is never without the float model."""
        return row(
            self.judged,
            images=self.images,
            emulated=True,
            against_here=self.against_here,
            proven=self.proven,
        )

    def lines(self) -> list[str]:
        """For people."""
        seen = self.judged
        result = _result(seen) if isinstance(seen, Verdict) else [seen.line()]
        return [*self._first_lines(), *result]

    def _first_lines(self) -> list[str]:
        """How it adds two products, and how near its answers are to those of this processor."""
        adds = "cut off at 16 bits" if self.cpu.saturates else "exact"
        db = self.against_here.sqnr_db
        equal = "identical scores" if np.isinf(db) else f"{db:.1f} dB"
        return [
            "",
            self.cpu.name,
            f"           sums of two products are {adds}; {self.images} images,"
            f" {100 * self.against_here.agreement:.2f} % of the answers as here, {equal}",
        ]


def _result(seen: Verdict) -> list[str]:
    last = verdict_lines(seen)[-1]
    if seen.drop is None:
        return [last]
    return [
        f"           drop {seen.drop.points:.2f} points, 95 % interval"
        f" {seen.drop.low:.2f} to {seen.drop.high:.2f}",
        last,
    ]
