"""Tables of a page, made of the results: counts by condition, and groups of numbers with their nulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import verdictscope.report.words as words
from verdictscope.report.wording import Group
from verdictscope.study.results import ALL, Result, Results


@dataclass(frozen=True)
class Table:
    """A small table: its caption, its head and its rows, the first cell of each naming it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Line:
    """A number in a card's table; a column that no line fills is not drawn."""

    what: str
    value: str
    interval: str = ""
    null: str = ""
    p: str = ""
    n: str = ""
    note: str = ""


COLUMNS = (("value", "estimate"), ("interval", "95 % interval"), ("null", "null range"), ("p", "p"), ("n", "n"))


@dataclass(frozen=True)
class Card:
    """A group of numbers: what they are, what they should show, the files they come from."""

    title: str
    note: str
    lines: tuple[Line, ...]
    files: tuple[str, ...]

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Attribute and heading of the columns that some line fills."""
        return tuple((key, head) for key, head in COLUMNS if any(getattr(line, key) for line in self.lines))


def card(group: Group, results: Results) -> Card | None:
    """The card of a group of results; nothing where none was measured."""
    rows = group.rows(results)
    if not rows:
        return None
    lines = tuple(_line(name.replace("_", " "), row) for name, row in rows)
    return Card(group.title, group.note, lines, tuple(dict.fromkeys(row.file for _, row in rows if row.file)))


def _line(name: str, row: Result) -> Line:
    if row.estimate is None:
        return Line(words.clip(name), "not measured", note=words.clip(row.about))
    unit = "" if row.unit in ("AUROC", "rate", "share", "count", "normalised") else f" {row.unit}"
    p = words.p_value(row.p) if row.p is not None else ""
    note = "" if name.endswith(row.about) else words.clip(row.about)
    shown = words.value(row) + unit
    return Line(words.clip(name), shown, words.interval(row), words.null_range(row), p, words.counted(row), note)


def counts(total: str, results: Results) -> list[Table]:
    """What came back, by condition and variant, and what could not be parsed and why.

    Args:
        total: the count of all: ``rollouts`` or ``verdicts``.
        results: of the run.
    """
    rows = results.select(stage="generate", unit="count")
    kind, title = ("cell" if total == "rollouts" else "condition"), total.capitalize()
    lost = [r for r in rows if r.name != total and (r.condition == ALL or total == "verdicts")]
    made = [
        _pivot([r for r in rows if r.name == total], f"{title} by {kind} and variant.", kind, by_name=False),
        _pivot(lost, f"{title} that were cut off or could not be parsed: a third outcome.", "outcome", by_name=True),
    ]
    return [table for table in made if table is not None]


def _pivot(rows: Sequence[Result], caption: str, key: str, *, by_name: bool) -> Table | None:
    """Counts in a table with a column per variant, summed over what its rows do not tell apart."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        at = row.name if by_name else row.condition.replace("_", " requests, ")
        own = sums.setdefault(at, {})
        own[row.variant] = own.get(row.variant, 0) + int(row.estimate or 0)
    if not sums:
        return None
    body = tuple((words.clip(at), *(f"{own[v]:,}" if v in own else "–" for v in variants)) for at, own in sums.items())
    return Table(caption, (key.capitalize(), *map(words.variant_name, variants)), body)
