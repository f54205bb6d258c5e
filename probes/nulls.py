"""Null distribution of a probe's test number: refits with labels permuted as the design allows.

Where the reported number was chosen among layers and penalties, every refit chooses among them again: the best of many
candidates exceeds chance by being the best of many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.controls import table_row
from verdictscope.probes.rows import Rows, check_rows, rollout_permutation, to_array
from verdictscope.probes.selection import DEFAULT_CS, ReadLayer
from verdictscope.probes.solver import LogisticFits, solve_layers
from verdictscope.stats import Permutation, Scheme, auroc_many, auroc_se_many, permutation_p, tie_slack
from verdictscope.values import whole_number

_FEWEST = 19  # below this no p-value can reach .05
PERMUTATIONS = 200
"""Permutations behind a null distribution unless the caller asks for another number."""
_MOVES = {"between": "between", "within": "within", "both": "between and within", "rows": "between"}

Measure = Callable[[Int[ndarray, "fit row"], Float[ndarray, "fit row"]], Float[ndarray, "stat fit"]]
"""Labels and scores of the test rows, a line per fit -> further statistics of every fit."""

_TOLERANCE = 1e-3  # of a refit's weights: far below what would exchange the ranks of two rows often enough to be seen


@dataclass(frozen=True)
class Permutations:
    """How labels are permuted.

    Attributes:
        n: number of permutations, at least 19.
        unit: column of the unit that moves as one, or within which labels move.
        within: labels are exchanged only between units with equal values of these columns: with ``("harm",)`` the null
            keeps what harm predicts of the label.
        scheme: as in `verdictscope.stats.permutation_of`; ``auto`` chooses by the design.
        measure: further statistics of every refit, kept in `PermutationNull.measures`.
    """

    n: int = PERMUTATIONS
    unit: str = "prompt"
    within: tuple[str, ...] = ()
    scheme: Scheme = "auto"
    measure: Measure | None = None


@dataclass(frozen=True, eq=False)
class PermutationNull:
    """Test AUROCs of probes refitted on permuted labels.

    Attributes:
        observed: test AUROC with the real labels.
        mean: mean over permutations.
        low: smallest value.
        high: largest value.
        p: (1 + permutations at least as good as the real fit) / (permutations + 1).
        values: AUROC of every permutation; NaN where a split was left with one class, which counts against the probe.
        how: how labels were permuted.
        seed: seed of the permutations.
        candidates: layers times penalties among which every refit chose.
        scheme: how labels moved: ``between`` units, ``within`` them, ``both``, or ``rows``.
        relabelings: number of distinct permutations there are.
        kept: share of the real labels that a permutation keeps beyond chance.
        layers: test AUROC of every permutation by layer, each at its best penalty there.
        measures: `Permutations.measure` of the real fit (first) and of every permutation, ``[1 + n stat]``.
    """

    observed: float
    mean: float
    low: float
    high: float
    p: float
    values: Float[ndarray, " permutation"]
    how: Permutations
    seed: int
    candidates: int
    scheme: str
    relabelings: float
    kept: float
    layers: dict[int, ndarray] = field(repr=False)
    measures: Float[ndarray, "fit stat"] = field(repr=False)

    @property
    def name(self) -> str:
        """What was permuted."""
        return f"labels permuted {_MOVES[self.scheme]} {'prompt' if self.how.unit == 'group' else self.how.unit}s"

    def row(self) -> dict[str, Any]:
        """As a row of kind ``permuted``."""
        about = f"mean and range over refits, each the choice of {self.candidates} layers x penalties"
        return table_row("permuted", self.name, self.mean, self.low, self.high, len(self.values), p=self.p, about=about)

    def to_frame(self) -> pd.DataFrame:
        """One row per permutation: ``permutation auroc``."""
        return pd.DataFrame({"permutation": np.arange(len(self.values)), "auroc": self.values})

    def __repr__(self) -> str:
        inside = f" within {' '.join(self.how.within)}" if self.how.within else ""
        return (
            f"PermutationNull: observed AUROC {self.observed:.3f}; {self.name}{inside}, {len(self.values)} refits, "
            f"each the choice of {self.candidates} candidates: mean {self.mean:.3f}, range [{self.low:.3f}, "
            f"{self.high:.3f}], p = {self.p:.2g}"
        )


def permutation_null(
    read_layer: ReadLayer,
    rows: pd.DataFrame,
    layers: Sequence[int],
    Cs: Sequence[float | int] = DEFAULT_CS,
    *,
    balance_on: Sequence[str] = (),
    permutations: int | Permutations = PERMUTATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PermutationNull:
    """Fit, select and test as `fit_probe` does, on permuted labels.

    All rows of a rollout move together and labels stay within each split, so the null keeps its class shares. What else
    moves follows from the design: a prompt gets the labels of another prompt's rollouts; where every prompt has the
    same labels (contrast pairs), they are exchanged within it. All refits of a layer share one decomposition.

    Args:
        read_layer: layer -> activations of all rows, ``[row d]``.
        rows: columns ``rollout group label part`` and those of ``balance_on``, one row per activation; a ``prompt``
            column, or ``PROMPT/SAMPLE`` rollout ids, name the prompts.
        layers: the layers to choose from.
        Cs: the inverse penalties to choose from.
        balance_on: columns whose cells with the label weigh equally in the fit.
        permutations: how many, or how they are made.
        seed: seed of the permutations.
        progress: called with layers done and layers in all.

    Raises:
        InputError: rows that do not fit together; fewer than 19 permutations; a unit with rows in two splits; a design
            in which the labels cannot move; a null that equals the observed number; a refit that did not converge.

    Example:
        >>> import numpy as np, pandas as pd
        >>> from verdictscope.probes import permutation_null
        >>> label = np.arange(120) % 2
        >>> X = np.random.default_rng(0).normal(size=(120, 4)) + 3 * label[:, None]
        >>> names = [f"prompt {i}" for i in range(120)]
        >>> split = np.repeat(["train", "validation", "test"], 40)
        >>> rows = pd.DataFrame({"rollout": names, "group": names, "label": label, "part": split})
        >>> null = permutation_null(lambda layer: X, rows, [0], permutations=39)
        >>> null.observed > null.high, null.p
        (True, 0.025)
    """
    whole_number(seed, "seed")
    how = permutations if isinstance(permutations, Permutations) else Permutations(permutations)
    checked = check_rows(rows, balance_on)
    plan = rollout_permutation(rows, checked, how.unit, how.within, how.scheme)
    values, by_layer = _refitted(read_layer, checked, layers, Cs, plan, how, seed, progress)
    found = values[:, 0]
    known = found[1:][np.isfinite(found[1:])]
    if how.measure is None and not len(known):
        raise InputError("no permutation leaves both labels in every split: add prompts of either label to each split")
    if how.measure is None and (np.abs(known - found[0]) <= tie_slack(found[0])).all():
        raise InputError(
            f"every refit with permuted labels gives the observed AUROC {found[0]:.3f}: the activations do not vary, "
            "or the test split holds too few rows; capture other positions or add prompts"
        )
    return PermutationNull(
        observed=float(found[0]),
        mean=float(known.mean()) if len(known) else float("nan"),
        low=float(known.min()) if len(known) else float("nan"),
        high=float(known.max()) if len(known) else float("nan"),
        p=permutation_p(found[0], found[1:]),
        values=found[1:],
        how=how,
        seed=seed,
        candidates=len(set(layers)) * len({float(C) for C in Cs}),
        scheme=plan.scheme,
        relabelings=plan.relabelings,
        kept=plan.kept,
        layers=by_layer,
        measures=values[:, 1:],
    )


def _refitted(
    read_layer: ReadLayer,
    checked: Rows,
    layers: Sequence[int],
    Cs: Sequence[float | int],
    plan: Permutation,
    how: Permutations,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Float[ndarray, "fit stat"], dict[int, ndarray]]:
    """Test statistics of the real fit (first) and of every refit, AUROC first; and the refits' AUROC by layer."""
    if how.n < _FEWEST:
        raise InputError(f"{how.n} permutations cannot give p <= .05: ask for at least {_FEWEST}, or {PERMUTATIONS}")
    drawn = plan.draws(how.n, np.random.default_rng(seed))[:, checked.rollout]
    every = np.concatenate([checked.label[None], drawn])
    train, validation, test = (checked.at(part) for part in ("train", "validation", "test"))
    usable = np.all([(every[:, at].min(1) < every[:, at].max(1)) for at in (train, validation, test)], axis=0)
    # Equal labels are fitted once: a draw of the real labels is the real fit, not that up to rounding.
    codes, _ = pd.factorize(np.array([row.tobytes() for row in every[usable].astype(np.int8)], dtype=object))
    labels = every[usable][np.unique(codes, return_index=True)[1]]
    wanted, penalties = sorted(set(layers)), sorted({float(C) for C in Cs})
    held_out: dict[int, tuple[ndarray, ndarray]] = {}

    def read(layer: int) -> ndarray:
        X = to_array(read_layer(layer), len(checked.label), layer)
        held_out[layer] = X[validation], X[test]
        return X[train]

    def then(layer: int, _: ndarray, fits: LogisticFits) -> Float[ndarray, "column refit"]:
        choose = len(wanted) * len(penalties) > 1
        return _best_penalty(fits.check(), *held_out.pop(layer), checked, labels, how.measure, choose)

    done = solve_layers(
        read,
        wanted,
        labels[:, train],
        penalties,
        scale_weight=checked.weights(train, "none"),
        tol=_TOLERANCE,
        weight=np.stack([checked.weights(train, y=y) for y in labels]),
        progress=progress,
        then=then,
    )
    # By the rule of `select`: the latest layer within one standard error of the best validation AUROC.
    validated, se, *tested = np.stack([done[layer] for layer in wanted], axis=1)
    each, best = np.arange(validated.shape[1]), validated.argmax(axis=0)
    near = validated >= validated[best, each] - np.nan_to_num(se[best, each], nan=0.0)
    latest = len(wanted) - 1 - near[::-1].argmax(axis=0)
    values = np.full((1 + how.n, len(tested)), np.nan)
    values[usable] = np.stack([statistic[latest, each] for statistic in tested], axis=1)[codes]
    by_layer = {}
    for place, layer in enumerate(wanted):
        by_layer[layer] = np.full(1 + how.n, np.nan)
        by_layer[layer][usable] = tested[0][place][codes]
    return values, {layer: found[1:] for layer, found in by_layer.items()}


def _best_penalty(
    fits: LogisticFits,
    X_validation: ndarray,
    X_test: ndarray,
    rows: Rows,
    labels: Int[ndarray, "refit row"],
    measure: Measure | None,
    choose: bool,
) -> Float[ndarray, "column refit"]:
    """Validation AUROC of the best penalty (the smallest among equals), its standard error, and the test statistics."""
    refits = len(labels)
    best, se, at = np.full(refits, -1.0), np.zeros(refits), np.zeros(refits, dtype=int)
    if choose:
        where = rows.at("validation")
        kept = np.zeros((refits, int(where.sum())))
        for c in range(len(fits.Cs)):
            scores = fits.direction[0, c] @ X_validation.T + fits.bias[0, c][:, None]
            value = auroc_many(labels[:, where], scores)
            better = value > best
            best[better], at[better], kept[better] = value[better], c, scores[better]
        se = auroc_se_many(labels[:, where], kept, rows.group[where])
    each, tested = np.arange(refits), labels[:, rows.at("test")]
    scores = fits.direction[0, at, each] @ X_test.T + fits.bias[0, at, each][:, None]
    return np.stack([best, se, auroc_many(tested, scores), *(measure(tested, scores) if measure else ())])
