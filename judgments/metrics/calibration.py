"""Is a judge right as often as it is sure? Figures of (probability of the verdict, right or not)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.special import digamma

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.measure import Measure, absent, mean, ratio, share
from verdictscope.stats.bootstrap import Column
from verdictscope.values import probabilities, truths, whole_number

BINS = 10
"""Equal-width bins of the expected calibration error: [low, high), the last one closed."""

LEVELS = (0.8, 0.9, 0.95)
"""Levels of :func:`calibration_measures`' ``wrong_at``."""


def bin_of(confidence: Float[ndarray, " unit"], bins: int = BINS) -> ndarray:
    """The bin of every confidence; edges are the multiples of 1/bins as floating point has them."""
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, confidence, side="right")


def _checked(confidence: Column, right: Column, bins: int) -> tuple[Float[ndarray, " unit"], Bool[ndarray, " unit"]]:
    """Probabilities with gaps as NaN, and which verdicts are right: false where that is missing, and NaN then."""
    whole_number(bins, "bins", 1)
    values = probabilities(confidence, "confidence")
    hits = truths(right, "right").to_numpy(dtype=float, na_value=np.nan)
    if len(values) != len(hits):
        raise InputError(f"{len(values)} probabilities and {len(hits)} verdicts: give one of each per row")
    return np.where(np.isnan(hits), np.nan, values), hits == 1


def reliability(confidence: Column, right: Column, bins: int = BINS) -> pd.DataFrame:
    """Confidence against the share that is right, a row per bin.

    Args:
        confidence: probability of each verdict, 0 to 1; NaN rows are left out.
        right: whether it was right; rows where that is missing are left out.
        bins: number of equal-width bins.

    Returns:
        Columns bin, low, high (edges), n, confidence (mean), accuracy, accuracy_low, accuracy_high (Wilson).

    Raises:
        InputError: a probability outside 0 to 1 (percents), ``right`` is neither true nor false, or no bins.

    Example:
        >>> reliability([0.95, 0.9, 0.55], [True, False, True], bins=2)[["n", "accuracy"]].values.tolist()
        [[0.0, nan], [3.0, 0.6666666666666666]]
    """
    from verdictscope.stats import wilson

    values, hits = _checked(confidence, right, bins)
    keep = np.isfinite(values)
    values, hits = values[keep], hits[keep]
    at = bin_of(values, bins)
    rows = []
    for k in range(bins):
        inside = at == k
        n = int(inside.sum())
        share_right = float(hits[inside].mean()) if n else float("nan")
        low, high = wilson(int(hits[inside].sum()), n)
        mean_confidence = float(values[inside].mean()) if n else float("nan")
        rows.append((k, k / bins, (k + 1) / bins, n, mean_confidence, share_right, low, high))
    columns = ["bin", "low", "high", "n", "confidence", "accuracy", "accuracy_low", "accuracy_high"]
    return pd.DataFrame(rows, columns=columns)


def expected_calibration_error(confidence: Column, right: Column, bins: int = BINS) -> float:
    """Mean over verdicts of the gap between a bin's mean confidence and its share right.

    Args:
        confidence: probability of each verdict.
        right: whether it was right.
        bins: number of equal-width bins.

    Raises:
        InputError: as :func:`reliability`, or a row has a gap (a bare number cannot say how many were left out).

    Example:
        >>> round(expected_calibration_error([0.9, 0.9, 0.6], [True, False, True]), 3)
        0.4
    """
    for name, values in (("confidence", confidence), ("right", right)):
        if (gaps := pd.isna(pd.Series(values)).to_numpy()).any():
            at = int(np.argmax(gaps)) + 1
            raise InputError(f"{name} of row {at} is missing: drop such rows, or use reliability, which counts them")
    table = reliability(confidence, right, bins)
    filled = table[table["n"] > 0]
    if filled.empty:
        return float("nan")
    gaps = (filled["confidence"] - filled["accuracy"]).abs()
    return float((gaps * filled["n"]).sum() / filled["n"].sum())


def risk_coverage_area(
    confidence: Column, right: Column, weights: Float[ndarray, "resample unit"] | None = None
) -> Float[ndarray, " resample"]:
    """Area under risk against coverage: the share wrong among the k surest verdicts, trapezoid over k/n, k = 1 … n.

    Verdicts of equal confidence have no order among them. The area is the mean over all orders they could have
    (sorting alone would make it arbitrary where confidences tie, which is most of the data of a verbal confidence):
    within a tied block the k-th verdict adds the block's share wrong, and the sums over k are harmonic numbers.

    Args:
        confidence: per verdict.
        right: whether it was right.
        weights: how often each verdict counts, whole numbers; once each by default.

    Returns:
        One area per row of weights; NaN with fewer than two verdicts.

    Raises:
        InputError: a confidence is NaN or infinite, ``right`` is neither true nor false, or shapes differ.

    Example:
        >>> risk_coverage_area([0.9, 0.8, 0.6], [True, True, False]).round(3).tolist()
        [0.056]
    """
    values, hits = np.asarray(confidence, dtype=float), truths(right, "right", gaps=False).to_numpy(dtype=bool)
    if len(values) != len(hits):
        raise InputError(f"{len(values)} confidences and {len(hits)} verdicts: give one of each per row")
    if not np.isfinite(values).all():
        raise InputError(f"confidence of row {int(np.argmin(np.isfinite(values))) + 1} is missing or infinite")
    weights = np.ones((1, values.size)) if weights is None else np.asarray(weights, dtype=float)
    if weights.ndim != 2 or weights.shape[1] != values.size:
        raise InputError(f"weights have the shape {weights.shape}: give [resample row] for {values.size} rows")
    if values.size == 0:
        return np.full(len(weights), np.nan)
    order = np.argsort(-values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    count = np.add.reduceat(weights[:, order], starts, axis=1)
    wrong = np.add.reduceat(weights[:, order] * ~hits[order], starts, axis=1)
    until, until_wrong = np.cumsum(count, axis=1), np.cumsum(wrong, axis=1)
    before, before_wrong = until - count, until_wrong - wrong
    total = until[:, -1]
    rate = np.divide(wrong, count, out=np.zeros_like(wrong), where=count > 0)
    # sum over j = 1 … count of (before_wrong + j rate) / (before + j)
    block = rate * count + (before_wrong - rate * before) * (digamma(until + 1) - digamma(before + 1))
    leader = np.argmax(count > 0, axis=1)
    first = rate[np.arange(len(rate)), leader]
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (block.sum(axis=1) - (first + until_wrong[:, -1] / total) / 2) / total
    return np.where(total >= 2, area, np.nan)


def calibration_measures(
    confidence: Column, right: Column, among: Bool[ndarray, " unit"], bins: int = BINS
) -> list[Measure]:
    """ECE, Brier score, wrong at high confidence, risk–coverage area."""
    values, hits = _checked(confidence, right, bins)
    used = np.asarray(among, dtype=bool) & np.isfinite(values)
    names = {
        "ece": f"expected calibration error, {bins} equal-width bins, the last one closed",
        "brier": "mean squared difference of the verdict's probability and whether it is right",
        "aurc": "area under risk against coverage, trapezoid, ties averaged over their orders",
    }
    if not used.any():
        return [
            absent(name, "rate", len(values), f"not measured: the log has no probabilities; {words}")
            for name, words in names.items()
        ]
    clean = np.where(used, values, 0.0)
    at = bin_of(clean, bins)
    parts = np.zeros((len(values), bins + 1))
    rows = np.flatnonzero(used)
    parts[rows, at[rows]] = clean[rows] - hits[rows]
    parts[rows, -1] = 1

    def ece(sums: ndarray) -> ndarray:
        return ratio(np.abs(sums[..., :bins]).sum(-1), sums[..., -1])

    def area(weights: ndarray) -> ndarray:
        return risk_coverage_area(values[used], hits[used], weights[:, used])

    made = [
        Measure("ece", "rate", names["ece"], used, parts, ece),
        mean("brier", np.where(used, (clean - hits) ** 2, np.nan), "rate", names["brier"]),
        mean("confidence", np.where(used, clean, np.nan), "probability", "mean probability of the verdict"),
        Measure("aurc", "rate", names["aurc"], used, statistic=area),
    ]
    for level in LEVELS:
        words = f"wrong, of the verdicts with a probability of at least {level:g}"
        made.append(share(f"wrong_at_{level:g}", ~hits, used & (values >= level), words))
    return made
