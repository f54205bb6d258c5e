"""How far verdicts agree with the right ones, or two judges with each other, chance taken out.

Every metric is a function of the confusion counts ``[label, verdict]``. A verdict that could not be read is no category
of the chance-corrected metrics (they rest on the verdicts that were read, and say how many were not) except where the
name says so; in ``accuracy`` it counts as not right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from verdictscope.judgments.metrics.measure import Measure, ratio, share
from verdictscope.judgments.verdicts import known, same, within

UNREAD = "unread"

Confusion = Float[ndarray, "*resample label verdict"]


def cohen_kappa(counts: Confusion) -> Float[ndarray, "*resample"]:
    """Cohen's kappa (Cohen 1960): chance agreement from each rater's own shares. NaN where chance alone agrees fully.

    Args:
        counts: confusion counts, labels along rows, verdicts along columns.

    Example:
        >>> import numpy as np
        >>> round(float(cohen_kappa(np.array([[20, 5], [10, 15]]))), 3)
        0.4
    """
    total, agreed, rows, columns = _margins(counts)
    return _above_chance(agreed / total, (rows * columns).sum(-1) / total**2)


def scott_pi(counts: Confusion) -> Float[ndarray, "*resample"]:
    """Scott's pi (Scott 1955): chance agreement from the two raters' pooled shares."""
    total, agreed, rows, columns = _margins(counts)
    return _above_chance(agreed / total, (((rows + columns) / 2) ** 2).sum(-1) / total**2)


def _margins(counts: Confusion) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    total = np.asarray(counts.sum((-2, -1)), dtype=float)
    agreed = np.asarray(np.trace(counts, axis1=-2, axis2=-1))
    return np.where(total == 0, np.nan, total), agreed, counts.sum(-1), counts.sum(-2)


def _above_chance(observed: ndarray | float, chance: ndarray | float) -> ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.asarray(1 - chance)
        return np.where(rest > 1e-12, (observed - chance) / np.where(rest > 1e-12, rest, np.nan), np.nan)


def macro(counts: Confusion, which: str) -> Float[ndarray, "*resample"]:
    """Macro precision, recall or F1 over the classes that occur as label or verdict; an empty ratio counts as 0.

    The same as scikit-learn's ``average="macro"`` with ``zero_division=0``.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    rows, columns = counts.sum(-1), counts.sum(-2)
    below = {"precision": columns, "recall": rows, "f1": (rows + columns) / 2}[which]
    each = np.where(below > 0, right / np.where(below > 0, below, 1), 0.0)
    there = (rows + columns) > 0
    return ratio((each * there).sum(-1), there.sum(-1))


def leniency(counts: Confusion) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """The leniency model of a two-way judge: it evaluates with probability P_c, and otherwise says "correct" with P_+.

    TPR = P_c + (1 - P_c) P_+ and TNR = P_c + (1 - P_c)(1 - P_+), so P_c = TPR + TNR - 1 and
    P_+ = (TPR - P_c) / (1 - P_c) (Thakur et al. 2024, arXiv 2406.12624).

    Args:
        counts: ``[..., 2, 2]``, the positive label and verdict first.

    Returns:
        TPR, TNR, P_c, P_+. P_c is negative for a judge worse than guessing; P_+ is then outside 0 to 1 at worst, and
        NaN for a judge that always evaluates (P_c = 1).

    Example:
        >>> import numpy as np
        >>> [round(float(value), 3) for value in leniency(np.array([[45, 5], [10, 40]]))]
        [0.9, 0.8, 0.7, 0.667]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        true_positive = np.asarray(counts[..., 0, 0] / counts[..., 0, :].sum(-1))
        true_negative = np.asarray(counts[..., 1, 1] / counts[..., 1, :].sum(-1))
        proper = np.asarray(true_positive + true_negative - 1)
        guesses = 1 - proper
        says_yes = np.where(guesses > 1e-12, (true_positive - proper) / np.where(guesses > 1e-12, guesses, 1), np.nan)
    return true_positive, true_negative, proper, np.asarray(says_yes)


def confusion_measure(
    name: str,
    first: ndarray,
    second: ndarray,
    categories: Sequence[str],
    formula: Callable[[Confusion], ndarray],
    definition: str,
    unit: str = "coefficient",
    among: Bool[ndarray, " unit"] | None = None,
) -> Measure:
    """A metric of the confusion of two columns of labels, over units where both are one of the categories."""
    code = {c: k for k, c in enumerate(categories)}
    rows = np.array([code.get(v, -1) if isinstance(v, str) else -1 for v in first])
    columns = np.array([code.get(v, -1) if isinstance(v, str) else -1 for v in second])
    used = (rows >= 0) & (columns >= 0)
    if among is not None:
        used &= among
    k = len(categories)
    parts = np.zeros((len(rows), k * k))
    at = np.flatnonzero(used)
    parts[at, rows[at] * k + columns[at]] = 1.0
    return Measure(name, unit, definition, used, parts, lambda sums: formula(sums.reshape(*sums.shape[:-1], k, k)))


def agreement_measures(
    verdict: ndarray, label: ndarray, categories: Sequence[str], *, positive: str | None = None, macros: bool = True
) -> list[Measure]:
    """Metrics of verdicts against labels."""
    within(verdict, categories, "verdict")
    within(label, categories, "label")
    read, labelled = known(verdict), known(label)
    right = same(verdict, label)
    made = [
        share("unread", ~read, np.ones(len(verdict), bool), "verdicts that could not be read, of all asked for"),
        share("accuracy", right, labelled, "right, of all asked for on labelled items; unread is not right"),
        share("accuracy_read", right, labelled & read, "right, of the verdicts read on labelled items"),
    ]

    def of(name: str, formula: Callable[[Confusion], ndarray], words: str, unit: str = "coefficient") -> Measure:
        return confusion_measure(name, label, verdict, categories, formula, words, unit)

    filled = np.array([v if isinstance(v, str) else UNREAD for v in verdict], dtype=object)
    about = "Cohen's kappa with unread as a verdict of its own, never equal to a label"
    made += [
        of("kappa", cohen_kappa, "Cohen's kappa of verdicts read and labels"),
        of("pi", scott_pi, "Scott's pi of verdicts read and labels"),
        confusion_measure("kappa_unread", label, filled, [*categories, UNREAD], cohen_kappa, about),
    ]
    if macros:
        for which in ("precision", "recall", "f1"):
            words = f"macro {which} over labels, verdicts read"
            made.append(of(f"macro_{which}", partial(macro, which=which), words, "rate"))
    if positive is not None and len(categories) == 2:
        made += _two_way(verdict, label, categories, positive)
    return made


def _two_way(verdict: ndarray, label: ndarray, categories: Sequence[str], positive: str) -> list[Measure]:
    ordered = [positive, *(c for c in categories if c != positive)]
    read, labelled = known(verdict), known(label)
    yes, is_yes = verdict == positive, label == positive
    both = read & labelled
    words = {
        "p_c": "leniency model: chance that the judge evaluates, TPR + TNR - 1, verdicts read",
        "p_plus": "leniency model: chance that it says the positive label when it does not evaluate, verdicts read",
    }
    made = [
        share("tpr", yes, both & is_yes, f"says {positive} where that is right, verdicts read"),
        share("tnr", ~yes, both & ~is_yes, f"does not say {positive} where that is wrong, verdicts read"),
        share("precision", is_yes, both & yes, f"is {positive} where the judge says so"),
        confusion_measure("f1", label, verdict, ordered, _f1, f"F1 of {positive}, verdicts read", "rate"),
    ]
    for k, name in ((2, "p_c"), (3, "p_plus")):
        formula = lambda counts, k=k: leniency(counts)[k]  # noqa: E731
        made.append(confusion_measure(name, label, verdict, ordered, formula, words[name], "rate"))
    made += [
        share("positive_rate", yes, both, f"says {positive}, of the verdicts read on labelled items"),
        share("positive_rate_label", is_yes, both, f"is {positive}, of the same items"),
        confusion_measure(
            "score_difference",
            label,
            verdict,
            ordered,
            _score_difference,
            "judge's minus the label's share of the positive label, same items",
            "rate",
        ),
    ]
    return made


def _f1(counts: Confusion) -> ndarray:
    return ratio(2 * counts[..., 0, 0], counts[..., 0, :].sum(-1) + counts[..., :, 0].sum(-1))


def _score_difference(counts: Confusion) -> ndarray:
    return ratio(counts[..., 1, 0] - counts[..., 0, 1], counts.sum((-2, -1)))
