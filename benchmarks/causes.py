"""The causes that people found for rows in which we are behind."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

FILE = Path(__file__).with_suffix(".toml")
UNKNOWN = "not known yet"


@dataclass(frozen=True)
class Causes:
    """Patterns of row names with what they say, the first that fits first."""

    entries: tuple[tuple[str, str], ...] = ()

    def of(self, row: str) -> str:
        """What is known of a row."""
        return next((says for rows, says in self.entries if fnmatchcase(row, rows)), UNKNOWN)


def load(path: Path = FILE) -> Causes:
    """Read the file.

    Raises:
        ValueError: it is not a list of `cause` with `rows` and `says`.
    """
    entries = tomllib.loads(path.read_text()).get("cause", [])
    try:
        return Causes(tuple((str(entry["rows"]), str(entry["says"])) for entry in entries))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: every cause has `rows` and `says`") from error
