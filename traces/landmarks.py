"""Where the tokens of a rollout lie: relative to the end of the prompt, of thinking, to the answer and the verdict."""

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

EVENTS = ("rel_prompt_end", "rel_thinking", "rel_think_end", "rel_answer", "rel_verdict")
"""Columns that say how far a token lies from an event."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Where a rollout's last turn thinks and answers.

    Attributes:
        thinking: start of thinking, ``None`` without any.
        n_thinking: thinking tokens.
        think_end: first token that closes thinking, ``None`` where it was never closed.
        answer: first answer position. Defined by the end of ``think_end`` even if nothing was written there;
            ``None`` where the rollout was cut before.
        prompt_end: last token the model was shown.
        verdict: first verdict token, ``None`` where none was marked.
    """

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
            "prompt_end": pd.array([found[i].prompt_end for i in known], dtype="Int64"),
            "verdict": pd.array([found[i].verdict for i in known], dtype="Int64"),
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
        rel_prompt_end=pos - own["prompt_end"],
        rel_thinking=pos - own["thinking"],
        rel_verdict=pos - own["verdict"],
        thinking_fraction=fraction.astype("Float64").to_numpy(dtype=float, na_value=np.nan),
    )


def relative_time(aligned: pd.DataFrame, segment: str = "thinking", bins: int = 10) -> pd.DataFrame:
    """Scores by relative time within a segment: every rollout's mean in each of its own equal parts.

    A rollout with fewer tokens than parts has none in some of them, and is missing there rather than interpolated.

    Args:
        aligned: from `align`.
        segment: the segment that is divided.
        bins: number of parts.

    Returns:
        ``aligned``'s columns that are one per rollout and readout (``rollout group readout layer`` and any others),
        ``segment``, ``bin`` (0 is the first part), ``share`` (its middle, 0 to 1), ``score`` and ``n_tokens``; give it
        to `aggregate` with ``on="bin", window=(0, bins - 1)``.

    Raises:
        InputError: bins is not a positive whole number, an unknown segment, or `align` was not called.
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
    """The table itself, checked to hold one score per token.

    Raises:
        InputError: several readouts, layers or variants are mixed, or `align` was not called.
    """
    missing = [c for c in ("rollout", "pos", "group", "score", "rel_think_end", "rel_answer") if c not in aligned]
    if missing:
        raise InputError(f"the scores lack {', '.join(missing)}; call align first")
    if aligned.duplicated(["rollout", "pos"]).any():
        raise InputError("several scores of one token; choose one readout, layer and variant first")
    return aligned
