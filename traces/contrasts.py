"""A judge's score at a place, taken apart: what turns round with the answers, what stays, what a cue adds.

A score towards the answer shown first, x in the order AB and y in BA, has a part that turns round when the answers
change places, ``(x - y) / 2`` (*content*, counted towards the better answer), and one that stays, ``(x + y) / 2``
(*position*). What a cue does is cued minus control, towards the side it names. The same sums hold at the verdict, at
any token both rollouts reach, after any turn of a debate and under any limit of thinking; where one of an item's
rollouts is missing there, so is the item, and it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments import Contrast
from verdictscope.stats import RESAMPLES
from verdictscope.traces.aggregate import aggregate


def parts_at(scores: pd.DataFrame, contrasts: Iterable[Contrast], on: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """The parts of every item at every place.

    Args:
        scores: ``rollout`` and ``on``, the columns ``by`` and ``score`` (towards the answer shown first, missing where
            it could not be read); one row per rollout and place.
        contrasts: for example those of `order_contrasts` and `cue_contrast`.
        on: the place: an integer column (a part of the thinking, a turn, an allowed length).
        by: further columns that tell scores apart (readout, layer, ...).

    Returns:
        ``part item group *by on score`` for every place at which one of the item's rollouts has a row; ``score`` is NaN
        where another is missing or could not be read.

    Raises:
        InputError: columns are missing, or a rollout has two scores at one place.
    """
    keys = [*by, on]
    missing = [c for c in ("rollout", "score", *keys) if c not in scores]
    if missing:
        raise InputError(f"the scores lack {', '.join(missing)}")
    if scores.duplicated(["rollout", *keys]).any():
        raise InputError(f"a rollout has several scores at one {on}: name in `by` what tells them apart")
    tables = [contrast.to_frame().rename(columns={"contrast": "part"}) for contrast in contrasts]
    weights = pd.concat(tables, ignore_index=True)
    read = weights.merge(scores[["rollout", *keys, "score"]], on="rollout")
    read["score"] = read["score"].astype(float) * read["weight"]
    found = read.groupby(["part", "item", "group", *keys], sort=True, dropna=False, observed=True)["score"]
    parts = found.agg(["sum", "count"]).reset_index()
    needed = parts[["part", "item"]].merge(weights.groupby(["part", "item"]).size().rename("needed").reset_index())
    score = parts["sum"].where(parts["count"].to_numpy() == needed["needed"].to_numpy())
    return parts.drop(columns=["sum", "count"]).assign(score=score)


def part_curves(
    parts: pd.DataFrame, on: str, by: Sequence[str] = (), *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Mean of every part at every place, with pointwise and simultaneous bands over prompt groups.

    Args:
        parts: from `parts_at`.
        on: the place.
        by: further columns that get curves of their own.
        resamples: bootstrap resamples of groups.
        seed: of the draws.

    Returns:
        ``part *by on estimate low high low_all high_all n n_groups n_missing``, bands as of `aggregate`; ``n`` counts
        the items read at the place, ``n_missing`` those of which a rollout reaches it and another does not, or could
        not be read. A place where none was read has a row with n = 0.
    """
    keys = ["part", *by]
    rows = parts.assign(rollout=parts["item"], segment="verdict")
    window = (int(parts[on].min()), int(parts[on].max())) if len(parts) else (0, 0)
    curves = aggregate(rows, keys, on=on, window=window, segments=("verdict",), resamples=resamples, seed=seed)
    # a missing layer comes back from the grouping as an object
    curves = curves.astype({name: parts[name].dtype for name in (*keys, on)})
    every = parts.groupby([*keys, on], sort=True, dropna=False, observed=True)["score"]
    left = every.agg(lambda s: int(s.isna().sum())).rename("n_missing").reset_index()
    table = left.merge(curves, on=[*keys, on], how="left").fillna({"n": 0, "n_groups": 0})
    table = table.astype({"n": int, "n_groups": int})
    return table[[*(c for c in curves.columns), "n_missing"]]
