"""Several judges of the same items: votes, agreement among them, the conjunction of step judges, and a combination that
needs no labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.agreement import UNREAD, cohen_kappa
from verdictscope.judgments.metrics.measure import Measure, mean, share
from verdictscope.judgments.verdicts import known, within
from verdictscope.values import number, whole_number


def votes_of(table: pd.DataFrame) -> pd.DataFrame:
    """Verdicts as a matrix: a row per (item, order, run), a column per judge, ``None`` where unread or not asked."""
    wide = table.set_index(["item", "order", "run", "judge"])["verdict"].unstack("judge")
    judges = list(dict.fromkeys(table["judge"]))
    return wide.sort_index()[judges].astype(object).where(wide.notna(), None)


def _within(votes: pd.DataFrame, categories: Sequence[str]) -> None:
    for judge in votes.columns:
        within(votes[judge], categories, f"vote of judge {judge!r}")


def vote_shares(votes: pd.DataFrame, categories: Sequence[str]) -> pd.DataFrame:
    """The share of a unit's judges that say each label, with ``unread`` as the last column; rows sum to 1."""
    counts = {c: (votes == c).sum(axis=1) for c in categories}
    counts[UNREAD] = votes.isna().sum(axis=1)
    other = votes.shape[1] - sum(counts.values())
    shares = pd.DataFrame(counts) / votes.shape[1]
    return shares.assign(other=other / votes.shape[1]) if other.any() else shares


def majority_vote(votes: pd.DataFrame) -> ndarray:
    """The label that more than half of the judges who were read say; ``None`` where there is none (a tied vote).

    Example:
        >>> import pandas as pd
        >>> majority_vote(pd.DataFrame({"x": ["A", "A"], "y": ["A", "B"], "z": ["B", None]})).tolist()
        ['A', None]
    """
    found = []
    for row in votes.to_numpy(dtype=object):
        said = [v for v in row if isinstance(v, str)]
        label, n = Counter(said).most_common(1)[0] if said else (None, 0)
        found.append(label if 2 * n > len(said) else None)
    return np.array(found, dtype=object)


def conjunction(votes: pd.DataFrame, positive: str, negative: str) -> ndarray:
    """All must pass (IneqMath's rule for its answer judge and four step judges).

    Negative where one judge says so, also if another is unread; ``None`` where none does and one is unread.
    """
    _within(votes, (positive, negative))
    values = votes.to_numpy(dtype=object)
    fails = (values == negative).any(axis=1)
    passes = (values == positive).all(axis=1)
    return np.array(
        [negative if f else positive if p else None for f, p in zip(fails, passes, strict=True)], dtype=object
    )


def fleiss_kappa(counts: Float[ndarray, "unit category"]) -> float:
    """Fleiss' kappa (Fleiss 1971) of units that the same number of raters judged.

    Args:
        counts: how many raters gave each category, per unit.

    Example:
        >>> import numpy as np
        >>> round(fleiss_kappa(np.array([[3, 0], [0, 3], [2, 1]])), 3)
        0.55
    """
    raters = counts.sum(axis=1)
    if len(counts) == 0 or raters.min() != raters.max() or raters[0] < 2:
        return float("nan")
    return float(_fleiss(_fleiss_parts(counts).sum(axis=0)))


def _fleiss_parts(counts: Float[ndarray, "unit category"]) -> Float[ndarray, "unit part"]:
    raters = counts.sum(axis=1, keepdims=True)
    below = np.where(raters > 1, raters * (raters - 1), 1)
    agreed = (counts * (counts - 1)).sum(axis=1, keepdims=True) / below
    shares = counts / np.where(raters > 0, raters, 1)
    return np.concatenate([agreed, shares, (raters > 1).astype(float)], axis=1)


def _fleiss(sums: Float[ndarray, "*resample part"]) -> Float[ndarray, "*resample"]:
    n = np.where(sums[..., -1] == 0, np.nan, sums[..., -1])
    observed, chance = sums[..., 0] / n, np.asarray(((sums[..., 1:-1] / n[..., None]) ** 2).sum(-1))
    rest = np.asarray(1 - chance)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rest > 1e-12, (observed - chance) / np.where(rest > 1e-12, rest, np.nan), np.nan)


def panel_measures(votes: pd.DataFrame, categories: Sequence[str]) -> list[Measure]:
    """Agreement among judges, over the units that all of them were read on."""
    _within(votes, categories)
    values = votes.to_numpy(dtype=object)
    counts = np.stack([(values == c).sum(axis=1) for c in categories], axis=1).astype(float)
    full = counts.sum(axis=1) == votes.shape[1]
    top = counts.max(axis=1)
    parts = np.where(full[:, None], _fleiss_parts(counts), 0.0)
    k, pairs = len(categories), list(combinations(range(votes.shape[1]), 2))
    tables = np.stack([_cells(values[:, i], values[:, j], categories) for i, j in pairs], axis=1)

    def mean_kappa(sums: ndarray) -> ndarray:
        return np.asarray(cohen_kappa(sums.reshape(*sums.shape[:-1], len(pairs), k, k)).mean(-1))

    return [
        Measure(
            "pairwise_kappa",
            "coefficient",
            f"mean Cohen's kappa of {len(pairs)} pairs of judges, each over the units both were read on",
            np.asarray(tables.any(axis=(1, 2))),
            tables.reshape(len(values), -1),
            mean_kappa,
        ),
        share("unanimous", top == votes.shape[1], full, f"all {votes.shape[1]} judges agree, units all were read on"),
        mean(
            "majority_share",
            np.where(full, top / votes.shape[1], np.nan),
            "rate",
            "share of judges that say the most frequent verdict, units all were read on",
        ),
        Measure(
            "fleiss_kappa", "coefficient", "Fleiss' kappa of the judges, units all were read on", full, parts, _fleiss
        ),
    ]


def _cells(first: ndarray, second: ndarray, categories: Sequence[str]) -> Float[ndarray, "unit cell"]:
    """One-hot cell of the confusion table of two judges per unit; all 0 where one was not read."""
    return np.stack([(first == r) & (second == c) for r in categories for c in categories], axis=1).astype(float)


def pairwise_kappa(votes: pd.DataFrame, categories: Sequence[str]) -> pd.DataFrame:
    """Cohen's kappa of every two judges over the units both were read on; columns first, second, kappa, n."""
    _within(votes, categories)
    rows = []
    for i, first in enumerate(votes.columns):
        for second in votes.columns[i + 1 :]:
            pair = votes[[first, second]].to_numpy(dtype=object)
            both = known(pair[:, 0]) & known(pair[:, 1])
            counts = np.array(
                [[np.sum((pair[both, 0] == r) & (pair[both, 1] == c)) for c in categories] for r in categories],
                dtype=float,
            )
            rows.append((first, second, float(cohen_kappa(counts)), int(both.sum())))
    return pd.DataFrame(rows, columns=["first", "second", "kappa", "n"])


@dataclass(frozen=True, eq=False)
class Combined:
    """What several judges say together, without labels."""

    posterior: Float[ndarray, " unit"]
    judges: pd.DataFrame
    prior: float
    iterations: int
    converged: bool
    warnings: tuple[str, ...]


def combine_judges(
    scores: pd.DataFrame,
    *,
    threshold: float = 0.5,
    extreme: float = 0.02,
    correlated: float = 0.95,
    iterations: int = 2000,
    tolerance: float = 1e-10,
) -> Combined:
    """Combine judges by a latent label (after Weaver, Saad-Falcon et al. 2025, arXiv 2506.18203; the model is Dawid and
    Skene 1979 with two classes).

    Scores are brought to 0 to 1 per judge, cut at ``threshold``, judges that nearly always say the same or that repeat
    another are dropped, and the true labels' prior and each judge's hit rates are found by expectation maximisation
    from the majority vote, missing votes left out. Which class is "positive" is fixed by the assumption that the kept
    judges are right more often than wrong on average.

    Args:
        scores: a row per unit, a column per judge, NaN where unread. Columns within 0 to 1 stay as they are, others are
            rescaled by their minimum and maximum.
        threshold: from which on a score says positive.
        extreme: judges whose share of positive votes is below this or above one minus it are dropped.
        correlated: of two judges whose votes correlate more than this, the later one is dropped.
        iterations: at most.
        tolerance: largest change of a rate at which the fit rests.

    Raises:
        InputError: fewer than three judges are left (two cannot be distinguished without labels), a setting is out of
            range, or a score is infinite.

    Example:
        >>> import numpy as np
        >>> unit, truth = np.arange(40), np.arange(40) % 2
        >>> votes = {name: np.where(unit % 8 == k, 1 - truth, truth) for k, name in enumerate("xyz")}
        >>> combine_judges(pd.DataFrame(votes)).judges["kept"].tolist()
        [True, True, True]
    """
    number(threshold, "threshold", 0, 1), number(extreme, "extreme", 0, 0.5), number(correlated, "correlated", 0, 1)
    number(tolerance, "tolerance", 0), whole_number(iterations, "iterations", 1)
    values = scores.to_numpy(dtype=float)
    if np.isinf(values).any():
        raise InputError(f"judge {scores.columns[int(np.isinf(values).any(axis=0).argmax())]!r} has an infinite score")
    low, high = np.nanmin(values, axis=0, initial=np.inf), np.nanmax(values, axis=0, initial=-np.inf)
    width = np.where(high > low, high - low, 1.0)
    scaled = np.where((low < 0) | (high > 1), (values - low) / width, values)
    cut = np.where(np.isfinite(values), (scaled >= threshold).astype(float), np.nan)
    votes = pd.DataFrame(cut, index=scores.index, columns=scores.columns)
    marginal = votes.mean()
    dropped = _dropped(votes, marginal, extreme, correlated)
    kept = [c for c in votes.columns if c not in dropped]
    if len(kept) < 3:
        why = "; ".join(f"{name}: {reason}" for name, reason in dropped.items()) or "none was dropped"
        raise InputError(f"{len(kept)} judges are left, a combination without labels needs three ({why})")
    matrix = votes[kept].to_numpy(dtype=float)
    posterior, tpr, tnr, prior, steps, rest = _latent(matrix, iterations, tolerance)
    rates = dict(zip(kept, zip(tpr, tnr, strict=True), strict=True))
    table = pd.DataFrame(
        [(c, c in rates, dropped.get(c), float(marginal[c]), *rates.get(c, (np.nan, np.nan))) for c in votes.columns],
        columns=["judge", "kept", "reason", "marginal", "tpr", "tnr"],
    )
    warnings = ["the model takes judges' errors as independent given the label: shared mistakes make it overconfident"]
    if not rest:
        warnings.append(f"the fit did not come to rest in {steps} steps")
    return Combined(posterior, table, prior, steps, rest, tuple(warnings))


def _dropped(votes: pd.DataFrame, marginal: pd.Series, extreme: float, correlated: float) -> dict[str, str]:
    found = {
        c: f"says positive in {marginal[c]:.1%}" if np.isfinite(marginal[c]) else "no votes"
        for c in votes.columns
        if not extreme <= marginal[c] <= 1 - extreme
    }
    left = [c for c in votes.columns if c not in found]
    alike = votes[left].corr()
    for k, name in enumerate(left):
        references = [o for o in left[:k] if o not in found and alike.loc[o, name] > correlated]
        if references:
            found[name] = f"repeats {references[0]} (correlation {alike.loc[references[0], name]:.3f})"
    return found


def _latent(
    votes: Float[ndarray, "unit judge"], iterations: int, tolerance: float
) -> tuple[ndarray, ndarray, ndarray, float, int, bool]:
    """Expectation maximisation of the two-class model; half a vote of each kind keeps every rate inside 0 to 1."""
    there = np.isfinite(votes)
    yes = np.where(there, votes, 0.0)
    no = np.where(there, 1 - votes, 0.0)
    seen = there.any(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        posterior = np.where(seen, yes.sum(axis=1) / there.sum(axis=1), 0.5)
    old = np.zeros(2 * votes.shape[1] + 1)
    steps, rest = 0, False
    tpr = tnr = np.zeros(votes.shape[1])
    prior = 0.5
    for steps in range(1, iterations + 1):  # noqa: B007
        p = np.where(seen, posterior, 0.0)
        q = np.where(seen, 1 - posterior, 0.0)
        tpr = (p @ yes + 0.5) / (p @ there + 1)
        tnr = (q @ no + 0.5) / (q @ there + 1)
        prior = float((p.sum() + 0.5) / (seen.sum() + 1))
        odds = np.log(prior / (1 - prior)) + yes @ np.log(tpr / (1 - tnr)) + no @ np.log((1 - tpr) / tnr)
        posterior = np.where(
            odds >= 0, 1 / (1 + np.exp(-np.abs(odds))), np.exp(-np.abs(odds)) / (1 + np.exp(-np.abs(odds)))
        )
        new = np.r_[tpr, tnr, prior]
        rest = bool(np.abs(new - old).max() < tolerance)
        old = new
        if rest:
            break
    if np.mean(tpr + tnr) < 1:  # the other name of the same fit: judges are taken to be better than chance
        posterior, tpr, tnr, prior = 1 - posterior, 1 - tnr, 1 - tpr, 1 - prior
    return np.where(seen, posterior, np.nan), tpr, tnr, prior, steps, rest
