"""A point in time after which work ends."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from quantize.errors import BudgetError


@dataclass(frozen=True)
class Deadline:
    """When the time budget is spent.

    Attributes:
        at: on the clock of `time.monotonic()`, seconds; infinite for no limit.
    """

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline so many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then; not positive afterwards, infinite without a limit."""
        return self.at - time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether the budget is spent."""
        return self.left <= 0

    def earlier(self, seconds: float) -> Deadline:
        """A deadline that leaves so many seconds for what comes after."""
        return Deadline(self.at - seconds)

    def check(self) -> None:
        """Go on only if there is time.

        Raises:
            BudgetError: there is none.
        """
        if self.passed:
            raise BudgetError(
                "the time budget is spent", "run the same command with more time: it continues"
            )


NEVER = Deadline()
