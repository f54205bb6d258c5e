"""Probes of more than two labels: one direction per class, or one direction with ordered thresholds."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from verdictscope.errors import InputError
from verdictscope.probes.estimators.base import Probe, linear_readout
from verdictscope.probes.estimators.logistic import LogisticProbe
from verdictscope.values import number, whole_number

if TYPE_CHECKING:
    from verdictscope.activations.readouts import LinearReadout

_DIRECT = 1500  # weights up to which one Hessian is cheaper than many gradients


class MulticlassProbe(ClassifierMixin, Probe):
    """Multinomial logistic regression on standardised hidden states: a direction and a bias per class.

    With two classes it is `LogisticProbe` and has one direction. The scores of several classes are logits up to a
    constant per row; the weights of the classes sum to zero.

    Args:
        C: inverse strength of the L2 penalty on the standardised weights, against the sum of the sample weights.
        tol: stopping tolerance of the solver.
        max_iter: limit on its iterations; a fit that reaches it warns.

    Attributes:
        classes_: the labels, sorted.
        direction_: ``[class d]``, or ``[d]`` for two classes.
        bias_: ``[class]``, or a number.
    """

    def __init__(self, C: float | int = 1.0, *, tol: float | int = 1e-8, max_iter: int = 2000) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> MulticlassProbe:
        """Fit the probe.

        Args:
            X: hidden states ``[row d]``.
            y: labels of any kind, ``[row]``.
            sample_weight: weight per row; rows of weight 0 count as absent.

        Raises:
            InputError: NaN or infinite values, missing labels, one class, or wrong shapes.
        """
        _check_settings(self.C, self.tol, self.max_iter)
        X, y, weight = self._rows(X, y, sample_weight)
        used = weight > 0
        self.classes_, codes = _classes(y, used)
        X, codes, weight = X[used], codes[used], weight[used]
        if len(self.classes_) == 2:
            two = LogisticProbe(self.C, tol=1e-6, max_iter=self.max_iter).fit(X, codes, weight)
            self.direction_, self.bias_, self.n_iter_ = two.direction_, two.bias_, two.n_iter_
            return self
        span = _Span(X, weight)
        small = span.F.shape[1] * len(self.classes_) <= _DIRECT
        model = LogisticRegression(
            C=self.C, solver="newton-cholesky" if small else "lbfgs", tol=self.tol, max_iter=self.max_iter
        ).fit(span.F, codes, sample_weight=weight)
        direction, bias = span.unfold(model.coef_ - model.coef_.mean(axis=0))
        self.direction_, self.bias_ = direction, bias + model.intercept_ - model.intercept_.mean()
        self.n_iter_ = int(np.max(model.n_iter_))
        return self

    def decision_function(self, X: Any) -> ndarray:
        """Scores of raw hidden states ``[row d]``: ``[row class]``, or ``[row]`` for two classes."""
        return self._checked(X) @ self.direction_.T + self.bias_

    def predict(self, X: Any) -> ndarray:
        """The class with the highest score, ``[row]``."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def readout(self, name: str, site: str, layer: int) -> tuple[LinearReadout, ...]:  # type: ignore[override]
        """One readout per class, named ``NAME:CLASS``; for two classes the one that grows towards the second."""
        check_is_fitted(self)
        if self.direction_.ndim == 1:
            return (linear_readout(f"{name}:{self.classes_[1]}", site, layer, self.direction_, self.bias_),)
        each = zip(self.classes_, self.direction_, self.bias_, strict=True)
        return tuple(linear_readout(f"{name}:{label}", site, layer, w, b) for label, w, b in each)


class OrdinalProbe(ClassifierMixin, Probe):
    """Proportional odds: one direction and ordered thresholds for labels with an order, such as a judge's score.

    ``log odds of more than label k = x @ direction_ + bias_ - thresholds_[k]`` (McCullagh, JRSS B 1980), with an L2
    penalty on the standardised weights. With two labels it is `LogisticProbe`.

    Args:
        C: inverse strength of the penalty, against the sum of the sample weights.
        tol: largest gradient norm at the end, as a share of the weights' norm; a fit that misses it warns.
        max_iter: limit on the solver's iterations.

    Attributes:
        classes_: the labels in order.
        direction_: ``[d]``.
        bias_: offset that puts the thresholds' mean at 0.
        thresholds_: between neighbouring labels, rising, ``[class - 1]``.
    """

    def __init__(self, C: float | int = 1.0, *, tol: float | int = 1e-5, max_iter: int = 5000) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> OrdinalProbe:
        """Fit the probe.

        Args:
            X: hidden states ``[row d]``.
            y: labels whose sorted order is their order, ``[row]``.
            sample_weight: weight per row; rows of weight 0 count as absent.

        Raises:
            InputError: NaN or infinite values, missing labels, one class, or wrong shapes.
        """
        _check_settings(self.C, self.tol, self.max_iter)
        X, y, weight = self._rows(X, y, sample_weight)
        used = weight > 0
        self.classes_, codes = _classes(y, used)
        span = _Span(X[used], weight[used])
        loss = _Ordinal(span.F, codes[used], weight[used] * self.C, len(self.classes_) - 1)
        start = np.concatenate([np.zeros(span.F.shape[1]), loss.base_rates()])
        options = {"maxiter": int(self.max_iter), "maxcor": 30, "ftol": 0.0, "gtol": 1e-9, "maxfun": 10**6}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        r = span.F.shape[1]
        slope = np.linalg.norm(loss(found.x)[1])
        size = np.linalg.norm(found.x[:r])
        self.n_iter_ = max(1, int(found.nit))
        if slope > self.tol * max(size, 1e-3):
            warnings.warn(
                f"the gradient is {slope / max(size, 1e-3):.1g} of the weights after {self.n_iter_} steps, asked was "
                f"{self.tol:g}; raise max_iter or tol, or lower C",
                ConvergenceWarning,
                stacklevel=2,
            )
        thresholds = loss.thresholds(found.x)
        direction, bias = span.unfold(found.x[None, :r])
        self.direction_ = direction[0]
        self.bias_, self.thresholds_ = float(bias[0] - thresholds.mean()), thresholds - thresholds.mean()
        return self

    def decision_function(self, X: Any) -> Float[ndarray, " row"]:
        """Scores (above 0 leans to the upper labels) of raw hidden states ``[row d]``.

        Raises:
            InputError: NaN or infinite values, or another number of features than in `fit`.
        """
        return self._scores(X)

    def predict(self, X: Any) -> ndarray:
        """The label whose thresholds the score lies between (the median of its distribution), ``[row]``."""
        check_is_fitted(self)
        return self.classes_[np.searchsorted(self.thresholds_, self.decision_function(X))]


class _Span:
    """Standardised rows in coordinates of their own span: penalised weights never leave it."""

    def __init__(self, X: Float[ndarray, "row d"], weight: Float[ndarray, " row"]) -> None:
        self.scaler = StandardScaler().fit(X, sample_weight=weight)
        Z = self.scaler.transform(X)
        self.basis: ndarray | None = None
        if len(Z) < Z.shape[1]:
            U, s, V = np.linalg.svd(Z, full_matrices=False)
            kept = s > s[0] * max(Z.shape) * np.finfo(float).eps
            self.basis, Z = V[kept], U[:, kept] * s[kept]
        self.F = Z

    def unfold(self, w: Float[ndarray, "k r"]) -> tuple[Float[ndarray, "k d"], Float[ndarray, " k"]]:
        """Directions and biases in raw space."""
        direction = (w if self.basis is None else w @ self.basis) / self.scaler.scale_
        return direction, -direction @ self.scaler.mean_


class _Ordinal:
    """The penalised negative log-likelihood and its gradient over weights, first threshold and log gaps."""

    def __init__(self, F: ndarray, codes: ndarray, scale: ndarray, k: int) -> None:
        self.F, self.codes, self.scale, self.k = F, codes, scale, k

    def base_rates(self) -> ndarray:
        """Thresholds that fit the shares of the labels, as parameters."""
        below = np.cumsum(np.bincount(self.codes, weights=self.scale, minlength=self.k + 1))[:-1] / self.scale.sum()
        level = np.log(below / (1 - below))
        return np.concatenate([level[:1], np.log(np.maximum(np.diff(level), 1e-6))])

    def thresholds(self, x: ndarray) -> ndarray:
        first, gaps = x[-self.k], x[len(x) - self.k + 1 :]
        return first + np.concatenate([[0.0], np.cumsum(np.exp(gaps))])

    def __call__(self, x: ndarray) -> tuple[float, ndarray]:
        w = x[: -self.k]
        theta = self.thresholds(x)
        f = self.F @ w
        # P(label = c) = s(upper) - s(lower) with s(upper) = 1 above the last threshold and s(lower) = 0 below the first
        upper = np.append(theta, np.inf)[self.codes] - f
        lower = np.insert(theta, 0, -np.inf)[self.codes] - f
        gap = -np.expm1(lower - upper)  # s(u) - s(l) = s(u) s(-l) (1 - exp(l - u))
        log_p = -np.logaddexp(0, -upper) - np.logaddexp(0, lower) + np.log(gap)
        value = 0.5 * float(w @ w) - float(self.scale @ log_p)
        ratio = np.exp(lower - upper) / gap
        by_upper, by_lower = self.scale * (expit(-upper) + ratio), -self.scale * (expit(lower) + ratio)
        slope_f = by_upper + by_lower
        slope_theta = -np.bincount(self.codes, weights=by_upper, minlength=self.k + 1)[: self.k]
        slope_theta -= np.bincount(self.codes, weights=by_lower, minlength=self.k + 1)[1:]
        reach = np.cumsum(slope_theta[::-1])[::-1]  # a gap moves every threshold above it
        gaps = np.exp(x[len(x) - self.k + 1 :])
        return value, np.concatenate([w + self.F.T @ slope_f, reach[:1], reach[1:] * gaps])


def _check_settings(C: float | int, tol: float | int, max_iter: int) -> None:
    number(C, "C", 0, above=True), number(tol, "tol", 0, above=True), whole_number(max_iter, "max_iter", 1)


def _classes(y: ndarray, used: ndarray) -> tuple[ndarray, ndarray]:
    """Labels that have weight, and the code of every row (0 where the row has none)."""
    classes = np.unique(y[used])
    if len(classes) < 2:
        raise InputError(f"a probe needs rows of two classes and got one class, {classes[0]}; add rows of another")
    return classes, np.searchsorted(classes, y).clip(0, len(classes) - 1)
