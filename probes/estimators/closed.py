"""Probes with a closed form, from rows or from streamed moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from verdictscope.errors import InputError
from verdictscope.probes.estimators.base import BinaryProbe, Probe
from verdictscope.values import number

Shrinkage = float | int | Literal["ledoit-wolf"]


class RidgeProbe(BinaryProbe):
    """Least squares on labels -1 and 1 with an L2 penalty on the standardised weights.

    Args:
        alpha: strength of the penalty against the sum of the weighted squared errors.

    Example:
        >>> import numpy as np
        >>> label = np.arange(60) % 2
        >>> X = np.random.default_rng(0).normal(size=(60, 4)) + 2 * label[:, None]
        >>> probe = RidgeProbe().fit(X, label)
        >>> probe.direction_.shape, int((probe.predict(X) == label).sum()) > 54
        ((4,), True)
    """

    def __init__(self, alpha: float | int = 1.0) -> None:
        self.alpha = alpha

    def _solve(self, X: ndarray, y: ndarray, weight: ndarray) -> None:
        self.direction_, self.bias_ = _ridge(X, 2.0 * y - 1.0, weight, self.alpha)


class ScoreProbe(RegressorMixin, Probe):
    """Ridge regression of a number, such as a judge's score, on standardised hidden states."""

    def __init__(self, alpha: float | int = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ScoreProbe:
        """Fit the probe."""
        X, y, weight = self._rows(X, y, sample_weight, numeric=True)
        used = weight > 0
        self.direction_, self.bias_ = _ridge(X[used], y[used].astype(float), weight[used], self.alpha)
        return self

    def predict(self, X: Any) -> Float[ndarray, " row"]:
        """Predicted numbers for raw hidden states ``[row d]``."""
        return self._scores(X)


class DifferenceProbe(BinaryProbe):
    """The difference in means, plain or whitened; its plane lies midway between the two means.

    Marks and Tegmark (The Geometry of Truth, 2024) call it the mass-mean probe: ``w = m1 - m0`` is for reading along
    and steering; for telling held-out rows of the same distribution apart they take ``S^-1 (m1 - m0)``, S the
    covariance within the classes.

    Args:
        whiten: multiply the difference by the inverse of the covariance within classes.
        shrinkage: how far S is drawn towards a multiple of the identity (on features of unit variance), as in
            `LdaProbe`; without whitening it is not used.

    Example:
        >>> import numpy as np
        >>> label = np.arange(60) % 2
        >>> X = np.random.default_rng(0).normal(size=(60, 4)) + 2 * label[:, None]
        >>> probe = DifferenceProbe().fit(X, label)
        >>> probe.direction_.shape, int((probe.predict(X) == label).sum()) > 54
        ((4,), True)
    """

    def __init__(self, *, whiten: bool = False, shrinkage: Shrinkage = "ledoit-wolf") -> None:
        self.whiten = whiten
        self.shrinkage = shrinkage

    def _solve(self, X: ndarray, y: ndarray, weight: ndarray) -> None:
        if self.whiten:
            self.direction_, self.bias_ = _discriminant(X, y, weight, self.shrinkage, priors=False)
            return
        means = [np.average(X[y == k], axis=0, weights=weight[y == k]) for k in (0, 1)]
        self.direction_, self.bias_ = _midway(means[1] - means[0], means)

    def fit_moments(self, n: Any, mean: Any, cov: Any = None) -> DifferenceProbe:
        """Fit from streamed moments.

        Args:
            n: rows (or their weight) of the two classes, ``[2]``.
            mean: their means, ``[2 d]``.
            cov: their covariances with denominator n, ``[2 d d]``, or the pooled one ``[d d]``; for whitening.
        """
        _fit_moments(self, n, mean, cov, priors=False)
        return self


class LdaProbe(BinaryProbe):
    """Linear discriminant analysis with a shrunk covariance within classes; its score is the log of the odds.

    Args:
        shrinkage: share of the covariance (on features of unit variance) that is replaced by a multiple of the
            identity with the same trace, 0 to 1; ``ledoit-wolf`` estimates the share (Ledoit and Wolf, Journal of
            Multivariate Analysis 2004). It is 1 where classes have no spread.

    Example:
        >>> import numpy as np
        >>> label = np.arange(60) % 2
        >>> X = np.random.default_rng(0).normal(size=(60, 4)) + 2 * label[:, None]
        >>> probe = LdaProbe().fit(X, label)
        >>> probe.direction_.shape, int((probe.predict(X) == label).sum()) > 54
        ((4,), True)
    """

    def __init__(self, *, shrinkage: Shrinkage = "ledoit-wolf") -> None:
        self.shrinkage = shrinkage

    def _solve(self, X: ndarray, y: ndarray, weight: ndarray) -> None:
        self.direction_, self.bias_ = _discriminant(X, y, weight, self.shrinkage, priors=True)

    def fit_moments(self, n: Any, mean: Any, cov: Any) -> LdaProbe:
        """Fit from streamed moments: as `DifferenceProbe.fit_moments`, with a number as shrinkage."""
        _fit_moments(self, n, mean, cov, priors=True)
        return self


def ledoit_wolf_share(Z: Float[ndarray, "row d"], weight: Float[ndarray, " row"]) -> float:
    """Ledoit and Wolf's shrinkage of the covariance of centred rows, weights counting as repetitions.

    Computed from the smaller of ``Z Z.T`` and ``Z.T Z``; the same number as scikit-learn's
    ``ledoit_wolf_shrinkage(Z, assume_centered=True)``.
    """
    n, d = float(weight.sum()), Z.shape[1]
    rows = Z * np.sqrt(weight)[:, None]
    squares = np.square(Z).sum(axis=1)
    total = float(weight @ squares) / n  # the trace
    gram = rows @ rows.T if len(Z) < d else rows.T @ rows
    frobenius = float(np.square(gram).sum()) / n**2
    spread = (float(weight @ np.square(squares)) / n - frobenius) / n
    apart = frobenius - total**2 / d
    return 1.0 if apart <= 0 else float(min(spread / apart, 1.0))


def _ridge(X: ndarray, y: ndarray, weight: ndarray, alpha: float | int) -> tuple[ndarray, float]:
    number(alpha, "alpha", 0, above=True)
    scaler = StandardScaler().fit(X, sample_weight=weight)
    # Cholesky of the smaller of the two Gram matrices
    model = Ridge(alpha=alpha, solver="cholesky").fit(scaler.transform(X), y, sample_weight=weight)
    direction = model.coef_ / scaler.scale_
    return direction, float(model.intercept_ - scaler.mean_ @ direction)


def _discriminant(X: ndarray, y: ndarray, weight: ndarray, shrinkage: Any, *, priors: bool) -> tuple[ndarray, float]:
    """``((1 - g) S + g m I)^-1 (m1 - m0)`` on features of unit variance; solved in the span of the rows if n < d."""
    scale = StandardScaler().fit(X, sample_weight=weight).scale_
    means = np.stack([np.average(X[y == k], axis=0, weights=weight[y == k]) for k in (0, 1)])
    Z = (X - means[y]) / scale
    share = ledoit_wolf_share(Z, weight) if shrinkage == "ledoit-wolf" else _number(shrinkage)
    delta = (means[1] - means[0]) / scale
    total = float(weight.sum())
    rows = Z * np.sqrt((1 - share) * weight / total)[:, None]
    level = share * float(weight @ np.square(Z).sum(axis=1)) / total / Z.shape[1]
    n = np.bincount(y, weights=weight)
    offset = float(np.log(n[1] / n[0])) if priors else 0.0
    if not Z.any():  # every class is one point: only the direction between them is left
        return _midway(delta / scale, means, offset)
    if level <= 0 and len(Z) < Z.shape[1]:
        raise InputError("the covariance of fewer rows than features is singular; give shrinkage > 0")
    if len(Z) < Z.shape[1]:
        inner = rows @ rows.T + level * np.eye(len(Z))
        w = (delta - rows.T @ np.linalg.solve(inner, rows @ delta)) / level
    else:
        w = _solve_shrunk(rows.T @ rows + level * np.eye(Z.shape[1]), delta)
    return _midway(w / scale, means, offset)


def _fit_moments(probe: Any, n: Any, mean: Any, cov: Any, *, priors: bool) -> None:
    n, mean = np.asarray(n, dtype=float), np.asarray(mean, dtype=float)
    if n.shape != (2,) or mean.ndim != 2 or len(mean) != 2 or not (n > 0).all() or not np.isfinite(mean).all():
        raise InputError(f"moments need n [2], both positive, and finite means [2, d]; got {n.tolist()}, {mean.shape}")
    w, d = mean[1] - mean[0], mean.shape[1]
    if priors or probe.whiten:
        if cov is None:
            raise InputError("whitening needs the covariance within classes; give cov [2, d, d] or [d, d]")
        cov = np.asarray(cov, dtype=float)
        cov = np.tensordot(n / n.sum(), cov, axes=1) if cov.ndim == 3 else cov
        if cov.shape != (d, d) or not np.isfinite(cov).all():
            raise InputError(f"cov must be finite and [2, {d}, {d}] or [{d}, {d}], got {cov.shape}")
        if probe.shrinkage == "ledoit-wolf":
            raise InputError("the Ledoit-Wolf share needs rows, not moments; give shrinkage as a number")
        share = _number(probe.shrinkage)
        spread = np.diag(cov) + n[0] * n[1] / n.sum() ** 2 * np.square(w)  # of all rows together
        scale = np.sqrt(np.where(spread > 0, spread, 1.0))
        within = cov / scale / scale[:, None]
        w = _solve_shrunk((1 - share) * within + share * np.trace(within) / d * np.eye(d), w / scale) / scale
    offset = float(np.log(n[1] / n[0])) if priors else 0.0
    probe.direction_, probe.bias_ = _midway(w, mean, offset)
    probe.classes_, probe.n_features_in_ = np.array([0, 1]), d


def _solve_shrunk(matrix: ndarray, delta: ndarray) -> ndarray:
    """A pseudo-inverse where classes have no spread in some direction and nothing is shrunk."""
    return np.linalg.lstsq(matrix, delta, rcond=None)[0]


def _midway(w: ndarray, means: Sequence[ndarray] | ndarray, offset: float = 0.0) -> tuple[ndarray, float]:
    return w, offset - float(w @ (means[0] + means[1])) / 2


def _number(shrinkage: Any) -> float:
    if isinstance(shrinkage, str) or not 0 <= shrinkage <= 1:
        raise InputError(f"shrinkage {shrinkage!r} must be 'ledoit-wolf' or a number from 0 to 1")
    return float(shrinkage)
