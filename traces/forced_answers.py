"""Thinking ended early: what the model would answer after some of its thinking, or after none.

The same thinking is cut, closed as the template closes it, and the verdict is read where it would be given. Nothing is
generated again, so a rollout that ends by itself before the limit is read where it ended. What is measured is the
answer of an interrupted model: one that plans its thinking by the room it has could answer otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from verdictscope.activations import BatchPlan, LogOddsReadout, Model
from verdictscope.errors import InputError
from verdictscope.judgments.labels import extended
from verdictscope.rollouts import Forcer, Rollout, pieces
from verdictscope.traces.landmarks import landmarks
from verdictscope.traces.score import trace_rollouts

LENGTHS = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Thinking tokens allowed, unless others are asked for; those beyond the longest thinking are left out."""

LENGTH_COLUMNS = ("rollout", "group", "allowed", "used", "ended", "score", "reason")

_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "\n")


def sentence_places(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """After how many thinking tokens a sentence or a line ends; 0 and all of them included."""
    found = landmarks(rollout)
    if found.thinking is None:
        return [0]
    texts = pieces(rollout.ids[found.thinking : found.thinking + found.n_thinking], tokenizer)
    ends = [k + 1 for k, text in enumerate(texts) if text.strip(" \t\"'”’)").endswith(_SENTENCE_ENDS)]
    return sorted({0, *ends, found.n_thinking})


def forced_scores(
    model: Model,
    asked: Sequence[tuple[Rollout, int]],
    readout: LogOddsReadout,
    forcer: Forcer,
    *,
    lead: Sequence[int] = (),
    plan_tokens: int = 16_384,
    progress: Callable[[int, int], None] | None = None,
) -> Float[ndarray, " asked"]:
    """A readout where the answer would begin, had the thinking been closed after so many of its tokens."""
    closed = {(r.id, after): _closed(r, after, forcer) for r, after in asked}
    made = [extended(r, lead) for r in closed.values() if r is not None]
    if not made:
        return np.full(len(asked), np.nan)
    plan = BatchPlan.make([len(r) for r in made], plan_tokens)
    table = trace_rollouts(model, made, [readout], plan=plan, progress=progress).to_frame()
    if table["rollout"].duplicated().any():
        raise InputError(f"readout {readout.name} reads several tokens of a rollout; read it at one position")
    score = dict(zip(table["rollout"], table["score"], strict=True))
    ids = [None if (r := closed[rollout.id, after]) is None else r.id for rollout, after in asked]
    return np.array([score.get(i, np.nan) for i in ids], dtype=float)


def _closed(rollout: Rollout, after: int, forcer: Forcer) -> Rollout | None:
    """The rollout up to its answer; one that answered without a thought has its own, and no other."""
    found = landmarks(rollout)
    if found.thinking is None:
        return None if after or found.answer is None else rollout.cut(found.answer)
    return forcer.close(rollout, after)


def forced_lengths(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: LogOddsReadout,
    forcer: Forcer,
    lengths: Sequence[int] = LENGTHS,
    *,
    lead: Sequence[int] = (),
    plan_tokens: int = 16_384,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """The verdict as a function of how many thinking tokens are allowed.

    Args:
        model: the model.
        rollouts: rollouts with thinking of their own.
        readout: as of `forced_scores`.
        forcer: closes thinking.
        lengths: numbers of tokens, 0 or more. Every one is read up to the first that no thinking exceeds.
        lead: tokens of the answer put before what is read.
        plan_tokens: padded tokens of a batch.
        progress: called with (tokens done, tokens in all).

    Returns:
        ``rollout group allowed used ended score reason``: a row per rollout and length, and one with ``allowed``
        missing for its own end; ``used`` tokens stood before the closing, and ``ended`` says that it had ended by
        itself by then. A rollout that did not think ended after 0. ``score`` is NaN where thinking was cut off before
        the length, or nothing could be read; ``reason`` says why.

    Raises:
        InputError: no rollouts, or a negative length.

    Example:
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Forcer, Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> spans = (Span("user", 0, 2), Span("thinking", 2, 6), Span("think_end", 6, 7), Span("answer", 7, 8))
        >>> rollout = Rollout("r0", "prompt 0", tuple(range(8)), spans, 2)
        >>> readout = LogOddsReadout("choice", [8], [9])
        >>> forced_lengths(model, [rollout], readout, Forcer(model.tokenizer), [0, 2])["used"].tolist()
        [0, 2, 4]
    """
    if not rollouts or (lengths and min(lengths) < 0):
        raise InputError("give rollouts, and lengths of 0 or more tokens")
    longest = max(landmarks(r).n_thinking for r in rollouts)
    grid = sorted(set(lengths))
    grid = grid[: next((k + 1 for k, n in enumerate(grid) if n >= longest), len(grid))]
    rows: list[tuple[str, str, int | None, int, bool, str]] = []
    asked: list[tuple[Rollout, int]] = []
    for r in rollouts:
        found = landmarks(r)
        for allowed in (*grid, None):
            used = found.n_thinking if allowed is None else min(allowed, found.n_thinking)
            ended = found.answer is not None and (allowed is None or found.n_thinking <= allowed)
            off = found.answer is None and (allowed is None or allowed > found.n_thinking)
            rows.append((r.id, r.group, allowed, used, ended, "thinking cut off" if off else ""))
            asked += [] if off else [(r, used)]
    table = pd.DataFrame(rows, columns=[c for c in LENGTH_COLUMNS if c != "score"]).astype({"allowed": "Int64"})
    table["score"] = np.nan
    score = forced_scores(model, asked, readout, forcer, lead=lead, plan_tokens=plan_tokens, progress=progress)
    table.loc[table["reason"] == "", "score"] = score
    table.loc[(table["reason"] == "") & table["score"].isna(), "reason"] = "no place to read"
    return table[list(LENGTH_COLUMNS)]
