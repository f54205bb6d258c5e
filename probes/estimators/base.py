"""What all probes share: checked input, one error for what is wrong, scores in raw space, a readout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from verdictscope.errors import InputError
from verdictscope.stats import same_order

if TYPE_CHECKING:
    from verdictscope.activations.readouts import LinearReadout

AProbe = TypeVar("AProbe", bound="BinaryProbe")


class Probe(BaseEstimator):
    """A direction and a bias: ``X @ direction_ + bias_`` on hidden states as the model has them.

    There is no ``predict_proba``: read at positions or in segments it was not calibrated on, a squashed score is no
    probability.
    """

    direction_: ndarray
    bias_: Any

    def readout(self, name: str, site: str, layer: int) -> LinearReadout:
        """The probe as data that a forward pass can score with."""
        check_is_fitted(self)
        return linear_readout(name, site, layer, self.direction_, self.bias_)

    def _scores(self, X: Any) -> Float[ndarray, " row"]:
        return self._checked(X) @ self.direction_ + self.bias_

    def _checked(self, X: Any) -> ndarray:
        check_is_fitted(self)
        try:
            return validate_data(self, X, dtype=np.float64, reset=False)
        except ValueError as error:
            raise InputError(str(error)) from error

    def _rows(
        self, X: Any, y: Any, sample_weight: Any, *, numeric: bool = False
    ) -> tuple[Float[ndarray, "row d"], ndarray, Float[ndarray, " row"]]:
        """Checked rows of positive weight."""
        same_order(beside="" if isinstance(X, pd.DataFrame) else "X", X=X, y=y, sample_weight=sample_weight)
        if y is not None:
            missing = pd.isna(np.asarray(y, dtype=object)).sum()
            if missing:
                raise InputError(f"{missing} labels are missing (Input y contains NaN); drop or label these rows first")
        try:
            X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=numeric)
            if not numeric:
                check_classification_targets(y)
            weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        except ValueError as error:
            raise InputError(str(error)) from error
        return X, y, weight


class BinaryProbe(ClassifierMixin, Probe):
    """A probe of two labels; scores grow towards the second of ``classes_``."""

    classes_: ndarray

    def fit(self: AProbe, X: Any, y: Any, sample_weight: Any = None) -> AProbe:
        """Fit the probe."""
        X, y, weight = self._rows(X, y, sample_weight)
        if type_of_target(y, input_name="y") == "multiclass":
            # scikit-learn's own wording, which its estimator checks look for
            raise InputError("Only binary classification is supported. The type of the target is multiclass.")
        self.classes_, codes = np.unique(y, return_inverse=True)
        used = weight > 0
        if len(np.unique(codes[used])) < 2:
            raise InputError(f"a probe needs rows of two classes and got one class, {y[used][0]}; add rows of another")
        self._solve(X[used], codes[used], weight[used])
        return self

    def decision_function(self, X: Any) -> Float[ndarray, " row"]:
        """Scores of raw hidden states ``[row d]``."""
        return self._scores(X)

    def predict(self, X: Any) -> ndarray:
        """The class whose side of the plane each row lies on, ``[row]``."""
        check_is_fitted(self)
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def _solve(self, X: ndarray, y: ndarray, weight: ndarray) -> None:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def linear_readout(name: str, site: str, layer: int, direction: ndarray, bias: float | int) -> LinearReadout:
    """A direction and a bias as a readout at every position."""
    from verdictscope.activations.readouts import LinearReadout

    return LinearReadout(name, site, layer, direction, float(bias), final_norm=False, positions="all")
