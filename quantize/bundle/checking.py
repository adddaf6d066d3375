"""The verb `check`: does the model still give what it gave when it was released?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantize.bundle.facts import ATOL, RTOL
from quantize.bundle.names import printable
from quantize.bundle.opening import Bundle, opened
from quantize.bundle.tensor import DataSet, read_sets
from quantize.errors import BundleError, ModelError
from quantize.runtime import Session, cpu


@dataclass(frozen=True)
class SetSeen:
    """One test data set.

    Attributes:
        name: of its folder.
        difference: largest absolute difference of an output.
        within: whether all outputs are within the tolerance.
        same_answers: whether the best class of each image is the same.
    """

    name: str
    difference: float
    within: bool
    same_answers: bool


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        sets: in order.
        rtol: relative tolerance, of the expected output.
        atol: absolute tolerance.
        made_on: instruction set of the expected outputs; empty where unknown.
        here: instruction set of this machine.
    """

    sets: tuple[SetSeen, ...]
    rtol: float
    atol: float
    made_on: str
    here: str

    @property
    def comparable(self) -> bool:
        """Whether outputs can be compared, not only answers."""
        return self.made_on == self.here

    @property
    def passed(self) -> bool:
        """Whether nothing differs that should not."""
        return all(s.within if self.comparable else s.same_answers for s in self.sets)

    @property
    def exit_code(self) -> int:
        """0, or 3 where outputs differ."""
        return 0 if self.passed else 3

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            **asdict(self),
            "comparable": self.comparable,
            "passed": self.passed,
            "exit_code": self.exit_code,
        }

    def lines(self) -> list[str]:
        """The same for people; the last line is the result."""
        told = [
            f"{s.name}  largest difference {s.difference:.3g},"
            f" {'same' if s.same_answers else 'OTHER'} answer"
            + ("" if s.within or not self.comparable else ", OUTSIDE the tolerance")
            for s in self.sets
        ]
        if self.comparable:
            told.append(f"tolerance  rtol {self.rtol:g}, atol {self.atol:g} on {self.here}")
        else:
            made = printable(self.made_on) or "an unknown instruction set"
            told.append(
                f"note       the outputs were made on {made}, this is {self.here}: quantized"
                " outputs are not comparable, only the answers were compared"
            )
        what = "outputs" if self.comparable else "answers"
        verdict = f"SAME: all {what} agree" if self.passed else f"DIFFERENT: {what} differ"
        return [*told, "", verdict]


def check_bundle(path: str | Path) -> Checked:
    """Run a bundle's test data.

    Args:
        path: its folder or one of its archives.

    Raises:
        BundleError: it is no bundle, or not whole.
    """
    with opened(Path(path)) as bundle:
        try:
            session = Session(bundle.model.read_bytes(), name=bundle.model.name)
        except ModelError as error:
            raise BundleError(error.message, "fetch the bundle again") from error
        sets = read_sets(bundle.folder, session)
        rtol, atol, made_on = _terms(bundle, sets)
        seen = tuple(_seen(one, session, rtol, atol) for one in sets)
        return Checked(seen, rtol, atol, made_on, cpu().isa)


def _terms(bundle: Bundle, sets: list[DataSet]) -> tuple[float, float, str]:
    if bundle.manifest is None:
        made = {one.isa for one in sets}
        return RTOL, ATOL, made.pop() if len(made) == 1 else ""
    terms = bundle.manifest.at("check")
    return (
        terms.at("rtol").number(0, 1),
        terms.at("atol").number(0, 1e6),
        terms.at("instruction_set").text(),
    )


def _seen(one: DataSet, session: Session, rtol: float, atol: float) -> SetSeen:
    found = session.run(one.input)[0]
    if found.shape != one.output.shape or found.ndim < 2:
        raise BundleError(
            f"{one.name}: the model gives {list(found.shape)}, the file has"
            f" {list(one.output.shape)}",
            "fetch the bundle again",
        )
    difference = np.abs(found.astype(np.float64) - one.output)
    within = bool((difference <= atol + rtol * np.abs(one.output)).all())
    same = bool((found.argmax(axis=1) == one.output.argmax(axis=1)).all())
    return SetSeen(one.name, float(difference.max(initial=0.0)), within, same)
