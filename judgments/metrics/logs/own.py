"""Verdicts of this package: the table of docs/formats.md, in the folder of ``judge run`` or in a file of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.logs.log import Account, BadRow, Log, Notes, Record, Row, View, views_by_part
from verdictscope.judgments.verdicts import check_verdicts, one_vocabulary, within
from verdictscope.rows import read_rows


def verdicts(path: Path, labels: Path | None = None) -> Log:
    """A folder that ``judge run`` (``judge(…, path=)``) finished, or a file with the columns of a table of
    verdicts."""
    if path.is_dir() and not (path / "request.json").is_file():
        raise InputError(f"{path} holds no finished verdicts: give a folder that verdictscope judge run has filled")
    rows = read_rows(path / "verdicts.parquet" if path.is_dir() else path, by_content=not path.is_dir())
    account = Account("verdicts")
    good: list[Row] = []

    def make(row: Row, notes: Notes) -> Record:
        if not {"item", "verdict"} <= set(row):
            raise BadRow("no item or no verdict")
        good.append({name: None if cell == "" else cell for name, cell in row.items()})
        return Record(str(len(good)), [row], has_id=False)

    account.read(rows, make)
    if not good:
        raise InputError(f"{path} is no table of verdicts (columns item, verdict …): name its format (--format)")
    lost = set(account.problems()["place"])
    places = [r.place for r in rows if r.place not in lost]
    table = check_verdicts(pd.DataFrame(good, dtype=object, index=places))
    return Log("verdicts", table, views_by_part(verdict_view(table, names=places)), account.problems(), len(rows))


def verdict_view(
    table: pd.DataFrame,
    categories: Sequence[str] | None = None,
    positive: str | None = None,
    names: Sequence[str] | None = None,
) -> View:
    """What is measured together of a checked table.

    ``categories`` are by default A, B and tie where rows have an order, else those that occur.
    """
    pairs = bool((table["order"] != "").any())
    if categories is None:
        seen = sorted({v for c in ("verdict", "label") for v in table[c] if isinstance(v, str)})
        categories = ("A", "B", "tie") if pairs else seen
    elif not categories:
        raise InputError("categories is empty: name the labels there can be, or leave it out")
    for column in ("verdict", "label"):
        within(table[column], categories, column, names)
    one_vocabulary(table["verdict"], table["label"])
    if positive is not None and positive not in categories:
        raise InputError(f"positive {positive!r} is none of the categories {', '.join(categories)}")
    judges = tuple(dict.fromkeys(table["judge"]))
    several = not pairs and len(judges) > 1
    return View(
        "all",
        "pairs" if pairs else "single",
        table,
        tuple(categories),
        positive,
        judges if several else (),
        several and len(judges) > 2,
    )
