"""Whether a probe reads where it was not fitted: at another place of the rollout, on another set of prompts.

Each cell of a matrix is a probe fitted on training rows of one kind and read on test rows of another. Beside it stands
its own null: the same fit and evaluation after labels were permuted between prompts, every permutation used for
all cells, so that a p-value can also be corrected for how many cells there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.nulls import PERMUTATIONS, Permutations
from verdictscope.probes.rows import Rows, check_rows, rollout_permutation, to_array
from verdictscope.probes.solver import solve_logistic
from verdictscope.stats import auroc_effect, auroc_many, permutation_p, tie_slack

if TYPE_CHECKING:
    from verdictscope.figures import Display

FEWEST = 200
"""Fewest permutations behind the range of a cell."""

_CELL = "fit read kind auroc low high n n_fit null_mean null_low null_high selectivity p p_adjusted"
COLUMNS = (*_CELL.split(), "held", "held_low", "held_high", "reason")
"""Columns of a matrix's table, one row per cell."""

NOT_SHOWN = (
    "An AUROC is blind to shift and scale: a probe can order rows correctly where its zero means nothing. Reading "
    "elsewhere does not show that the direction means the same there, nor that the model uses it."
)


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """AUROCs of probes fitted on one kind of rows and evaluated on another, each with the range of its own null.

    Attributes:
        table: a row per cell, columns ``COLUMNS``: ``kind`` is ``within`` (new prompts of the kind it was fitted on),
            ``transfer`` or ``left out`` (fitted on all other kinds); ``low`` and ``high`` are a 95 % interval over
            prompt groups, ``n`` counts those evaluated and ``n_fit`` the rollouts fitted on; ``null_*`` mean and range
            over the permutations, ``selectivity`` is ``auroc - null_mean``; ``p`` is one-sided, ``p_adjusted``
            corrects it for all cells that are no ``within``; ``held`` compares only rows with equal balance columns;
            ``reason`` says why a cell could not be filled.
        nulls: AUROC of every permutation in every cell, in the order of the table.
        over: the column of the rows that names the kinds.
        C: penalty of every fit.
        how: how labels were permuted.
        balance_on: columns whose values are equal in ``held``.
        seed: seed of the permutations.
    """

    table: pd.DataFrame
    nulls: Float[ndarray, "refit cell"]
    over: str
    C: float
    how: Permutations
    balance_on: tuple[str, ...]
    seed: int

    @cached_property
    def transfers(self) -> pd.DataFrame:
        """The filled cells that were evaluated on another kind than they were fitted on."""
        return self.table[(self.table["kind"] != "within") & self.table["auroc"].notna()]

    def to_frame(self) -> pd.DataFrame:
        """The table of cells."""
        return self.table.copy()

    def plot(self) -> Display:
        """The matrix as a heat map."""
        from verdictscope import figures

        return figures.transfer(self.table, over=self.over)

    def __repr__(self) -> str:
        rows, empty = self.transfers, int(self.table["auroc"].isna().sum())
        head = f"TransferMatrix over {self.over}, C {self.C:g}, {len(self.nulls)} permutations"
        if rows.empty:
            return f"{head}: no cell could be filled ({self.table['reason'].iloc[0]})"
        above = int((rows["low"] > rows["null_high"].clip(lower=0.5)).sum())
        worst = rows.loc[(rows["low"] - rows["null_high"]).idxmin()]
        return (
            f"{head}: {above} of {len(rows)} transfers read above chance and every permutation; weakest "
            f"{worst['fit']} -> {worst['read']} {worst['auroc']:.3f} [{worst['low']:.3f}, {worst['high']:.3f}], null "
            f"{worst['null_low']:.3f} to {worst['null_high']:.3f}" + (f"; {empty} cells not filled" if empty else "")
        )

    def _repr_html_(self) -> str:
        shown = self.table.pivot_table(index="fit", columns="read", values="auroc", sort=False)
        return (
            f"<p>{escape(repr(self))}</p>{shown.to_html(float_format='{:.3f}'.format, na_rep='–')}"
            f"<p>Not shown: {escape(NOT_SHOWN)}</p>"
        )


@dataclass(frozen=True)
class _Given:
    """What every cell shares."""

    X: Float[ndarray, "row d"]
    checked: Rows
    labels: Int[ndarray, "refit rollout"]  # the first are the real ones
    C: float
    balanced: bool


def transfer_matrix(
    X: Any,
    rows: pd.DataFrame,
    C: float | int,
    by: str,
    *,
    values: Sequence[str] | None = None,
    leave_one_out: bool = False,
    balance_on: Sequence[str] = (),
    permutations: int | Permutations = PERMUTATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TransferMatrix:
    """Fit a probe on every kind of rows and evaluate it on every kind, on new prompts.

    A kind is a position of the rollout, a data set, a category. The split stays: cells evaluated on the kind they were
    fitted on are also evaluated on new prompts.

    Args:
        X: activations of one layer for all rows, ``[row d]``; array or tensor.
        rows: ``rollout group label part`` and the columns ``by`` and of ``balance_on``, one row per activation.
        C: penalty of every fit, for example the selected one.
        by: column that names each row's kind.
        values: the kinds in the order they are shown; by default by their mean ``pos`` along the rollout, or sorted
            where there is no such column.
        leave_one_out: also fit on all kinds but one and evaluate there, with three kinds or more.
        balance_on: columns that must not stand in for the label, as in `fit_probe`.
        permutations: permutations of every cell's null, at least 200; or how they are made.
        seed: seed of the permutations.
        progress: called with fits done and fits in all.

    Raises:
        InputError: rows that do not fit together, a missing column or kind, or one kind only.

    Example:
        >>> import numpy as np, pandas as pd
        >>> from verdictscope.probes import split_groups, transfer_matrix
        >>> rng = np.random.default_rng(0)
        >>> names = [f"statement {i}" for i in range(120)]
        >>> rows = pd.DataFrame({"rollout": names, "group": names, "label": rng.integers(0, 2, 120)})
        >>> rows["part"] = rows["group"].map(split_groups(names, rows["label"]))
        >>> rows["topic"] = ["cities", "animals"] * 60
        >>> X = rng.normal(size=(120, 4)) + 3 * rows[["label"]].to_numpy()
        >>> found = transfer_matrix(X, rows, 1.0, "topic")
        >>> found.to_frame()[["fit", "read", "kind"]].head(2)
              fit     read      kind
        0  animals  animals    within
        1  animals   cities  transfer
    """
    if by not in rows.columns:
        raise InputError(f"rows have no column {by!r}; there are {', '.join(map(str, rows.columns))}")
    if rows[by].isna().any():
        raise InputError(f"{int(rows[by].isna().sum())} rows have no {by}; name it or drop them")
    names = rows[by].astype(str).to_numpy(dtype=object)
    if values is None:
        along = "pos" in rows.columns and not leave_one_out
        order = rows.groupby(names)["pos"].mean().sort_values(kind="stable").index if along else sorted(set(names))
        values = list(order)
    known = [str(value) for value in values]
    if missing := sorted(set(known) - set(names)):
        raise InputError(f"no row has {by} {missing[0]!r}; there are {', '.join(sorted(set(names)))}")
    if leave_one_out and len(known) < 2:
        raise InputError(f"column {by!r} holds one value, {known[0]!r}; a transfer needs two")
    how = permutations if isinstance(permutations, Permutations) else Permutations(permutations)
    if how.n < FEWEST:
        raise InputError(f"{how.n} permutations are too few for a range; ask for at least {FEWEST}")
    checked = check_rows(rows, balance_on)
    plan = rollout_permutation(rows, checked, how.unit, how.within, how.scheme)
    labels = np.concatenate([plan.labels[None], plan.draws(how.n, np.random.default_rng(seed))])
    features = to_array(X, len(rows), layer=-1).astype(np.float64)
    given = _Given(features, checked, labels, float(C), bool(balance_on))
    fits = {name: names == name for name in known}
    pairs = {name: [(other, "within" if other == name else "transfer") for other in known] for name in known}
    for name in known if leave_one_out and len(known) > 2 else ():
        fits[f"all but {name}"] = names != name
        pairs[f"all but {name}"] = [(name, "left out")]
    cells, nulls = [], []
    for done, (name, where) in enumerate(fits.items(), start=1):
        probe = _fit(given, where)
        for read, kind in pairs[name]:
            cell, null = _evaluate(given, probe, names == read)
            cells.append({"fit": name, "read": read, "kind": kind} | cell)
            nulls.append(null)
        if progress:
            progress(done, len(fits))
    table, null = pd.DataFrame(cells), np.stack(nulls, axis=1)
    table["p_adjusted"] = _adjusted(table, null)
    return TransferMatrix(table[list(COLUMNS)], null, by, float(C), how, tuple(balance_on), seed)


@dataclass(frozen=True)
class _Fitted:
    """One place's probe under the real labels (first) and every permutation; rows of NaN where a class was missing."""

    direction: Float[ndarray, "refit d"]
    bias: Float[ndarray, " refit"]
    n: int
    reason: str


def _fit(given: _Given, where: Bool[ndarray, " row"]) -> _Fitted:
    train = given.checked.at("train") & where
    label = given.labels[:, given.checked.rollout]
    n, d = int(len(set(given.checked.rollout[train]))), given.X.shape[1]
    nothing = np.full((len(label), d), np.nan), np.full(len(label), np.nan)
    two = np.array([len(set(own)) == 2 for own in label[:, train]])
    if not two[0]:
        what = f"only rows labelled {label[0, train][0]}" if train.any() else "no rows"
        return _Fitted(*nothing, n, f"{what} to fit on")
    weight = np.stack([given.checked.weights(train, y=own) for own in label[two]])
    # Scales must not depend on the labels, or the real ones would not be fitted as the exchanged ones are.
    fits = solve_logistic(
        given.X[train],
        label[two][:, train],
        [given.C],
        weight=weight,
        scale_weight=given.checked.weights(train, "none"),
    )
    direction, bias = nothing
    direction[two], bias[two] = fits.direction[0, 0], fits.bias[0, 0]
    return _Fitted(direction, bias, n, "")


def _evaluate(given: _Given, probe: _Fitted, where: Bool[ndarray, " row"]) -> tuple[dict[str, Any], ndarray]:
    """One cell: the effect, its null, and the AUROC of every permutation."""
    checked = given.checked
    test = checked.at("test") & where
    label = given.labels[:, checked.rollout[test]]
    group, nothing = checked.group[test], np.full(len(label) - 1, np.nan)
    cell: dict[str, Any] = dict.fromkeys(COLUMNS[3:], float("nan"))
    cell |= {"n": len(set(group)), "n_fit": probe.n, "reason": probe.reason}
    if not cell["reason"] and len(set(label[0])) < 2:
        cell["reason"] = f"only rows labelled {label[0][0]} to read" if test.any() else "no rows to read"
    if cell["reason"]:
        return cell, nothing
    scores = probe.direction @ given.X[test].T + probe.bias[:, None]
    effect = auroc_effect("AUROC", label[0], scores[0], group)
    null = auroc_many(label[1:], scores[1:])
    drawn = null[np.isfinite(null)]
    if not len(drawn):
        return cell | {"reason": "no relabeling leaves both labels"}, nothing
    cell |= {"auroc": effect.estimate, "low": effect.low, "high": effect.high, "n": effect.n}
    cell |= {"null_mean": drawn.mean(), "null_low": drawn.min(), "null_high": drawn.max()}
    cell["selectivity"] = effect.estimate - drawn.mean()
    cell["p"] = permutation_p(effect.estimate, null)
    if given.balanced:
        held = auroc_effect("AUROC, held fixed", label[0], scores[0], group, strata=checked.held[test])
        cell |= {"held": held.estimate, "held_low": held.low, "held_high": held.high}
    return cell, null


def _adjusted(table: pd.DataFrame, null: Float[ndarray, "refit cell"]) -> ndarray:
    """Each transfer's p among all of them, from the largest standardised excess of every permutation.

    Westfall and Young's single-step maximum (Resampling-Based Multiple Testing, 1993): the same permutation stands in
    all cells, so their dependence is kept.
    """
    of = (table["kind"] != "within").to_numpy() & table["auroc"].notna().to_numpy()
    out = np.full(len(table), np.nan)
    if not of.any():
        return out
    mean, spread = np.nanmean(null[:, of], axis=0), np.nanstd(null[:, of], axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    # a relabeling without a number in some cell counts as extreme there, as it does in that cell's own p
    largest = np.nan_to_num((null[:, of] - mean) / spread, nan=np.inf).max(axis=1)
    excess = (table["auroc"].to_numpy()[of] - mean) / spread
    out[of] = (1 + (largest[:, None] >= excess - tie_slack(excess)).sum(axis=0)) / (1 + len(null))
    return out
