"""What every antisymmetric probe of a judge shares: how mirrored rows are weighed and checked, and how it is told."""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.probes.splits import PARTS
from verdictscope.stats import Effect

PLAIN: dict[str, Any] = {"balance": "none", "hold": ()}
"""Mirrored rows are balanced by construction."""


def check_sides(rows: pd.DataFrame, what: str) -> None:
    """Mirrored rows always hold both labels: an item's own side must differ too, or there is nothing to tell.

    Args:
        rows: as ``mirrored_rows`` makes them.
        what: of what, for the message.

    Raises:
        InputError: a part holds no pair, or pairs of one side alone.
    """
    own = rows[: len(rows) // 2]
    for part in PARTS:
        here = own.loc[own["part"] == part, "label"]
        if here.nunique() < 2:
            found = "there is none" if here.empty else f"all are {'BA'[int(here.iloc[0])]}"
            raise InputError(f"{what} in part {part}: {found}; a probe needs some for A and some for B")


def effect_row(kind: str, effect: Effect, **more: Any) -> dict[str, Any]:
    """An effect as a row of a probe's table."""
    return told_row(kind, effect.name, effect.estimate, effect.low, effect.high, effect.n, **more)


def told_row(
    kind: str,
    name: str,
    estimate: float = float("nan"),
    low: float = float("nan"),
    high: float = float("nan"),
    n: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A row of a probe's table; what is not said is missing (``layer`` is then -1)."""
    blank = {"layer": -1, "C": float("nan"), "p": float("nan"), "selectivity": float("nan"), "about": ""}
    return blank | {"kind": kind, "name": name, "estimate": estimate, "low": low, "high": high, "n": int(n)} | more
