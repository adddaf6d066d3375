"""Which processors a verdict holds for: `measured.cpus` in report.json, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from quantize.checked_json import Value
from quantize.plan import Fidelity, Outcome, Verdict
from quantize.report.values import finite

WORDS = {"met": "met", "unmet": "not met", "undecided": "undecided"}

_MOST_ROWS = 1000


@dataclass(frozen=True)
class Place:
    """The verdict on one processor.

    Attributes:
        label: what to call it.
        outcome: met, unmet or undecided there.
        reason: why.
        images: that were run there.
        agreement: images whose best class is that of the run's own processor (a ratio), or None
            where the two were not compared.
        identical: whether even the scores are those; False where they were not compared.
    """

    label: str
    outcome: Outcome
    reason: str
    images: int
    agreement: float | None = None
    identical: bool = False

    @property
    def told(self) -> str:
        """Such as `Haswell (emulated), 120 images: not met`."""
        return f"{self.label}, {self.images:,} images: {WORDS[self.outcome]}"


def row(
    verdict: Verdict, *, images: int, emulated: bool, against_here: Fidelity | None, proven: bool
) -> dict[str, Any]:
    """A processor's verdict as JSON values.

    Args:
        verdict: there.
        images: that were run there.
        emulated: whether it was emulated here, or is another machine.
        against_here: int8 there against int8 on the run's own processor, or None.
        proven: whether the weights leave no sum of two products that could overflow.
    """
    content = {
        "cpu": asdict(verdict.cpu),
        "emulated": emulated,
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "reason": verdict.reason,
        "images": images,
        "more_images": verdict.more_images,
        "confidence": verdict.goal.confidence,
        "drop": asdict(verdict.drop) if verdict.drop else None,
        "fidelity": asdict(verdict.fidelity),
        "against_here": asdict(against_here) if against_here else None,
        "proven": proven,
    }
    return finite(content)  # type: ignore[no-any-return]


def places_of(measured: Value) -> tuple[Place, ...]:
    """The other processors of a report, in its order; none in reports of older versions.

    Args:
        measured: that part of the report.

    Raises:
        RunFolderError: a value is missing or of another kind.
    """
    if not measured.has("cpus"):
        return ()
    found = tuple(_place(item) for item in measured.at("cpus").items())
    if len(found) > _MOST_ROWS:
        raise measured.at("cpus").wrong(f"a list of at most {_MOST_ROWS}")
    return found


def _place(value: Value) -> Place:
    name, isa = value.at("cpu", "name").text(), value.at("cpu", "isa").text()
    value.at("cpu", "saturates").flag()
    value.at("proven").flag()
    against = value.at("against_here").optional()
    agreement = None if against is None else against.at("agreement").number(0, 1)
    return Place(
        label=name if value.at("emulated").flag() else f"{isa} ({name})",
        outcome=cast("Outcome", value.at("outcome").one_of("met", "unmet", "undecided")),
        reason=value.at("reason").text(),
        images=value.at("images").count(),
        agreement=agreement,
        identical=agreement == 1
        and against is not None
        and against.at("sqnr_db").number_or_none() is None,
    )


def decisive(here: Place, others: Sequence[Place]) -> Place:
    """The worst of all, this processor first among equals."""
    order = ("unmet", "undecided", "met")
    return min((here, *others), key=lambda place: order.index(place.outcome))


def holds_for(here: Place, others: Sequence[Place], *, proven: bool, saturates: bool) -> str:
    """For which processors the verdict holds, in one sentence without a full stop.

    Args:
        here: the run's own processor.
        others: those that were asked for, or that added their own.
        proven: whether no layer has a sum of two products that could leave 16 bits.
        saturates: whether such sums are cut off here.
    """
    if others:
        return "; ".join([f"measured on {here.told}", *map(_in_words, others)])
    if proven:
        return (
            f"measured on {here.label}; no sum of two products can leave 16 bits, so x86 CPUs"
            " without VNNI add up the same"
        )
    if saturates:
        return (
            f"measured on {here.label} only, where sums of two products are cut off at 16 bits:"
            " CPUs with VNNI or a dot product answer otherwise"
        )
    return (
        f"measured on {here.label} only: nothing was run on x86 CPUs without VNNI, and the weights"
        " do not prove that they add up the same"
    )


def _in_words(place: Place) -> str:
    if place.agreement is None:
        return place.told
    alike = "the scores of here" if place.identical else f"{100 * place.agreement:.1f} % as here"
    return f"{place.told} ({alike})"
