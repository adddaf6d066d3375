"""What the plots of the page show and say: the report's figures chosen and put in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantize.report.account import Told as Step
from quantize.report.account import decibels, named, percent, rungs, worst
from quantize.report.certainty import Certainty
from quantize.report.details import Details
from quantize.report.plots import (
    Bar,
    Plot,
    Point,
    Span,
    Told,
    bar_plot,
    candidates_plot,
    interval_plot,
    prospect_plot,
)
from quantize.report.reading import Account
from quantize.report.values import minus

_ROWS = 12
_MOST_POINTS = 60


@dataclass(frozen=True, eq=False)
class Figures:
    """Draws the plots of one run; None where there is nothing to draw.

    Attributes:
        run: its account.
        more: its details.
        sure: how sure it is, or None.
        names: class names by index, or None.
    """

    run: Account
    more: Details
    sure: Certainty | None
    names: Sequence[str] | None

    def verdict(self) -> Plot | None:
        """The difference, or the agreement, with its interval against the tolerance."""
        if self.sure is None:
            return None
        seen, unit, most = self._seen(), self._unit, self._most
        words = "the drop of top-1" if most else "the share of equal answers"
        side = "at most" if most else "at least"
        limit = self.sure.limit
        text = (
            f"{words} is {seen.value:.2f}{unit}, 95 % interval {seen.low:.2f} to {seen.high:.2f};"
            f" {side} {limit:.2f}{unit} {'are allowed' if most else 'is asked'}"
        )
        return interval_plot(
            Told("verdict", "What was seen, against the goal", text), seen, limit, unit, most=most
        )

    def speed(self) -> Plot | None:
        """How many times as fast int8 is, with its interval against the floor."""
        seen, floor = self.run.speed, self.run.speed_floor
        if seen is None:
            return None
        text = (
            f"int8 is {seen.ratio:.2f} times as fast, 95 % interval {seen.low:.2f} to"
            f" {seen.high:.2f}; at least {floor:.2f} is asked"
        )
        span = Span(seen.ratio, seen.low, seen.high)
        return interval_plot(
            Told("speed", "Speed against its floor", text), span, floor, "×", most=False
        )

    def gains(self) -> Plot | None:
        """What each step of the search brought, in dB."""
        bars, parts = [], []
        for step in rungs(self.run)[:_MOST_POINTS]:
            gain = step.rung.gain_db
            if gain is None:
                continue
            told = minus(decibels(gain, signed=True))
            bars.append(Bar(step.label, gain, f"{told}, {step.rung.seconds:.0f} s", step.kept))
            parts.append(f"{step.label} {told}, {'kept' if step.kept else 'left out'}")
        text = f"output SQNR gained over what each was made from: {'; '.join(parts)}"
        return bar_plot(Told("gains", "What each repair bought", text), bars)

    @property
    def by_accuracy(self) -> bool:
        """Whether more candidates have a top-1 than an SQNR."""
        known = sum(rung.sqnr_db is not None for rung in self.run.rungs)
        return sum(one.top1 is not None for one in self.more.candidates) > known

    def candidates(self) -> Plot | None:
        """Closeness, or accuracy, of the candidates against their latency."""
        points = []
        for number, (step, seen) in enumerate(
            zip(rungs(self.run), self.more.candidates, strict=True), 1
        ):
            y = _percent(seen.top1) if self.by_accuracy else step.rung.sqnr_db
            if y is not None:
                x = None if seen.speed is None else seen.speed.int8_ms
                points.append(Point(number, x, y, _mark(step)))
        unit = "%" if self.by_accuracy else "dB"
        text = "; ".join(
            f"number {p.number}: {p.y:.2f} {unit}, "
            + ("not timed" if p.x is None else f"{p.x:.2f} ms")
            for p in points[:_MOST_POINTS]
        )
        slowest = None
        if self.run.speed is not None and self.run.speed_floor > 0:
            slowest = self.run.speed.float_ms / self.run.speed_floor
        told = Told("candidates", "The candidates", text)
        return candidates_plot(told, points[:_MOST_POINTS], unit, slowest)

    def layers(self) -> Plot | None:
        """The layers that lose most, by their share of the noise."""
        known = worst(self.run.layers)[:_ROWS]
        bars = []
        for row in known:
            beside = f"{percent(row.noise_share)}, {minus(decibels(row.sqnr_db))}"
            bars.append(Bar(row.name, row.noise_share or 0, beside, True))
        text = "share of all layers' noise: " + "; ".join(
            f"{row.name} {percent(row.noise_share)}" for row in known
        )
        return bar_plot(Told("layers", "The layers that lose most", text), bars)

    def classes(self) -> Plot | None:
        """The classes that lost most, in points."""
        losing = [drop for drop in self.run.classes or () if drop.drop_points > 0][:_ROWS]
        bars, parts = [], []
        for drop in losing:
            name = named(drop.label, self.names, 60) if self.names else f"class {drop.label}"
            net = drop.float_right - drop.int8_right
            told = f"{drop.drop_points:.1f}, {net:,} of {drop.images:,}"
            bars.append(Bar(name, drop.drop_points, told, True))
            parts.append(f"{name} {drop.drop_points:.1f}")
        text = f"points of top-1 lost on a class: {'; '.join(parts)}"
        return bar_plot(Told("classes", "The classes that lost most", text), bars)

    def prospects(self) -> Plot | None:
        """The interval of these and of more images."""
        if self.sure is None:
            return None
        seen, *more = self.sure.prospects
        spans = [(f"{seen.images:,} seen", Span(self.sure.seen, seen.low, seen.high))]
        spans += [(f"{p.images:,}", Span(self.sure.seen, p.low, p.high)) for p in more]
        parts = (f"{p.images:,} images: {p.low:.2f} to {p.high:.2f}" for p in self.sure.prospects)
        text = f"95 % intervals if the rates stayed as seen: {'; '.join(parts)}"
        told = Told("prospects", "What more images would bring", text)
        return prospect_plot(told, spans, self.sure.limit, self._unit, most=self._most)

    @property
    def _most(self) -> bool:
        return self.more.goal.kind != "agreement"

    @property
    def _unit(self) -> str:
        return " points" if self._most else " %"

    def _seen(self) -> Span:
        if self._most and self.run.accuracy is not None:
            seen = self.run.accuracy
            return Span(seen.drop, seen.low, seen.high)
        limits = 100 * self.more.agreement_low, 100 * self.more.agreement_high
        return Span(100 * self.run.agreement, *limits)


def _mark(step: Step) -> str:
    if step.why == "ships":
        return "ships"
    return "kept" if step.kept else "left"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
