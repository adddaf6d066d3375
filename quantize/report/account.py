"""One run explained: what each rung brought, which layers lose most, which answers changed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from quantize.plan import LayerRow, Plan
from quantize.report.changes import ClassDrop
from quantize.report.reading import Account, Rung
from quantize.report.tables import change_values, class_values, layer_values
from quantize.report.verdict import closeness_line, verdict_line
from quantize.search import MOST_LOSS_DB

SHOWN = 10
"""Layers, images and classes that are listed."""

WIDTH = 98
_LABEL = 11
_MUCH = 0.2
"""Share of the noise from which one layer is worth a remedy of its own."""


@dataclass(frozen=True)
class Told:
    """A rung of the search and what became of it.

    Attributes:
        label: what it added, such as `+ bias`.
        rung: its figures.
        kept: whether the file that ships builds on it.
        why: in a few words.
    """

    label: str
    rung: Rung
    kept: bool
    why: str


def account_lines(run: Account, names: Sequence[str] | None = None) -> list[str]:
    """A run for people, at most `WIDTH` columns wide.

    Args:
        run: its report.
        names: class names by index, or None.
    """
    return [
        *verdict_lines(run),
        "",
        *_rung_lines(run),
        "",
        *_layer_lines(run),
        *folded_or_none("no VNNI", without_vnni(run.layers)),
        *folded_or_none("portable", portable_cost(run)),
        "",
        *_change_lines(run, names),
        "",
        *_class_lines(run, names),
        *folded("next", next_step(run)),
    ]


def account_json(run: Account) -> dict[str, Any]:
    """The same for machines."""
    return {
        "run": run.place,
        "outcome": run.outcome,
        "reason": run.reason,
        "cpus": [asdict(place) for place in run.cpus],
        "holds_for": run.holds_for,
        "goal": run.goal,
        "accuracy": asdict(run.accuracy) if run.accuracy else None,
        "sqnr_db": run.sqnr_db,
        "agreement": run.agreement,
        "speed": asdict(run.speed) if run.speed else None,
        "size_ratio": size_ratio(run),
        "rungs": [
            {
                "label": told.label,
                "sqnr_db": told.rung.sqnr_db,
                "gain_db": told.rung.gain_db,
                "seconds": told.rung.seconds,
                "kept": told.kept,
                "why": told.why,
            }
            for told in rungs(run)
        ],
        "without_vnni": without_vnni(run.layers),
        "portable_cost_db": portable_cost_db(run),
        "worst_layers": [layer_values(row) for row in worst(run.layers)[:SHOWN]],
        "changed": {
            "images": run.changed,
            "first": [change_values(change) for change in run.changes[:SHOWN]],
        },
        "classes": None
        if run.classes is None
        else [class_values(drop) for drop in _losing(run.classes)[:SHOWN]],
        "next": next_step(run),
    }


# ------------------------------------------------------------------------------ findings


@dataclass(frozen=True)
class _Stand:
    """What the next rung of a kind is told against: the last one, and what it builds on."""

    plan: Plan
    repaired: frozenset[str]
    pinned: frozenset[str]


def rungs(run: Account) -> list[Told]:
    """What became of each candidate."""
    told: list[Told] = []
    stands: dict[tuple[object, ...], _Stand] = {}
    final_began = False
    for rung in run.rungs:
        plan = rung.plan
        before = stands.get(_kind(plan))
        begins = before is None or bool(before.repaired and not plan.repairs)
        repaired = frozenset(plan.repairs) if before is None or begins else before.repaired
        pinned = frozenset(plan.keep_float) if before is None else before.pinned
        floats = sorted(set(plan.keep_float) - pinned)
        label = _label(run, plan, None if begins else before, floats)
        final = _same(run.plan, plan)
        alone = begins and bool(plan.repairs)  # what follows starts anew
        final_began = final_began or (final and alone)
        builds = _builds_on(run.plan, plan) and not floats and not alone and not final_began
        kept = final or builds
        stands[_kind(plan)] = _Stand(plan, frozenset(plan.repairs) if kept else repaired, pinned)
        told.append(Told(label, rung, kept, _why(run, rung, kept=kept, floats=bool(floats))))
    return told


def _label(run: Account, plan: Plan, before: _Stand | None, floats: Sequence[str]) -> str:
    """What a candidate has more than the one before; all that it has where none was."""
    if run.plan.scheme.portable and not plan.scheme.portable:
        return "were it not portable"
    added = sorted(set(plan.repairs) - before.repaired) if before else []
    label = " + ".join([f"{plan.engine} {plan.format}", *(() if before else plan.repairs)])
    if floats:
        label = f"{len(floats)} float: {', '.join(floats)}"
    elif added:
        label = f"+ {', '.join(added)}"
    elif before and plan.repairs and plan.walked is None:
        label = "the repairs kept, on images"
    if added and before and plan.walked is None and before.plan.walked == 0:
        label += ", each layer on images"
    return label


def worst(layers: Iterable[LayerRow]) -> list[LayerRow]:
    """The layers that were measured, the one with the lowest SQNR first."""
    known = [row for row in layers if row.sqnr_db is not None]
    return sorted(known, key=lambda row: math.inf if row.sqnr_db is None else row.sqnr_db)


def without_vnni(layers: Iterable[LayerRow]) -> str | None:
    """What the forecast says of x86 CPUs without VNNI, as text; None where there is none."""
    known = [row for row in layers if row.overflow_possible is not None]
    if not known:
        return None
    risky = [row for row in known if row.overflow_possible]
    if not risky:
        return (
            "no sum of two products can leave 16 bits in any layer: x86 CPUs without VNNI add up"
            " the same"
        )
    seen = sorted((row for row in risky if row.overflow), key=lambda row: -(row.overflow or 0.0))
    if not seen:
        return (
            f"sums of two products could leave 16 bits in {len(risky)} of {len(known)} layers, and"
            " did in none on calibration images"
        )
    return (
        f"on x86 CPUs without VNNI sums of two products overflow 16 bits in {len(seen)} of"
        f" {len(known)} layers on calibration images, most in {middle(seen[0].name, 40)}"
        f" ({percent(seen[0].overflow, 2)}), and could in {len(risky)}: quantize verify --cpu shows"
        " what it costs there, quantization.portable mends it"
    )


def portable_cost_db(run: Account) -> float | None:
    """What being portable costs the file that ships in SQNR, in dB; None where it was not seen."""
    free = replace(run.plan, scheme=replace(run.plan.scheme, portable=False))
    seen = [
        next((rung.sqnr_db for rung in run.rungs if _same(rung.plan, plan)), None)
        for plan in (free, run.plan)
    ]
    if not run.plan.scheme.portable or seen[0] is None or seen[1] is None:
        return None
    return seen[0] - seen[1]


def portable_cost(run: Account) -> str | None:
    """The same in a sentence."""
    cost = portable_cost_db(run)
    if cost is None:
        return None
    return f"weights that suit every x86 CPU cost {decibels(cost)} of SQNR on the probe's images"


def next_step(run: Account) -> str:
    """What would help, in one sentence, as far as the figures tell."""
    if run.decisive.outcome != run.outcome:
        return _elsewhere(run)
    if run.outcome == "undecided":
        if run.more_images:
            return f"undecided: about {run.more_images:,} images in all would decide"
        return "undecided, and more images will hardly decide: the drop is close to what is allowed"
    if run.speed is not None and run.speed.low < run.speed_floor and run.outcome == "unmet":
        left = 1 - run.int8_share
        cause = (
            f"{100 * left:.0f} % of the multiply-adds are float"
            if left >= 0.01
            else "all of the arithmetic is int8 already, so only another machine is faster"
        )
        return f"it is too slow: {run.speed.ratio:.2f}x of {run.speed_floor:g}x asked; {cause}"
    known = worst(run.layers)
    share = (known[0].noise_share or 0.0) if known else 0.0
    if not known:
        return "no layer was measured by itself: give the run more time to learn which loses most"
    if share == 0:
        return "no layer loses anything by itself"
    if share < _MUCH:
        return f"the noise is spread: no layer makes more than {100 * share:.0f} % of it"
    name = middle(known[0].name, 40)
    do = (
        "leave it float (quantization.op_wise)"
        if run.outcome == "unmet"
        else "start there to go on"
    )
    return (
        f"{name} makes {100 * share:.0f} % of the noise with"
        f" {percent(known[0].multiply_add_share)} of the multiply-adds: {do}"
    )


def _elsewhere(run: Account) -> str:
    """What would help where another processor is what counts."""
    there, portable = run.decisive, "quantization.portable: true"
    if there.outcome == "unmet":
        return f"{there.label} loses what is kept here: {portable} gives the same sums there"
    also = "" if run.plan.scheme.portable else f", or {portable},"
    more = f"more evaluation.cpus_timeout{also} would"
    return f"{there.label} is not decided on {there.images:,} images: {more}"


def size_ratio(run: Account) -> float | None:
    """The int8 file's size over the float file's."""
    return run.int8_bytes / run.float_bytes if run.float_bytes else None


def _kind(plan: Plan) -> tuple[object, ...]:
    return plan.engine, plan.format, plan.scheme


def _same(one: Plan, other: Plan) -> bool:
    return (_kind(one), one.repairs, one.keep_float, one.walked) == (
        _kind(other),
        other.repairs,
        other.keep_float,
        other.walked,
    )


def _builds_on(final: Plan, plan: Plan) -> bool:
    """Whether a plan holds all of another."""
    within = set(plan.repairs) <= set(final.repairs) and set(plan.keep_float) <= {*final.keep_float}
    return _kind(final) == _kind(plan) and within


def _why(run: Account, rung: Rung, *, kept: bool, floats: bool) -> str:
    if _same(run.plan, rung.plan):
        return "ships"
    if kept:
        return "kept"
    if rung.note.startswith("failed"):
        return rung.note
    if floats:
        return "fewer suffice" if rung.accepted else rung.note or "not accepted"
    if rung.gain_db == 0:
        return "left out: it changes nothing"
    if rung.gain_db is not None and rung.gain_db < -MOST_LOSS_DB:
        return "left out: it loses SQNR"
    return f"left out: {rung.note or 'another candidate was closer to float'}"


def _losing(classes: Sequence[ClassDrop]) -> list[ClassDrop]:
    return [drop for drop in classes if drop.drop_points > 0]


# --------------------------------------------------------------------------------- lines


def verdict_lines(run: Account) -> list[str]:
    """The verdict in one sentence, then speed, size and closeness."""
    counts = run.decisive
    lines = folded(
        "verdict", verdict_line(counts.outcome, counts.reason, counts.images, counts.label)
    )
    lines += folded("holds for", run.holds_for)
    lines += folded("asked", f"{run.goal}; {run.speed_floor:g}x as fast")
    if run.accuracy is not None:
        top1 = percent(run.accuracy.float_top1, 2), percent(run.accuracy.int8_top1, 2)
        lines += folded("top-1", f"float {top1[0]}, int8 {top1[1]}")
    parts = [f"{100 * run.int8_share:.1f} % of the multiply-adds are int8"]
    ratio = size_ratio(run)
    if ratio is not None:
        parts.append(f"the file has {ratio:.3f} of the size")
    if run.speed is not None:
        seen = run.speed
        parts.append(f"{seen.ratio:.2f}x as fast ({seen.low:.2f} to {seen.high:.2f})")
    return [
        *lines,
        *folded("int8", ", ".join(parts)),
        closeness_line(run.sqnr_db, run.agreement),
    ]


def folded(label: str, text: str) -> list[str]:
    """A labelled sentence, broken where it is too long."""
    pad = " " * _LABEL
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{label:{_LABEL}}", subsequent_indent=pad
    ) or [label]


def folded_or_none(label: str, text: str | None) -> list[str]:
    """The same, and nothing for no text."""
    return [] if text is None else folded(label, text)


def middle(text: str, most: int) -> str:
    """The text with its middle left out where it is too long: ends tell layers apart."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def decibels(value: float | None, *, signed: bool = False) -> str:
    """A figure in dB; nothing where there is none."""
    if value is None:
        return ""
    if math.isinf(value):
        return "exact" if value > 0 else "undefined"
    shown = round(value, 1) + 0.0  # no minus before a zero
    return f"{shown:+.1f} dB" if signed else f"{shown:.1f} dB"


def percent(value: float | None, digits: int = 1) -> str:
    """A ratio as percent; what is above zero does not show as zero."""
    if value is None:
        return ""
    least = 10.0**-digits
    if 0 < 100 * value < least:
        return f"<{least:.{digits}f} %"
    return f"{100 * value:.{digits}f} %"


def named(index: int, names: Sequence[str] | None, most: int = 22) -> str:
    """A class by its name, or its number."""
    known = names[index] if names and index < len(names) else str(index)
    return known if len(known) <= most else f"{known[: most - 1]}…"


def _rung_lines(run: Account) -> list[str]:
    lines = [f"{'what each rung brought':40}{'SQNR':>9}{'gain':>10}{'seconds':>9}"]
    for number, told in enumerate(rungs(run), 1):
        rung = told.rung
        head = (
            f"{number:4}  {middle(told.label, 33):34}{decibels(rung.sqnr_db):>9}"
            f"{decibels(rung.gain_db, signed=True):>10}{rung.seconds:9.1f}  "
        )
        pad = " " * len(head)
        width = max(WIDTH, len(head) + 20)  # a damaged report may hold figures of any length
        lines += textwrap.wrap(
            told.why, width, initial_indent=head, subsequent_indent=pad, max_lines=3
        ) or [head.rstrip()]
    return [*lines, *folded("ended", run.stopped)]


def _layer_lines(run: Account) -> list[str]:
    known = worst(run.layers)
    if not known:
        return folded("layers", "none was measured by itself: none is int8, or the time was over")
    lines = [
        f"{'layers, each int8 by itself, worst first':42}{'SQNR':>9}{'of noise':>10}"
        f"{'mult.-adds':>12}{'range ratio':>13}{'saturated':>11}"
    ]
    lines += [
        f"  {middle(row.name, 39):40}{decibels(row.sqnr_db):>9}{percent(row.noise_share):>10}"
        f"{percent(row.multiply_add_share):>12}{_ratio(row.weight_range_ratio):>13}"
        f"{percent(row.saturation, 2):>11}"
        for row in known[:SHOWN]
    ]
    if len(known) > SHOWN:
        lines.append(f"  and {len(known) - SHOWN} more in layers.csv")
    unmeasured = len(run.layers) - len(known)
    if unmeasured:
        lines.append(f"  {unmeasured} not measured: they are float, or the time was over")
    return lines


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 1e6:
        return f"{value:.0e}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _change_lines(run: Account, names: Sequence[str] | None) -> list[str]:
    lines = [f"images that changed their answer: {run.changed:,} of {run.images:,}"]
    if not run.changes:
        return lines
    lines[0] += " (* is right)"
    lines.append(f"  {'image':22}{'label':24}{'float':24}int8")
    for change in run.changes[:SHOWN]:
        label = "" if change.label is None else named(change.label, names)
        answers = (
            f"{named(answer, names)}{' *' if change.right == model else ''}"
            for model, answer in (("float", change.float_), ("int8", change.int8))
        )
        one, two = answers
        lines.append(f"  {middle(change.name, 21):22}{label:24}{one:24}{two:24}".rstrip())
    more = run.changed - SHOWN
    return [*lines, f"  and {more:,} more in changed.csv"] if more > 0 else lines


def _class_lines(run: Account, names: Sequence[str] | None) -> list[str]:
    if run.classes is None:
        return ["classes    not told: the images have no labels", ""]
    losing = _losing(run.classes)
    if not losing:
        return ["classes    none lost", ""]
    lines = [f"{'classes that lost most':42}{'images':>9}{'float':>10}{'int8':>10}{'drop':>14}"]
    lines += [
        f"  {named(drop.label, names, 38):40}{drop.images:9}"
        f"{percent(drop.float_right / drop.images):>10}{percent(drop.int8_right / drop.images):>10}"
        f"{f'{drop.drop_points:.1f} points':>14}"
        for drop in losing[:SHOWN]
    ]
    more = len(losing) - SHOWN
    return [*lines, *([f"  and {more} more in classes.csv"] if more > 0 else []), ""]
