"""Probes at every layer and penalty: fitted on train, selected on validation, tested once on test.

`select` looks at train and validation rows only and gives a `Selection`, which holds no test number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.estimators import LogisticProbe
from verdictscope.probes.rows import Rows, check_rows, to_array
from verdictscope.probes.solver import LogisticFits, solve_layers
from verdictscope.stats import Effect, auroc_clustered, auroc_effect, effects_frame

ReadLayer = Callable[[int], Any]
"""Layer -> activations ``[row d]``, rows as in the table; arrays or tensors."""

TOLERANCE = 1e-6
"""Largest error of a fitted probe's weights, as a share of their norm."""

DEFAULT_CS = (0.01, 0.1, 1.0)
"""Inverse penalties tried; the train weights sum to the number of rollouts."""

RULE = (
    "layers within one standard error (over prompt groups) of the best validation AUROC are ties, "
    "the latest of them is taken, with its best C"
)


@dataclass(frozen=True)
class Evaluation:
    """AUROCs of one set of scores on one split, with intervals over prompt groups.

    Attributes:
        tokens: over rows.
        rollouts: over rollouts, each by its mean score.
        within: over rows, comparing only rows with equal balance columns (refused against complied *among harmful* and
            *among harmless* requests, averaged): a score of the balance column alone gets .5 here. ``None`` without.
    """

    tokens: Effect
    rollouts: Effect
    within: Effect | None

    @classmethod
    def of(cls, scores: Float[ndarray, " scored"], rows: Rows, where: Bool[ndarray, " row"]) -> Evaluation:
        """Evaluate one score for every row of ``where``, in order."""
        label, group, cell = rows.label[where], rows.group[where], rows.held[where]
        _, first, inverse = np.unique(rows.rollout[where], return_index=True, return_inverse=True)
        mean = np.bincount(inverse, weights=scores) / np.bincount(inverse)
        within = None
        if len(rows.held_names) > 1:
            within = auroc_effect("AUROC within balance cells", label, scores, group, strata=cell)
        return cls(
            tokens=auroc_effect("AUROC, tokens", label, scores, group),
            rollouts=auroc_effect("AUROC, rollout means", label[first], mean, group[first]),
            within=within,
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per AUROC."""
        return effects_frame(e for e in (self.tokens, self.rollouts, self.within) if e is not None)


@dataclass(frozen=True, eq=False)
class Selection:
    """A probe selected on validation; it holds nothing of the test split.

    Attributes:
        table: per layer and C ``layer C auroc_validation se chosen n_rows n_groups``.
        layer: selected layer.
        C: selected penalty.
        probes: every layer's probe at the selected penalty, fitted on train with the same weights, by layer.
        best: every layer's probe at that layer's best penalty on validation.
        validation: AUROCs of the selected probe on validation (optimistic: it was selected there).
        balance_on: balance columns.
        cells: rollouts per value of the balance columns and label in train.
    """

    table: pd.DataFrame
    layer: int
    C: float
    probes: dict[int, LogisticProbe]
    best: dict[int, LogisticProbe]
    validation: Evaluation
    balance_on: tuple[str, ...]
    cells: pd.DataFrame
    _seen: frozenset[str] = field(repr=False)

    @property
    def probe(self) -> LogisticProbe:
        """The selected probe."""
        return self.probes[self.layer]

    def test(self, read_layer: ReadLayer, rows: pd.DataFrame) -> Evaluation:
        """AUROCs of the selected probe on the test rows of the table given to `select`."""
        checked, where = self.unseen(rows)
        X = to_array(read_layer(self.layer), len(rows), self.layer, where)[where]
        return Evaluation.of(self.probe.decision_function(X), checked, where)

    def test_layers(self, read_layer: ReadLayer, rows: pd.DataFrame) -> pd.DataFrame:
        """Test AUROC of every layer at its best penalty: ``layer C auroc_validation auroc low high n chosen``."""
        checked, where = self.unseen(rows)
        found = []
        for layer, probe in self.best.items():
            X = to_array(read_layer(layer), len(rows), layer, where)[where]
            effect = auroc_effect("AUROC", checked.label[where], probe.decision_function(X), checked.group[where])
            at = self.table[(self.table["layer"] == layer) & (self.table["C"] == probe.C)].iloc[0]
            found.append(
                {"layer": layer, "C": probe.C, "auroc_validation": at["auroc_validation"], "auroc": effect.estimate}
                | {"low": effect.low, "high": effect.high, "n": effect.n, "chosen": layer == self.layer}
            )
        return pd.DataFrame(found)

    def unseen(self, rows: pd.DataFrame) -> tuple[Rows, Bool[ndarray, " row"]]:
        """The rows, and which are of the test split; refuses groups the probe was fitted or selected on."""
        checked = check_rows(rows, self.balance_on)
        where = checked.at("test")
        if known := sorted(set(checked.group[where]) & self._seen):
            raise InputError(f"test group {known[0]!r} was used to fit or select this probe: keep the split as it was")
        return checked, where

    def __repr__(self) -> str:
        return (
            f"Selection: layer {self.layer}, C {self.C:g} of {self.table['layer'].nunique()} layers x "
            f"{self.table['C'].nunique()} penalties; validation {self.validation.tokens}. Not yet tested."
        )


def select(
    read_layer: ReadLayer,
    rows: pd.DataFrame,
    layers: Sequence[int],
    Cs: Sequence[float | int] = DEFAULT_CS,
    *,
    balance_on: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Fit a probe per layer and penalty on train rows and select one on validation rows.

    Every rollout counts once in the fit, and features are standardised with every rollout counting once. Layers within
    one standard error of the best validation AUROC (over rows) are ties and the latest is taken, because a probe at
    layer l sees no head above l; a standard error of 0 counts as one pair of groups.
    """
    if not len(layers) or not len(Cs):
        raise InputError("name at least one layer and one C")
    checked = check_rows(rows, balance_on)
    train, validation = checked.at("train"), checked.at("validation")
    label, group = checked.label[validation], checked.group[validation]
    penalties, held_out = sorted({float(C) for C in Cs}), {}
    varied: list[bool] = []

    def read(layer: int) -> np.ndarray:
        X = to_array(read_layer(layer), len(rows), layer, train | validation)
        held_out[layer] = X[validation]
        varied.append(bool((X[train] != X[train][0]).any()))
        return X[train]

    def then(layer: int, X: np.ndarray, fits: LogisticFits) -> tuple[LogisticFits, np.ndarray]:
        return fits, fits.scores(held_out.pop(layer))[0, :, 0]

    fitted = solve_layers(
        read,
        sorted(set(layers)),
        checked.label[train],
        penalties,
        weight=checked.weights(train),
        scale_weight=checked.weights(train, "none"),
        tol=TOLERANCE,
        max_iter=1000,
        then=then,
        progress=progress,
    )
    if not any(varied):
        raise InputError("no activation differs between train rows, in any layer: there is nothing to fit a probe on")
    found = []
    for layer, (_, scores) in sorted(fitted.items()):
        for C, of_C in zip(penalties, scores, strict=True):
            auroc = auroc_clustered(label, of_C, group)
            found.append({"layer": layer, "C": C, "auroc_validation": auroc.estimate, "se": auroc.se})
    table = pd.DataFrame(found)
    layer, C = one_standard_error(table)
    table["chosen"] = (table["layer"] == layer) & (table["C"] == C)
    table["n_rows"], table["n_groups"] = int(validation.sum()), len(set(group))
    at, best = penalties.index(C), table["auroc_validation"].to_numpy().reshape(-1, len(penalties)).argmax(axis=1)
    return Selection(
        table=table,
        layer=layer,
        C=C,
        probes={number: _probe(fits, at) for number, (fits, _) in sorted(fitted.items())},
        best={
            number: _probe(fits, int(c)) for c, (number, (fits, _)) in zip(best, sorted(fitted.items()), strict=True)
        },
        validation=Evaluation.of(fitted[layer][1][at], checked, validation),
        balance_on=tuple(balance_on),
        cells=checked.cell_counts(train),
        _seen=frozenset(checked.group[train | validation]),
    )


def one_standard_error(table: pd.DataFrame) -> tuple[int, float]:
    """Of ``layer C auroc_validation se``: the latest layer within one standard error of the best, and its best C."""
    best = table.loc[table["auroc_validation"].idxmax()]
    se = 0.0 if np.isnan(best["se"]) else float(best["se"])
    near = table[table["auroc_validation"] >= best["auroc_validation"] - se]
    layer = int(near["layer"].max())
    own = table[table["layer"] == layer].sort_values("C")
    return layer, float(own.loc[own["auroc_validation"].idxmax(), "C"])  # the smallest among equals


def _probe(fits: LogisticFits, at: int) -> LogisticProbe:
    """One of many fits as a probe of its own."""
    probe = LogisticProbe(C=fits.Cs[at], tol=fits.tol)
    probe.classes_ = np.array([0, 1])
    probe.direction_, probe.bias_ = fits.direction[0, at, 0].copy(), float(fits.bias[0, at, 0])
    probe.error_, probe.n_iter_ = float(fits.error[0, at, 0]), max(1, int(fits.iterations[0, at, 0]))
    probe.n_features_in_ = len(probe.direction_)
    return probe
