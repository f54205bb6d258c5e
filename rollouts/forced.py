"""New rollouts from old ids: the same tokens, shown instead of sampled."""

from __future__ import annotations

from dataclasses import replace

from verdictscope.rollouts.rollout import Rollout, Span


def until_answer(rollout: Rollout) -> Rollout | None:
    """Everything up to the last token before the answer, as a given rollout.

    Attention is causal, so a readout at that token sees the same hidden states as in the whole rollout, and no
    forward pass is spent on answers. This is the *fixed chain of thought* of an intervention study.

    Returns:
        The shortened rollout, or ``None`` when it has no answer (truncated thinking is no answer).
    """
    answer = rollout.span("answer")
    if answer is None:
        return None
    return cut(rollout, answer.start)


def cut(rollout: Rollout, length: int) -> Rollout:
    """The first ``length`` tokens of a rollout, as a given rollout with the same id, group and tags.

    Raises:
        ValueError: ``length`` is not between 1 and the rollout's length.
    """
    if not 0 < length <= len(rollout):
        raise ValueError(f"cannot cut rollout {rollout.id} of {len(rollout)} tokens to {length}")
    spans = tuple(Span(s.segment, s.start, min(s.stop, length)) for s in rollout.spans if s.start < length)
    return replace(
        rollout,
        ids=rollout.ids[:length],
        spans=spans,
        n_prompt=min(rollout.n_prompt, length),
        n_forced=min(rollout.n_forced, max(length - rollout.n_prompt, 0)),
        finish="given",
    )
