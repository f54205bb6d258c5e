"""From a score to a probability, on the segment where it was measured: Platt's sigmoid or one temperature.

A probe's score is a logit of its training rows. Read in another segment it is shifted and stretched, so a calibration
belongs to the segment it was fitted on, and other segments get none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import optimize, special

from verdictscope.errors import InputError
from verdictscope.stats import Column
from verdictscope.stats.auroc import check_scores

Method = Literal["platt", "temperature"]


@dataclass(frozen=True)
class Calibration:
    """Probability = sigmoid(slope * score + offset).

    Attributes:
        slope: one over the temperature.
        offset: 0 for a temperature.
        method: ``platt`` or ``temperature``.
        n: rows it was fitted on.
    """

    slope: float
    offset: float
    method: Method
    n: int

    def probability(self, scores: Column) -> Float[ndarray, " row"]:
        """Probability of the positive label per score."""
        return special.expit(self.slope * np.asarray(scores, dtype=float) + self.offset)


def calibrate(labels: Column, scores: Column, method: Method = "platt") -> Calibration:
    """Fit a calibration, on rows that neither fitted the probe nor are reported on.

    Platt's targets are smoothed, ``(n1 + 1) / (n1 + 2)`` for positives and ``1 / (n0 + 2)`` for negatives, so that
    separable scores keep a finite slope (Platt 1999; Lin, Lin & Weng, Machine Learning 68, 2007). A temperature keeps
    the sign and the zero of the score (Guo et al., ICML 2017); its slope is bounded to 1e-3 .. 1e3.

    Args:
        labels: 0 or 1 per row.
        scores: logits.
        method: ``platt`` (slope and offset) or ``temperature`` (slope).

    Raises:
        InputError: one class, scores that are not finite, shapes that differ, or an unknown method.

    Example:
        >>> import numpy as np
        >>> score = np.linspace(-2, 2, 40)
        >>> found = calibrate(score + np.tile([-1, 1], 20) > 0, score)
        >>> found.probability([-1.0, 0.0, 1.0]).round(2)
        array([0.2, 0.5, 0.8])
    """
    if method not in ("platt", "temperature"):
        raise InputError(f"method {method!r} is neither platt nor temperature")
    y, s = check_scores(labels, scores)
    if not np.isfinite(s).all():
        raise InputError("a score is infinite; a calibration needs finite scores")
    n1, n0 = int(y.sum()), int(len(y) - y.sum())
    if not n1 or not n0:
        raise InputError(f"a calibration needs both classes and got {n1} positive and {n0} negative rows")
    if method == "temperature":
        found = optimize.minimize_scalar(
            lambda t: _loss(np.exp(t) * s, y),
            bounds=(np.log(1e-3), np.log(1e3)),
            method="bounded",
            options={"xatol": 1e-10},
        )
        return Calibration(float(np.exp(found.x)), 0.0, method, len(y))
    target = np.where(y == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    scale = float(np.std(s)) or 1.0
    z = (s - s.mean()) / scale
    start = np.array([1.0, special.logit(target.mean())])
    found = optimize.minimize(
        lambda ab: _loss(ab[0] * z + ab[1], target),
        start,
        method="BFGS",
        options={"gtol": 1e-9},
        jac=lambda ab: _gradient(ab, z, target),
    )
    slope = float(found.x[0]) / scale
    return Calibration(slope, float(found.x[1] - slope * s.mean()), method, len(y))


def _loss(f: ndarray, target: ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, f) - target * f))


def _gradient(ab: ndarray, z: ndarray, target: ndarray) -> ndarray:
    g = special.expit(ab[0] * z + ab[1]) - target
    return np.array([np.mean(g * z), np.mean(g)])
