"""What a probe scores when there is nothing to find: the same fit with labels permuted as the design allows.

Where the reported number was chosen among layers and penalties, the choice is made anew for every set of permuted
labels: the best of many reads more than chance by being the best of many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.rows import Balance, Rows, check_rows, rollout_permutation, to_array
from verdictscope.probes.solver import LogisticFits, solve_layers
from verdictscope.probes.sweep import ReadLayer
from verdictscope.stats import Permutation, Scheme, auroc_many, auroc_se_many, permutation_p, tie_slack
from verdictscope.values import whole_number

_FEWEST = 19  # below this no p-value can reach .05
REFITS = 200
"""Refits behind a null unless the caller says otherwise."""
WORDS = {"between": "between", "within": "within", "both": "between and within", "rows": "between"}
"""How each scheme moves labels, in words: a row that is a prompt of its own is permuted between prompts."""

Measure = Callable[[Int[ndarray, "fit row"], Float[ndarray, "fit row"]], Float[ndarray, "stat fit"]]
"""From labels and scores of the test rows, a line per fit, to figures of each fit."""

_TOLERANCE = 1e-3  # of a refit's weights: far below what would exchange two rows' ranks often enough to be seen


@dataclass(frozen=True, eq=False)
class PermutedControl:
    """AUROCs of probes refitted on permuted labels.

    Attributes:
        observed: test AUROC with the real labels.
        mean: mean over refits.
        low: smallest of the refits.
        high: largest of the refits.
        p: (1 + refits at least as good as the real fit) / (refits + 1).
        values: AUROC of every refit; NaN where a part was left with one class, which counts against the probe.
        unit: what was exchanged, or within what labels were permuted.
        within: columns within whose values labels were exchanged.
        seed: seed of the permutations.
        candidates: layers times penalties among which every refit chose.
        scheme: how labels were permuted: ``between`` units, ``within`` them, ``both``, or ``rows``.
        relabelings: number of distinct relabelings there are.
        kept: share of the real labels that a relabeling keeps beyond chance.
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
    candidates: int = 1
    scheme: str = "between"
    relabelings: float = float("inf")
    kept: float = 0.0

    @property
    def name(self) -> str:
        """What was permuted, in words."""
        return f"labels permuted {WORDS[self.scheme]} {'prompt' if self.unit == 'group' else self.unit}s"

    @property
    def refits(self) -> int:
        """Number of refits."""
        return len(self.values)

    def to_frame(self) -> pd.DataFrame:
        """One row per refit: ``refit auroc``."""
        return pd.DataFrame({"refit": np.arange(self.refits), "auroc": self.values})

    def __repr__(self) -> str:
        inside = f" within {' '.join(self.within)}" if self.within else ""
        chosen = f", each the choice of {self.candidates} candidates" if self.candidates > 1 else ""
        return (
            f"PermutedControl: real AUROC {self.observed:.3f}; {self.name}{inside}, "
            f"{self.refits} refits{chosen}: mean {self.mean:.3f}, range [{self.low:.3f}, {self.high:.3f}], "
            f"p = {self.p:.2g}"
        )


def permuted_control(
    X: Any,
    rows: pd.DataFrame,
    C: float | int,
    *,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    refits: int = REFITS,
    unit: str = "prompt",
    within: Sequence[str] = (),
    scheme: Scheme = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PermutedControl:
    """`permuted_selection` of a probe that was not chosen: one layer and one penalty, given before any score was seen.

    Args:
        X: activations of the layer for all rows, ``[row d]``.
        rows: as in `permuted_selection`.
        C: the penalty.
        balance: likewise.
        hold: likewise.
        refits: likewise.
        unit: likewise.
        within: likewise.
        scheme: likewise.
        seed: likewise.
        progress: likewise.

    Raises:
        InputError: see `permuted_selection`.
    """
    return permuted_selection(
        lambda _: X,
        rows,
        [-1],
        [C],
        balance=balance,
        hold=hold,
        refits=refits,
        unit=unit,
        within=within,
        scheme=scheme,
        seed=seed,
        progress=progress,
    )


def permuted_selection(
    read_layer: ReadLayer,
    rows: pd.DataFrame,
    layers: Sequence[int],
    Cs: Sequence[float | int],
    *,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    refits: int = REFITS,
    unit: str = "prompt",
    within: Sequence[str] = (),
    scheme: Scheme = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PermutedControl:
    """Fit, choose and test as `select` does, on labels permuted between prompts.

    All token rows of a rollout move together. Labels stay within each part of the split, so the null keeps its class
    shares. What else moves is chosen from the design (`permutation_of`): a prompt gets the labels of another prompt's
    rollouts; where every prompt holds the same labels (contrast pairs), they change places within it. A design whose
    labels cannot move is an error. All refits of a layer share one decomposition.

    Args:
        read_layer: layer -> activations of all rows, ``[row d]``.
        rows: the table given to the sweep; a ``prompt`` column, or ``PROMPT/SAMPLE`` rollout ids, name the prompts.
        layers: the layers the sweep chose from.
        Cs: the penalties it chose from.
        balance: as in the sweep.
        hold: as in the sweep.
        refits: number of permutations, at least 19 (the reports use 200).
        unit: column of the unit that moves as one, or within which labels move; ``group`` for the coarser one.
        within: exchange labels only between units with equal values of these columns: with ``("harm",)`` the null
            keeps what harm tells about the label, and p asks whether the probe reads more than harm.
        scheme: ``auto``, or the scheme to use, as in `permutation_of`.
        seed: seed of the permutations.
        progress: called with layers done and layers in all.

    Raises:
        InputError: see `check_rows`; too few refits; a unit with rows in two parts; a scheme that cannot move the
            labels; a null that is the observed number; a refit that did not converge.
    """
    whole_number(seed, "seed")
    given: dict[str, Any] = {"balance": balance, "hold": hold, "refits": refits, "seed": seed, "progress": progress}
    plan = _scheme(rows, hold, balance, unit, within, scheme)
    values = _measures(read_layer, rows, layers, Cs, lambda y, scores: auroc_many(y, scores)[None], plan, **given)[:, 0]
    _check_null(values)
    wanted, penalties = sorted(set(layers)), sorted({float(C) for C in Cs})
    return PermutedControl(
        observed=float(values[0]),
        mean=float(np.nanmean(values[1:])),
        low=float(np.nanmin(values[1:])),
        high=float(np.nanmax(values[1:])),
        p=permutation_p(values[0], values[1:]),
        values=values[1:],
        unit=unit,
        within=tuple(within),
        seed=seed,
        candidates=len(wanted) * len(penalties),
        scheme=plan.scheme,
        relabelings=plan.relabelings,
        kept=plan.kept,
    )


def permuted_measures(
    read_layer: ReadLayer,
    rows: pd.DataFrame,
    layers: Sequence[int],
    Cs: Sequence[float | int],
    measure: Measure,
    *,
    balance: Balance = "cells",
    hold: Sequence[str] = ("harm",),
    refits: int = REFITS,
    unit: str = "prompt",
    within: Sequence[str] = (),
    scheme: Scheme = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Float[ndarray, "fit stat"]:
    """`permuted_selection` for any figures of the test part: the real fit's first, then every refit's.

    Args:
        read_layer: as in `permuted_selection`, and so on.
        rows: likewise.
        layers: likewise.
        Cs: likewise.
        measure: from labels and scores of the test rows, ``[fit row]``, to figures ``[stat fit]``.
        balance: likewise.
        hold: likewise.
        refits: likewise.
        unit: likewise.
        within: likewise.
        scheme: likewise.
        seed: likewise.
        progress: likewise.

    Returns:
        figures at the layer and penalty that each fit chose on validation; NaN where a part was left with one class.

    Raises:
        InputError: see `permuted_selection`.
    """
    plan = _scheme(rows, hold, balance, unit, within, scheme)
    return _measures(
        read_layer,
        rows,
        layers,
        Cs,
        measure,
        plan,
        balance=balance,
        hold=hold,
        refits=refits,
        seed=seed,
        progress=progress,
    )


def _scheme(
    rows: pd.DataFrame, hold: Sequence[str], balance: Balance, unit: str, within: Sequence[str], scheme: Scheme
) -> Permutation:
    """The scheme over rollouts."""
    return rollout_permutation(rows, check_rows(rows, hold, balance), unit, within, scheme)


def _measures(
    read_layer: ReadLayer,
    rows: pd.DataFrame,
    layers: Sequence[int],
    Cs: Sequence[float | int],
    measure: Measure,
    plan: Permutation,
    *,
    balance: Balance,
    hold: Sequence[str],
    refits: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Float[ndarray, "fit stat"]:
    if refits < _FEWEST:
        raise InputError(f"{refits} refits cannot show p <= .05; ask for at least {_FEWEST}, better {REFITS}")
    checked = check_rows(rows, hold, balance)
    drawn = plan.draws(refits, np.random.default_rng(seed))[:, checked.rollout]
    every = np.concatenate([checked.label[None], drawn])
    train, validation, test = (checked.at(part) for part in ("train", "validation", "test"))
    usable = np.all([(every[:, at].min(1) < every[:, at].max(1)) for at in (train, validation, test)], axis=0)
    # Equal labels are fitted once: a draw of the real labels is the real fit, not that up to rounding.
    labels, copies = _distinct(every[usable])
    wanted, penalties = sorted(set(layers)), sorted({float(C) for C in Cs})
    refit = _Refits(checked, labels, measure, choose=len(wanted) * len(penalties) > 1)
    held_out: dict[int, tuple[ndarray, ndarray]] = {}

    def read(layer: int) -> ndarray:
        X = to_array(read_layer(layer), len(rows), layer)
        held_out[layer] = X[validation], X[test]
        return X[train]

    done = solve_layers(
        read,
        wanted,
        labels[:, train],
        penalties,
        scale_weight=checked.weights(train, "none"),
        tol=_TOLERANCE,
        weight=np.stack([checked.weights(train, balance, y) for y in labels]),
        progress=progress,
        then=lambda layer, _, fits: refit(fits.check(), *held_out.pop(layer)),
    )
    found = _chosen([done[layer] for layer in wanted])
    values = np.full((1 + refits, found.shape[1]), np.nan)
    values[usable] = found[copies]
    return values


def _distinct(labels: Int[ndarray, "fit row"]) -> tuple[Int[ndarray, "distinct row"], Int[ndarray, " fit"]]:
    """Distinct labelings in the order of their first occurrence, and which of them each is."""
    codes, _ = pd.factorize(np.array([row.tobytes() for row in np.ascontiguousarray(labels, np.int8)], dtype=object))
    _, first = np.unique(codes, return_index=True)
    return labels[first], codes


def _check_null(values: Float[ndarray, " fit"]) -> None:
    """Refuse a null that says nothing: no refit with both classes, or the observed number in every one."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn):
        raise InputError("no relabeling leaves both labels in every part: add prompts of either label to each part")
    if (np.abs(drawn - values[0]) <= tie_slack(values[0])).all():
        raise InputError(
            f"every refit with permuted labels gives the observed AUROC {values[0]:.3f}: the activations do not vary, "
            "or the test part holds too few rows; capture other positions or add prompts"
        )


@dataclass(frozen=True)
class _Refits:
    """From the fits of one layer to each refit's best penalty and the test AUROC there."""

    rows: Rows
    labels: Int[ndarray, "refit row"]
    measure: Measure
    choose: bool

    def __call__(self, fits: LogisticFits, X_validation: ndarray, X_test: ndarray) -> Float[ndarray, "column refit"]:
        """Validation AUROC of the best penalty (the smallest among equals), its standard error, the test figures."""
        refits = len(self.labels)
        best, se, at = np.full(refits, -1.0), np.zeros(refits), np.zeros(refits, dtype=int)
        if self.choose:
            where = self.rows.at("validation")
            kept = np.zeros((refits, int(where.sum())))
            for c in range(len(fits.Cs)):
                scores = fits.direction[0, c] @ X_validation.T + fits.bias[0, c][:, None]
                value = auroc_many(self.labels[:, where], scores)
                better = value > best
                best[better], at[better], kept[better] = value[better], c, scores[better]
            se = auroc_se_many(self.labels[:, where], kept, self.rows.group[where])
        each = np.arange(refits)
        scores = fits.direction[0, at, each] @ X_test.T + fits.bias[0, at, each][:, None]
        return np.stack([best, se, *self.measure(self.labels[:, self.rows.at("test")], scores)])


def _chosen(layers: Sequence[Float[ndarray, "column refit"]]) -> Float[ndarray, "refit stat"]:
    """The test figures at each refit's chosen layer, by the sweep's own rule: the latest within one standard error."""
    validation, se, *test = np.stack(layers, axis=1)
    each, best = np.arange(validation.shape[1]), validation.argmax(axis=0)
    near = validation >= validation[best, each] - np.nan_to_num(se[best, each], nan=0.0)
    latest = len(layers) - 1 - near[::-1].argmax(axis=0)
    return np.stack([figure[latest, each] for figure in test], axis=1)
