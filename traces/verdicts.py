"""A judge's scores token by token, and the same by position.

The two orders of an item are two texts: their scores are averaged by segment-relative position, never token by token.
Before the verdict a readout shows what can be read there, not what the model would answer (`forced_lengths` does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.errors import InputError
from verdictscope.judgments import Judged
from verdictscope.rollouts import Rollout
from verdictscope.traces.landmarks import relative_time
from verdictscope.traces.score import trace

BINS = 8
"""Equal bins a thinking is divided into."""

FACTS = ("item", "order", "run", "label", "verdict", "status")
"""Columns of the verdicts that a trace carries."""


def traced_rollouts(judged: Judged) -> list[Rollout]:
    """A rollout per verdict: up to where the verdict is read, or, where none was, whatever was written."""
    kept = {r.id: r for r in (*judged.written, *judged.rollouts)}
    missing = [str(i) for i in judged.verdicts["rollout"] if i not in kept]
    if missing:
        raise InputError(f"the rollout of verdict {missing[0]} was not kept")
    return [kept[i] for i in judged.verdicts["rollout"]]


def verdict_trace(
    model: Model,
    judged: Judged,
    readouts: Sequence[Readout],
    *,
    plan_tokens: int = 16_384,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """`trace` of every verdict's rollout with the verdict's facts; log-odds only where a verdict was read."""
    rollouts = traced_rollouts(judged)
    plan = BatchPlan.make([len(r) for r in rollouts], plan_tokens)
    table = trace(model, rollouts, readouts, plan=plan, progress=progress)
    table = table.merge(judged.verdicts[["rollout", *FACTS]], on="rollout", how="left")
    # the last token of a rollout without a verdict is not where one is given
    return table[table["layer"].notna() | table["status"].eq("ok")].reset_index(drop=True)


def trace_places(aligned: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """A trace by position: the last prompt token, bins of the thinking, every closing token, the verdict's token.

    ``place`` counts 0, 1, ... along the rollout and ``name`` names it; a rollout without a verdict lacks the last one.
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
    answer = aligned[aligned["segment"].isin(["answer", "verdict"])]
    answer = answer[answer["status"].eq("ok")] if "status" in answer else answer
    answer = answer[answer["pos"].eq(answer.groupby("rollout")["pos"].transform("max"))]
    last = bins + 1 + (0 if at.empty else int(at.max()) + 1)
    parts.append(answer[[*keep, "score"]].assign(place=last, name="verdict", n_tokens=1))
    columns = [*keep, "place", "name", "score", "n_tokens"]
    return pd.concat([p[columns] for p in parts if len(p)], ignore_index=True)
