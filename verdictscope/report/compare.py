"""Two runs side by side: what was asked differently, and how far their numbers lie apart."""

from __future__ import annotations

from dataclasses import dataclass

from verdictscope.report.kinds import kind_of
from verdictscope.report.numbers import Row
from verdictscope.report.origin import differences, told
from verdictscope.report.record import Record
from verdictscope.report.replication import shared_prompts


@dataclass(frozen=True)
class Comparison:
    """What stands beside the two ladders.

    Attributes:
        names: a name for each run that tells them apart.
        study: (key, first, second) of every key in which the studies differ.
        prompts: in words, how the prompts of the two overlap.
        numbers: the headline numbers.
    """

    names: tuple[str, str]
    study: tuple[tuple[str, str, str], ...]
    prompts: str
    numbers: tuple[Row, ...]


def comparison(first: Record, second: Record) -> Comparison:
    """Compare two runs."""
    one, two, both = shared_prompts(first, second)
    if not one or not two:
        prompts = "One of the runs has no rollouts yet."
    elif not both:
        prompts = f"The runs share no prompt ({one:,} and {two:,}): their numbers are independent."
    else:
        prompts = f"{both:,} prompts stand in both runs (of {one:,} and {two:,})."
    names = _names(first, second)
    study = tuple((key, told(a), told(b)) for key, a, b in differences(first.study, second.study))
    rows = kind_of(first).numbers(first, second, bool(both))
    return Comparison(names, study, prompts, tuple(row for row in rows if any(row.values)))


def _names(first: Record, second: Record) -> tuple[str, str]:
    a, b = first.folder.resolve(), second.folder.resolve()
    if a.name != b.name:
        return a.name, b.name
    return f"{a.parent.name}/{a.name} (first)", f"{b.parent.name}/{b.name} (second)"
