"""Which token of one rollout stands for which of another, and which rollout stands for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout, Span

RULES = ("same", "start", "end", "spread")
"""How tokens are aligned, see :func:`align`."""


def align(
    target: Rollout, source: Rollout, tokens: Int[ndarray, " token"], by: str = "same"
) -> tuple[Int[ndarray, " found"], Int[ndarray, " found"]]:
    """The tokens of ``source`` that stand for tokens of ``target``."""
    if by not in RULES:
        raise InputError(f"unknown alignment {by!r}: use one of {', '.join(RULES)}")
    pairs = []
    for token in map(int, tokens):
        other = token if by == "same" else _in_segment(target, source, token, by)
        if other is not None and 0 <= other < len(source):
            pairs.append((token, other))
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _in_segment(target: Rollout, source: Rollout, token: int, by: str) -> int | None:
    mine = next(span for span in target.spans if span.start <= token < span.stop)
    theirs = _counterpart(target, source, mine)
    if theirs is None:
        return None
    if by == "spread":
        share = (token - mine.start) / max(len(mine) - 1, 1)
        return theirs.start + round(share * (len(theirs) - 1))
    other = theirs.start + token - mine.start if by == "start" else theirs.stop - (mine.stop - token)
    return other if theirs.start <= other < theirs.stop else None


def _counterpart(target: Rollout, source: Rollout, span: Span) -> Span | None:
    """The span of the source with the same name and the same place among those of that name, from the end."""
    mine = [s for s in target.spans if s.segment == span.segment]
    theirs = [s for s in source.spans if s.segment == span.segment]
    back = len(mine) - mine.index(span)
    return theirs[-back] if back <= len(theirs) else None


def matched(
    targets: Sequence[Rollout], pool: Sequence[Rollout], *, on: Sequence[str] = (), seed: int = 0
) -> list[Rollout]:
    """For every target a rollout drawn from the pool, for resampling: alike in its tags, of another group."""
    if not pool:
        raise InputError("the reference set is empty: there is no rollout to resample from")
    for rollout in (*targets, *pool):
        lacking = [tag for tag in on if tag not in rollout.tags]
        if lacking:
            raise InputError(f"rollout {rollout.id} has no tag {lacking[0]!r} to match on")
    drawn = []
    for place, target in enumerate(targets):
        alike = [r for r in pool if r.group != target.group and all(r.tags[t] == target.tags[t] for t in on)]
        if not alike:
            raise InputError(f"no rollout of another group matches {target.id} on {', '.join(on) or 'anything'}")
        drawn.append(alike[int(np.random.default_rng([seed, place]).integers(len(alike)))])
    return drawn
