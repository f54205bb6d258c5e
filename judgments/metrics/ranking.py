"""Candidates ranked by a judge: what its confusion lets one say (Judging LLMs on a Simplex, 2025, arXiv 2505.21972).

A candidate has true shares theta of the levels; the judge reports M^T theta, M being its confusion (rows: true level).
With two levels theta = (p - FPR) / (TPR - FPR), and the order of the observed shares is the true one if TPR > FPR. With
three levels or more the same observed shares fit many theta unless M is known: a ranking by raw means is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy import stats
from scipy.optimize import nnls

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.measure import Measure, ratio
from verdictscope.judgments.verdicts import known
from verdictscope.stats import RESAMPLES, draw_clusters, percentile_interval
from verdictscope.stats.bootstrap import Column
from verdictscope.values import shares


def corrected_share(observed: float | ndarray, tpr: float | ndarray, fpr: float | ndarray) -> ndarray:
    """True share of the positive level from the observed one; NaN where TPR is not above FPR.

    Not clipped: a value outside 0 to 1 says that the confusion does not fit the candidate.

    Example:
        >>> corrected_share(0.5, tpr=0.9, fpr=0.2).round(3).item()
        0.429
    """
    observed, tpr, fpr = shares(observed, "observed"), shares(tpr, "tpr"), shares(fpr, "fpr")
    gap = np.asarray(tpr - fpr)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap > 1e-12, (observed - fpr) / np.where(gap > 1e-12, gap, np.nan), np.nan)


def corrected_levels(
    observed: Float[ndarray, " level"], confusion: Float[ndarray, "level level"]
) -> Float[ndarray, " level"]:
    """Shares theta on the simplex that come nearest to M^T theta = observed."""
    problem = identifiability(confusion)
    if problem:
        raise InputError(problem)
    weight = 1e4  # holds the sum at 1: nnls has no equality constraint
    stacked = np.vstack([np.asarray(confusion).T, np.full((1, len(confusion)), weight)])
    theta, _ = nnls(stacked, np.r_[observed, weight])
    return theta / theta.sum()


def identifiability(confusion: Float[ndarray, "level level"] | None, levels: int | None = None) -> str | None:
    """Why this judge's verdicts do not identify a ranking; ``None`` where it can."""
    if confusion is None:
        if (levels or 0) > 2:
            return (
                f"{levels} levels and no confusion matrix: the order of candidates is not identified by their "
                "observed means, however many items there are; give labelled items"
            )
        return "no confusion matrix: the order of two-level shares is the true one only if the judge's TPR is above FPR"
    m = np.asarray(confusion, dtype=float)
    if m.ndim != 2 or m.shape[0] != m.shape[1] or not np.allclose(m.sum(axis=1), 1, atol=1e-6) or m.min() < 0:
        return "the confusion matrix must be square with rows that are shares summing to 1"
    if len(m) == 2 and m[0, 0] <= m[1, 0] + 1e-12:
        return "the judge's TPR is not above its FPR: its verdicts say nothing about the order of candidates"
    if np.linalg.matrix_rank(m, tol=1e-9) < len(m):
        return "two true levels look alike to the judge (the confusion matrix has no inverse)"
    return None


@dataclass(frozen=True, eq=False)
class Ranking:
    """Candidates with observed and corrected scores."""

    table: pd.DataFrame
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()


def rank_candidates(
    verdict: Column,
    candidate: Column,
    groups: Column,
    levels: Sequence[str],
    label: Column | None = None,
    *,
    values: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Rank candidates by their verdicts, corrected by the confusion that labelled items show.

    Every resample draws groups, estimates the confusion and corrects all candidates with it, so that the
    intervals hold the uncertainty of both. It takes the confusion as the same for every candidate.

    Args:
        verdict: per item, ``None`` where unread (left out, counted in ``n``).
        candidate: whose answer it was.
        groups: items of one group are drawn together.
        levels: the best level first; with two, the first is the positive one.
        label: the true level of items where it is known.
        values: what each level is worth; 1 … 0 in equal steps by default.
        resamples: bootstrap resamples.
        seed: of the draws.

    Raises:
        InputError: three or more levels without labels, columns of unlike lengths, levels that repeat or are none, a
            label or verdict that is no level, or values that are not one per level.

    Example:
        >>> verdict = ["right"] * 8 + ["wrong"] * 2 + ["right"] * 4 + ["wrong"] * 6
        >>> candidate = ["x"] * 10 + ["y"] * 10
        >>> found = rank_candidates(verdict, candidate, range(20), ["right", "wrong"], verdict, resamples=50)
        >>> len(found.to_frame())
        2
    """
    said, names = np.asarray(verdict, dtype=object), np.asarray(candidate, dtype=object)
    truth = np.full(len(said), None, dtype=object) if label is None else np.asarray(label, dtype=object)
    k = len(levels)
    if k < 2 or len(set(levels)) < k or (values is not None and len(values) != k):
        raise InputError(f"levels {', '.join(map(str, levels))}: give two or more, each once, and one value for each")
    if not len(said) == len(names) == len(truth) == len(groups):
        raise InputError("verdict, candidate, groups and label have unlike lengths: give one of each per item")
    if other := sorted({v for v in (*said, *truth) if isinstance(v, str)} - set(levels)):
        raise InputError(f"{other[0]!r} is not one of the levels {', '.join(levels)}")
    worth = np.linspace(1, 0, k) if values is None else np.asarray(values, dtype=float)
    labelled = known(truth) & known(said)
    if not labelled.any() and k > 2:
        raise InputError(str(identifiability(None, k)))
    who = list(dict.fromkeys(names.tolist()))
    code = {v: i for i, v in enumerate(levels)}
    column = np.array([code.get(v, -1) if isinstance(v, str) else -1 for v in said])
    row = np.array([code.get(v, -1) if isinstance(v, str) else -1 for v in truth])
    parts = np.zeros((len(said), len(who) * k + k * k))
    place = {c: i for i, c in enumerate(who)}
    at = np.flatnonzero(column >= 0)
    parts[at, [place[names[i]] * k + column[i] for i in at]] = 1
    both = np.flatnonzero((column >= 0) & (row >= 0))
    parts[both, len(who) * k + row[both] * k + column[both]] = 1
    drawn = draw_clusters(np.asarray(groups, dtype=object), resamples, seed)
    sums = drawn.sums(parts)
    observed, corrected, problem = _scores(sums.sum(axis=0), len(who), k, worth)
    draws = np.stack([_scores(s, len(who), k, worth)[1] for s in drawn.counts @ sums])
    low, high = percentile_interval(draws, drawn.n)
    ranks = stats.rankdata(-draws, method="average", axis=1, nan_policy="omit")
    rank_low, rank_high = (
        np.nanquantile(ranks, [0.025, 0.975], axis=0)
        if np.isfinite(ranks).any()
        else (np.full(len(who), np.nan), np.full(len(who), np.nan))
    )
    rank = stats.rankdata(-corrected, method="min", nan_policy="omit")
    table = pd.DataFrame(
        {
            "candidate": who,
            "observed": observed,
            "corrected": corrected,
            "low": low,
            "high": high,
            "rank": rank,
            "rank_low": rank_low,
            "rank_high": rank_high,
            "n": [int(((names == c) & (column >= 0)).sum()) for c in who],
            "missing": [int(((names == c) & (column < 0)).sum()) for c in who],
        }
    )
    return Ranking(table, (problem,) if problem else ())


def _scores(sums: ndarray, candidates: int, k: int, worth: ndarray) -> tuple[ndarray, ndarray, str | None]:
    counts = sums[: candidates * k].reshape(candidates, k)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
        confusion = sums[candidates * k :].reshape(k, k)
        m = confusion / confusion.sum(axis=1, keepdims=True)
    observed = shares @ worth
    if not np.isfinite(m).all():
        known_levels = "no labelled item" if not confusion.sum() else "no labelled item of one level"
        return observed, np.full(candidates, np.nan), f"{known_levels}: scores cannot be corrected"
    problem = identifiability(m)
    if problem:
        return observed, np.full(candidates, np.nan), problem
    if k == 2:  # in closed form, and not clipped
        top = corrected_share(shares[:, 0], m[0, 0], m[1, 0])
        return observed, np.asarray(top * worth[0] + (1 - top) * worth[1]), None
    fixed = [corrected_levels(s, m) @ worth if np.isfinite(s).all() else np.nan for s in shares]
    return observed, np.array(fixed), None


def candidate_measures(verdict: ndarray, label: ndarray, candidate: ndarray, positive: str) -> list[Measure]:
    """Do judge and labels rank candidates alike? Scores are shares of the positive label, over items both know."""
    who = {c: k for k, c in enumerate(dict.fromkeys(candidate.tolist()))}
    used = known(verdict) & known(label)
    parts = np.zeros((len(verdict), 3 * len(who)))
    at = np.flatnonzero(used)
    place = 3 * np.array([who[c] for c in candidate])
    parts[at, place[at]] = 1
    parts[at, place[at] + 1] = verdict[at] == positive
    parts[at, place[at] + 2] = label[at] == positive

    def scores(sums: ndarray) -> tuple[ndarray, ndarray]:
        by = sums.reshape(*sums.shape[:-1], len(who), 3)
        return ratio(by[..., 1], by[..., 0]), ratio(by[..., 2], by[..., 0])

    def rho(sums: ndarray) -> ndarray:
        return _pearson(*(stats.rankdata(s, axis=-1) for s in scores(sums)))

    def tau(sums: ndarray) -> ndarray:
        return _tau(*scores(sums))

    def gap(sums: ndarray) -> ndarray:
        one, two = scores(sums)
        return np.nanmean(np.abs(one - two), axis=-1)

    n = len(who)
    return [
        Measure(
            "candidate_spearman",
            "coefficient",
            f"rank correlation of {n} candidates' scores by judge and label",
            used,
            parts,
            rho,
        ),
        Measure("candidate_kendall", "coefficient", "Kendall's tau-b of the same scores", used, parts, tau),
        Measure(
            "candidate_gap",
            "rate",
            "mean absolute difference of candidates' scores by judge and label",
            used,
            parts,
            gap,
        ),
    ]


def _pearson(x: ndarray, y: ndarray) -> ndarray:
    a, b = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    return ratio((a * b).sum(-1), np.sqrt((a**2).sum(-1) * (b**2).sum(-1)))


def _tau(x: ndarray, y: ndarray) -> ndarray:
    """Kendall's tau-b along the last axis."""
    upper = np.triu_indices(x.shape[-1], 1)
    dx = np.sign(x[..., upper[0]] - x[..., upper[1]])
    dy = np.sign(y[..., upper[0]] - y[..., upper[1]])
    return ratio((dx * dy).sum(-1), np.sqrt((dx != 0).sum(-1) * (dy != 0).sum(-1) * 1.0))
