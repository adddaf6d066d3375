"""The tables of a run: under their keys in report.json, and whole as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantize.plan import LayerRow
from quantize.report.changes import Change, ClassDrop
from quantize.report.values import finite

MOST_LISTED = 100
"""Changed images that report.json lists; changed.csv has them all."""

_FORMULA = ("=", "+", "-", "@")

LAYER_COLUMNS = (
    "name",
    "operator",
    "int8",
    "share_of_multiply_adds",
    "sqnr_db",
    "noise_share",
    "weight_range_ratio",
    "saturation_share",
    "overflow_possible_share",
    "overflow_share",
)
CHANGE_COLUMNS = ("image", "digest", "label", "float", "int8", "right")
CLASS_COLUMNS = (
    "class",
    "images",
    "float_right",
    "int8_right",
    "lost",
    "gained",
    "drop_points",
)


@dataclass(frozen=True)
class Tables:
    """All that a run tells by the row.

    Attributes:
        layers: one row a layer, in graph order.
        changed: images whose best class differs.
        classes: every class, worst first, or None without labels.
    """

    layers: tuple[LayerRow, ...]
    changed: tuple[Change, ...]
    classes: tuple[ClassDrop, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The keys `layers`, `changed` and `classes` of report.json."""
        differing = [drop for drop in self.classes or () if drop.lost or drop.gained]
        return {
            "layers": [layer_values(row) for row in self.layers],
            "changed": {
                "images": len(self.changed),
                "first": [change_values(change) for change in self.changed[:MOST_LISTED]],
            },
            "classes": None if self.classes is None else [class_values(d) for d in differing],
        }

    def files(self) -> dict[str, str]:
        """File name -> CSV."""
        return {
            "layers.csv": as_csv(LAYER_COLUMNS, map(layer_values, self.layers)),
            "changed.csv": as_csv(CHANGE_COLUMNS, map(change_values, self.changed)),
            "classes.csv": as_csv(CLASS_COLUMNS, map(class_values, self.classes or ())),
        }


def layer_values(row: LayerRow) -> dict[str, Any]:
    """A layer under the report's names."""
    figures = (row.sqnr_db, row.noise_share, row.weight_range_ratio, row.saturation)
    overflow = (row.overflow_possible, row.overflow)
    values = (row.name, row.operator, row.int8, row.multiply_add_share, *figures, *overflow)
    return dict(zip(LAYER_COLUMNS, values, strict=True))


def change_values(change: Change) -> dict[str, Any]:
    """A changed image under the report's names."""
    values = (change.name, change.digest, change.label, change.float_, change.int8, change.right)
    return dict(zip(CHANGE_COLUMNS, values, strict=True))


def class_values(drop: ClassDrop) -> dict[str, Any]:
    """A class under the report's names."""
    counts = (drop.label, drop.images, drop.float_right, drop.int8_right, drop.lost, drop.gained)
    return dict(zip(CLASS_COLUMNS, (*counts, drop.drop_points), strict=True))


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """One line for the columns' names and one a row; what does not apply is an empty cell.

    Control characters are replaced: some readers end a row at them. Text that a spreadsheet would
    take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    if isinstance(value, bool):
        return str(value).lower()
    return finite(value)
