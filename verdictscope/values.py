"""What a cell of a user's table says: a truth value, an id, a text, a probability. Nothing is guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.rows import HALF, shown

_TRUE, _FALSE = frozenset({"true", "yes", "1", "1.0"}), frozenset({"false", "no", "0", "0.0"})


def missing(value: Any) -> bool:
    """Whether a cell is a gap: ``None``, NaN, ``pd.NA``, ``pd.NaT``. An empty text is one where a text is optional."""
    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float | np.floating) and bool(value != value))
    )


def truth(value: Any, where: str) -> bool | None:
    """A truth value: true/false, 1/0, or one of the words true, false, yes, no, 1, 0 in any case."""
    if missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool | np.bool_ | int | float | np.integer | np.floating) and value in (0, 1):
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in _TRUE | _FALSE:
        raise InputError(f"{where} is {shown(value)}: write true or false")
    return word in _TRUE


def truths(values: Iterable[Any], what: str, names: Iterable[str] | None = None, *, gaps: bool = True) -> pd.Series:
    """A column of truth values."""
    series = values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=object)
    if series.dtype == bool:  # of any length at no cost
        return series.astype("boolean")
    called = [f"row {k}" for k in range(1, len(series) + 1)] if names is None else list(names)
    found = [truth(value, f"{what} of {name}") for value, name in zip(series, called, strict=True)]
    if not gaps and None in found:
        raise InputError(f"{what} of {called[found.index(None)]} is missing (empty): write true or false")
    return pd.Series(pd.array(found, dtype="boolean"), index=series.index, name=series.name)


def id_text(value: Any, *, whole_floats: bool = False) -> str | None:
    """The rule of ids and groups: text unchanged, a whole number by its digits; ``None`` for everything else.

    ``whole_floats`` counts 1.0 as 1, for groups in a table, since pandas turns whole numbers with a gap to floats; in
    a user's file 1.0 could be ``1`` or ``1.0``.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    whole = whole_floats and isinstance(value, float | np.floating) and math.isfinite(value) and value == value // 1
    return str(int(value)) if whole else None


def identity(value: Any, where: str) -> str | None:
    """An id as text by the rule of `id_text`; ``None`` for a gap or a blank text."""
    if missing(value):
        return None
    if isinstance(value, float | np.floating):
        raise InputError(
            f"{where} is the number {value!r}, and an id is text or a whole number: write it as text, or as integers "
            "(pandas turns integers with a gap to floats: use its type Int64)"
        )
    found = id_text(value)
    found = text(value if found is None else found, where)
    return found if found is not None and found.strip() else None


def text(value: Any, where: str) -> str | None:
    """A text, unchanged; ``None`` for a gap."""
    if missing(value):
        return None
    if not isinstance(value, str):
        raise InputError(f"{where} is {shown(value)}, not text")
    if half := HALF.search(value):
        raise InputError(f"{where} holds half of a surrogate pair (\\u{ord(half[0]):x}): it was cut inside a character")
    return str(value)


def number(
    value: Any, what: str, low: float | int = -math.inf, high: float | int = math.inf, *, above: bool = False
) -> float:
    """A finite number between two bounds, both included; ``above`` excludes the lower one."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool | np.bool_)
    if not real or not math.isfinite(value) or not low <= value <= high or (above and value == low):
        bounds = [f"{'above' if above else 'at least'} {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (
            high < math.inf
        )
        raise InputError(f"{what} is {value!r}: give a number {' and '.join(bounds)}".rstrip())
    return float(value)


def whole_number(value: Any, what: str, low: int = 0) -> int:
    """A whole number of at least ``low``."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < low:
        raise InputError(f"{what} is {value!r}: give a whole number of at least {low}")
    return int(value)


def probabilities(
    values: Sequence[Any] | np.ndarray | pd.Series, what: str, names: Sequence[str] | None = None
) -> np.ndarray:
    """Numbers from 0 to 1 (to 1e-6, which sums are off by), gaps as NaN; ``names`` are what the rows are called."""
    given = pd.Series(values)
    found = pd.to_numeric(given, errors="coerce")
    wrong = np.flatnonzero((found < -1e-6) | (found > 1 + 1e-6) | (found.isna() & given.notna()))
    if len(wrong):
        at = int(wrong[0])
        value = given.iloc[at]
        seen = shown(value.item() if isinstance(value, np.generic) else value)
        row = f"row {at + 1}" if names is None else names[at]
        raise InputError(f"{what} of {row} is {seen}: a probability lies between 0 and 1 (no percent)")
    return found.to_numpy(dtype=float, na_value=np.nan)


def shares(values: float | int | np.ndarray, what: str) -> np.ndarray:
    """A share, or an array of any shape of them, checked as :func:`probabilities` checks a column."""
    found = np.asarray(values, dtype=float)
    return probabilities(found.ravel(), what).reshape(found.shape)
