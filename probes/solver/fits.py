"""What a bulk of logistic fits gives: directions and biases in raw space, each with a proof of its accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from verdictscope.errors import InputError


@dataclass(frozen=True, eq=False)
class LogisticFits:
    """Fitted probes by fold, penalty and labelling.

    Attributes:
        Cs: the penalties, in the caller's order.
        direction: weight per raw feature.
        bias: offset in raw space.
        objective: penalised loss at the fit: half the squared standardised weights plus C times the weighted loss.
        error: bound on the distance from the exact weights, as a share of their norm. The objective is strongly convex
            in the weights with modulus 1, so the distance is at most the gradient's norm, and the objective lies above
            the minimum by at most ``error ** 2`` of itself. Computed in double precision from the features, after the
            fit. It is 0 where the exact weights are 0.
        converged: whether ``error`` is within the tolerance asked for.
        iterations: Newton steps.
        tol: that tolerance.
    """

    Cs: tuple[float, ...]
    direction: Float[ndarray, "fold C refit d"]
    bias: Float[ndarray, "fold C refit"]
    objective: Float[ndarray, "fold C refit"]
    error: Float[ndarray, "fold C refit"]
    converged: Bool[ndarray, "fold C refit"]
    iterations: Int[ndarray, "fold C refit"]
    tol: float

    def scores(self, X: Any) -> Float[ndarray, "fold C refit row"]:
        """Logits of raw activations ``[row d]`` under every probe."""
        X = np.asarray(X, dtype=np.float64)
        return self.direction @ X.T + self.bias[..., None]

    def check(self) -> LogisticFits:
        """Itself, if every fit converged."""
        if self.converged.all():
            return self
        fold, c, refit = np.unravel_index(int(np.argmax(np.where(self.converged, -1.0, self.error))), self.error.shape)
        raise InputError(
            f"{int((~self.converged).sum())} of {self.converged.size} probes did not converge; the farthest (fold "
            f"{fold}, C {self.Cs[c]:g}, refit {refit}) is within {self.error[fold, c, refit]:.1g} of its weights and "
            f"{self.tol:g} was asked; take smaller C, more max_iter or a larger tol"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per fit: ``fold C refit objective error converged iterations``."""
        fold, c, refit = np.indices(self.bias.shape)
        return pd.DataFrame(
            {"fold": fold.ravel(), "C": np.asarray(self.Cs)[c.ravel()], "refit": refit.ravel()}
            | {k: getattr(self, k).ravel() for k in ("objective", "error", "converged", "iterations")}
        )

    def __repr__(self) -> str:
        folds, Cs, refits, d = self.direction.shape
        return (
            f"LogisticFits: {folds} folds x {Cs} penalties x {refits} labellings, d = {d}; "
            f"{int(self.converged.sum())} of {self.converged.size} converged, largest error {self.error.max():.1g}"
        )
