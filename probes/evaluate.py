"""How well scores tell the label: over token rows, over rollouts, and with a confounder held fixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.probes.rows import Rows
from verdictscope.stats import Effect, auroc_effect, effects_frame


@dataclass(frozen=True)
class Evaluation:
    """AUROCs of one set of scores on one part.

    Attributes:
        tokens: over token rows.
        rollouts: over rollouts, each by its mean score.
        held: over token rows, comparing only rows with equal held columns (refused against complied *among harmful*
            and *among harmless* requests, averaged): a score of the held column alone gets .5 here. ``None`` without
            held columns.
    """

    tokens: Effect
    rollouts: Effect
    held: Effect | None

    def to_frame(self) -> pd.DataFrame:
        """One row per AUROC."""
        return effects_frame(e for e in (self.tokens, self.rollouts, self.held) if e is not None)


def evaluate(scores: Float[ndarray, " scored"], rows: Rows, where: Bool[ndarray, " row"]) -> Evaluation:
    """AUROC of scores with intervals over prompt groups, on the logit scale.

    Args:
        scores: one score for every row of ``where``, in order.
        rows: the table's rows.
        where: the rows that are scored.
    """
    label, group, held = rows.label[where], rows.group[where], rows.held[where]
    codes, first, inverse = np.unique(rows.rollout[where], return_index=True, return_inverse=True)
    mean = np.bincount(inverse, weights=scores) / np.bincount(inverse)
    stratified = None
    if len(rows.held_names) > 1:
        stratified = auroc_effect("AUROC, held fixed", label, scores, group, strata=held)
    return Evaluation(
        tokens=auroc_effect("AUROC, tokens", label, scores, group),
        rollouts=auroc_effect("AUROC, rollout means", label[first], mean, group[first]),
        held=stratified,
    )
