"""Resampling whole clusters, because rows of one prompt are not independent draws.

Every interval of this package rests on the same step: groups (prompts) are drawn with replacement and all their rows
come along. It is written as integer counts ``[resample cluster]`` so that any statistic made of sums over clusters is
one matrix product for all resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats.columns import group_names

RESAMPLES = 2000
"""Resamples behind an interval unless the caller says otherwise."""

Column = Sequence[Any] | ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray
"""One value per row: a list, an array or a column of a table."""


@dataclass(frozen=True)
class Draws:
    """Bootstrap draws of clusters.

    Attributes:
        names: cluster names, in the order of the columns of ``counts``.
        codes: the cluster of every row.
        counts: how often each cluster was drawn, rows are resamples.
        seed: seed of the draws.
    """

    names: tuple[str, ...]
    codes: Int[ndarray, " row"]
    counts: Int[ndarray, "resample cluster"]
    seed: int

    @property
    def n(self) -> int:
        """Number of clusters."""
        return len(self.names)

    def sums(self, values: Float[ndarray, "row ..."]) -> Float[ndarray, "cluster ..."]:
        """Sum of ``values`` over the rows of each cluster."""
        values = np.asarray(values, dtype=float)
        out = np.zeros((self.n, *values.shape[1:]))
        np.add.at(out, self.codes, values)
        return out


def draw_clusters(groups: Column, resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """Draw clusters with replacement.

    The draws depend on the seed and on the set of cluster names alone, not on the order or number of rows, so two
    tables about the same prompts get the same draws and their difference is a paired one.
    """
    for name, value in (("resamples", resamples), ("seed", seed)):
        if value < 0:
            raise InputError(f"{name} is {value}: give a whole number of at least 0")
    if not len(groups):
        raise InputError("no rows to resample")
    codes, names = pd.factorize(group_names(groups), sort=True)
    return Draws(tuple(names), np.asarray(codes), _counts(len(names), resamples, seed), seed)


@lru_cache(maxsize=8)
def _counts(clusters: int, resamples: int, seed: int) -> Int[ndarray, "resample cluster"]:
    """The draws themselves: kept, since a matrix of effects over the same prompts asks for the same ones many times."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    counts.setflags(write=False)
    return counts


def percentile_interval(
    draws: Float[ndarray, "resample ..."], clusters: int | np.integer | ndarray, confidence: float = 0.95
) -> tuple[ndarray, ndarray]:
    """Expanded percentile interval of bootstrap draws.

    The plain percentile interval is too narrow by about ``sqrt((n-1)/n) * z/t`` for n clusters; the percentiles are
    moved outwards to undo that (Hesterberg 2015, "What teachers should know about the bootstrap", section 4.3).
    Draws that are NaN (the resample held no row of a needed kind) are left out.
    """
    check_confidence(confidence)
    draws = np.asarray(draws, dtype=float)
    flat = draws.reshape(len(draws), -1)
    n = np.broadcast_to(np.asarray(clusters, dtype=float), draws.shape[1:]).reshape(-1)
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    for count in np.unique(n[n >= 2]):
        at = (n == count) & np.isfinite(flat).any(axis=0)
        if not at.any():
            continue
        t = stats.t.ppf((1 - confidence) / 2, count - 1)
        tail = float(stats.norm.cdf(np.sqrt(count / (count - 1)) * t))
        columns = flat[:, at]
        quantile = np.nanquantile if np.isnan(columns).any() else np.quantile
        low[at], high[at] = quantile(columns, [tail, 1 - tail], axis=0)
    return low.reshape(draws.shape[1:]), high.reshape(draws.shape[1:])


def check_confidence(confidence: float) -> None:
    """Refuse what is no coverage."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence:g}: give a share between 0 and 1, such as .95")
