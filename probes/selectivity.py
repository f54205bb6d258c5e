"""Two more nulls of a probe: what it can learn that means nothing, and what a direction reads that was not learned.

Hewitt and Liang (EMNLP 2019, arXiv 1909.03368): a probe that can learn a random label per word type reads types, and
its accuracy on the real label says little; *selectivity* is the real number less the control task's. Theirs is an
accuracy; here both are AUROCs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.rows import Balance, Rows, check_rows, to_array
from verdictscope.probes.solver import solve_logistic
from verdictscope.stats import auroc_many

DRAWS = 50
"""Control tasks drawn unless the caller says otherwise."""
DIRECTIONS = 200
"""Random directions drawn unless the caller says otherwise."""
FEWEST_TYPES = 8
"""With fewer types a random labelling of them is often constant, or the label of interest itself."""


@dataclass(frozen=True, eq=False)
class NullDraws:
    """A number and what it comes to, draw by draw, where there is nothing to find.

    Attributes:
        name: what was drawn.
        observed: the AUROC it stands against.
        values: AUROC of every draw on the test part; NaN where a part was left with one class.
        about: how it was made, in a sentence.
        seed: seed of the draws.
    """

    name: str
    observed: float
    values: Float[ndarray, " draw"]
    about: str
    seed: int

    @property
    def mean(self) -> float:
        """Mean over draws."""
        return float(np.nanmean(self.values))

    @property
    def low(self) -> float:
        """Smallest draw."""
        return float(np.nanmin(self.values))

    @property
    def high(self) -> float:
        """Largest draw."""
        return float(np.nanmax(self.values))

    @property
    def selectivity(self) -> float:
        """The observed number less the mean draw."""
        return self.observed - self.mean

    def to_frame(self) -> pd.DataFrame:
        """One row per draw: ``draw auroc``."""
        return pd.DataFrame({"draw": np.arange(len(self.values)), "auroc": self.values})

    def __repr__(self) -> str:
        return (
            f"{self.name}: mean {self.mean:.3f}, range [{self.low:.3f}, {self.high:.3f}] over "
            f"{len(self.values)} draws; observed {self.observed:.3f}, {self.selectivity:.3f} more"
        )


def control_task(
    X: Any,
    rows: pd.DataFrame,
    C: float | int,
    *,
    by: str = "token_id",
    draws: int = DRAWS,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    seed: int = 0,
) -> NullDraws:
    """AUROC of the same probe trained to tell a random label of every type (of token, of prompt).

    Every value of ``by`` gets label 0 or 1 by a fair coin; the probe is fitted on train rows and judged on test rows
    of types that occur in train. Types are shared by the parts, so such a label can be learned: by reading the type.

    Args:
        X: activations of the chosen layer for all rows, ``[row d]``.
        rows: the table given to the sweep, with the column ``by``.
        C: the chosen penalty.
        by: column of the types, for example ``token_id`` or ``topic``.
        draws: number of random labellings.
        balance: as in the sweep, for the real label; the control labels have no cells, their classes count equally.
        hold: as in the sweep.
        seed: seed of the labellings.

    Raises:
        InputError: see `check_rows`; no such column, too few types, or none of the test part that occurs in train.
    """
    _check_draws(draws)
    checked = check_rows(rows, hold, balance)
    if by not in rows.columns:
        raise InputError(f"rows have no column {by!r} to draw a control task by")
    if rows[by].isna().any():
        raise InputError(f"{int(rows[by].isna().sum())} rows have no {by}: name it or drop them")
    X = to_array(X, len(rows), layer=-1)
    train, test = checked.at("train"), checked.at("test")
    types, names = pd.factorize(rows[by].astype(str))
    known = test & np.isin(types, types[train])
    if len(names) < FEWEST_TYPES:
        raise InputError(f"{by} has {len(names)} values; a control task needs at least {FEWEST_TYPES} types")
    if not known.any():
        raise InputError(f"no {by} of the test part occurs in train: its control task cannot be learned")
    coins = np.random.default_rng(seed).integers(0, 2, (draws, len(names)))[:, types]
    observed = draw_aurocs(X, checked, checked.label[None], C, checked.weights(train, balance)[None], test)
    weight = np.stack([checked.weights(train, "classes", y) for y in coins])
    values = draw_aurocs(X, checked, coins, C, weight, known)
    if not np.isfinite(values).any():
        raise InputError(f"no random labelling of {by} leaves both labels in train and test: too few kinds")
    share = known.sum() / test.sum()
    about = (
        f"the same probe trained on a random label per {by} ({len(names)} of them; {share:.0%} of the test rows are of "
        "one seen in train)"
    )
    return NullDraws(f"control task by {by}", float(observed[0]), values, about, seed)


def random_directions(
    X: Any,
    rows: pd.DataFrame,
    C: float | int,
    *,
    draws: int = DIRECTIONS,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    seed: int = 0,
) -> NullDraws:
    """AUROC of directions that were not fitted: isotropic in the standardised features, turned to suit the train part.

    Arguments and errors as `control_task`. In features that mostly vary along the label, a random direction reads it
    too; the probe has to read more than these.
    """
    _check_draws(draws)
    checked = check_rows(rows, hold, balance)
    X = to_array(X, len(rows), layer=-1).astype(np.float64)
    train, test = checked.at("train"), checked.at("test")
    observed = draw_aurocs(X, checked, checked.label[None], C, checked.weights(train, balance)[None], test)
    weight = checked.weights(train, "none")
    mean = np.average(X[train], axis=0, weights=weight)
    scale = np.sqrt(np.average((X[train] - mean) ** 2, axis=0, weights=weight))
    drawn = np.random.default_rng(seed).normal(size=(draws, X.shape[1])) / np.where(scale > 0, scale, np.inf)
    labels = np.broadcast_to(checked.label, (draws, len(rows)))
    fitted = auroc_many(labels[:, train], drawn @ X[train].T)
    values = auroc_many(labels[:, test], drawn @ X[test].T)
    about = "directions at random in the standardised features, turned to suit the train part"
    return NullDraws("random directions", float(observed[0]), np.where(fitted < 0.5, 1 - values, values), about, seed)


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise InputError(f"{draws} draws make no null: ask for at least one, better {DRAWS}")


def draw_aurocs(
    X: ndarray, rows: Rows, labels: Int[ndarray, "draw row"], C: float | int, weight: ndarray, test: ndarray
) -> Float[ndarray, " draw"]:
    """Fit each labelling on train and score it where asked; NaN where either has one class."""
    train = rows.at("train")
    usable = np.all([labels[:, at].min(1) < labels[:, at].max(1) for at in (train, test)], axis=0)
    values = np.full(len(labels), np.nan)
    if usable.any():
        fits = solve_logistic(
            X[train], labels[usable][:, train], [C], weight=weight[usable], scale_weight=rows.weights(train, "none")
        ).check()
        values[usable] = auroc_many(labels[usable][:, test], fits.scores(X[test])[0, 0])
    return values
