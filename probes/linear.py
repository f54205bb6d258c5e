"""A linear probe with scikit-learn's manners whose result is a direction and a bias in the model's own space."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from threadpoolctl import ThreadpoolController

from verdictscope.errors import InputError

if TYPE_CHECKING:
    from verdictscope.activations.readouts import LinearReadout

_NEWTON_UP_TO = 1024  # d_model above which a d x d Hessian costs more than lbfgs saves
_SMALL = 4_000_000  # numbers in a design matrix below which more BLAS threads only wait for each other


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


class LogisticProbe(ClassifierMixin, BaseEstimator):
    """L2 logistic regression on standardised hidden states, folded back into raw space.

    The decision function is ``x @ direction_ + bias_`` on hidden states as the model has them, so the fitted probe is
    a `LinearReadout`. It is a logit. There is no ``predict_proba``: read at positions or in segments it was not
    calibrated on, a squashed score is no probability.

    Args:
        C: inverse strength of the L2 penalty on the standardised weights, against the sum of the sample weights.
        tol: stopping tolerance of the solver.
        max_iter: limit on its iterations.

    Attributes:
        classes_: the two labels; scores grow towards the second.
        direction_: weight per raw feature, ``[d]``.
        bias_: offset in raw space.
        n_features_in_: d.
    """

    def __init__(self, C: float | int = 1.0, *, tol: float | int = 1e-6, max_iter: int = 1000) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LogisticProbe:
        """Fit the probe.

        Args:
            X: hidden states ``[row d]``.
            y: two labels, ``[row]``.
            sample_weight: weight per row; rows of weight 0 count as absent.

        Raises:
            InputError: NaN or infinite values, one class, more than two classes, or wrong shapes.
        """
        try:
            X, y = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(y)
            weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        except ValueError as error:
            raise InputError(str(error)) from error
        if type_of_target(y, input_name="y") == "multiclass":
            # scikit-learn's own wording, which its estimator checks look for
            raise InputError("Only binary classification is supported. The type of the target is multiclass.")
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(np.unique(codes[weight > 0])) < 2:
            raise InputError(f"a probe needs rows of two classes and got one class, {y[0]}; add rows of another")
        with _threads().limit(limits=1, user_api="blas") if X.size < _SMALL else nullcontext():
            self._solve(X, codes, weight)
        return self

    def _solve(self, X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        keep = weight > 0
        scaler = StandardScaler().fit(X[keep], sample_weight=weight[keep])
        solver = "newton-cholesky" if X.shape[1] <= _NEWTON_UP_TO else "lbfgs"
        model = LogisticRegression(C=self.C, solver=solver, tol=self.tol, max_iter=self.max_iter)
        model.fit(scaler.transform(X[keep]), y[keep], sample_weight=weight[keep])
        self.direction_ = model.coef_[0] / scaler.scale_
        self.bias_ = float(model.intercept_[0] - scaler.mean_ @ self.direction_)
        self.n_iter_ = int(model.n_iter_[0])

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores (logits) of raw hidden states ``[row d]``, ``[row]``.

        Raises:
            InputError: NaN or infinite values, or another number of features than in `fit`.
        """
        check_is_fitted(self)
        try:
            X = validate_data(self, X, dtype=np.float64, reset=False)
        except ValueError as error:
            raise InputError(str(error)) from error
        return X @ self.direction_ + self.bias_

    def predict(self, X: Any) -> np.ndarray:
        """The class whose side of the plane each row lies on, ``[row]``."""
        check_is_fitted(self)
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def readout(self, name: str, site: str, layer: int) -> LinearReadout:
        """The probe as data that a forward pass can score with.

        Args:
            name: what the score is called in tables.
            site: the site the features came from, for example ``resid_post``.
            layer: its layer.
        """
        from verdictscope.activations.readouts import LinearReadout

        check_is_fitted(self)
        return LinearReadout(name, site, layer, self.direction_, self.bias_, final_norm=False, positions="all")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
