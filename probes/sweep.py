"""Probes at every layer and penalty: fitted on train, chosen on validation, reported once on test.

The order is built into the types. `select` looks at train and validation rows only and gives a `Selection`, which
holds no test number. `Selection.test` scores the chosen probe on the test rows and gives a `Sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.probes.estimators import LogisticProbe
from verdictscope.probes.evaluate import Evaluation, evaluate
from verdictscope.probes.rows import Balance, check_rows, to_array
from verdictscope.probes.solver import LogisticFits, solve_layers
from verdictscope.stats import Effect, auroc_clustered

if TYPE_CHECKING:
    from verdictscope.activations.readouts import LinearReadout

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


@dataclass(frozen=True, eq=False)
class Selection:
    """A probe chosen on validation. It holds nothing of the test part.

    Attributes:
        table: per layer and C ``layer C auroc_validation se chosen n_rows n_groups``.
        layer: chosen layer.
        C: chosen penalty.
        probes: every layer's probe at the chosen penalty, fitted on train with the same weights, by layer.
        validation: its AUROCs on validation (optimistic: it was chosen there).
        balance: what the fit weighed equally.
        hold: columns held fixed.
        cells: rollouts per held value and label in train.
    """

    table: pd.DataFrame
    layer: int
    C: float
    probes: dict[int, LogisticProbe]
    validation: Evaluation
    balance: Balance
    hold: tuple[str, ...]
    cells: pd.DataFrame
    _seen: frozenset[str] = field(repr=False)

    @property
    def probe(self) -> LogisticProbe:
        """The chosen probe."""
        return self.probes[self.layer]

    def readouts(self, name: str, site: str) -> list[LinearReadout]:
        """Every layer's probe at the chosen penalty as a readout of ``site``, all of one name.

        They show how the reading grows with depth; the one to report is the chosen layer's.
        """
        return [self.probes[layer].readout(name, site, layer) for layer in sorted(self.probes)]

    def test(self, read_layer: ReadLayer, rows: pd.DataFrame) -> Sweep:
        """The test number of the chosen probe.

        Args:
            read_layer: gives the activations of all rows; called with the chosen layer alone.
            rows: the table given to `select`.

        Raises:
            InputError: a test group was among those the probe was fitted or chosen on.
        """
        checked = check_rows(rows, self.hold, self.balance)
        where = checked.at("test")
        known = sorted(set(checked.group[where]) & self._seen)
        if known:
            raise InputError(f"test group {known[0]!r} was used to fit or choose this probe; keep the split as it was")
        X = to_array(read_layer(self.layer), len(rows), self.layer, where)[where]
        scores = self.probe.decision_function(X)
        result = evaluate(scores, checked, where)
        return Sweep(self, result)

    def to_frame(self) -> pd.DataFrame:
        """The table of layers and penalties."""
        return self.table.copy()

    def __repr__(self) -> str:
        return (
            f"Selection: layer {self.layer}, C {self.C:g} of {self.table['layer'].nunique()} layers x "
            f"{self.table['C'].nunique()} penalties; validation {self.validation.tokens}. Not yet tested."
        )


@dataclass(frozen=True, eq=False)
class Sweep:
    """A chosen probe and its test number.

    It shows that the label can be read linearly at this layer on new prompts; not that the model uses it.

    Attributes:
        selection: how it was chosen.
        evaluation: the AUROCs on the test part.
    """

    selection: Selection
    evaluation: Evaluation

    @property
    def layer(self) -> int:
        """Chosen layer."""
        return self.selection.layer

    @property
    def C(self) -> float:
        """Chosen penalty."""
        return self.selection.C

    @property
    def probe(self) -> LogisticProbe:
        """The chosen probe, fitted on train."""
        return self.selection.probe

    @property
    def table(self) -> pd.DataFrame:
        """Per layer and C: ``layer C auroc_validation se chosen n_rows n_groups``."""
        return self.selection.table

    @property
    def test(self) -> Effect:
        """AUROC over token rows of the test part, interval over prompt groups."""
        return self.evaluation.tokens

    def readout(self, name: str, site: str) -> LinearReadout:
        """The chosen probe as a readout of ``site`` at the chosen layer."""
        return self.probe.readout(name, site, self.layer)

    def to_frame(self) -> pd.DataFrame:
        """The table of layers and penalties."""
        return self.selection.to_frame()

    def __repr__(self) -> str:
        held = self.evaluation.held
        lines = [
            f"Sweep: layer {self.layer}, C {self.C:g} ({RULE})",
            f"  test, {self.evaluation.tokens}",
            f"  test, {self.evaluation.rollouts}",
        ]
        if held is not None:
            lines.append(f"  test, {held} ({' '.join(self.selection.hold)} equal)")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        grid = self.table.pivot(index="layer", columns="C", values="auroc_validation")
        numbers = self.evaluation.to_frame()[["name", "estimate", "low", "high", "n"]]
        return (
            f"<p><b>Probe at layer {self.layer}, C {self.C:g}</b>: {escape(RULE)}.</p><p>Test part</p>"
            f"{numbers.to_html(index=False, float_format='{:.3f}'.format)}<p>Validation AUROC</p>"
            f"{grid.to_html(float_format='{:.3f}'.format)}"
        )


def sweep(
    read_layer: ReadLayer,
    rows: pd.DataFrame,
    layers: Sequence[int],
    Cs: Sequence[float | int] = DEFAULT_CS,
    *,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """`select`, then `Selection.test`: see there."""
    chosen = select(read_layer, rows, layers, Cs, balance=balance, hold=hold, progress=progress)
    return chosen.test(read_layer, rows)


def select(
    read_layer: ReadLayer,
    rows: pd.DataFrame,
    layers: Sequence[int],
    Cs: Sequence[float | int] = DEFAULT_CS,
    *,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Fit a probe per layer and penalty on train rows and choose one on validation rows.

    Args:
        read_layer: layer -> activations of all rows, ``[row d]``, in the order of ``rows``. A store has an order of its
            own: take ``rows`` from ``store.rows``, or read with `verdictscope.activations.reader`.
        rows: ``rollout group label part`` and the columns of ``hold``, one row per activation.
        layers: layers to try.
        Cs: inverse penalties to try.
        balance: ``cells`` gives the cells label x held columns equal weight, so that harm cannot stand in for refusal;
            ``classes`` the two labels; ``none`` each rollout. Every rollout counts once in each, and features are
            standardised with every rollout counting once, whatever the labels.
        hold: the columns held fixed.
        progress: called with layers done and layers in all.

    Returns:
        the choice: layers within one standard error of the best validation AUROC (over token rows) are ties and the
        latest is taken, because a probe at layer l sees no head above l. A standard error of 0 counts as one pair of
        groups.

    Raises:
        InputError: see `check_rows`; also no layers or penalties, or activations that are NaN, infinite or the same
            in every row.
    """
    if not len(layers) or not len(Cs):
        raise InputError("name at least one layer and one C")
    checked = check_rows(rows, hold, balance)
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
        weight=checked.weights(train, balance),
        scale_weight=checked.weights(train, "none"),
        tol=TOLERANCE,
        max_iter=1000,
        then=then,
        progress=progress,
    )
    if not any(varied):
        raise InputError("no activation differs between train rows, in any layer: there is nothing to read here")
    found = []
    for layer, (_, scores) in sorted(fitted.items()):
        for C, of_C in zip(penalties, scores, strict=True):
            auroc = auroc_clustered(label, of_C, group)
            found.append({"layer": layer, "C": C, "auroc_validation": auroc.estimate, "se": auroc.se})
    table = pd.DataFrame(found)
    layer, C = one_standard_error(table)
    table["chosen"] = (table["layer"] == layer) & (table["C"] == C)
    table["n_rows"], table["n_groups"] = int(validation.sum()), len(set(group))
    at = penalties.index(C)
    return Selection(
        table=table,
        layer=layer,
        C=C,
        probes={number: _probe(fits, at) for number, (fits, _) in sorted(fitted.items())},
        validation=evaluate(fitted[layer][1][at], checked, validation),
        balance=balance,
        hold=tuple(hold),
        cells=checked.cell_counts(train),
        _seen=frozenset(checked.group[train | validation]),
    )


def one_standard_error(table: pd.DataFrame) -> tuple[int, float]:
    """The latest layer within one standard error of the best, and its best C (the smallest among equals).

    Args:
        table: columns ``layer C auroc_validation se``.
    """
    best = table.loc[table["auroc_validation"].idxmax()]
    se = 0.0 if np.isnan(best["se"]) else float(best["se"])
    near = table[table["auroc_validation"] >= best["auroc_validation"] - se]
    layer = int(near["layer"].max())
    own = table[table["layer"] == layer].sort_values("C")
    return layer, float(own.loc[own["auroc_validation"].idxmax(), "C"])


def _probe(fits: LogisticFits, at: int) -> LogisticProbe:
    """One of many fits as a probe of its own."""
    probe = LogisticProbe(C=fits.Cs[at], tol=fits.tol)
    probe.classes_ = np.array([0, 1])
    probe.direction_, probe.bias_ = fits.direction[0, at, 0].copy(), float(fits.bias[0, at, 0])
    probe.error_, probe.n_iter_ = float(fits.error[0, at, 0]), max(1, int(fits.iterations[0, at, 0]))
    probe.n_features_in_ = len(probe.direction_)
    return probe
