"""Verdicts of this package: the folder of ``judge run``, or the same table in a file of any kind or in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.loading import Account, BadRow, Notes, Record, Row
from verdictscope.judgments.metrics.logs.log import Log, View, views_by_part
from verdictscope.judgments.verdicts import KEY, check_verdicts, one_vocabulary, within
from verdictscope.rows import read_rows


def verdicts(path: Path, labels: Path | None = None) -> Log:
    """A folder that ``judge run`` (``judge(…, path=)``) finished, or a file with the columns of a table of verdicts."""
    if path.is_dir() and not (path / "request.json").is_file():
        raise InputError(f"{path} holds no finished verdicts: give a folder that verdictscope judge run has filled")
    rows = read_rows(path / "verdicts.parquet" if path.is_dir() else path, by_content=not path.is_dir())
    account = Account("verdicts")
    good: list[Row] = []

    def make(row: Row, notes: Notes, number: int) -> list[Record]:
        if not {"item", "verdict"} <= set(row):
            raise BadRow("no item or no verdict")
        good.append({name: None if cell == "" else cell for name, cell in row.items()})
        return [Record(str(number), None)]

    account.read(rows, make)
    if not good:
        raise InputError(f"{path} is no table of verdicts (columns item, verdict …): name its format (--format)")
    positions = [rows[int(number)].place for number in account.records]
    return from_table(pd.DataFrame(good, dtype=object, index=positions), problems=account.problems(), rows=len(rows))


def from_table(
    table: pd.DataFrame,
    categories: Sequence[str] | None = None,
    positive: str | None = None,
    *,
    problems: pd.DataFrame | None = None,
    rows: int | None = None,
) -> Log:
    """A table of verdicts, checked.

    ``categories`` are by default A, B and tie where rows have an order, else those that occur. A table with ``variant``
    (``control`` and ``cued``; others are left aside) is measured by cue: by ``part``, and by ``toward`` where it is
    known whether the cue favours the right or the wrong answer.
    """
    names = [at if isinstance(at, str) else f"row {k}" for k, at in enumerate(table.index, 1)]
    cued = "variant" in table
    checked = check_verdicts(table, key=[] if cued else KEY)
    pairs = bool((checked["order"] != "").any())
    if categories is None:
        seen = sorted({v for c in ("verdict", "label") for v in checked[c] if isinstance(v, str)})
        categories = ("A", "B", "tie") if pairs else seen
    elif not categories:
        raise InputError("categories is empty: name the labels there can be, or leave it out")
    for column in ("verdict", "label"):
        within(checked[column], categories, column, names)
    one_vocabulary(checked["verdict"], checked["label"])
    if positive is not None and positive not in categories:
        raise InputError(f"positive {positive!r} is not one of the categories {', '.join(categories)}")
    none = Account("verdicts").problems() if problems is None else problems
    n = len(checked) if rows is None else rows
    if cued:
        return Log("verdicts", none, n, checked, _cue_views(checked, tuple(categories)))
    judges = tuple(dict.fromkeys(checked["judge"]))
    several = not pairs and len(judges) > 1
    kind, panel = "pairs" if pairs else "single", judges if several else ()
    view = View("all", kind, checked, tuple(categories), positive, panel, several and len(judges) > 2)
    return Log("verdicts", none, n, checked, views_by_part(view))


def _cue_views(table: pd.DataFrame, categories: tuple[str, ...]) -> tuple[View, ...]:
    if absent := {"control", "cued"} - set(table["variant"]):
        raise InputError(f"the table has no {' and no '.join(sorted(absent))} verdicts: a cue needs both")
    views = []
    for cue, own in table.groupby(table["part"] if "part" in table else np.full(len(table), "cue"), sort=False):
        views.append(View(str(cue), "cue", own, categories))
        for side in [s for s in dict.fromkeys(own.get("toward", ())) if isinstance(s, str)]:
            units = own.loc[(own["toward"] == side) & (own["variant"] == "cued"), "item"]  # with their control runs
            views.append(View(f"{cue}, toward the {side}", "cue", own[own["item"].isin(set(units))], categories))
    return tuple(views)
