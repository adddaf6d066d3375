"""The verb `explain`: what a finished run found, for people, alone or beside another run.

It reads run folders and nothing else: no model, no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.report.account import account_json, account_lines
from quantize.report.difference import difference, difference_json, difference_lines
from quantize.report.reading import Account, read_account


@dataclass(frozen=True, eq=False)
class Explanation:
    """One run, or two to compare.

    Attributes:
        run: what its report tells.
        other: of the second run, or None.
    """

    run: Account
    other: Account | None = None

    def to_json(self) -> dict[str, Any]:
        """The findings as values; what is infinite or undefined is so."""
        content = account_json(self.run)
        if self.other is None:
            return content
        found = difference(self.run, self.other)
        return {
            "first": content,
            "second": account_json(self.other),
            "difference": difference_json(found),
        }

    def lines(self, names: Sequence[str] | None = None) -> list[str]:
        """The same for people.

        Args:
            names: class names by index, or None.
        """
        if self.other is None:
            return account_lines(self.run, names)
        return difference_lines(self.run, self.other, names)


def explain(run: str | Path, other: str | Path | None = None) -> Explanation:
    """Read one finished run, or two.

    Args:
        run: a run folder, or its report.json.
        other: another one, to compare with.

    Raises:
        RunFolderError: no run, an unfinished one, an older version's, or a damaged report.
    """
    return Explanation(
        read_account(Path(run)), None if other is None else read_account(Path(other))
    )
