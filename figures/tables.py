"""What every figure asks of its table, and how its numbers are written out in captions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.stats import ends_to_show

Heads = Iterable[Iterable[Any]]
"""(layer, head) pairs, as lists from JSON or as tuples."""


def need(table: pd.DataFrame, name: str, columns: str) -> None:
    """Check that a table has its columns."""
    missing = [column for column in columns.split() if column not in table.columns]
    if missing:
        raise ValueError(f"the {name} table lacks {', '.join(missing)}: see docs/formats.md for its columns")


def of_base(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the model under study, where there are several variants."""
    return table[table["variant"].isin(["", "base"])] if len(set(table["variant"])) > 1 else table


def truth(column: pd.Series) -> pd.Series:
    """A column of true, false and missing as plain booleans, missing as false."""
    return column.eq(True).fillna(False).astype(bool)


def number(value: Any, signed: bool = False) -> str:
    """Two decimals where they say something, fewer for large numbers, a dash for a missing one."""
    value = float(value)
    if not np.isfinite(value):
        return "–"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def interval(row: Any, column: str = "estimate", signed: bool = False) -> str:
    """``0.38 [0.35, 0.41]`` from a row with low and high."""
    value, low, high = float(row[column]), float(row["low"]), float(row["high"])
    if not np.isfinite([value, low, high]).all():
        return f"{number(value, signed)} [{number(low, signed)}, {number(high, signed)}]"
    n, unit = row.get("n"), {"auroc": "AUROC", "refused": "rate"}.get(column, row.get("unit"))
    shown = ends_to_show(value, low, high, n, str(unit or ""))
    if shown is None:
        return f"{number(value, signed)} (the same in all{'' if n is None else f' {int(n)}'})"
    return f"{number(value, signed)} [{number(shown[0], signed)}, {number(shown[1], signed)}]"


def counts(values: Iterable[Any]) -> str:
    """``n = 64`` or ``n = 60 to 64`` from a column of counts."""
    array = pd.to_numeric(pd.Series(list(values), dtype="object"), errors="coerce").dropna()
    if array.empty:
        return "n not recorded"
    low, high = int(array.min()), int(array.max())
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def p_text(p: Any) -> str:
    """``p = 0.01``, or that there is none."""
    p = float("nan") if p is None or p is pd.NA else float(p)
    return f"p = {p:.2g}" if np.isfinite(p) else "p not computed"


def head_name(layer: Any, head: Any) -> str:
    """``L4H6``: layer 4, head 6, both counted from 0."""
    return f"L{int(layer)}H{int(head)}"


def pairs(heads: Heads) -> list[tuple[int, int]]:
    """Head pairs as tuples of plain ints, in their order, each once."""
    return list(dict.fromkeys((int(layer), int(head)) for layer, head in heads))


def cell_words(cell: str) -> str:
    """``harmful_refused`` as ``harmful requests, refused``."""
    kind, _, verdict = cell.partition("_")
    return f"{kind} requests, {verdict}" if verdict else cell
