"""Where a score changes its level: location, size and an interval that knows neighbouring tokens are alike.

A step in noise of first-order autoregression, s_t = mean + size [t >= location] + e_t. Whitening turns the step into a
spike and a remainder, so the likelihood of every location comes from running sums. The interval holds every location
that a test at 5 % does not refute: the change is put there, levels and noise are drawn given what the series says of
them if it is true (their sufficient statistics, so that the size of the step, which the best location exaggerates, need
not be known; Worsley, Biometrika 73, 1986), and everything is fitted anew. Textbook limits take tokens as independent
and steps as small (Bai, Review of Economics and Statistics 79, 1997). With independent tokens and no trend the location
is the least-squares one that ``ruptures`` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats
from scipy.signal import lfilter

from verdictscope.errors import InputError

EDGE = 2
"""Fewest tokens on either side of a change."""
WINDOW = (256, 1024)
"""Fewest and most tokens on either side of the first guess that the fit rests on: levels drift over thousands of
tokens. Between the two, 40 times the tokens it takes to tell a step of this size in noise so correlated."""
TRENDS = 3
"""Most cosines tried where the trend is chosen."""
RESAMPLES = 199


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
        trend: slow cosines fitted beneath the step.
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
    trend: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"no change point: {self.reason}"
        return (
            f"change of {self.size:.3g} [{self.size_low:.3g}, {self.size_high:.3g}] at token {self.location} "
            f"[{self.low}, {self.high}] of {self.n}, neighbours correlated {self.correlation:.2f}"
        )


def change_point(
    scores: Iterable[float],
    *,
    trend: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
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
    fewest = 2 * EDGE + (trend or 0) + 4
    if len(y) < fewest:
        return _nothing(len(y), f"{len(y)} tokens, {fewest} are needed")
    if np.ptp(y) <= 1e-12 * max(1.0, np.abs(y).max()):
        return _nothing(len(y), "the scores are constant")
    start, stop = _window(y, trend)
    own = y[None, start:stop]
    fit, basis = _chosen(own, trend)
    low, high = _interval(own, fit, basis, resamples, seed, confidence)
    at, held = int(fit.location[0]), slice(low, high + 1)
    off = stats.t.isf((1 - confidence) / 2, fit.free) * fit.errors()[0, held]
    sizes = fit.sizes[0, held]
    return ChangePoint(
        start + at, start + low, start + high, float(fit.size[0]), float((sizes - off).min()),
        float((sizes + off).max()), float(fit.rho[0]), float(fit.deviation()[0]), len(y), len(basis) - 1,
    )  # fmt: skip


def change_points(
    series: Iterable[tuple[str, Iterable[float]]],
    *,
    trend: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
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
    return ChangePoint(None, None, None, nan, nan, nan, nan, nan, n, reason=reason)


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
    room: Float[ndarray, "series token"]
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

    def errors(self) -> Float[ndarray, "series token"]:
        """Standard error of the size at every location, were it the true one."""
        return np.sqrt(np.maximum(self.rest[:, None] - self.gain, 1e-300) / self.free / self.room)

    def bic(self) -> float:
        """Of the first series, less what all trends share (levels are those of a step and the cosines)."""
        n = self.gain.shape[1]
        return float(n * np.log(self.variance()[0] * self.free) - np.log(1 - self.rho[0] ** 2) - self.free * np.log(n))

    def lacking(self) -> Float[ndarray, "series token"]:
        """Log-likelihood of every location below that of the best one; infinite at the edges."""
        n = self.gain.shape[1]
        height = -n / 2 * np.log(np.maximum(self.rest[:, None] - self.gain, 1e-300))
        height[:, :EDGE], height[:, n - EDGE + 1 :] = -np.inf, -np.inf
        return np.take_along_axis(height, self.location[:, None], 1) - height


def _window(y: Float[ndarray, " token"], trend: int | None) -> tuple[int, int]:
    """First and last token (exclusive) the fit rests on."""
    n = len(y)
    if n <= 2 * WINDOW[0]:
        return 0, n
    fit, _ = _chosen(y[None], trend)
    alike = (1 + fit.rho[0]) / (1 - fit.rho[0])
    scale = 40 * alike * (fit.deviation()[0] / max(abs(float(fit.size[0])), 1e-300)) ** 2
    reach, at = int(np.clip(scale, *WINDOW)), int(fit.location[0])
    return max(0, at - reach), min(n, at + reach)


def _chosen(y: Float[ndarray, "1 token"], trend: int | None) -> tuple[_Fit, Float[ndarray, "basis token"]]:
    """The fit with the trend asked for, or with that of the smallest BIC."""
    n = y.shape[1]
    tried = range(min(TRENDS, n // 16) + 1) if trend is None else (trend,)
    fits = [(_fit(y, basis), basis) for basis in (_basis(n, k) for k in tried)]
    return min(fits, key=lambda f: f[0].bic())


def _interval(
    y: Float[ndarray, "1 token"], fit: _Fit, basis: ndarray, resamples: int, seed: int, confidence: float
) -> tuple[int, int]:
    """First and last location that is not refuted, each sought outwards from the best one."""
    n, at = y.shape[1], int(fit.location[0])
    white = np.random.default_rng(seed).normal(size=(resamples, n))
    lacking = fit.lacking()

    def stands(t: int) -> bool:
        again = _fit(_placed(y, basis, t, white), basis, float(_correlation(y, np.array([t]), basis)[0]))
        observed, null = _beyond(lacking, fit.location, t), _beyond(again.lacking(), again.location, t)
        return (1 + int((null >= observed[0]).sum())) / (resamples + 1) > 1 - confidence

    behind, ahead = lacking[0, at::-1], lacking[0, at:]
    return at - _farthest(lambda t: stands(at - t), behind), at + _farthest(lambda t: stands(at + t), ahead)


def _farthest(stands: Callable[[int], bool], lacking: Float[ndarray, " distance"]) -> int:
    """Distance from the peak to the farthest location that stands.

    Only locations likelier than all beyond them can be an end; among those, by halving.
    """
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
    rho = _correlation(y, np.array([t]), basis)[:, None]
    step = (np.arange(y.shape[1]) >= t).astype(float)
    q, _ = np.linalg.qr(_whitened(np.vstack([basis, step]), rho).T)
    seen = _whitened(y, rho)[0]
    levels = q @ (q.T @ seen)
    noise = white - (white @ q) @ q.T
    noise *= np.linalg.norm(seen - levels) / np.linalg.norm(noise, axis=1, keepdims=True)
    return _coloured(levels + noise, float(rho[0, 0]))


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
    return _Fit(location, rho, gain, rest, product / room, room, n - len(basis) - 1)


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


def _coloured(white: Float[ndarray, "series token"], rho: float) -> Float[ndarray, "series token"]:
    """The inverse of `_whitened`."""
    first = white[:, :1] / np.sqrt(1 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], np.concatenate([first, white[:, 1:]], axis=1), axis=1))


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
