"""Where a score changes its level: location, size and an interval that knows neighbouring tokens are alike.

A step in noise of first-order autoregression, s_t = mean + size [t >= location] + e_t. Whitening turns the step into a
spike and a remainder, so the likelihood of every location comes from running sums. The interval holds every location
that a test at 5 % does not refute: the change is put there, levels and noise are drawn given what the series says of
them if it is true (their sufficient statistics, so that the size of the step, which the best location exaggerates, need
not be known; Worsley, Biometrika 73, 1986), and everything is fitted again. Textbook limits take tokens as independent
and steps as small (Bai, Review of Economics and Statistics 79, 1997). With independent tokens and no trend the location
is the least-squares one that ``ruptures`` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats

from verdictscope.errors import InputError
from verdictscope.stats import permutation_p
from verdictscope.traces.step_fit import EDGE, StepFit, coloured, correlation, fit_step, slow_basis, whitened
from verdictscope.values import number, whole_number

WINDOW = (256, 1024)
"""Fewest and most tokens on either side of the first guess that the fit rests on: levels drift over thousands of
tokens. Between the two, 40 times the tokens it takes to tell the least step that may be meant in such noise; the most
where a trend is fitted, beside which a step is harder to place."""
TRENDS, CLEARLY = 3, 2.0
"""Most cosines a drift is looked for with, and the difference of BIC that is evidence of one (Kass and Raftery, Journal
of the American Statistical Association 90, 1995)."""
RESAMPLES = 199


@dataclass(frozen=True)
class ChangePoint:
    """One change of level. It shows where a score moves most abruptly; there is a location even where nothing moves, so
    look at the size and its interval first."""

    location: int | None
    low: int | None
    high: int | None
    size: float
    size_low: float
    size_high: float
    correlation: float
    deviation: float
    n: int
    drift: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"no change point: {self.reason}"
        return (
            f"change of {self.size:.3g} [{self.size_low:.3g}, {self.size_high:.3g}] at token {self.location} "
            f"[{self.low}, {self.high}] of {self.n}, neighbours correlated {self.correlation:.2f}"
            + (f"; levels drift (trend={self.drift} fits better): the intervals are too short" if self.drift else "")
        )


def change_point(
    scores: Iterable[float], *, trend: int = 0, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> ChangePoint:
    """Find the one change of level in a sequence of scores.

    Args:
        scores: one per token, without gaps.
        trend: how many slow cosines (half a wave over the window, a whole wave, ...) run beneath the step; 0 takes the
            levels as constant. A drift that is not fitted pulls the location and makes its interval too short; one that
            is fitted leaves little to tell a small step by. Three hold a wave of the length of the window.
        resamples: simulations behind the interval.
        seed: of the simulations.
        confidence: coverage aimed at; how well it is met stands in docs/evidence/changepoint.json. Of 50 tokens whose
            neighbours are correlated by .9 it is about 90 %: so few do not tell how alike they are.

    Raises:
        InputError: scores are not finite, or a setting is out of range.

    Example:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).normal(size=60)
        >>> found = change_point(noise + 5 * (np.arange(60) >= 40))
        >>> found.location, found.size > 4
        (40, True)
    """
    whole_number(trend, "trend"), whole_number(resamples, "resamples", 1), whole_number(seed, "seed")
    number(confidence, "confidence", 0, 1, above=True)
    y = np.asarray(list(scores), dtype=float)
    if not np.isfinite(y).all():
        raise InputError("the scores hold NaN or infinity; leave such tokens out")
    fewest = 2 * EDGE + trend + 4
    if len(y) < fewest:
        return _nothing(len(y), f"{len(y)} tokens, {fewest} are needed")
    if np.ptp(y) <= 1e-12 * max(1.0, np.abs(y).max()):
        return _nothing(len(y), "the scores are constant")
    start, stop = _window(y, trend)
    own, basis = y[None, start:stop], slow_basis(stop - start, trend)
    fit = fit_step(own, basis)
    low, high = _interval(own, fit, basis, resamples, seed, confidence)
    at, held = int(fit.location[0]), slice(low, high + 1)
    off = stats.t.isf((1 - confidence) / 2, fit.free) * fit.errors()[0, held]
    sizes = fit.sizes[0, held]
    # cosines that lower BIC most, where they lower it clearly
    n, best, least = own.shape[1], 0, fit.bic() - CLEARLY
    for k in range(trend + 1, min(TRENDS, n // 64) + 1):
        bic = fit_step(own, slow_basis(n, k)).bic()
        if bic < least:
            best, least = k, bic
    return ChangePoint(
        start + at,
        start + low,
        start + high,
        float(fit.size[0]),
        float((sizes - off).min()),
        float((sizes + off).max()),
        float(fit.rho[0]),
        float(fit.deviation()[0]),
        len(y),
        best,
    )


def change_points(
    series: Iterable[tuple[str, Iterable[float]]], *, trend: int = 0, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """`change_point` of many sequences: a row each, ``name`` and the fields of `ChangePoint`.

    Args:
        series: name and scores.
        trend: as of `change_point`.
        resamples: likewise.
        seed: each sequence gets a stream of its own from it.

    Raises:
        InputError: as `change_point`.

    Example:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).normal(size=60)
        >>> change_points([("r0", noise + 5 * (np.arange(60) >= 40))])["location"].tolist()
        [40]
    """
    whole_number(seed, "seed")
    rows = []
    for i, (name, scores) in enumerate(series):
        stream = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        found = change_point(scores, trend=trend, resamples=resamples, seed=stream)
        rows.append({"name": name, **{f: getattr(found, f) for f in ChangePoint.__dataclass_fields__}})
    table = pd.DataFrame(rows, columns=["name", *ChangePoint.__dataclass_fields__])
    return table.astype(dict.fromkeys(("location", "low", "high"), "Int64"))


def _nothing(n: int, reason: str) -> ChangePoint:
    nan = float("nan")
    return ChangePoint(None, None, None, nan, nan, nan, nan, nan, n, reason=reason)


def _window(y: Float[ndarray, " token"], trend: int) -> tuple[int, int]:
    """First and last token (exclusive) the fit rests on."""
    n = len(y)
    if n <= 2 * WINDOW[0]:
        return 0, n
    fit = fit_step(y[None], slow_basis(n, trend))
    alike = (1 + fit.rho[0]) / (1 - fit.rho[0])
    at = int(fit.location[0])
    # the best location exaggerates the size, and a window cut by it may leave the step outside
    least = max(abs(float(fit.size[0])) - 2 * float(fit.errors()[0, at]), 1e-9 * float(fit.deviation()[0]), 1e-300)
    scale = 40 * alike * (fit.deviation()[0] / least) ** 2
    reach = WINDOW[1] if trend else int(np.clip(scale, *WINDOW))
    return max(0, at - reach), min(n, at + reach)


def _interval(
    y: Float[ndarray, "1 token"], fit: StepFit, basis: ndarray, resamples: int, seed: int, confidence: float
) -> tuple[int, int]:
    """First and last location that is not refuted, each sought outwards from the best one."""
    n, at = y.shape[1], int(fit.location[0])
    white = np.random.default_rng(seed).normal(size=(resamples, n))
    lacking = fit.lacking()

    def stands(t: int) -> bool:
        again = fit_step(_placed(y, basis, t, white), basis, float(correlation(y, np.array([t]), basis)[0]))
        observed, null = _beyond(lacking, fit.location, t), _beyond(again.lacking(), again.location, t)
        return permutation_p(observed[0], null) > 1 - confidence

    behind, ahead = lacking[0, at::-1], lacking[0, at:]
    return at - _farthest(lambda t: stands(at - t), behind), at + _farthest(lambda t: stands(at + t), ahead)


def _farthest(stands: Callable[[int], bool], lacking: Float[ndarray, " distance"]) -> int:
    """Distance from the peak to the farthest location that stands."""
    ends = np.flatnonzero(np.isfinite(lacking) & (lacking <= np.minimum.accumulate(lacking[::-1])[::-1]))
    good, bad = 0, len(ends)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if stands(int(ends[middle])) else (good, middle)
    return int(ends[good])


def _beyond(
    lacking: Float[ndarray, "series token"], peak: Int[ndarray, " series"], t: int
) -> Float[ndarray, " series"]:
    """How much likelihood is lost at best from t outwards, away from the peak: an interval closes over its gaps."""
    return np.where(t >= peak, lacking[:, t:].min(axis=1), lacking[:, : t + 1].min(axis=1))


def _placed(
    y: Float[ndarray, "1 token"], basis: ndarray, t: int, white: Float[ndarray, "resample token"]
) -> Float[ndarray, "resample token"]:
    """Series drawn given that the change is at t: levels as fitted there, noise new but of the same residual sum."""
    rho = correlation(y, np.array([t]), basis)[:, None]
    step = (np.arange(y.shape[1]) >= t).astype(float)
    q, _ = np.linalg.qr(whitened(np.vstack([basis, step]), rho).T)
    seen = whitened(y, rho)[0]
    levels = q @ (q.T @ seen)
    noise = white - (white @ q) @ q.T
    noise *= np.linalg.norm(seen - levels) / np.linalg.norm(noise, axis=1, keepdims=True)
    return coloured(levels + noise, float(rho[0, 0]))
