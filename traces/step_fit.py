"""A step in autoregressive noise, fitted at every location by generalised least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.signal import lfilter

EDGE = 2
"""Fewest tokens on either side of a change."""


@dataclass(frozen=True, eq=False)
class StepFit:
    """Steps fitted to many series of one length."""

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


def fit_step(
    y: Float[ndarray, "series token"], basis: Float[ndarray, "basis token"], start: float | int | None = None
) -> StepFit:
    """Location and correlation in turns: two rounds settle them, one where a good start is known."""
    fit = scan(y, np.full(len(y), start or 0.0), basis)
    for _ in range(2 if start is None else 1):
        fit = scan(y, correlation(y, fit.location, basis), basis)
    return fit


def scan(y: Float[ndarray, "series token"], rho: Float[ndarray, " series"], basis: ndarray) -> StepFit:
    """A step at every location by generalised least squares."""
    n, r = y.shape[1], rho[:, None]
    rest_of_step, after = 1 - r, np.arange(n - 1, -1, -1)[None]
    white = whitened(y, r)
    rest = (white**2).sum(axis=1)
    product, room = white + rest_of_step * _after(white), 1 + rest_of_step**2 * after
    for q in _orthonormal([whitened(np.broadcast_to(b, y.shape), r) for b in basis]):
        along, shared = (q * white).sum(axis=1), q + rest_of_step * _after(q)
        product, room, rest = product - shared * along[:, None], room - shared**2, rest - along**2
    room = np.maximum(room, 1e-9)
    gain = product**2 / room
    location = EDGE + np.argmax(gain[:, EDGE : n - EDGE + 1], axis=1)
    return StepFit(location, rho, gain, rest, product / room, room, n - len(basis) - 1)


def correlation(
    y: Float[ndarray, "series token"], location: Int[ndarray, " series"], basis: ndarray
) -> Float[ndarray, " series"]:
    """Lag-one correlation of what a step at a location leaves, less what fitting the levels takes from it."""
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


def whitened(y: Float[ndarray, "series token"], r: Float[ndarray, "_ 1"]) -> Float[ndarray, "series token"]:
    """What is new at each token; r has a row for each series, or one for all."""
    out = np.empty(y.shape)
    out[:, 1:] = y[:, 1:] - r * y[:, :-1]
    out[:, :1] = np.sqrt(1 - r**2) * y[:, :1]
    return out


def coloured(white: Float[ndarray, "series token"], rho: float) -> Float[ndarray, "series token"]:
    """The inverse of `whitened`."""
    first = white[:, :1] / np.sqrt(1 - rho**2)
    return np.asarray(lfilter([1.0], [1.0, -rho], np.concatenate([first, white[:, 1:]], axis=1), axis=1))


def _after(values: Float[ndarray, "series token"]) -> Float[ndarray, "series token"]:
    """Sum of what comes after each token."""
    out = np.zeros(values.shape)
    out[:, :-1] = np.cumsum(values[:, :0:-1], axis=1)[:, ::-1]
    return out


def slow_basis(n: int, trend: int) -> Float[ndarray, "basis token"]:
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
