"""Logistic probes: of labels, and of preferences between two sides."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

from numpy import ndarray
from sklearn.exceptions import ConvergenceWarning

from verdictscope.probes.estimators.base import BinaryProbe
from verdictscope.probes.solver import solve_logistic
from verdictscope.probes.solver.solve import one_blas_thread

_SMALL = 4_000_000  # numbers in a design matrix below which more BLAS threads only wait for each other


class LogisticProbe(BinaryProbe):
    """L2 logistic regression on standardised hidden states, folded back into raw space.

    The decision function is ``x @ direction_ + bias_`` on hidden states as the model has them, so the fitted probe is
    a `LinearReadout`. It is a logit.

    Args:
        C: inverse strength of the L2 penalty on the standardised weights, against the sum of the sample weights.
        tol: largest distance from the exact weights, as a share of their norm; proved after the fit.
        max_iter: limit on Newton steps; a fit that did not reach ``tol`` warns.

    Attributes:
        classes_: the two labels; scores grow towards the second.
        direction_: weight per raw feature, ``[d]``.
        bias_: offset in raw space.
        error_: proved bound on the distance from the exact weights.
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> label = np.arange(60) % 2
        >>> X = np.random.default_rng(0).normal(size=(60, 4)) + 2 * label[:, None]
        >>> probe = LogisticProbe().fit(X, label)
        >>> probe.direction_.shape, int((probe.predict(X) == label).sum()) > 54
        ((4,), True)
    """

    def __init__(self, C: float | int = 1.0, *, tol: float | int = 1e-6, max_iter: int = 1000) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def _solve(self, X: ndarray, y: ndarray, weight: ndarray) -> None:
        with one_blas_thread() if X.size < _SMALL else nullcontext():
            fits = solve_logistic(
                X, y, [self.C], weight=weight, tol=float(self.tol), max_iter=int(self.max_iter), threads=1
            )
        self.direction_, self.bias_ = fits.direction[0, 0, 0], float(fits.bias[0, 0, 0])
        self.error_, self.n_iter_ = float(fits.error[0, 0, 0]), max(1, int(fits.iterations[0, 0, 0]))
        if not fits.converged.all():
            warnings.warn(
                f"after {self.n_iter_} steps the weights are known to {self.error_:.1g} of their norm, asked was "
                f"{self.tol:g}; raise max_iter or tol, or lower C",
                ConvergenceWarning,
                stacklevel=3,
            )
