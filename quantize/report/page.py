"""report.html: the evidence of a run for people, as one file that needs nothing else.

The one door to Jinja2. Nothing in the page runs or loads: its policy allows the one style sheet, by
its hash, and pictures that stand in the page itself. Whatever a file told is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from quantize.checked_json import Value
from quantize.plan import Plan
from quantize.report.account import (
    decibels,
    named,
    next_step,
    percent,
    portable_cost,
    rungs,
    size_ratio,
    without_vnni,
    worst,
)
from quantize.report.certainty import certainty
from quantize.report.details import details_of
from quantize.report.figures import Figures
from quantize.report.reading import REPORT, Account, account_of, report_value
from quantize.report.values import minus, shown

PAGE = "report.html"

_TEMPLATES = files("quantize.report") / "templates"
_PERCENT = re.compile(r"(?<=\d) %")
_SHOWN = {"layers": 12, "changes": 12, "classes": 12}
"""Rows that stand open; the others are folded."""


def page(
    report: Any,
    file: Path = Path(REPORT),
    *,
    names: Sequence[str] | None = None,
    thumbnails: Mapping[str, bytes] | None = None,
) -> str:
    """A report as HTML; equal reports give equal text.

    Args:
        report: the content of report.json.
        file: to name where a value is not what it should be.
        names: class names by index, or None.
        thumbnails: digest of an image -> a small JPEG of it, or None.

    Raises:
        RunFolderError: a value of the report is missing or of another kind.
    """
    found = report_value(report, file)
    run, more = account_of(found, file.name), details_of(found)
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    sure = certainty(run, more)
    pictures = {digest: _data_uri(jpeg) for digest, jpeg in (thumbnails or {}).items()}
    text = _template().render(
        run=run,
        more=more,
        names=names,
        sure=sure,
        told=rungs(run),
        figures=Figures(run, more, sure, names),
        layers=[*worst(run.layers), *(row for row in run.layers if row.sqnr_db is None)],
        measured_layers=len(worst(run.layers)),
        vnni=without_vnni(run.layers),
        portable=portable_cost(run),
        next_step=None if run.outcome == "undecided" else next_step(run),
        size_ratio=size_ratio(run),
        wrong=_both_wrong(run, found),
        pictures=pictures,
        style=Markup(style),
        policy=_policy(style, pictures=bool(pictures)),
        rows=_SHOWN,
    )
    return f"{text.rstrip()}\n"


def _both_wrong(run: Account, found: Value) -> int | None:
    """Changed images that neither model has right, or None without labels."""
    if run.accuracy is None:
        return None
    seen = found.at("accuracy")
    return max(0, run.changed - seen.at("lost").count() - seen.at("gained").count())


@cache
def _template() -> Template:
    made = Environment(
        autoescape=True,
        finalize=_finalize,
        loader=FunctionLoader(lambda name: (_TEMPLATES / name).read_text(encoding="utf-8")),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= _filters()
    return made.get_template(PAGE)


def _filters() -> dict[str, Callable[..., str]]:
    """How figures are written."""
    return {
        "percent": lambda value, digits=2: _prose(percent(value, digits)) or "–",
        "points": lambda value: minus(f"{round(value, 2) + 0.0:.2f}"),
        "db": lambda value: minus(decibels(value)) or "–",
        "gain": lambda value: minus(decibels(value, signed=True)) or "–",
        "ms": lambda value: f"{value:.3g}" if value < 100 else f"{value:,.0f}",
        "mib": lambda size: f"{size / 2**20:.2f}",
        "count": lambda value: f"{value:,}",
        "prose": _prose,
        "klass": lambda index, names: named(index, names, 60),
        "range_ratio": _range_ratio,
        "made": _made,
        "plot": lambda svg: Markup(svg),  # escaped where it was drawn
    }


def _finalize(value: Any) -> Any:
    """Text from files as it may be looked at; what is markup already stays."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _prose(text: str) -> str:
    """Text with true minus signs, and with numbers that keep their percent sign beside them."""
    return _PERCENT.sub("\N{NO-BREAK SPACE}%", minus(text))


def _made(plan: Plan) -> str:
    """How a candidate was made, such as `onnxruntime qdq + bias`."""
    parts = " + ".join([f"{plan.engine} {plan.format}", *plan.repairs])
    left = len(plan.keep_float)
    few = {None: "", 0: ", offline"}.get(plan.walked, f", looking at {plan.walked} images")
    return f"{parts}{few}, {left} nodes float" if left else f"{parts}{few}"


def _range_ratio(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 1e6:
        return f"{value:.0e}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _policy(style: str, *, pictures: bool) -> str:
    """A content security policy that allows what the page holds and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    allowed = ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    allowed += ["img-src data:"] if pictures else []
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
