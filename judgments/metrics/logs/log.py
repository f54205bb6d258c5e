"""What is read from a log: verdicts, what is measured together, and an account of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd

from verdictscope.judgments.loading import Account, Loaded, Notes, Record, Row, content_id
from verdictscope.judgments.verdicts import shown_as, verdicts_frame
from verdictscope.rows import Row as Positioned

PROBLEMS = ("malformed", "unknown_label", "unknown_verdict", "duplicate_id", "mixed_order")
"""Kinds of problem: the row is no row of this format (left out); its gold label is none the format knows (kept, label
``None``); a verdict is none it knows (kept, verdict ``None``); its id occurred before, with the same content (left
out) or another (kept under a new id, in the same group); it lacks an order that other rows have, or contradicts itself
about the order (kept)."""


@dataclass(frozen=True, eq=False)
class View:
    """Verdicts that are measured together.

    Attributes:
        part: name of the part.
        kind: ``pairs``, ``single`` or ``cue``.
        table: verdicts.
        categories: labels there can be.
        positive: of two categories, the one counted as positive.
        panel: judges whose agreement among each other is measured.
        together: whether the panel's majority and label-free combination are measured as judges too.
    """

    part: str
    kind: str
    table: pd.DataFrame
    categories: tuple[str, ...]
    positive: str | None = None
    panel: tuple[str, ...] = ()
    together: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Log(Loaded):
    """Verdicts of a log with the account of all its rows.

    Attributes:
        name: the format.
        problems: per problem the row (from 0), id, kind (:data:`PROBLEMS`), used (whether there are verdicts all the
            same), detail and place (the line or record, as an editor shows it).
        rows: rows the file has.
        verdicts: the table of verdicts, with columns that the format adds.
        views: what is measured together.
        warnings: what the numbers cannot show, in words.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.judgments.metrics.logs.own import from_table
        >>> from_table(pd.DataFrame({"item": ["q1", "q2"], "verdict": ["A", "B"], "label": ["A", "A"]}))
        Log('verdicts': 2 verdicts of 2 rows; no problems)
    """

    verdicts: pd.DataFrame
    views: tuple[View, ...]
    warnings: tuple[str, ...] = ()

    kinds: ClassVar[tuple[str, ...]] = PROBLEMS

    def __repr__(self) -> str:
        return f"Log({self.name!r}: {len(self.verdicts)} verdicts of {self.rows} rows; {self._problems()})"


def read_verdicts(account: Account, rows: Iterable[Positioned], make: Callable[[Row, Notes], Record]) -> pd.DataFrame:
    """The table of the verdicts that ``make`` gives of every row, as records without their ``item``."""

    def records(row: Row, notes: Notes, _: int) -> list[Record]:
        return [replace(make(row, notes), content=content_id({str(k): v for k, v in row.items()}))]

    account.read(rows, records)
    account.need("a verdict")
    return verdicts_frame({"item": name, **verdict} for name, one in account.records.items() for verdict in one.value)


def columns_of(rows: Iterable[Positioned]) -> list[str]:
    """The columns that any row has, in order."""
    return list(dict.fromkeys(str(name) for _, row in rows if isinstance(row, Mapping) for name in row))


def verdict_row(group: str, judge: str, order: str, verdict: str | None, status: str, **more: Any) -> dict[str, Any]:
    """A row of the table; the verdict is in the item's own frame."""
    shown = shown_as(verdict, order)
    return {"group": group, "judge": judge, "order": order, "run": 0, "verdict": verdict, "shown": shown} | {
        "status": status,
        **more,
    }


def mixed_orders(account: Account, table: pd.DataFrame) -> None:
    """Note items that lack an order which other items of the same judge have."""
    for judge, rows in table.groupby("judge", sort=False):
        orders = {order for order in rows["order"] if order}
        if len(orders) < 2:
            continue
        have = rows.groupby("item", sort=False)["order"].agg(set)
        for item, found in have[have.map(len) < len(orders)].items():
            lacking = ", ".join(sorted(orders - found))
            account.problem(-1, str(item), "mixed_order", True, f"{judge}: no verdict in the order {lacking}")


def views_by_part(view: View) -> tuple[View, ...]:
    """The view, and every part of it where its column ``part`` names more than one."""
    names: Sequence[str] = sorted({p for p in view.table.get("part", ()) if isinstance(p, str)})
    if len(names) < 2:
        return (view,)
    return view, *(replace(view, part=name, table=view.table[view.table["part"] == name]) for name in names)
