"""Classification metrics of scores in one call: AUROC, TPR at a FPR, accuracy, Brier score, ECE, reliability.

Thresholds and probabilities come from other rows than those that are judged; where they do not, the result says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.calibration import Calibration, calibrate
from verdictscope.stats import (
    Column,
    Effect,
    auroc_effect,
    effects_frame,
    group_names,
    mean_effect,
    rate_effect,
    wilson,
)
from verdictscope.stats.auroc import check_scores
from verdictscope.values import number, probabilities, whole_number

FEWEST_NEGATIVES = 300
"""Negative prompts below which a true-positive rate at 1 % false positives is not estimable: three errors."""
BINS = 10
"""Bins of equal mass behind ECE and reliability, at most; with few rows there are fewer."""
_ROWS_PER_BIN = 10


@dataclass(frozen=True, eq=False)
class ClassificationMetrics:
    """How good scores are, on rows that chose nothing.

    Attributes:
        auroc: over rows, interval over prompts.
        tpr: true-positive rate at the FPR asked for; ``None`` where it is not estimable.
        fpr: the false-positive rate asked for.
        threshold: the score above which ``tpr`` counts; ``None`` likewise.
        not_estimable: why there is no ``tpr``, empty where there is one.
        accuracy: share of rows on the right side of ``cut``.
        cut: the score accuracy is cut at.
        brier: mean squared difference of probability and label.
        ece: expected calibration error over ``bins`` bins of equal mass.
        bins: number of bins.
        reliability: per bin ``probability rate low high n``.
        calibration: how scores became probabilities.
        in_sample: whether cut and calibration were fitted on the rows judged here, which flatters them.
    """

    auroc: Effect
    tpr: Effect | None
    fpr: float
    threshold: float | None
    not_estimable: str
    accuracy: Effect
    cut: float
    brier: Effect
    ece: float
    bins: int
    reliability: pd.DataFrame
    calibration: Calibration
    in_sample: bool

    def to_frame(self) -> pd.DataFrame:
        """One row per figure, columns of an Effect; ECE has no interval."""
        n = self.auroc.n
        nan = float("nan")
        tpr = self.tpr or Effect(f"TPR at {self.fpr:.0%} FPR", nan, nan, nan, n, "rate")
        ece = Effect(f"ECE, {self.bins} bins of equal mass", self.ece, nan, nan, n, "probability")
        return effects_frame([self.auroc, tpr, self.accuracy, self.brier, ece])

    def __repr__(self) -> str:
        tpr = f"{self.tpr}, above {self.threshold:.3g}" if self.tpr else f"TPR: not estimable, {self.not_estimable}"
        lines = [str(self.auroc), tpr, f"{self.accuracy}, cut at {self.cut:.3g}", str(self.brier)]
        lines.append(f"ECE {self.ece:.3f} over {self.bins} bins of equal mass")
        return "Metrics: " + "; ".join(lines) + ("; cut and calibration in sample" if self.in_sample else "")

    def _repr_html_(self) -> str:
        table = self.to_frame()[["name", "estimate", "low", "high", "n"]]
        html = table.to_html(index=False, float_format="{:.3f}".format, na_rep="")
        return html + (f"<p>TPR not estimable: {self.not_estimable}.</p>" if self.not_estimable else "")


def classification_metrics(
    labels: Column,
    scores: Column,
    groups: Column,
    *,
    fitted_on: tuple[Column, Column] | None = None,
    fpr: float = 0.01,
    bins: int = BINS,
) -> ClassificationMetrics:
    """Every classification metric of scores.

    Args:
        labels: 0 or 1 per row.
        scores: logits.
        groups: the prompt group of every row.
        fitted_on: labels and scores of other rows (validation), which set the cut of the accuracy (the best there) and
            the calibration (Platt's). ``None`` fits them on the rows judged here and says so.
        fpr: false-positive rate at which the true-positive rate is reported. Its threshold is the smallest score that
            at most this share of the judged negatives exceeds: a point of the ROC curve.
        bins: most bins of equal mass.

    Returns:
        Rates have Wilson's interval where every row is a prompt of its own, and one at the sample size the clustering
        leaves otherwise (`rate_effect`); the Brier score's is a cluster bootstrap.

    Raises:
        InputError: shapes differ, one class, scores that are not finite, an ``fpr`` outside 0 to 1, or no bins.

    Example:
        >>> import numpy as np
        >>> label = np.arange(60) % 2
        >>> score = np.random.default_rng(0).normal(size=60) + 2 * label
        >>> found = classification_metrics(label, score, groups=range(60))
        >>> found.auroc.estimate > 0.8, found.in_sample
        (True, True)
    """
    number(fpr, "fpr", 0, 1, above=True), whole_number(bins, "bins", 1)
    y, s = check_scores(labels, scores)
    if len(set(y)) < 2:
        raise InputError("classification metrics need rows of two classes")
    g = _groups(groups, len(y))
    other_y, other_s = (y, s) if fitted_on is None else check_scores(*fitted_on)
    calibration = calibrate(other_y, other_s)
    probability = calibration.probability(s)
    # The cut with the best accuracy, halfway between two scores; the middle one of equals
    order = np.argsort(other_s, kind="stable")
    values, labels = other_s[order], other_y[order]
    right = np.r_[labels.sum(), labels.sum() + np.cumsum(1 - 2 * labels)]  # rows at or below the cut called negative
    cuts = np.r_[values[0] - 1, (values[1:] + values[:-1]) / 2, values[-1] + 1]
    allowed = np.r_[True, values[1:] > values[:-1], True]
    best = np.flatnonzero(allowed & (right == right[allowed].max()))
    cut = float(cuts[best[len(best) // 2]])
    threshold, tpr, why = _tpr(y, s, g, fpr)
    reliability = reliability_curve(y, probability, g, bins=bins)
    gap = (reliability["probability"] - reliability["rate"]).abs()
    return ClassificationMetrics(
        auroc=auroc_effect("AUROC", y, s, g),
        tpr=tpr,
        fpr=fpr,
        threshold=threshold,
        not_estimable=why,
        accuracy=_rate("accuracy", (s > cut) == (y == 1), g),
        cut=cut,
        brier=mean_effect("Brier score", (probability - y) ** 2, g, unit="probability^2"),
        ece=float((gap * reliability["n"]).sum() / reliability["n"].sum()),
        bins=len(reliability),
        reliability=reliability,
        calibration=calibration,
        in_sample=fitted_on is None,
    )


def reliability_curve(labels: Column, probability: Column, groups: Column, *, bins: int = BINS) -> pd.DataFrame:
    """Mean probability and share of positives in bins of equal mass; equal probabilities share a bin."""
    whole_number(bins, "bins", 1)
    probabilities(np.asarray(probability), "probability")
    y, p = check_scores(labels, probability)
    g = _groups(groups, len(y))
    if not len(y):
        raise InputError("there are no rows")
    count = max(1, min(bins, len(y) // _ROWS_PER_BIN))
    edges = np.quantile(p, np.arange(1, count) / count)
    place = np.searchsorted(np.unique(edges), p, side="left")
    rows = []
    for at in np.unique(place):
        here = place == at
        rate = _rate("rate", y[here], g[here])
        rows.append((float(p[here].mean()), rate.estimate, rate.low, rate.high, int(here.sum())))
    return pd.DataFrame(rows, columns=["probability", "rate", "low", "high", "n"])


def _groups(groups: Column, rows: int) -> ndarray:
    """The group of every row as text."""
    if len(groups) != rows:
        raise InputError(f"{len(groups)} groups but {rows} rows")
    return group_names(groups)


def _rate(name: str, hits: ndarray, groups: ndarray) -> Effect:
    """Wilson's interval for one row per prompt, the clustered one otherwise."""
    values = np.asarray(hits, dtype=float)
    n = len(np.unique(groups))
    if n < len(values):
        return rate_effect(name, values, groups)
    return Effect(name, float(values.mean()), *wilson(values.sum(), n), n, "rate")


def _tpr(y: ndarray, s: ndarray, g: ndarray, fpr: float) -> tuple[float | None, Effect | None, str]:
    prompts = len(np.unique(g[y == 0]))
    least = int(np.ceil(FEWEST_NEGATIVES * 0.01 / fpr))
    if prompts < least:
        return None, None, f"{prompts} negative prompts, and {least} are needed for three false positives at {fpr:.0%}"
    negative = np.sort(s[y == 0])
    threshold = float(negative[len(negative) - 1 - int(np.floor(fpr * len(negative) + 1e-9))])
    positive = y == 1
    return threshold, _rate(f"TPR at {fpr:.0%} FPR", s[positive] > threshold, g[positive]), ""
