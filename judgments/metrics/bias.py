"""Order and repeats: how often a verdict moves for a reason that is none.

The floor comes first: how often two runs of the very same prompt differ (:func:`repeat_measures`). A flip under another
order or under a cue says something only beyond that; a log with one run has no floor, and the table says so.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.judgments.metrics.agreement import cohen_kappa, confusion_measure
from verdictscope.judgments.metrics.measure import Measure, absent, contrast, mean, quotient, ratio, share
from verdictscope.judgments.verdicts import Pairs, known, one_case, other_side, same, within
from verdictscope.values import shares


def flip_noise(agreement: float | ndarray) -> Float[ndarray, "*any"]:
    """Chance q that one run flips, from the chance that two runs agree.

    Two runs that each flip with q agree with (1-q)^2 + q^2, so q = (1 - sqrt(2a - 1)) / 2. Earlier code took 1 - a,
    which is the chance that two runs differ, about twice q (reference: Wei et al. 2024, arXiv 2408.13006).

    Args:
        agreement: chance that two runs agree; below one half there is no such q (NaN).

    Example:
        >>> round(float(flip_noise(0.82)), 3)
        0.1
    """
    value = shares(agreement, "agreement")
    inside = 2 * value - 1
    return np.asarray(np.where(inside >= 0, (1 - np.sqrt(np.where(inside >= 0, inside, 0.0))) / 2, np.nan))


def denoised(accuracy: float | ndarray, q: float | ndarray) -> Float[ndarray, "*any"]:
    """Accuracy without the flips: (accuracy - q) / (1 - 2q), for verdicts with two outcomes; NaN at q = 1/2.

    Example:
        >>> round(float(denoised(0.74, 0.1)), 3)
        0.8
    """
    accuracy, q = shares(accuracy, "accuracy"), shares(q, "q")
    return ratio(accuracy - q, 1 - 2 * q)


def repeat_measures(table: pd.DataFrame) -> tuple[list[Measure], ndarray]:
    """The noise floor of one judge: do runs of the same prompt agree?"""
    one_case([*table["verdict"], *table["label"]])
    prompts = table.groupby(["item", "order"], sort=True)
    about = prompts[["group", "label"]].first()
    read = table[known(table["verdict"].to_numpy(dtype=object))]
    votes = read.groupby(["item", "order", "verdict"]).size()
    n = votes.groupby(level=[0, 1]).sum().reindex(about.index, fill_value=0).to_numpy(dtype=float)
    alike = (votes * (votes - 1)).groupby(level=[0, 1]).sum().reindex(about.index, fill_value=0).to_numpy(dtype=float)
    right = read[read["verdict"] == read["label"]].groupby(["item", "order"]).size()
    hits = right.reindex(about.index, fill_value=0).to_numpy(dtype=float)
    same_runs = np.where(n > 1, alike / np.where(n > 1, n * (n - 1), 1), np.nan)
    labelled = known(about["label"].to_numpy(dtype=object))
    hits = np.where(labelled & (n > 0), hits / np.where(n > 0, n, 1), np.nan)
    groups = about["group"].to_numpy(dtype=object)
    two = np.isfinite(same_runs)
    if not two.any():
        words = "not measured: no prompt has two runs that were read"
        made = [absent("repeat_flip_rate", "rate", len(groups), words)]
        return made, groups
    made = [
        mean("repeat_flip_rate", 1 - same_runs, "rate", "noise floor: two runs of the same prompt differ"),
        mean("self_consistency", same_runs, "rate", "two runs of the same prompt agree, mean over prompts"),
    ]
    base = made[1]
    assert base.parts is not None
    agreement = base.formula
    assert agreement is not None
    made.append(
        Measure(
            "flip_noise",
            "rate",
            "q = (1 - sqrt(2a - 1)) / 2 of the self-consistency a",
            base.used,
            base.parts,
            lambda sums: flip_noise(agreement(sums)),
        )
    )
    both = two & np.isfinite(hits)
    parts = np.stack([np.where(both, hits, 0), np.where(both, same_runs, 0), both], axis=1).astype(float)

    def clean(sums: ndarray) -> ndarray:
        return denoised(ratio(sums[..., 0], sums[..., 2]), flip_noise(ratio(sums[..., 1], sums[..., 2])))

    words = "(accuracy - q) / (1 - 2q) over prompts with repeats; for verdicts with two outcomes"
    made.append(Measure("denoised_accuracy", "rate", words, both, parts, clean))
    return made, groups


def order_measures(pairs: Pairs, *, verdicts: tuple[str, ...] = ("A", "B", "tie")) -> list[Measure]:
    """Metrics of a judge that saw pairs in one or both orders."""
    allowed = tuple(dict.fromkeys((*verdicts, "A", "B", "tie")))
    for name, values in (("verdict (AB)", pairs.ab), ("verdict (BA)", pairs.ba), ("label", pairs.label)):
        within(values, allowed, name)
    labelled, both = known(pairs.label), pairs.both
    right_ab, right_ba = same(pairs.ab, pairs.label), same(pairs.ba, pairs.label)
    made = [
        share("accuracy_ab", right_ab, pairs.asked_ab & labelled, "right with A shown first; unread is not right"),
        share("accuracy_ba", right_ba, pairs.asked_ba & labelled, "right with B shown first; unread is not right"),
    ]
    # accuracy by where the right answer was shown: means over the verdicts of the units where it stood there
    is_a, is_b = pairs.label == "A", pairs.label == "B"
    first = np.where(is_a, pairs.asked_ab, is_b & pairs.asked_ba)
    second = np.where(is_a, pairs.asked_ba, is_b & pairs.asked_ab)
    hit_first, hit_second = np.where(is_a, right_ab, right_ba), np.where(is_a, right_ba, right_ab)
    one = share("accuracy_gold_first", hit_first, first, "right where the better answer was shown first")
    two = share("accuracy_gold_second", hit_second, second, "right where the better answer was shown second")
    made += [one, two, contrast("position_bias", one, two, "accuracy with the better answer first minus second")]
    scored = both & labelled
    wrong = {
        k: same(v, np.array([other_side(x) if x in ("A", "B") else None for x in pairs.label], dtype=object))
        for k, v in (("ab", pairs.ab), ("ba", pairs.ba))
    }
    points = right_ab.astype(int) + right_ba - wrong["ab"] - wrong["ba"]
    made += [
        share(
            "two_order_score",
            points > 0,
            scored,
            "JudgeBench's rule: +1 right, -1 the other side, 0 tie or unread over the two orders; sum above 0",
        ),
        share("two_order_wrong", points < 0, scored, "the same sum below 0"),
        share("two_order_undecided", points == 0, scored, "the same sum 0"),
        share("consistent_accuracy", right_ab & right_ba, scored, "right in both orders"),
    ]
    read = both & known(pairs.ab) & known(pairs.ba)
    agree = same(pairs.ab, pairs.ba)
    made += [
        share("flip_rate", read & ~agree, read, "verdict on the item changes with the order, both read"),
        share("robust_rate", agree, read, "verdict on the item stays the same in both orders, both read"),
        share("consistency", agree, both, "the same in both orders, of all items asked twice; unread is not the same"),
        share("unread_either", both & ~read, both, "unread in at least one order, of all items asked twice"),
        confusion_measure(
            "kappa_orders",
            pairs.ab,
            pairs.ba,
            verdicts,
            cohen_kappa,
            "Cohen's kappa of the verdicts in the two orders, both read",
            among=both,
        ),
    ]
    return made + _preference(pairs)


def _preference(pairs: Pairs) -> list[Measure]:
    """Which place is preferred, over items asked in both orders, so that no side is better placed."""
    both = pairs.both
    first = (pairs.ab == "A") * 1.0 + (pairs.ba == "B")
    second = (pairs.ab == "B") * 1.0 + (pairs.ba == "A")
    ties = (pairs.ab == "tie") * 1.0 + (pairs.ba == "tie")
    read = known(pairs.ab) * 1.0 + known(pairs.ba)
    used = both & (read > 0)

    def of(name: str, value: ndarray, words: str) -> Measure:
        parts = np.stack([np.where(used, value, 0), np.where(used, read, 0)], axis=1)
        return Measure(name, "rate", f"{words}, of verdicts read on items asked in both orders", used, parts, quotient)

    one, two = of("first_preference", first, "says first"), of("second_preference", second, "says second")
    prefers_first = (pairs.ab == "A") & (pairs.ba == "B")
    prefers_second = (pairs.ab == "B") & (pairs.ba == "A")
    before = share("always_first", prefers_first, both, "says first in both orders")
    after = share("always_second", prefers_second, both, "says second in both orders")
    return [
        one,
        two,
        of("tie_share", ties, "says tie"),
        contrast("preference_gap", one, two, "share of first minus share of second"),
        before,
        after,
        contrast("delta_bias", before, after, "always first minus always second (JudgeLM's delta bias has no sign)"),
    ]
