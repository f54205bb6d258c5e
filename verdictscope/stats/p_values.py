"""p-values from null draws: one rule for ties, everywhere."""

from __future__ import annotations

from typing import SupportsFloat

import numpy as np
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.stats.bootstrap import Column

TOLERANCE = 1e-9
"""Null values this near to the observed one (relative to it, at least to 1) are ties: rounding decides no p-value."""


def tie_slack(observed: SupportsFloat | ndarray) -> ndarray:
    """How far below an observed value a null value still counts as a tie; 0 for an infinite one."""
    value = np.asarray(observed, dtype=float)
    return np.where(np.isfinite(value), TOLERANCE * np.maximum(1.0, np.abs(value)), 0.0)


def permutation_p(observed: SupportsFloat, null: Column, alternative: str = "greater") -> float:
    """p = (1 + number of null values at least as extreme) / (R + 1).

    The observed value counts as one of its own null draws, so p is never 0 and the test keeps its level (Phipson and
    Smyth 2010). Values equal up to rounding count as at least as extreme; a null draw that is NaN does too.
    """
    observed, values = float(observed), np.asarray(null, dtype=float).ravel()
    if values.size == 0:
        raise InputError("no null draws")
    if not np.isfinite(observed):
        return float("nan")
    slack = float(tie_slack(observed))
    greater = (1 + np.sum(~(values < observed - slack))) / (values.size + 1)
    less = (1 + np.sum(~(values > observed + slack))) / (values.size + 1)
    tails = {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}
    if alternative not in tails:
        raise InputError(f"unknown alternative {alternative!r}; known are {', '.join(tails)}")
    return float(tails[alternative])
