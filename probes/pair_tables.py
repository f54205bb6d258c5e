"""What every antisymmetric probe of a judge shares: how mirrored rows are weighed and checked."""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.probes.splits import PARTS

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
