"""Resampling whole clusters, because rows of one prompt are not independent draws.

Every interval of this package rests on the same step: groups (prompts) are drawn with replacement and all their rows
come along. It is written as integer counts ``[resample cluster]`` so that any statistic made of sums over clusters is
one matrix product for all resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

_CHUNK = 2_000_000  # numbers a [resample row] block may hold, about 16 MB

Column = Sequence[Any] | ndarray | pd.Series | pd.Index | pd.api.extensions.ExtensionArray
"""One value per row: a list, an array or a column of a table."""

Statistic = Callable[[Float[ndarray, "resample row"]], Float[ndarray, " resample"]]


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

    Args:
        groups: the cluster of every row, ``[row]``.
        resamples: number of draws.
        seed: seed of the draws.

    Raises:
        InputError: a row has no group, or there are no rows.
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

    Args:
        draws: the statistic in every resample.
        clusters: number of independent clusters behind each statistic (scalar or one per column of ``draws``).
        confidence: coverage aimed at.

    Returns:
        low and high, of the shape of one draw; NaN where fewer than two clusters stand behind a number.
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
    """Refuse what is no coverage.

    Raises:
        InputError: not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence:g}: give a share between 0 and 1, such as .95")


def cluster_bootstrap(
    statistic: Statistic, groups: Column, *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float, Float[ndarray, " resample"]]:
    """Bootstrap any statistic of weighted rows by whole clusters.

    Args:
        statistic: takes row weights ``[resample row]``, gives one number per resample (NaN where undefined).
        groups: the cluster of every row.
        resamples: number of resamples.
        seed: seed of the draws.
        confidence: coverage aimed at.

    Returns:
        estimate, low, high and the draws. Low and high are NaN with fewer than two clusters: one cluster drawn again
        and again would otherwise show an interval of no width.
    """
    drawn = draw_clusters(groups, resamples, seed)
    rows = len(drawn.codes)
    estimate = float(statistic(np.ones((1, rows)))[0])
    step = max(1, _CHUNK // rows)
    parts = [statistic(drawn.counts[i : i + step][:, drawn.codes].astype(float)) for i in range(0, resamples, step)]
    draws = np.concatenate(parts)
    low, high = percentile_interval(draws, drawn.n, confidence)
    return estimate, float(low), float(high), draws
