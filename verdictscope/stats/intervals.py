"""Intervals for rates, means, differences and ratios of rows that come in prompt groups."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats.bootstrap import RESAMPLES, Column, Draws, draw_clusters, percentile_interval
from verdictscope.stats.columns import same_order
from verdictscope.stats.effect import Effect
from verdictscope.stats.p_values import tie_slack
from verdictscope.stats.wilson import BOUNDS, unseen_spread, wilson


def drawn_interval(
    draws: Float[ndarray, " resample"],
    estimate: float,
    clusters: int,
    bounds: tuple[float, float] | None,
    confidence: float = 0.95,
    *,
    pair: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """`percentile_interval`; where no resample differs and the number is bounded, `unseen_spread`."""
    known = draws[np.isfinite(draws)]
    if bounds is not None and known.size and (np.abs(known - estimate) <= tie_slack(estimate)).all():
        if pair is not None:
            ends = [(value, *unseen_spread(value, clusters, bounds, confidence)) for value in pair]
            return independent_difference(*ends)[1:]
        return unseen_spread(estimate, clusters, bounds, confidence)
    low, high = percentile_interval(draws, clusters, confidence)
    return float(low), float(high)


def rate_effect(name: str, hits: Column, groups: Column, *, confidence: float = 0.95, unit: str = "rate") -> Effect:
    """Share of rows that hit, with a Wilson interval at the sample size the clustering leaves.

    The effective n is p(1-p) over the cluster-robust variance of p, made smaller by (z/t)^2 for few clusters (Korn
    and Graubard 1998), at most the number of rows. With no hits or only hits the variance cannot be seen; then every
    cluster counts once. No resampling, so no seed.
    """
    same_order(hits=hits, groups=groups)
    values = np.asarray(hits, dtype=float)
    if values.size == 0:
        return Effect.missing(name, unit)
    drawn = draw_clusters(groups, resamples=0)
    rate, rows, clusters = float(values.mean()), values.size, drawn.n
    if clusters == 1:
        return Effect(name, rate, float("nan"), float("nan"), 1, unit)
    residual = drawn.sums(values - rate)
    variance = clusters / (clusters - 1) * float(residual @ residual) / rows**2
    effective = float(clusters)
    if 0 < rate < 1:
        z, t = (d.ppf((1 + confidence) / 2) for d in (stats.norm(), stats.t(clusters - 1)))
        # groups that happen to balance may show less spread than independent rows would: never claim more than those
        effective = rate * (1 - rate) / max(variance, rate * (1 - rate) / rows) * float(z / t) ** 2
    low, high = wilson(rate * effective, effective, confidence)
    return Effect(name, rate, low, high, clusters, unit)


def mean_effect(
    name: str,
    values: Column,
    groups: Column,
    *,
    unit: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Effect:
    """Mean of rows with a cluster-bootstrap interval."""
    x, g = _finite(values, groups)
    if x.size == 0:
        return Effect.missing(name, unit, seed=seed)
    drawn = draw_clusters(g, resamples, seed)
    bounds = BOUNDS.get(unit)
    if bounds and not (bounds[0] <= x.min() and x.max() <= bounds[1]):
        bounds = None  # a difference of shares, say
    low, high = drawn_interval(_weighted_mean(drawn, x), float(x.mean()), drawn.n, bounds, confidence)
    return Effect(name, float(x.mean()), low, high, drawn.n, unit, seed)


def difference_effect(
    name: str,
    first: Column,
    first_groups: Column,
    second: Column,
    second_groups: Column,
    *,
    unit: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Effect:
    """Mean of ``first`` minus mean of ``second``; groups in both are drawn together, so shared prompts are paired."""
    (a, ga), (b, gb) = _finite(first, first_groups), _finite(second, second_groups)
    n = min(len(set(map(str, ga))), len(set(map(str, gb))))
    if n == 0:
        return Effect.missing(name, unit, seed=seed)
    drawn = draw_clusters(np.concatenate([ga, gb]), resamples, seed)
    is_first = np.arange(a.size + b.size) < a.size
    x = np.concatenate([a, b])
    draws = _weighted_mean(drawn, x, is_first) - _weighted_mean(drawn, x, ~is_first)
    pair = float(a.mean()), float(b.mean())
    bounds = BOUNDS.get(unit)
    if bounds and not all(bounds[0] <= value <= bounds[1] for value in pair):
        bounds = None
    low, high = drawn_interval(draws, float(a.mean() - b.mean()), n, bounds, confidence, pair=pair)
    return Effect(name, float(a.mean() - b.mean()), low, high, n, unit, seed)


def independent_difference(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float]:
    """First minus second, from two estimates with intervals and nothing else: no rows, no pairing.

    Each interval stands for its own variance on the side that matters (MOVER: Zou and Donner, Statistics in Medicine
    27, 2008; on Wilson intervals it is method 10 of Newcombe, Statistics in Medicine 17, 1998). Exact for independent
    estimates; too wide where shared prompts pull both the same way.
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    down = np.hypot(a - a_low, b_high - b)
    up = np.hypot(a_high - a, b - b_low)
    return float(a - b), float(a - b - down), float(a - b + up)


def ratio_interval(
    top: Float[ndarray, " resample"], bottom: Float[ndarray, " resample"], clusters: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of a ratio from joint draws; NaN where the denominator's own interval includes 0."""
    low, high = percentile_interval(bottom, clusters, confidence)
    if not (low > 0 or high < 0):
        return float("nan"), float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = percentile_interval(top / bottom, clusters, confidence)
    return float(low), float(high)


def _weighted_mean(
    drawn: Draws, values: Float[ndarray, " row"], rows: ndarray | None = None
) -> Float[ndarray, " resample"]:
    """Mean of the chosen rows in every resample, NaN where a resample holds none of them."""
    keep = np.ones(values.size) if rows is None else rows.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (drawn.counts @ drawn.sums(values * keep)) / (drawn.counts @ drawn.sums(keep))


def _finite(values: Column, groups: Column) -> tuple[ndarray, ndarray]:
    """Rows whose value is a number, with their groups."""
    same_order(values=values, groups=groups)
    x, g = np.asarray(values, dtype=float), np.asarray(groups, dtype=object)
    if x.shape != g.shape:
        raise InputError(f"{x.size} values but {g.size} groups")
    return x[np.isfinite(x)], g[np.isfinite(x)]
