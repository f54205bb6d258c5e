"""One score per token, lined up at the end of thinking or at the answer, and averaged over the rollouts that are there.

Rollouts differ in length, so a mean over positions needs a mask: a rollout that does not reach a position says nothing
about it. Filling up with zeros instead draws a rising "plateau" from constant scores; `as_published` does that on
purpose, to stand beside the honest curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline
from scipy.special import expit

from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout, Span
from verdictscope.stats import RESAMPLES, draw_clusters, percentile_interval

WRITTEN = ("thinking", "think_end", "answer", "verdict")
"""Segments a curve is made of unless asked: 40 tokens before the end of short thinking lies the prompt."""

SCORE_COLUMNS = ("rollout", "pos", "segment", "token_id", "readout", "layer", "score")
"""Columns of the scores a forward pass gives."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Where a rollout's last turn thinks and answers.

    Attributes:
        thinking: start of thinking, ``None`` without any.
        n_thinking: thinking tokens.
        think_end: first token that closes thinking, ``None`` where it was never closed.
        answer: first answer position. Defined by the end of ``think_end`` even if nothing was written there;
            ``None`` where the rollout was cut before.
    """

    thinking: int | None
    n_thinking: int
    think_end: int | None
    answer: int | None


def landmarks(rollout: Rollout) -> Landmarks:
    """Find the landmarks of a rollout's last turn (what follows its last user message)."""
    turn: list[Span] = []
    for span in rollout.spans:
        turn = [] if span.segment == "user" else [*turn, span]
    last = {span.segment: span for span in turn}
    thinking, closing = last.get("thinking"), last.get("think_end")
    if thinking and closing and closing.start < thinking.start:
        closing = None  # thinking was opened again and not closed
    written = [s.start for s in turn if s.segment in ("answer", "verdict")]
    answer: int | None
    if closing:
        answer = closing.stop
    elif thinking:
        answer = next((at for at in written if at >= thinking.stop), None)
    else:
        answer = min(written, default=len(rollout) if rollout.finish == "given" else None)
    return Landmarks(
        thinking=thinking.start if thinking else None,
        n_thinking=len(thinking) if thinking else 0,
        think_end=closing.start if closing else None,
        answer=answer,
    )


def align(scores: pd.DataFrame, rollouts: Iterable[Rollout]) -> pd.DataFrame:
    """Add to every score where it lies relative to the rollout's landmarks.

    Args:
        scores: ``rollout pos segment token_id readout layer score``, one row per token and readout.
        rollouts: the rollouts scored.

    Returns:
        the scores with ``group``, ``finish``, ``n_thinking``, and

        - ``rel_think_end``: position minus the first closing token's, so -1 is the last thinking token; missing where
          thinking was never closed;
        - ``rel_answer``: position minus the first answer position, so -1 is the last template token;
        - ``thinking_fraction``: where in its thinking a token lies, 0 to 1, NaN outside.

    Raises:
        InputError: columns are missing, or scores of a rollout or position that is not there.
    """
    missing = [c for c in SCORE_COLUMNS if c not in scores.columns]
    if missing:
        raise InputError(f"scores lack {', '.join(missing)}; give the scores of a forward pass")
    by_id = {r.id: r for r in rollouts}
    ids = scores["rollout"].astype(str)
    known = [str(i) for i in pd.unique(ids)]
    unknown = [i for i in known if i not in by_id]
    if unknown:
        raise InputError(f"scores of rollout {unknown[0]!r}, which is not among the rollouts given")
    found = {i: landmarks(by_id[i]) for i in known}
    facts = pd.DataFrame(
        {
            "group": [by_id[i].group for i in known],
            "finish": [by_id[i].finish for i in known],
            "length": [len(by_id[i]) for i in known],
            "n_thinking": [found[i].n_thinking for i in known],
            "thinking": pd.array([found[i].thinking for i in known], dtype="Int64"),
            "think_end": pd.array([found[i].think_end for i in known], dtype="Int64"),
            "answer": pd.array([found[i].answer for i in known], dtype="Int64"),
        },
        index=pd.Index(known),
    )
    own = facts.loc[ids].set_axis(scores.index)
    pos = scores["pos"].astype("Int64")
    if ((pos < 0) | (pos >= own["length"])).any():
        raise InputError("a score lies outside its rollout; scores and rollouts are not of one run")
    inside = (pos - own["thinking"]).where(scores["segment"].eq("thinking") & (pos >= own["thinking"]))
    fraction = (inside.astype("Float64") + 0.5) / own["n_thinking"].where(own["n_thinking"] > 0)
    return scores.assign(
        group=own["group"],
        finish=own["finish"],
        n_thinking=own["n_thinking"],
        rel_think_end=pos - own["think_end"],
        rel_answer=pos - own["answer"],
        thinking_fraction=fraction.astype("Float64").to_numpy(dtype=float, na_value=np.nan),
    )


def aggregate(
    aligned: pd.DataFrame,
    by: Sequence[str] = ("readout", "layer"),
    *,
    on: str = "rel_think_end",
    window: tuple[int, int] = (-40, 8),
    value: str = "score",
    segments: Sequence[str] = WRITTEN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Masked mean of scores per relative position, with a pointwise band over prompt groups.

    Args:
        aligned: from `align`, with any further columns named in ``by`` (cell, arm, ...).
        by: columns whose combinations get a curve each.
        on: ``rel_think_end`` or ``rel_answer``.
        window: first and last relative position, both included.
        value: the column averaged, for example ``score`` or ``anchored``; missing values are masked.
        segments: segments that count. Without the prompt's, a rollout whose thinking is shorter than the window does
            not contribute its prompt tokens to "40 tokens before the end of thinking".
        resamples: bootstrap resamples of groups.
        seed: seed of the draws.

    Returns:
        ``*by, on, estimate, low, high, n, n_groups``: n counts the rollouts that reach the position. Positions no
        rollout reaches have no row. The band is NaN where one group is left.

    Raises:
        InputError: columns are missing, or a curve would hold two scores of one token.
    """
    missing = [c for c in ("rollout", "group", "segment", on, value, *by) if c not in aligned.columns]
    if missing:
        raise InputError(f"the aligned scores lack {', '.join(missing)}; call align first and merge what `by` names")
    low, high = window
    rows = aligned[aligned[value].notna() & aligned["segment"].isin(segments)]
    rows = rows[rows[on].between(low, high).fillna(False).astype(bool)]
    if rows.duplicated([*by, "rollout", on]).any():
        raise InputError(f"several scores of one token under {list(by)}; add what tells them apart (layer, arm, ...)")
    curves = []
    for key, part in rows.groupby(list(by), sort=True, dropna=False, observed=True) if by else [((), rows)]:
        curve = _curve(part, on, value, resamples, seed)
        curves.append(curve.assign(**dict(zip(by, key, strict=True)))[[*by, *curve.columns]])
    empty = pd.DataFrame(columns=[*by, on, "estimate", "low", "high", "n", "n_groups"])
    return pd.concat(curves, ignore_index=True) if curves else empty


def _curve(rows: pd.DataFrame, on: str, value: str, resamples: int, seed: int) -> pd.DataFrame:
    """One masked mean curve; sums and counts per (group, position) carry the whole bootstrap."""
    at = rows[on].to_numpy(dtype=int)
    places = np.unique(at)
    drawn = draw_clusters(rows["group"], resamples, seed)
    column = np.searchsorted(places, at)
    total, count = np.zeros((drawn.n, len(places))), np.zeros((drawn.n, len(places)))
    np.add.at(total, (drawn.codes, column), rows[value].to_numpy(dtype=float))
    np.add.at(count, (drawn.codes, column), 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (drawn.counts @ total) / (drawn.counts @ count)
    n_groups = (count > 0).sum(axis=0)
    low, high = percentile_interval(draws, n_groups)
    n = count.sum(axis=0)
    return pd.DataFrame(
        {on: places, "estimate": total.sum(0) / n, "low": low, "high": high, "n": n.astype(int), "n_groups": n_groups}
    )


def as_published(aligned: pd.DataFrame, *, points: int = 100, probability: bool = True) -> pd.DataFrame:
    """The averaged trajectory of earlier code, kept for comparison only. Its rise is made by length variation.

    Sequences up to the last template token are right-aligned into a zero-padded block, averaged without a mask and
    interpolated by a cubic to 100 points of the longest sequence (RefusalCliff, ``test_prober``).

    Args:
        aligned: from `align`, one readout and layer, every token scored.
        points: points of the curve.
        probability: pass scores through the logistic function first, as that code does.

    Returns:
        ``percent score share_padding``: the last column is how much of each point's mean is zeros.
    """
    rows = one_readout(aligned)
    rows = rows[(rows["rel_answer"] < 0).fillna(False).astype(bool)]
    if rows.empty:
        raise InputError("no scores before an answer position")
    score = rows["score"].to_numpy(dtype=float)
    back = -rows["rel_answer"].to_numpy(dtype=int)
    score = expit(score) if probability else score
    n, longest = rows["rollout"].nunique(), int(back.max())
    mean = np.bincount(longest - back, weights=score, minlength=longest) / n
    padding = 1 - np.bincount(longest - back, minlength=longest) / n
    x = np.linspace(0, longest - 1, points)
    padding = np.interp(x, np.arange(longest), padding)
    mean = CubicSpline(np.arange(longest), mean)(x) if longest > 1 else np.full(points, mean[0])
    return pd.DataFrame({"percent": np.arange(points) * 100 / points, "score": mean, "share_padding": padding})


def one_readout(aligned: pd.DataFrame) -> pd.DataFrame:
    """The table itself, checked to hold one score per token.

    Raises:
        InputError: several readouts, layers or arms are mixed, or `align` was not called.
    """
    missing = [c for c in ("rollout", "pos", "group", "score", "rel_think_end", "rel_answer") if c not in aligned]
    if missing:
        raise InputError(f"the scores lack {', '.join(missing)}; call align first")
    if aligned.duplicated(["rollout", "pos"]).any():
        raise InputError("several scores of one token; choose one readout, layer and arm first")
    return aligned
