"""Columns that must be about the same rows in the same order: what pandas indexes say is believed, never dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.values import id_text


def group_names(groups: Any, what: str = "group") -> np.ndarray:
    """The name of every row's group as text, by one rule: text unchanged, a whole number by its digits.

    1 and 1.0 are one group: a merge with a gap turns whole numbers to floats. ``"1"`` is the same one, as in files.
    """
    values = np.asarray(groups, dtype=object)
    text = pd.api.types.infer_dtype(values, skipna=False) == "string"
    names = values if text else np.array([id_text(value, whole_floats=True) for value in values], dtype=object)
    for row, name in enumerate(names, start=1):
        if name is None or not name.strip():
            value = values[row - 1]
            if isinstance(value, str) or (np.ndim(value) == 0 and pd.isna(value)):
                raise InputError(f"row {row} has no {what}: give every row the name of its prompt group")
            raise InputError(f"the {what} of row {row} is {value!r}: give text or a whole number")
    return names


def index_of(column: Any) -> pd.Index | None:
    """The index of a pandas column, where it names its rows; ``None`` for bare values and for plain row numbers."""
    if not isinstance(column, pd.Series | pd.DataFrame):
        return None
    index = column.index
    numbers = isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1 and index.name is None
    return None if numbers else index


def same_order(*, beside: str = "", **columns: Any) -> None:
    """Refuse columns whose indexes name other rows, or the same rows in another order."""
    named = {name: index for name, column in columns.items() if (index := index_of(column)) is not None}
    if not named:
        return
    first, index = next(iter(named.items()))
    for name, other in named.items():
        if len(other) == len(index) and not other.equals(index):
            at = int(np.argmax(np.asarray(other != index)))
            raise InputError(
                f"{first} and {name} are indexed in different orders: row {at} is {index[at]!r} in one and "
                f"{other[at]!r} in the other; join them by index, or pass .to_numpy() where the order is the same"
            )
    if beside and not bool(pd.api.types.is_integer_dtype(index.dtype) and index.is_monotonic_increasing):
        raise InputError(
            f"{first} is indexed by {index[0]!r}, {index[min(1, len(index) - 1)]!r}, …, and {beside} has no names to "
            f"join them by: bring {first} into the order of {beside} and pass .to_numpy()"
        )


def joined(column: Any, rows: pd.Index, name: str) -> Any:
    """A column in the order of rows that have names: joined by its index where it has one, else unchanged."""
    index = index_of(column)
    if index is None:
        return column
    if len(index) == len(rows) and (index.astype(str) == rows.astype(str)).all():
        return column.reset_index(drop=True)
    labelled = column.set_axis(index.astype(str))
    wanted = rows.astype(str)
    if labelled.index.has_duplicates:
        again = labelled.index[labelled.index.duplicated()][0]
        raise InputError(f"{name} has two lines for {again!r}; keep one a name, or give one value per row in its order")
    missing = wanted[~wanted.isin(labelled.index)]
    if len(missing):
        raise InputError(f"{name} has no line for {missing[0]!r} ({missing.nunique()} rollouts are missing)")
    return labelled.loc[wanted].reset_index(drop=True)
