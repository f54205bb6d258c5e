"""A headline number of two runs side by side, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from verdictscope.report.record import Record
from verdictscope.report.words import estimate, present
from verdictscope.stats import independent_difference

Number = tuple[float, float, float, int]
"""Estimate, low, high, n."""

Read = Callable[[Record], Number | None]


@dataclass(frozen=True)
class Row:
    """One headline number of both runs.

    Attributes:
        name: what was estimated.
        unit: its unit.
        values: (estimate, low, high, n) of each run; ``None`` where the run has none.
        difference: second minus first with its interval; ``None`` where it cannot be formed.
        how: how the interval of the difference was made.
    """

    name: str
    unit: str
    values: tuple[Number | None, Number | None]
    difference: tuple[float, float, float] | None
    how: str

    @property
    def texts(self) -> list[str]:
        """Both numbers with intervals and n."""
        return [
            "not measured" if v is None else f"{estimate(*v[:3], self.unit, n=v[3])}, n = {v[3]}" for v in self.values
        ]

    @property
    def difference_text(self) -> str:
        """The difference with its interval."""
        return "–" if self.difference is None else estimate(*self.difference, self.unit, signed=True)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


def aggregate(name: str, unit: str, read: Read, runs: tuple[Record, Record], shared: bool) -> Row:
    """A number that each run holds ready; where prompts are shared its difference is still taken as independent.

    Args:
        name: what was estimated.
        unit: its unit.
        read: the number of a run.
        runs: both.
        shared: whether prompts stand in both.
    """
    one, two = values = (read(runs[0]), read(runs[1]))
    if one is None or two is None:
        return Row(name, unit, values, None, "one of the runs has no such number")
    how = (
        "not paired: probe, normaliser and heads are each run's own; interval as if independent"
        if shared
        else "independent"
    )
    return Row(name, unit, values, independent_difference(two[:3], one[:3]), how)


def first_effect(rows: pd.DataFrame) -> Number | None:
    """Estimate, interval and n of the first row; nothing without one."""
    if rows.empty or not present(rows.iloc[0]["estimate"]):
        return None
    row = rows.iloc[0]
    return float(row["estimate"]), float(row["low"]), float(row["high"]), int(row["n"])
