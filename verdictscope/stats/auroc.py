"""Area under the ROC curve for rows in prompt groups: tie-aware, fast over resamples.

Intervals come from ``auroc_clustered``; the draws here are for what has no closed form, such as paired differences.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats.bootstrap import Column
from verdictscope.stats.columns import same_order


def auroc(labels: Column, scores: Column, weights: Column | None = None) -> float | Float[ndarray, " resample"]:
    """P(score of a positive > score of a negative) + half of P(equal)."""
    y, s = check_scores(labels, scores)
    w = np.ones((1, y.size)) if weights is None else np.atleast_2d(np.asarray(weights, dtype=float))
    if w.shape[1] != y.size:
        raise InputError(f"{w.shape[1]} weights but {y.size} rows")
    order = np.argsort(s, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(s[order]) != 0])[: y.size]
    positive, negative = w[:, order] * y[order], w[:, order] * (1 - y[order])
    if y.size == 0:
        return float("nan") if weights is None or np.ndim(weights) == 1 else np.full(len(w), np.nan)
    positive = np.add.reduceat(positive, starts, axis=1)
    negative = np.add.reduceat(negative, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        out = (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))
    return float(out[0]) if weights is None or np.ndim(weights) == 1 else out


def auroc_many(labels: Int[ndarray, "set row"], scores: Float[ndarray, "set row"]) -> Float[ndarray, " set"]:
    """`auroc` of many labellings with scores of their own, NaN where a set has one class; nothing is checked."""
    positive = labels.sum(axis=1)
    negative = labels.shape[1] - positive
    ranks = (stats.rankdata(scores, axis=1) * labels).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def check_scores(labels: Column, scores: Column) -> tuple[ndarray, ndarray]:
    """Labels and scores as two float arrays of one length."""
    same_order(labels=labels, scores=scores)
    y, s = np.asarray(labels, dtype=float), np.asarray(scores, dtype=float)
    if y.shape != s.shape or y.ndim != 1:
        raise InputError(f"labels {y.shape} and scores {s.shape} must be two lists of one length")
    if np.isnan(s).any():
        raise InputError("a score is NaN")
    if not np.isin(y, (0.0, 1.0)).all():
        raise InputError("labels must be 0 or 1")
    return y, s
