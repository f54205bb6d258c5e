"""Positions relative to the end of the prompt, the end of thinking, the answer and the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import SEGMENTS, Rollout, Span
from verdictscope.values import whole_number

SCORE_COLUMNS = ("rollout", "pos", "segment", "token_id", "readout", "layer", "score")
"""Columns of the scores a forward pass gives."""

_LANDMARKS = ("thinking", "think_end", "answer", "prompt_end", "verdict")
EVENTS = ("rel_prompt_end", "rel_thinking", "rel_think_end", "rel_answer", "rel_verdict")
"""Columns that say how far a token lies from an event."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Where a rollout's last turn thinks and answers."""

    thinking: int | None
    n_thinking: int
    think_end: int | None
    answer: int | None
    prompt_end: int
    verdict: int | None


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
        prompt_end=rollout.n_prompt - 1,
        verdict=last["verdict"].start if "verdict" in last else None,
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
        - ``rel_prompt_end``, ``rel_thinking``, ``rel_verdict``: position minus the last prompt token's, the first
          thinking token's, the first verdict token's;
        - ``thinking_fraction``: where in its thinking a token lies, 0 to 1, NaN outside.

    Raises:
        InputError: columns are missing, or scores of a rollout or position that is not there.

    Example:
        >>> from verdictscope.rollouts import Rollout, Span
        >>> rollout = Rollout("r0", "prompt 0", (1, 2, 3, 4), (Span("user", 0, 2), Span("answer", 2, 4)), 2)
        >>> facts = {"segment": ["user", "user", "answer", "answer"], "token_id": [1, 2, 3, 4], "readout": "probe"}
        >>> scores = pd.DataFrame({"rollout": "r0", "pos": range(4), **facts, "layer": 1, "score": 0.5})
        >>> align(scores, [rollout])["rel_answer"].tolist()
        [-2, -1, 0, 1]
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
        }
        | {e: pd.array([getattr(found[i], e) for i in known], dtype="Int64") for e in _LANDMARKS},
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
        rel_prompt_end=pos - own["prompt_end"],
        rel_thinking=pos - own["thinking"],
        rel_verdict=pos - own["verdict"],
        thinking_fraction=fraction.astype("Float64").to_numpy(dtype=float, na_value=np.nan),
    )


def closing_tokens(aligned: pd.DataFrame) -> int | None:
    """How many tokens close the thinking; ``None`` where no rollout closed it."""
    ends = aligned.loc[aligned["segment"] == "think_end", "rel_think_end"].dropna()
    return None if ends.empty else int(ends.max()) + 1


def relative_time(aligned: pd.DataFrame, segment: str = "thinking", bins: int = 10) -> pd.DataFrame:
    """Scores by relative time within a segment: every rollout's mean in each of its own equal bins.

    A rollout with fewer tokens than bins is missing in some of them rather than interpolated; ``bin`` counts from 0.
    """
    whole_number(bins, "bins", 1)
    if segment not in SEGMENTS:
        raise InputError(f"segment is {segment!r}: it is one of {', '.join(SEGMENTS)}")
    if "group" not in aligned:
        raise InputError("the scores lack group; call align first")
    rows = aligned[aligned["segment"].eq(segment) & aligned["score"].notna()]
    own = rows.groupby("rollout")["pos"]
    first, last = own.transform("min"), own.transform("max")
    part = ((rows["pos"] - first) * bins // (last - first + 1)).astype(int)
    by_token = {"pos", "token_id", "score", "thinking_fraction", *EVENTS}
    keys = [c for c in rows.columns if c not in by_token]
    found = rows.assign(bin=part).groupby([*keys, "bin"], sort=True, dropna=False, observed=True)["score"]
    out = found.agg(["mean", "size"]).reset_index().rename(columns={"mean": "score", "size": "n_tokens"})
    return out.assign(share=(out["bin"] + 0.5) / bins)


def one_readout(aligned: pd.DataFrame) -> pd.DataFrame:
    """The table itself, checked to hold one score per token."""
    missing = [c for c in ("rollout", "pos", "group", "score", "rel_think_end", "rel_answer") if c not in aligned]
    if missing:
        raise InputError(f"the scores lack {', '.join(missing)}; call align first")
    if aligned.duplicated(["rollout", "pos"]).any():
        raise InputError("several scores of one token; choose one readout, layer and variant first")
    return aligned
