"""What a judge's thinking says about its verdict, token by token, and the same by place.

A trace reads every token by readouts that were fitted, or taken from the unembedding, for the verdict: before the
verdict they tell what can be read there, not what the model would say there (`forced_lengths` does). The two orders of
an item are two texts, so their scores are averaged by segment-relative place, never token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from verdictscope.activations import BatchPlan, Readout
from verdictscope.errors import InputError
from verdictscope.judgments import Judged
from verdictscope.rollouts import Rollout
from verdictscope.traces.landmarks import align, relative_time
from verdictscope.traces.score import trace_rollouts

BINS = 8
"""Equal parts a thinking is divided into."""

FACTS = ("item", "order", "run", "label", "verdict", "status")
"""Columns of the verdicts that a trace carries."""


def traced_rollouts(judged: Judged) -> list[Rollout]:
    """A rollout per verdict: up to where the verdict is read, or, where none was, whatever was written.

    Raises:
        InputError: nothing was kept of a verdict.
    """
    kept = {r.id: r for r in (*judged.written, *judged.rollouts)}
    missing = [str(i) for i in judged.verdicts["rollout"] if i not in kept]
    if missing:
        raise InputError(f"the rollout of verdict {missing[0]} was not kept")
    return [kept[i] for i in judged.verdicts["rollout"]]


def verdict_trace(
    model: Any,
    judged: Judged,
    readouts: Sequence[Readout],
    *,
    plan_tokens: int = 16_384,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Score every token up to the verdict, inside the forward pass.

    Args:
        model: the judge.
        judged: verdicts of pairs after thinking of its own; those without a verdict are traced as far as they go.
        readouts: linear ones at ``all`` positions (a probe's, `lens_readouts`), log-odds at ``last``. Towards the
            answer shown first.
        plan_tokens: padded tokens of a batch.
        progress: called with (tokens done, tokens in all).

    Returns:
        the columns of `align` and ``item order run label verdict status``. Log-odds are left out where no verdict was
        read.
    """
    rollouts = traced_rollouts(judged)
    plan = BatchPlan.make([len(r) for r in rollouts], plan_tokens)
    scores = trace_rollouts(model, rollouts, readouts, plan=plan, progress=progress).to_frame()
    table = align(scores, rollouts).merge(judged.verdicts[["rollout", *FACTS]], on="rollout", how="left")
    # the last token of what has no verdict is not where one is given
    return table[table["layer"].notna() | table["status"].eq("ok")].reset_index(drop=True)


def trace_places(aligned: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """A trace by place: the last token of the prompt, equal parts of the thinking, every closing token, and the token
    where the verdict is read, wherever in the answer that is.

    Args:
        aligned: from `verdict_trace` (or `align`).
        bins: parts of the thinking; one of fewer tokens is missing from some.

    Returns:
        ``rollout group readout layer place name score n_tokens`` and the other columns that are one per rollout:
        ``place`` counts 0, 1, ... in the order of the rollout and ``name`` says it: ``prompt end``, ``thinking 1/8``,
        ``think_end 1``, ``verdict``. A rollout without a verdict lacks the last.

    Raises:
        InputError: `align` was not called.
    """
    if "rel_think_end" not in aligned:
        raise InputError("the scores lack rel_think_end; call align first")
    thought = relative_time(aligned, "thinking", bins)
    keep = [c for c in thought.columns if c not in ("segment", "bin", "share", "score", "n_tokens")]
    thought = thought.assign(place=thought["bin"] + 1, name=[f"thinking {k + 1}/{bins}" for k in thought["bin"]])
    end = aligned[aligned["rel_prompt_end"].eq(0)]
    parts = [end[[*keep, "score"]].assign(place=0, name="prompt end", n_tokens=1), thought]
    closing = aligned[aligned["segment"].eq("think_end") & aligned["rel_think_end"].ge(0).fillna(False).astype(bool)]
    at = closing["rel_think_end"].astype(int)
    names = [f"think_end {k + 1}" for k in at]
    parts.append(closing[[*keep, "score"]].assign(place=at + bins + 1, name=names, n_tokens=1))
    said = aligned[aligned["segment"].isin(["answer", "verdict"])]
    said = said[said["status"].eq("ok")] if "status" in said else said
    said = said[said["pos"].eq(said.groupby("rollout")["pos"].transform("max"))]
    last = bins + 1 + (0 if at.empty else int(at.max()) + 1)
    parts.append(said[[*keep, "score"]].assign(place=last, name="verdict", n_tokens=1))
    columns = [*keep, "place", "name", "score", "n_tokens"]
    return pd.concat([p[columns] for p in parts if len(p)], ignore_index=True)
