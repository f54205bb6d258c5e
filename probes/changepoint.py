"""Where a score changes its level: location, size and an interval that knows neighbouring tokens are alike.

A step in noise of first-order autoregression, s_t = mean + size [t >= location] + e_t. Whitening turns the step into a
spike and a remainder, so the likelihood of every location comes from running sums. The interval holds the locations
whose likelihood lies near enough to the best one's; how near is simulated from the fitted model, with everything fitted
anew, because the textbook limits take tokens as independent and steps as small (Bai, Review of Economics and Statistics
79, 1997). With independent tokens and no trend the location is the least-squares one that ``ruptures`` finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.signal import lfilter

from verdictscope.errors import InputError

EDGE = 2
"""Fewest tokens on either side of a change."""
WINDOW = 256
"""Tokens on either side of the first guess that the fit rests on: levels drift over thousands of tokens."""
RESAMPLES = 200


@dataclass(frozen=True)
class ChangePoint:
    """One change of level. It shows where a score moves most abruptly; there is a location even where nothing moves, so
    look at the size and its interval first.

    Attributes:
        location: the first token of the new level, from 0.
        low: first location of the 95 % interval.
        high: last location of it.
        size: new level minus old.
        size_low: lower end of the size's 95 % interval.
        size_high: upper end.
        correlation: of neighbouring tokens, as fitted.
        deviation: standard deviation of the noise.
        n: tokens looked at.
        reason: why there is no change point, empty where there is.
    """

    location: int | None
    low: int | None
    high: int | None
    size: float
    size_low: float
    size_high: float
    correlation: float
    deviation: float
    n: int
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"no change point: {self.reason}"
        return (
            f"change of {self.size:.3g} [{self.size_low:.3g}, {self.size_high:.3g}] at token {self.location} "
            f"[{self.low}, {self.high}] of {self.n}, neighbours correlated {self.correlation:.2f}"
        )


def change_point(
    scores: Iterable[float], *, trend: int = 0, resamples: int = RESAMPLES, seed: int = 0, confidence: float = 0.95
) -> ChangePoint:
    """Find the one change of level in a sequence of scores.

    Args:
        scores: one per token, without gaps.
        trend: how many slow cosines (half a wave over the window, a whole wave, ...) may run beneath the step; 0 takes
            the levels as constant. A drift that is not fitted pulls the location and makes its interval too short.
        resamples: simulations behind the interval.
        seed: of the simulations.
        confidence: coverage aimed at; how well it is met stands in docs/evidence/changepoint.json.

    Raises:
        InputError: scores are not finite.
    """
    y = np.asarray(list(scores), dtype=float)
    if not np.isfinite(y).all():
        raise InputError("the scores hold NaN or infinity; leave such tokens out")
    fewest = 2 * EDGE + trend + 4
    if len(y) < fewest:
        return _nothing(len(y), f"{len(y)} tokens, {fewest} are needed")
    if np.ptp(y) <= 1e-12 * max(1.0, np.abs(y).max()):
        return _nothing(len(y), "the scores are constant")
    start, stop = 0, len(y)
    if len(y) > 2 * WINDOW:
        first = int(_fit(y[None], _basis(len(y), trend)).location[0])
        start, stop = max(0, first - WINDOW), min(len(y), first + WINDOW)
    own, basis = y[None, start:stop], _basis(stop - start, trend)
    fit = _fit(own, basis)
    inside, sizes = _near(fit, basis, resamples, seed, confidence)
    tail = (1 - confidence) / 2
    low, high = np.quantile(sizes, [tail, 1 - tail])
    at, size = int(fit.location[0]), float(fit.size[0])
    where = start + np.flatnonzero(inside)
    # the simulated errors turned around the estimate
    ends = 2 * size - float(high), 2 * size - float(low)
    return ChangePoint(
        start + at, int(where[0]), int(where[-1]), size, *ends, float(fit.rho[0]), float(fit.deviation()[0]), len(y)
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
    """
    rows = []
    for i, (name, scores) in enumerate(series):
        stream = int(np.random.SeedSequence([seed, i]).generate_state(1)[0])
        found = change_point(scores, trend=trend, resamples=resamples, seed=stream)
        rows.append({"name": name, **{f: getattr(found, f) for f in ChangePoint.__dataclass_fields__}})
    table = pd.DataFrame(rows, columns=["name", *ChangePoint.__dataclass_fields__])
    return table.astype(dict.fromkeys(("location", "low", "high"), "Int64"))


def _nothing(n: int, reason: str) -> ChangePoint:
    nan = float("nan")
    return ChangePoint(None, None, None, nan, nan, nan, nan, nan, n, reason)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Steps fitted to many series of one length.

    ``gain`` is what a step at each location takes from the residual sum ``rest``.
    """

    location: Int[ndarray, " series"]
    rho: Float[ndarray, " series"]
    gain: Float[ndarray, "series token"]
    rest: Float[ndarray, " series"]
    sizes: Float[ndarray, "series token"]
    free: int

    @property
    def size(self) -> Float[ndarray, " series"]:
        return np.take_along_axis(self.sizes, self.location[:, None], 1)[:, 0]

    def variance(self) -> Float[ndarray, " series"]:
        """Of the innovations."""
        taken = np.take_along_axis(self.gain, self.location[:, None], 1)[:, 0]
        return np.maximum(self.rest - taken, 1e-300) / self.free

    def deviation(self) -> Float[ndarray, " series"]:
        """Of the noise itself."""
        return np.sqrt(self.variance() / (1 - self.rho**2))

    def lacking(self) -> Float[ndarray, "series token"]:
        """Log-likelihood of every location below that of the best one; infinite at the edges."""
        n = self.gain.shape[1]
        height = -n / 2 * np.log(np.maximum(self.rest[:, None] - self.gain, 1e-300))
        height[:, :EDGE], height[:, n - EDGE + 1 :] = -np.inf, -np.inf
        return np.take_along_axis(height, self.location[:, None], 1) - height


def _near(
    fit: _Fit, basis: Float[ndarray, "basis token"], resamples: int, seed: int, confidence: float
) -> tuple[Bool[ndarray, " token"], Float[ndarray, " resample"]]:
    """Locations within the interval, and the sizes refitted in simulations of the fit."""
    rng, n, at = np.random.default_rng(seed), fit.gain.shape[1], int(fit.location[0])
    size, rho = float(fit.size[0]), float(fit.rho[0])
    steps = np.arange(n) >= at
    noise = autoregression(rng, resamples, n, rho) * float(fit.deviation()[0])
    again = _fit(noise + size * steps, basis, rho)
    apart = np.quantile(again.lacking()[:, at], confidence, method="higher")
    return fit.lacking()[0] <= apart, again.size


def _fit(
    y: Float[ndarray, "series token"], basis: Float[ndarray, "basis token"], start: float | int | None = None
) -> _Fit:
    """Location and correlation in turns: two rounds settle them, one where a good start is known."""
    fit = _scan(y, np.full(len(y), start or 0.0), basis)
    for _ in range(2 if start is None else 1):
        fit = _scan(y, _correlation(y, fit.location, basis), basis)
    return fit


def _scan(y: Float[ndarray, "series token"], rho: Float[ndarray, " series"], basis: ndarray) -> _Fit:
    """A step at every location by generalised least squares.

    The whitened step is 1 at its location and 1 - rho after it, so its products with anything are running sums.
    """
    n, r = y.shape[1], rho[:, None]
    rest_of_step, after = 1 - r, np.arange(n - 1, -1, -1)[None]
    white = _whitened(y, r)
    rest = (white**2).sum(axis=1)
    product, room = white + rest_of_step * _after(white), 1 + rest_of_step**2 * after
    for q in _orthonormal([_whitened(np.broadcast_to(b, y.shape), r) for b in basis]):
        along, shared = (q * white).sum(axis=1), q + rest_of_step * _after(q)
        product, room, rest = product - shared * along[:, None], room - shared**2, rest - along**2
    room = np.maximum(room, 1e-9)
    gain = product**2 / room
    location = EDGE + np.argmax(gain[:, EDGE : n - EDGE + 1], axis=1)
    return _Fit(location, rho, gain, rest, product / room, n - len(basis) - 1)


def _correlation(
    y: Float[ndarray, "series token"], location: Int[ndarray, " series"], basis: ndarray
) -> Float[ndarray, " series"]:
    """Lag-one correlation of what a step at a location leaves, less what fitting the levels takes from it.

    Each fitted level lowers it by about (1 + rho) / n, and estimating rho itself by 2 rho / n (Marriott and Pope,
    Biometrika 41, 1954, for one mean).
    """
    n, levels = y.shape[1], len(basis) + 1
    step = (np.arange(n)[None] >= location[:, None]).astype(float)
    left = y
    for q in _orthonormal([*(b[None] for b in basis), step]):
        left = left - q * (q * y).sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (left[:, 1:] * left[:, :-1]).sum(axis=1) / (left**2).sum(axis=1)
    rho = np.nan_to_num(rho)
    return np.clip(rho + (levels + (levels + 2) * rho) / n, -0.5, 0.98)


def _orthonormal(columns: Sequence[Float[ndarray, "_ token"]]) -> list[Float[ndarray, "_ token"]]:
    """Regressors made orthonormal, series by series; far quicker than one small QR after the other."""
    out: list[ndarray] = []
    for column in columns:
        for q in out:
            column = column - q * (q * column).sum(axis=1, keepdims=True)
        out.append(column / np.sqrt((column**2).sum(axis=1, keepdims=True)))
    return out


def _whitened(y: Float[ndarray, "series token"], r: Float[ndarray, "series 1"]) -> Float[ndarray, "series token"]:
    out = np.empty(y.shape)
    out[:, 1:] = y[:, 1:] - r * y[:, :-1]
    out[:, :1] = np.sqrt(1 - r**2) * y[:, :1]
    return out


def _after(values: Float[ndarray, "series token"]) -> Float[ndarray, "series token"]:
    """Sum of what comes after each token."""
    out = np.zeros(values.shape)
    out[:, :-1] = np.cumsum(values[:, :0:-1], axis=1)[:, ::-1]
    return out


def _basis(n: int, trend: int) -> Float[ndarray, "basis token"]:
    """A constant and slow cosines."""
    t = (np.arange(n) + 0.5) / n
    return np.stack([np.cos(np.pi * k * t) for k in range(trend + 1)])


def autoregression(
    rng: np.random.Generator, series: int, tokens: int, rho: float | int
) -> Float[ndarray, "series token"]:
    """Stationary first-order autoregression of unit variance."""
    noise = rng.normal(size=(series, tokens))
    noise[:, 1:] *= np.sqrt(1 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], noise, axis=1))
