"""From a distribution over label strings to numbers: expected scores and TrustJudge's aggregation of two orders.

TrustJudge (arXiv 2509.21117; TrustJudge/TrustJudge @ f2e887fb) reads the top twenty tokens between two brackets. Here a
distribution is over whole label strings, each teacher-forced, so that a score of two digits counts in every tokenizer
and a certain verdict is a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.values import number, shares

EPSILON = 1e-9
"""Keeps the logits of certain labels finite."""


def probabilities(logp: Float[ndarray, " label"]) -> Float[ndarray, " label"]:
    """Log-probabilities of the labels as probabilities that sum to 1: given that one of them comes."""
    values = np.asarray(logp, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values.max()):
        raise InputError("no label has any probability: is the prefix one after which a label comes?")
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def verdict_probabilities(logp: Float[ndarray, " label"], verdicts: Sequence[str]) -> dict[str, float]:
    """The probability of each verdict: the sum over the label strings that mean it."""
    found: dict[str, float] = dict.fromkeys(verdicts, 0.0)
    for verdict, p in zip(verdicts, probabilities(logp), strict=True):
        found[verdict] += float(p)
    return found


def expected_score(p: Float[ndarray, " score"], scores: Sequence[float | int]) -> float:
    """``Σ p_s s`` over a distribution that sums to 1 (G-Eval, arXiv 2303.16634, renormalised)."""
    values, at = _distribution(p, scores)
    return float(values @ at)


def distribution_sensitive(
    p: Float[ndarray, " score"], scores: Sequence[float | int], *, temperature: float = 0.2, form: str = "logit"
) -> float:
    """TrustJudge's distribution-sensitive score: the mean of the scores under sharpened weights."""
    values, at = _distribution(p, scores)
    number(temperature, "temperature", 0, above=True)
    if form not in ("logit", "probability"):
        raise InputError(f"form {form!r} is neither logit nor probability")
    z = values if form == "probability" else np.log((values + EPSILON) / (1 - values + EPSILON))
    scaled = z / temperature
    return float(np.exp(scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())) @ at)


def _distribution(p: ndarray, scores: Sequence[float | int]) -> tuple[ndarray, ndarray]:
    values, at = np.asarray(p, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if values.shape != at.shape or values.ndim != 1 or values.size == 0:
        raise InputError(f"{values.size} probabilities for {at.size} scores: give one per score")
    if values.min() < 0 or abs(values.sum() - 1) > 1e-6:
        raise InputError(f"the probabilities sum to {values.sum():.6g}: normalise them over the labels first")
    return values, at


def likelihood_aware(
    ab: Mapping[str, float], ba: Mapping[str, float], *, tolerance: float = 0.0
) -> tuple[str, dict[str, float]]:
    """TrustJudge's likelihood-aware aggregation of two orders."""
    number(tolerance, "tolerance", 0)
    for side, given in (("ab", ab), ("ba", ba)):
        if unknown := sorted(set(given) - {"first", "second", "tie"}):
            raise InputError(f"{side} has a probability of {unknown[0]!r}: verdicts are first, second and tie")
        shares(np.array(list(given.values())), side)
    turned = {"first": "second", "second": "first", "tie": "tie"}
    own = {"first": "A", "second": "B", "tie": "tie"}
    merged = {own[v]: (ab.get(v, 0.0) + ba.get(turned[v], 0.0)) / 2 for v in own}
    top, second = sorted(merged.values(), reverse=True)[:2]
    draw = top == second or top - second < tolerance  # their sums halve to these means
    return ("tie" if draw else max(merged, key=lambda v: merged[v])), merged


def less_perplexed(ab: tuple[str | None, float], ba: tuple[str | None, float]) -> str | None:
    """TrustJudge's other aggregation: the verdict of the order whose written output is the likelier per token."""
    if ab[1] == ba[1]:
        return ab[0] if ab[0] == ba[0] else "tie"
    return ab[0] if ab[1] > ba[1] else ba[0]
