"""Features standardised within a training fold, kept as the raw matrix and two vectors.

The standardised matrix of a fold is never stored in double precision: ``(X - mean) * inverse`` acts on vectors from
both sides, so all folds share one centred copy of the activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from verdictscope.errors import InputError

_SUSPECT = 1e-8
"""Share of a feature's mean square below which its variance is computed again from deviations."""


@dataclass(frozen=True, eq=False)
class Fold:
    """The training rows of one fold as standardised features ``Z = (X[rows] - mean) * inverse``."""

    X: Float[ndarray, "row d"]
    origin: Float[ndarray, " d"]
    rows: Int[ndarray, " train"]
    mean: Float[ndarray, " d"]
    inverse: Float[ndarray, " d"]

    def dense(self, dtype: type = np.float64) -> Float[ndarray, "train d"]:
        """The standardised training rows."""
        Z = self.X[self.rows].astype(dtype, copy=False)
        Z -= self.mean.astype(dtype)
        Z *= self.inverse.astype(dtype)
        return Z

    def forward(self, w: Float[ndarray, "d fit"]) -> Float[ndarray, "train fit"]:
        """``Z @ w``."""
        scaled = self.inverse[:, None] * w
        return (self.X @ scaled)[self.rows] - self.mean @ scaled

    def adjoint(self, a: Float[ndarray, "train fit"]) -> Float[ndarray, "d fit"]:
        """``Z.T @ a``."""
        everywhere = np.zeros((len(self.X), a.shape[1]))
        everywhere[self.rows] = a
        return self.inverse[:, None] * (self.X.T @ everywhere - self.mean[:, None] * a.sum(axis=0))

    def unfold(
        self, w: Float[ndarray, "d fit"], b: Float[ndarray, " fit"]
    ) -> tuple[Float[ndarray, "d fit"], Float[ndarray, " fit"]]:
        """Weights and offsets on standardised features as directions and biases in raw space."""
        direction = self.inverse[:, None] * w
        return direction, b - (self.origin + self.mean) @ direction


def fold_features(X: Any, folds: Bool[ndarray, "fold row"], scale_weight: Float[ndarray, " row"]) -> list[Fold]:
    """Standardise within the training rows of every fold.

    Means and variances of all folds are two small products with the centred matrix; features whose variance is a tiny
    share of their mean square there are computed again from deviations, so no fold's scale suffers from cancellation.
    A feature counts as constant by scikit-learn's rule (``sklearn.preprocessing.StandardScaler``).
    """
    X = np.asarray(X, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        origin = X.mean(axis=0)
    if not np.isfinite(origin).all():
        n = int((~np.isfinite(X)).any(axis=1).sum())
        raise InputError(
            f"Input X contains NaN or infinity in {n} of {len(X)} rows; drop them or capture again (fp16 overflows on "
            "massive activations)"
        )
    X = X - origin
    share = folds * scale_weight
    share = share / share.sum(axis=1, keepdims=True)
    mean, square = share @ X, share @ np.square(X)
    variance = square - np.square(mean)
    found = []
    for f, train in enumerate(folds):
        suspect = np.flatnonzero(variance[f] <= _SUSPECT * square[f])
        if len(suspect):
            apart = X[:, suspect][train]
            own = share[f][train]
            mean[f, suspect] = own @ apart
            variance[f, suspect] = own @ np.square(apart - mean[f, suspect])
        found.append(Fold(X, origin, np.flatnonzero(train), mean[f], _inverse(variance[f], mean[f] + origin, train)))
    return found


def _inverse(variance: ndarray, mean: ndarray, train: ndarray) -> ndarray:
    n, eps = int(train.sum()), np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + np.square(n * mean * eps)
    return np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, variance)))
