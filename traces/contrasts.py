"""A judge's contrasts (content, position, cues) at every position: per item, and as mean curves with bands.

A contrast (`verdictscope.judgments.Contrast`) is a weighted sum over an item's rollouts. The same sums hold at the
verdict, at any token that all of the rollouts reach, after any turn of a debate and under any limit of thinking; where
one of an item's rollouts is missing, the item is left out there and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.judgments import Contrast
from verdictscope.stats import RESAMPLES
from verdictscope.traces.aggregate import aggregate


def parts_at(scores: pd.DataFrame, contrasts: Iterable[Contrast], on: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """``part item group *by on score``: every item's contrasts wherever one of its rollouts has a row.

    ``on`` is an integer column (a bin of the thinking, a turn, an allowed length), ``by`` tells scores apart; the score
    is NaN where another of the item's rollouts is missing or could not be read.
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
    """Mean of every contrast at every position, with the bands of `aggregate` over prompt groups.

    ``n`` counts the items read at a position, ``n_missing`` those that lack a rollout or a score there.
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
