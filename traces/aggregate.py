"""Masked means of aligned scores per relative position, with pointwise and simultaneous bands.

Rollouts differ in length, so a mean over positions needs a mask. Filling up with zeros instead draws a rising "plateau"
from constant scores; `as_published` does so on purpose, for comparison with the published curve.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import optimize, stats
from scipy.interpolate import CubicSpline
from scipy.special import expit

from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import SEGMENTS
from verdictscope.stats import RESAMPLES, draw_clusters, percentile_interval
from verdictscope.traces.landmarks import one_readout
from verdictscope.values import whole_number

WRITTEN = ("thinking", "think_end", "answer", "verdict")
"""Segments a curve is made of unless asked: 40 tokens before the end of short thinking lies the prompt."""

FEWEST = 8
"""Prompt groups a position needs to be part of a simultaneous band: with fewer its standard error is no guide."""


def aggregate(
    aligned: pd.DataFrame,
    by: Sequence[str] = ("readout", "layer"),
    *,
    on: str = "rel_think_end",
    window: tuple[int, int] = (-40, 8),
    value: str = "score",
    segments: Sequence[str] = WRITTEN,
    complete: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Masked mean of scores per relative position, with pointwise and simultaneous bands over prompt groups.

    The masked mean at a position is over the rollouts that reach it, so where long rollouts score otherwise than short
    ones the curve also changes with the set of rollouts; ``complete`` takes the same rollouts everywhere.

    Args:
        aligned: from `align`, with any further columns named in ``by`` (cell, variant, ...).
        by: columns whose combinations get a curve each.
        on: what positions count from: ``rel_prompt_end rel_thinking rel_think_end rel_answer rel_verdict``, or ``bin``
            of `relative_time`.
        window: first and last relative position, both included.
        value: the column averaged, for example ``score`` or ``normalised``; missing values are masked.
        segments: segments that count. Without the prompt's, a rollout whose thinking is shorter than the window does
            not contribute its prompt tokens to "40 tokens before the end of thinking".
        complete: only rollouts with a score at every place of the window that any rollout reaches.
        resamples: bootstrap resamples of groups.
        seed: seed of the draws.

    Returns:
        ``*by, on, estimate, low, high, low_all, high_all, n, n_groups``: n counts the rollouts that reach the position.
        Positions no rollout reaches have no row. The pointwise band low to high is NaN where one group is left. The
        simultaneous band low_all to high_all holds the whole curve in 95 % of cases (`simultaneous_band`); NaN where
        fewer than eight groups are left.

    Raises:
        InputError: columns are missing, a setting is out of range, an unknown segment, or a curve would hold two
            scores of one token.

    Example:
        >>> from verdictscope.traces.planted import planted_scores
        >>> curve = aggregate(planted_scores("x", 8, 2.0, -1.0), window=(-1, 1), resamples=50)
        >>> curve[["rel_think_end", "estimate", "n"]].to_numpy().tolist()
        [[-1.0, 2.0, 8.0], [0.0, -1.0, 8.0], [1.0, -1.0, 8.0]]
    """
    missing = [c for c in ("rollout", "group", "segment", on, value, *by) if c not in aligned.columns]
    if missing:
        raise InputError(f"the aligned scores lack {', '.join(missing)}; call align first and merge what `by` names")
    whole_number(resamples, "resamples"), whole_number(seed, "seed")
    low, high = window
    if not low <= high:
        raise InputError(f"window {tuple(window)}: give the first and the last relative position, in this order")
    if unknown := sorted({str(s) for s in segments} - set(SEGMENTS)):
        raise InputError(f"segments has {unknown[0]!r}: a segment is one of {', '.join(SEGMENTS)}")
    if not segments:
        raise InputError("segments is empty: name those that count")
    rows = aligned[aligned[value].notna() & aligned["segment"].isin(segments)]
    rows = rows[rows[on].between(low, high).fillna(False).astype(bool)]
    if rows.duplicated([*by, "rollout", on]).any():
        raise InputError(
            f"several scores of one token under {list(by)}; add the column that separates them (layer, variant, ...)"
        )
    curves = []
    for key, part in rows.groupby(list(by), sort=True, dropna=False, observed=True) if by else [((), rows)]:
        if complete:
            reached = part.groupby("rollout")[on].transform("size")
            part = part[reached == part[on].nunique()]
        if part.empty:
            continue
        curve = _curve(part, on, value, resamples, seed)
        curves.append(curve.assign(**dict(zip(by, key, strict=True)))[[*by, *curve.columns]])
    empty = pd.DataFrame(columns=[*by, on, "estimate", "low", "high", "low_all", "high_all", "n", "n_groups"])
    return pd.concat(curves, ignore_index=True) if curves else empty


def _curve(rows: pd.DataFrame, on: str, value: str, resamples: int, seed: int) -> pd.DataFrame:
    """One masked mean curve; sums and counts per (group, position) carry the whole bootstrap."""
    at = rows[on].to_numpy(dtype=int)
    places = np.unique(at)
    drawn = draw_clusters(rows["group"], resamples, seed)
    column = np.searchsorted(places, at)
    total, count = np.zeros((drawn.n, len(places))), np.zeros((drawn.n, len(places)))
    np.add.at(total, (drawn.codes, column), rows[value].to_numpy(dtype=float))
    np.add.at(count, (drawn.codes, column), 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (drawn.counts @ total) / (drawn.counts @ count)
    n_groups = (count > 0).sum(axis=0)
    low, high = percentile_interval(draws, n_groups)
    n = count.sum(axis=0)
    estimate = total.sum(0) / n
    low_all, high_all = simultaneous_band(estimate, draws, n_groups)
    return pd.DataFrame(
        {on: places, "estimate": estimate, "low": low, "high": high, "low_all": low_all, "high_all": high_all}
        | {"n": n.astype(int), "n_groups": n_groups}
    )


def simultaneous_band(
    estimate: Float[ndarray, " place"],
    draws: Float[ndarray, "resample place"],
    n_groups: Int[ndarray, " place"],
    confidence: float = 0.95,
) -> tuple[Float[ndarray, " place"], Float[ndarray, " place"]]:
    """Band that holds a whole curve."""
    low, high = np.full(len(estimate), np.nan), np.full(len(estimate), np.nan)
    wide = n_groups >= FEWEST
    if not wide.any():
        return low, high
    se = np.nanstd(draws[:, wide], axis=0)
    groups, half = n_groups[wide].astype(float), np.zeros(int(wide.sum()))
    spread = se > 0  # a place without spread bounds nothing: constant scores have a band of no width
    if spread.any():
        apart = draws[:, wide][:, spread]
        apart = (apart - np.nanmean(apart, axis=0)) / se[spread]
        tail = stats.norm.sf(_common_width(np.nanmean(apart[:, 1:] * apart[:, :-1], axis=0), 1 - confidence))
        few = groups[spread]
        half[spread] = stats.t.isf(tail, few - 1) * np.sqrt(few / (few - 1)) * se[spread]
    low[wide], high[wide] = estimate[wide] - half, estimate[wide] + half
    return low, high


def _common_width(alike: Float[ndarray, " pair"], miss: float) -> float:
    """Width in standard errors outside which a chain of normal places lies anywhere with a probability of ``miss``."""
    node, weight = np.polynomial.legendre.leggauss(32)

    def outside(width: float) -> float:
        # both beyond the width: the bivariate normal's tail as an integral over the correlation (Plackett, 1954)
        both = np.zeros(len(alike))
        for r in (alike, -alike):
            angle = np.arcsin(np.clip(r, -1.0, 1.0))[:, None] / 2
            density = np.exp(-(width**2) / (1 + np.sin(angle * (node + 1)))) / (2 * np.pi)
            both += 2 * (stats.norm.sf(width) ** 2 + (angle * weight * density).sum(axis=1))
        return float((len(alike) + 1) * 2 * stats.norm.sf(width) - both.sum() - miss)

    return float(optimize.brentq(outside, 0.5, 12.0))


def as_published(aligned: pd.DataFrame, *, points: int = 100, probability: bool = True) -> pd.DataFrame:
    """The averaged trajectory of earlier code, kept for comparison only. Its rise is made by length variation."""
    rows = one_readout(aligned)
    rows = rows[(rows["rel_answer"] < 0).fillna(False).astype(bool)]
    if rows.empty:
        raise InputError("no scores before an answer position")
    score = rows["score"].to_numpy(dtype=float)
    back = -rows["rel_answer"].to_numpy(dtype=int)
    score = expit(score) if probability else score
    n, longest = rows["rollout"].nunique(), int(back.max())
    mean = np.bincount(longest - back, weights=score, minlength=longest) / n
    padding = 1 - np.bincount(longest - back, minlength=longest) / n
    x = np.linspace(0, longest - 1, points)
    padding = np.interp(x, np.arange(longest), padding)
    mean = CubicSpline(np.arange(longest), mean)(x) if longest > 1 else np.full(points, mean[0])
    return pd.DataFrame({"percent": np.arange(points) * 100 / points, "score": mean, "share_padding": padding})
