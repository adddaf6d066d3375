"""The plots of the page: the one door to matplotlib.

Every plot is drawn twice, for a wide and for a narrow window; the page shows one of them. Equal
figures give equal bytes: ids come from a fixed salt and no date is written. No meaning hangs on
colour: what is left out is hatched or hollow, limits are dashed, everything has its figure beside.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from quantize.report.account import middle
from quantize.report.svg import inline
from quantize.report.values import minus

WIDE, NARROW = 720, 340
"""Widths in CSS pixels."""

_LABEL = 36
"""Characters of a bar's label in a wide window."""

_LARGEST = 1e9
"""Above it a figure cannot be drawn to any use."""

_INK, _MUTED, _RULE, _ACCENT, _PAPER, _BAD = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_COLOURS = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _ACCENT: "var(--accent)",
    _PAPER: "var(--paper)",
    _BAD: "var(--bad)",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quantize",
    "text.parse_math": False,
    "path.simplify": False,
    "font.size": 12,
    "hatch.linewidth": 1.0,
    "axes.linewidth": 1.0,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "text.color": _INK,
}


@dataclass(frozen=True)
class Plot:
    """One plot as two elements for the page: `<svg>` for a wide and for a narrow window."""

    wide: str
    narrow: str


@dataclass(frozen=True)
class Span:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

    Attributes:
        label: what it is; may be any text.
        value: its length.
        told: the figures beside it.
        solid: filled, or else hatched.
    """

    label: str
    value: float
    told: str
    solid: bool


@dataclass(frozen=True)
class Point:
    """One candidate.

    Attributes:
        number: as in the table.
        x: its latency, or None where it was not timed.
        y: its closeness or accuracy.
        mark: `ships`, `kept` or `left`.
    """

    number: int
    x: float | None
    y: float
    mark: str


@dataclass(frozen=True)
class Told:
    """What a plot says to who cannot see it: a key for the page, a title, a description."""

    key: str
    title: str
    description: str


class _Canvas:
    """A drawing of a fixed size in CSS pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        self.figure.patch.set_visible(False)
        FigureCanvasSVG(self.figure)
        self.texts: list[str] = []

    @property
    def narrow(self) -> bool:
        return self.width < WIDE

    def axes(self, left: int, top: int, right: int, bottom: int) -> Axes:
        """Axes with these margins in pixels; only a line below."""
        across, up = self.width - left - right, self.height - top - bottom
        place = (left / self.width, bottom / self.height, across / self.width, up / self.height)
        ax: Axes = self.figure.add_axes(place)
        ax.patch.set_visible(False)
        for side in ("top", "left", "right"):
            ax.spines[side].set_visible(False)
        ax.tick_params(length=0, pad=6)
        return ax

    def token(self, text: str) -> str:
        """What stands for a text until the drawing is finished."""
        self.texts.append(text)
        return f"#{len(self.texts) - 1}"

    def write(
        self,
        ax: Axes,
        xy: tuple[float, float],
        text: str,
        offset: tuple[float, float],
        *,
        ha: Literal["left", "center"] = "center",
        color: str = _INK,
    ) -> None:
        """Put a text `offset` pixels from a place in the axes' data."""
        ax.annotate(
            self.token(text),
            xy,
            offset,
            textcoords="offset pixels",
            annotation_clip=False,
            color=color,
            ha=ha,
            va="baseline",
        )

    def svg(self, told: Told) -> str:
        """The finished element."""
        file = io.StringIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None})
        key = f"{told.key}-{'narrow' if self.narrow else 'wide'}"
        source = file.getvalue()
        return inline(source, key, told.title, told.description, self.texts, _COLOURS)


def interval_plot(told: Told, seen: Span, limit: float, unit: str, *, most: bool) -> Plot | None:
    """A figure with its interval, drawn against what is allowed.

    Args:
        told: key and texts.
        seen: the figure and its limits.
        limit: what is allowed at most, or asked at least.
        unit: of all of them, with the space that it needs in front.
        most: whether `limit` is an upper one; the other side is hatched.

    Returns:
        None where the figures are too large to be drawn.
    """

    def paint(canvas: _Canvas) -> None:
        ax = canvas.axes(4, 46, 4, 30)
        low, high = _range([seen.low, seen.high, seen.value, limit], 0.16)
        _scale(ax, low, high, 5 if canvas.narrow else 9)
        ax.set_ylim(-1, 1)
        ax.yaxis.set_visible(False)
        beyond = (limit, high) if most else (low, limit)
        ax.axvspan(*beyond, facecolor="none", edgecolor=_RULE, hatch="////", linewidth=0)
        ax.axvline(limit, color=_INK, linewidth=1.5, linestyle=(0, (4, 3)))
        error = [[seen.value - seen.low], [seen.high - seen.value]]
        ax.errorbar(
            [seen.value], [0], xerr=error, color=_ACCENT, linewidth=3, capsize=7, capthick=3,
            marker="o", markersize=11, markeredgecolor=_PAPER, markeredgewidth=2,
        )  # fmt: skip
        _beside(canvas, ax, (seen.value, 1), _spelled(seen, unit), 27, _ACCENT)
        word = "at most" if most else "at least"
        _beside(canvas, ax, (limit, 1), f"{word} {limit:.2f}{unit}", 8, _INK)

    return _both(told, (120, 120), paint, [seen.value, seen.low, seen.high, limit])


def bar_plot(told: Told, bars: Sequence[Bar]) -> Plot | None:
    """Bars to the right and to the left of zero, each with its label and its figures.

    Args:
        told: key and texts.
        bars: from top to bottom.

    Returns:
        None without bars, or where they are too long to be drawn.
    """
    if not bars:
        return None

    def paint(canvas: _Canvas) -> None:
        longest = max(len(middle(bar.label, _LABEL)) for bar in bars)
        label = 2 if canvas.narrow else 24 + 7 * longest
        ax = canvas.axes(label, 6, 124, 6)
        low = min(0.0, *(bar.value for bar in bars))
        high = max(0.0, *(bar.value for bar in bars))
        ax.set_xlim(low, high if high > low else 1)
        ax.set_ylim(len(bars) - 0.5, -0.5)
        ax.set_axis_off()
        # In a narrow window the labels above the bars would stand on the line.
        if low < -0.02 * high or not canvas.narrow:
            ax.axvline(0, color=_MUTED, linewidth=1)
        for row, bar in enumerate(bars):
            at = row + 0.2 if canvas.narrow else row
            ax.barh(
                at, bar.value, 0.34 if canvas.narrow else 0.56,
                facecolor=_ACCENT if bar.solid else "none",
                edgecolor=_ACCENT if bar.solid else _MUTED,
                hatch=None if bar.solid else "////", linewidth=1,
            )  # fmt: skip
            canvas.write(ax, (max(bar.value, 0), at), bar.told, (8, -4), ha="left")
            if canvas.narrow:
                canvas.write(ax, (low, row - 0.16), middle(bar.label, 46), (0, 0), ha="left")
            else:
                canvas.write(ax, (low, at), middle(bar.label, _LABEL), (-label, -4), ha="left")

    wide, narrow = 26 * len(bars) + 12, 46 * len(bars) + 12
    return _both(told, (wide, narrow), paint, [bar.value for bar in bars])


def candidates_plot(
    told: Told, points: Sequence[Point], unit: str, slowest: float | None
) -> Plot | None:
    """Candidates by their latency; those that were not timed stand in a column of their own.

    Args:
        told: key and texts.
        points: with numbers as in the table.
        unit: of the upright axis.
        slowest: latency in ms that the speed floor allows, or None.

    Returns:
        None without points, or where they are too far out to be drawn.
    """
    timed = [point for point in points if point.x is not None]
    untimed = [point for point in points if point.x is None]
    if not points:
        return None
    values = [value for point in points for value in (point.x or 0.0, point.y)]

    def paint(canvas: _Canvas) -> None:
        bounds = _range([point.y for point in points], 0.12)
        column = (canvas.width - 70) // 3 if timed and untimed else canvas.width - 70
        if untimed:
            left = canvas.width - 14 - column
            ax = canvas.axes(left, 34, 14, 44)
            _upright(ax, bounds, unit if not timed else None)
            places = [float(index) for index in range(len(untimed))]
            ax.set_xlim(-0.7, max(0, len(untimed) - 1) + 0.7)
            ax.set_xticks([])
            ax.set_xlabel(canvas.token("not timed, in order" if column > 150 else "not timed"))
            _points(canvas, ax, untimed, places)
        if timed:
            right = 14 + (column + 16 if untimed else 0)
            ax = canvas.axes(56, 34, right, 44)
            _upright(ax, bounds, unit)
            places = [point.x or 0.0 for point in timed]
            known = [*places, *([slowest] if slowest else [])]
            _scale(ax, *_range(known, 0.15), 3 if canvas.narrow else 6)
            ax.set_xlabel(canvas.token("int8 latency, ms"))
            if slowest:
                ax.axvline(slowest, color=_INK, linewidth=1.5, linestyle=(0, (4, 3)))
                _beside(canvas, ax, (slowest, bounds[1]), f"at most {slowest:.3g} ms", 8, _INK)
            _points(canvas, ax, timed, places)

    return _both(told, (300, 280), paint, [*values, slowest or 0.0])


def prospect_plot(
    told: Told, spans: Sequence[tuple[str, Span]], limit: float, unit: str, *, most: bool
) -> Plot | None:
    """Intervals below each other, the one that was seen on top, against what is allowed.

    Args:
        told: key and texts.
        spans: with a label each; the first was seen, the others are expected.
        limit: as for `interval_plot`.
        unit: of all figures, as for `interval_plot`.
        most: as for `interval_plot`.

    Returns:
        None where the figures are too large to be drawn.
    """
    figures = [limit, *(value for _, s in spans for value in (s.low, s.high))]

    def paint(canvas: _Canvas) -> None:
        ax = canvas.axes(104 if canvas.narrow else 140, 26, 16, 30)
        low, high = _range(figures, 0.1)
        _scale(ax, low, high, 4 if canvas.narrow else 8)
        ax.set_ylim(len(spans) - 0.5, -0.5)
        beyond = (limit, high) if most else (low, limit)
        ax.axvspan(*beyond, facecolor="none", edgecolor=_RULE, hatch="////", linewidth=0)
        ax.axvline(limit, color=_INK, linewidth=1.5, linestyle=(0, (4, 3)))
        for row, (_, span) in enumerate(spans):
            error = [[span.value - span.low], [span.high - span.value]]
            colour = _MUTED if row else _ACCENT
            ax.errorbar(
                [span.value], [row], xerr=error, color=colour, linewidth=2, capsize=5, capthick=2,
                marker="o", markersize=7, markerfacecolor=_PAPER if row else _ACCENT,
                markeredgecolor=colour, markeredgewidth=2,
            )  # fmt: skip
        ax.set_yticks(range(len(spans)), [canvas.token(label) for label, _ in spans])
        word = "at most" if most else "at least"
        _beside(canvas, ax, (limit, -0.5), f"{word} {limit:.2f}{unit}", 8, _INK)

    height = 30 * len(spans) + 56
    return _both(told, (height, height), paint, figures)


# ------------------------------------------------------------------------------- drawing


def _both(
    told: Told, heights: tuple[int, int], paint: Callable[[_Canvas], None], figures: Sequence[float]
) -> Plot | None:
    if not all(abs(figure) <= _LARGEST for figure in figures):
        return None
    drawn = []
    with style.context("default"), mpl.rc_context(_SETTINGS):
        for width, height in zip((WIDE, NARROW), heights, strict=True):
            canvas = _Canvas(width, height)
            paint(canvas)
            drawn.append(canvas.svg(told))
    return Plot(*drawn)


def _range(values: Sequence[float], share: float) -> tuple[float, float]:
    """Limits that leave a share of room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room


def _scale(ax: Axes, low: float, high: float, ticks: int) -> None:
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, min_n_ticks=2, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(_number))


def _upright(ax: Axes, bounds: tuple[float, float], unit: str | None) -> None:
    """The scale of an upright axis, its unit on top; without a unit only the lines."""
    ax.set_ylim(*bounds)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(_number))
    ax.grid(axis="y", color=_RULE, linewidth=1)
    ax.set_axisbelow(True)
    if unit is None:
        ax.set_yticklabels([])
        return
    ax.annotate(unit, (0, 1), (-8, 12), "axes fraction", "offset pixels", color=_MUTED, ha="right")


def _points(canvas: _Canvas, ax: Axes, points: Sequence[Point], places: Sequence[float]) -> None:
    shapes = {"ships": ("D", _ACCENT, 10), "kept": ("o", _ACCENT, 9), "left": ("o", _PAPER, 9)}
    for point, x in zip(points, places, strict=True):
        shape, fill, size = shapes[point.mark]
        edge = _MUTED if point.mark == "left" else _ACCENT
        ax.plot(
            [x], [point.y], shape, color=fill, markersize=size, markeredgecolor=edge,
            markeredgewidth=2, clip_on=False,
        )  # fmt: skip
        canvas.write(ax, (x, point.y), str(point.number), (0, 10))


def _beside(
    canvas: _Canvas, ax: Axes, xy: tuple[float, float], text: str, up: int, color: str
) -> None:
    """Write above a place in the axes, aligned so that the text stays inside."""
    (low, high), box = ax.get_xlim(), ax.get_position()
    at = (box.x0 + (xy[0] - low) / (high - low) * box.width) * canvas.width
    half = 3.3 * len(text)
    shift = max(half + 4 - at, 0) - max(at + half + 4 - canvas.width, 0)
    canvas.write(ax, xy, text, (shift, up), color=color)


def _spelled(seen: Span, unit: str) -> str:
    return minus(f"{seen.value:.2f}{unit} ({seen.low:.2f} to {seen.high:.2f})")


def _number(value: float, _position: int | None = None) -> str:
    return minus(f"{round(value, 9) + 0.0:g}")
