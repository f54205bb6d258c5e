"""AUROC of rows in prompt groups with a closed-form interval on the logit scale.

The estimand is the AUROC of these scores, as they are, on new prompts of the same kind: the scorer is fixed, prompts
vary. Rows of one prompt are not independent, so the variance is a sum over prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import special, stats

from verdictscope.errors import InputError
from verdictscope.stats.auroc import check_scores
from verdictscope.stats.bootstrap import Column, check_confidence
from verdictscope.stats.columns import group_names, same_order
from verdictscope.stats.effect import Effect


@dataclass(frozen=True)
class ClusteredAuroc:
    """An AUROC and how sure it is.

    Attributes:
        estimate: AUROC of all rows (mean over strata, where there are strata); NaN with one class.
        variance: its variance over prompt groups.
        df: degrees of freedom of that variance.
        clusters: number of groups.
        positive_clusters: groups with a positive row (of the smallest stratum, where there are strata).
        negative_clusters: groups with a negative row, likewise.
    """

    estimate: float
    variance: float
    df: float
    clusters: int
    positive_clusters: int
    negative_clusters: int

    @property
    def se(self) -> float:
        """Standard error, never below one discordant pair of groups; NaN with one group or one class."""
        if self.clusters < 2 or not np.isfinite(self.estimate):
            return float("nan")
        return max(float(np.sqrt(self.variance)), 1 / (self.positive_clusters * self.negative_clusters))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Interval ``logit(A) ± t * se(A) / (A (1 - A))``.

        With perfect separation (or its reverse) no spread is seen; then the bound is Clopper and Pearson's for k
        disjoint pairs of groups that were all ordered correctly (P <= AUROC ** k), k the smaller of the numbers of
        positive and negative groups.
        """
        check_confidence(confidence)
        a, tail = self.estimate, (1 - confidence) / 2
        smaller = min(self.positive_clusters, self.negative_clusters)
        if not np.isfinite(a) or self.clusters < 2:
            return float("nan"), float("nan")
        if a in (0.0, 1.0):
            low = float(tail ** (1 / smaller))
            return (low, 1.0) if a == 1.0 else (0.0, 1 - low)
        if smaller < 2:
            return float("nan"), float("nan")
        if self.variance <= 0:  # every group is placed alike, as where all scores are equal: the same bound, both ways
            reach = 1 - tail ** (1 / smaller)
            return a - reach * a, a + reach * (1 - a)
        half = stats.t.ppf(1 - tail, self.df) * np.sqrt(self.variance) / (a * (1 - a))
        return float(special.expit(special.logit(a) - half)), float(special.expit(special.logit(a) + half))


def auroc_clustered(labels: Column, scores: Column, groups: Column, *, strata: Column | None = None) -> ClusteredAuroc:
    """AUROC with its variance over prompt groups.

    A positive row is placed by the share of negative rows below it, a negative row by the share of positive rows above
    it (ties one half). A group's influence is the sum of its rows' placements about the AUROC, each over the size of
    its class; the variance is the sum of squared influences, with the small-sample factors of either class and of
    their covariance (DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988; for clustered rows Obuchowski, Biometrics
    53, 1997).

    Near 1 a few groups carry nearly all of the variance, so it is itself poorly known and normal or t quantiles at the
    number of groups are too short. The degrees of freedom are therefore Satterthwaite's, with the fourth moment of
    the influences: ``2 V^2 / Var(V)``, ``V = sum(D^2)``, ``Var(V) = sum(D^4) - V^2 / K``; at most the groups of the
    smaller class less one. `docs/probes.md` has the coverage.
    """
    y, s = check_scores(labels, scores)
    same_order(labels=labels, scores=scores, groups=groups, strata=strata)
    g = np.asarray(groups, dtype=object)
    if g.shape != y.shape:
        raise InputError(f"{g.size} groups but {y.size} rows")
    codes, names = pd.factorize(group_names(g))
    clusters = len(names)
    stratum = np.zeros(y.size, int) if strata is None else pd.factorize(np.asarray(strata, dtype=object))[0]
    estimates, positive, negative, smallest = [], np.zeros(clusters), np.zeros(clusters), (0, 0)
    for level in np.unique(stratum):
        at = stratum == level
        have = len(np.unique(codes[at & (y == 1)])), len(np.unique(codes[at & (y == 0)]))
        if 0 in have:
            continue
        value, p, n = _influence(y[at], s[at], codes[at], clusters)
        estimates.append(value)
        positive, negative = positive + p, negative + n
        smallest = have if smallest == (0, 0) or min(have) < min(smallest) else smallest
    if not estimates:
        return ClusteredAuroc(float("nan"), float("nan"), float("nan"), clusters, 0, 0)
    variance, df = _variance(positive / len(estimates), negative / len(estimates), clusters, smallest)
    # rounding would turn perfect separation into 0.9999999999999999
    return ClusteredAuroc(float(np.round(np.mean(estimates), 14)), variance, df, clusters, *smallest)


def auroc_effect(
    name: str, labels: Column, scores: Column, groups: Column, *, strata: Column | None = None, confidence: float = 0.95
) -> Effect:
    """AUROC as an `Effect`: see `auroc_clustered`; n counts groups, and there is no seed."""
    found = auroc_clustered(labels, scores, groups, strata=strata)
    low, high = found.interval(confidence)
    return Effect(name, found.estimate, low, high, found.clusters, "AUROC")


def auroc_se_many(
    labels: Int[ndarray, "set row"], scores: Float[ndarray, "set row"], groups: Column
) -> Float[ndarray, " set"]:
    """``auroc_clustered(...).se`` of many labellings with scores of their own, at once; nothing is checked."""
    codes, names = pd.factorize(group_names(groups))
    member = np.zeros((len(codes), len(names)))
    member[np.arange(len(codes)), codes] = 1.0
    positive = labels == 1
    m, n = (at.sum(axis=1, keepdims=True).astype(float) for at in (positive, ~positive))
    rank, among, below = (
        stats.rankdata(x, axis=1)
        for x in (scores, np.where(positive, scores, np.inf), np.where(positive, np.inf, scores))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        over = np.where(positive, (rank - among) / n, 0.0)
        under = np.where(positive, 0.0, 1 - (rank - below) / m)
        value = over.sum(axis=1, keepdims=True) / m
        sides = [
            (np.where(at, placed - value, 0.0) @ member) / count
            for at, placed, count in ((positive, over, m), (~positive, under, n))
        ]
        have = [((at @ member) > 0).sum(axis=1) for at in (positive, ~positive)]
        parts = [(sides[0] ** 2).sum(axis=1), (sides[1] ** 2).sum(axis=1), 2 * (sides[0] * sides[1]).sum(axis=1)]
        factors = [k / (k - 1) for k in (*have, np.float64(len(names)))]
        variance = np.maximum(
            sum(f * p for f, p in zip(factors, parts, strict=True)), ((sides[0] + sides[1]) ** 2).sum(axis=1)
        )
        variance = np.where(np.minimum(*have) < 2, np.nan, variance)
        return np.maximum(np.sqrt(variance), 1 / (have[0] * have[1]))


def _influence(
    y: ndarray, s: ndarray, codes: ndarray, clusters: int
) -> tuple[float, Float[ndarray, " cluster"], Float[ndarray, " cluster"]]:
    """AUROC, and what the positive and the negative rows of each cluster add to it."""
    at = y == 1
    m, n = int(at.sum()), int((~at).sum())
    rank = stats.rankdata(s)
    above = (rank[at] - stats.rankdata(s[at])) / n
    below = 1 - (rank[~at] - stats.rankdata(s[~at])) / m
    value = float(above.mean())
    return (
        value,
        np.bincount(codes[at], above - value, clusters) / m,
        np.bincount(codes[~at], below - value, clusters) / n,
    )


def _variance(positive: ndarray, negative: ndarray, clusters: int, have: tuple[int, ...]) -> tuple[float, float]:
    """Variance of the sum of influences and its degrees of freedom; 0 where no group has any."""
    smaller = min(have)
    if smaller < 2:
        return float("nan"), float("nan")
    factors = [k / (k - 1) for k in (*have, clusters)]
    parts = float(positive @ positive), float(negative @ negative), 2 * float(positive @ negative)
    together = positive + negative
    second, fourth = float((together**2).sum()), float((together**4).sum())
    # A covariance so negative that nothing is left would claim certainty; the plain sum of squares never does.
    variance = max(sum(f * p for f, p in zip(factors, parts, strict=True)), second)
    spread = fourth - second**2 / clusters
    df = 2 * second**2 / spread if spread > 0 else float("inf")
    return variance, min(df, smaller - 1.0)
