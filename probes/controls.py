"""Controls of a probe's test number: control tasks and random directions; and the rows they make in a table.

Hewitt and Liang (EMNLP 2019, arXiv 1909.03368): a probe that can learn a random label per word type reads types, and
its accuracy on the real label says little; *selectivity* is the real number less the control task's. Theirs is an
accuracy; here both are AUROCs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.rows import Rows, check_rows, to_array
from verdictscope.probes.solver import solve_logistic
from verdictscope.stats import Effect, auroc_many

DRAWS = 50
"""Control tasks drawn unless the caller says otherwise."""
DIRECTIONS = 200
"""Random directions drawn unless the caller says otherwise."""
FEWEST_TYPES = 8
"""With fewer types a random labelling of them is often constant, or the label of interest."""


@dataclass(frozen=True, eq=False)
class NullDraws:
    """A test number and its values under draws in which there is nothing to find."""

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

    def row(self) -> dict[str, Any]:
        """As a row of kind ``control``."""
        more = {"selectivity": self.selectivity, "about": self.about}
        return table_row("control", self.name, self.mean, self.low, self.high, len(self.values), **more)

    def __repr__(self) -> str:
        return (
            f"{self.name}: mean {self.mean:.3f}, range [{self.low:.3f}, {self.high:.3f}] over "
            f"{len(self.values)} draws; observed {self.observed:.3f}, {self.selectivity:.3f} more"
        )


def table_row(
    kind: str,
    name: str,
    estimate: float = float("nan"),
    low: float = float("nan"),
    high: float = float("nan"),
    n: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A row of a table of test numbers, nulls, controls and baselines; ``layer`` is -1 where there is none."""
    blank = {"layer": -1, "C": float("nan"), "p": float("nan"), "selectivity": float("nan"), "about": ""}
    return blank | {"kind": kind, "name": name, "estimate": estimate, "low": low, "high": high, "n": int(n)} | more


def effect_row(kind: str, effect: Effect, **more: Any) -> dict[str, Any]:
    """An effect as a row of such a table."""
    return table_row(kind, effect.name, effect.estimate, effect.low, effect.high, effect.n, **more)


def control_task(
    X: Any,
    rows: pd.DataFrame,
    C: float | int,
    *,
    by: str = "token_id",
    draws: int = DRAWS,
    balance_on: Sequence[str] = (),
    seed: int = 0,
) -> NullDraws:
    """AUROC of the same probe trained on a random label of every type: of token, of topic, of any column ``by``.

    Every value of ``by`` gets label 0 or 1 by a fair coin; the probe is fitted on train rows and evaluated on test rows
    of types that occur in train. Types are shared by the splits, so such a label can be learned by recognising the
    type. ``X`` are activations ``[row d]`` of the selected layer, ``C`` is the selected penalty.
    """
    _check_draws(draws)
    checked = check_rows(rows, balance_on)
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
        raise InputError(f"no {by} of the test split occurs in train: its control task cannot be learned")
    coins = np.random.default_rng(seed).integers(0, 2, (draws, len(names)))[:, types]
    observed = draw_aurocs(X, checked, checked.label[None], C, checked.weights(train)[None], test)
    plain = replace(checked, held=np.zeros_like(checked.held))  # random labels have no cells: classes weigh equally
    weight = np.stack([plain.weights(train, y=y) for y in coins])
    values = draw_aurocs(X, checked, coins, C, weight, known)
    if not np.isfinite(values).any():
        raise InputError(f"no random labelling of {by} leaves both labels in train and test: too few types")
    share = known.sum() / test.sum()
    about = (
        f"the same probe trained on a random label per {by} ({len(names)} of them; {share:.0%} of the test rows are of "
        "one that occurs in train)"
    )
    return NullDraws(f"control task by {by}", float(observed[0]), values, about, seed)


def random_directions(
    X: Any,
    rows: pd.DataFrame,
    C: float | int,
    *,
    draws: int = DIRECTIONS,
    balance_on: Sequence[str] = (),
    seed: int = 0,
) -> NullDraws:
    """AUROC of unfitted directions: isotropic in the standardised features, with the sign that suits the train split.

    In features that mostly vary along the label, a random direction separates it too; the probe has to exceed these.
    """
    _check_draws(draws)
    checked = check_rows(rows, balance_on)
    X = to_array(X, len(rows), layer=-1).astype(np.float64)
    train, test = checked.at("train"), checked.at("test")
    observed = draw_aurocs(X, checked, checked.label[None], C, checked.weights(train)[None], test)
    weight = checked.weights(train, "none")
    mean = np.average(X[train], axis=0, weights=weight)
    scale = np.sqrt(np.average((X[train] - mean) ** 2, axis=0, weights=weight))
    drawn = np.random.default_rng(seed).normal(size=(draws, X.shape[1])) / np.where(scale > 0, scale, np.inf)
    labels = np.broadcast_to(checked.label, (draws, len(rows)))
    fitted = auroc_many(labels[:, train], drawn @ X[train].T)
    values = auroc_many(labels[:, test], drawn @ X[test].T)
    about = "random directions in the standardised features, with the sign that suits the train split"
    return NullDraws("random directions", float(observed[0]), np.where(fitted < 0.5, 1 - values, values), about, seed)


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise InputError(f"{draws} draws make no null: ask for at least one, better {DRAWS}")


def draw_aurocs(
    X: ndarray, rows: Rows, labels: Int[ndarray, "draw row"], C: float | int, weight: ndarray, test: ndarray
) -> Float[ndarray, " draw"]:
    """Fit each labelling on train and score it on ``test``; NaN where either has one class."""
    train = rows.at("train")
    usable = np.all([labels[:, at].min(1) < labels[:, at].max(1) for at in (train, test)], axis=0)
    values = np.full(len(labels), np.nan)
    if usable.any():
        fits = solve_logistic(
            X[train], labels[usable][:, train], [C], weight=weight[usable], scale_weight=rows.weights(train, "none")
        ).check()
        values[usable] = auroc_many(labels[usable][:, test], fits.scores(X[test])[0, 0])
    return values
