"""What was wrong with the rows of a file: counted and told, never dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

COLUMNS = ("row", "id", "kind", "used", "detail", "place")
"""Of a table of problems: row from 0 (-1: no single row), id, kind, whether something came of the row all the same,
what it was, and where an editor shows the row (``line 7``, ``record 3``; empty for no single row)."""


def counted(problems: pd.DataFrame, kinds: Sequence[str]) -> dict[str, int]:
    """Problems by kind, the kinds without one included."""
    found = problems["kind"].value_counts()
    return {kind: int(found.get(kind, 0)) for kind in kinds}


def told(counts: Mapping[str, int]) -> str:
    """The same in words."""
    return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "no problems"
