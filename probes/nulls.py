"""What a probe scores when there is nothing to find: the same fit with labels exchanged between prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.exchange import Exchange
from verdictscope.probes.linear import LogisticProbe
from verdictscope.probes.rows import Balance, Rows, check_rows, to_array
from verdictscope.stats import auroc, permutation_p

_FEWEST = 19  # below this no p-value can reach .05


@dataclass(frozen=True, eq=False)
class PermutedControl:
    """AUROCs of probes refitted on permuted labels.

    Attributes:
        observed: test AUROC with the real labels.
        mean: mean over refits.
        low: smallest of the refits.
        high: largest of the refits.
        p: (1 + refits at least as good as the real fit) / (refits + 1).
        values: AUROC of every refit.
        unit: what was exchanged.
        within: columns within whose values labels were exchanged.
        seed: seed of the permutations.
    """

    observed: float
    mean: float
    low: float
    high: float
    p: float
    values: Float[ndarray, " refit"]
    unit: str
    within: tuple[str, ...]
    seed: int

    @property
    def refits(self) -> int:
        """Number of refits."""
        return len(self.values)

    def to_frame(self) -> pd.DataFrame:
        """One row per refit: ``refit auroc``."""
        return pd.DataFrame({"refit": np.arange(self.refits), "auroc": self.values})

    def __repr__(self) -> str:
        inside = f" within {' '.join(self.within)}" if self.within else ""
        return (
            f"PermutedControl: real AUROC {self.observed:.3f}; labels permuted between {self.unit}s{inside}, "
            f"{self.refits} refits: mean {self.mean:.3f}, range [{self.low:.3f}, {self.high:.3f}], p = {self.p:.2g}"
        )


def permuted_control(
    X: Any,
    rows: pd.DataFrame,
    C: float | int,
    *,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    refits: int = 50,
    unit: str = "prompt",
    within: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PermutedControl:
    """Refit the chosen probe on labels permuted between prompts and score it against permuted test labels.

    All rollouts and token rows of a prompt move together: a prompt gets the labels of another prompt's rollouts. The
    split stays, and labels are exchanged within each part, so the null keeps its class shares. Prompts with different
    numbers of rollouts exchange theirs cyclically from a random start.

    Args:
        X: activations of the chosen layer for all rows, ``[row d]``.
        rows: the table given to the sweep; a ``prompt`` column, or ``PROMPT/SAMPLE`` rollout ids, name the prompts.
        C: the chosen penalty.
        balance: as in the sweep.
        hold: as in the sweep.
        refits: number of permutations, at least 19 (the reports use 50 and more).
        unit: column of the unit that moves as one; ``group`` for the coarser one.
        within: exchange labels only between units with equal values of these columns: with ``("harm",)`` the null
            keeps what harm tells about the label, and p asks whether the probe reads more than harm.
        seed: seed of the permutations.
        progress: called with refits done and refits in all.

    Raises:
        InputError: see `check_rows`; too few refits; a unit with rows in two parts.
    """
    if refits < _FEWEST:
        raise InputError(f"{refits} refits cannot show p <= .05; ask for at least {_FEWEST}, better 50")
    checked = check_rows(rows, hold, balance)
    X = to_array(X, len(rows), layer=-1)
    plan = Exchange.of(rows, checked, unit, within)
    train, test = checked.at("train"), checked.at("test")
    features = X[train].astype(np.float64), X[test].astype(np.float64)
    refit = partial(_refit, C=C, balance=balance, rows=checked, train=train, test=test, features=features)
    observed = refit(checked.label)
    rng = np.random.default_rng(seed)
    values = np.empty(refits)
    for i in range(refits):
        values[i] = refit(plan.permuted(rng)[checked.rollout])
        if progress:
            progress(i + 1, refits)
    return PermutedControl(
        observed=observed,
        mean=float(values.mean()),
        low=float(values.min()),
        high=float(values.max()),
        p=permutation_p(observed, values),
        values=values,
        unit=unit,
        within=tuple(within),
        seed=seed,
    )


def _refit(
    label: Int[ndarray, " row"],
    *,
    C: float | int,
    balance: Balance,
    rows: Rows,
    train: ndarray,
    test: ndarray,
    features: tuple[ndarray, ndarray],
) -> float:
    """Test AUROC of a probe fitted on these labels; .5 where a part was left with one class."""
    if len(set(label[train])) < 2 or len(set(label[test])) < 2:
        return 0.5
    probe = LogisticProbe(C=C).fit(features[0], label[train], sample_weight=rows.weights(train, balance, label))
    return float(auroc(label[test], probe.decision_function(features[1])))
