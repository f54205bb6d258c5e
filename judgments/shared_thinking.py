"""One thinking for both orders: what a verdict owes to place when what was thought is the same, token by token.

A judge that thinks thinks something else in the other order, so its two verdicts differ by their thinking too. Here the
thinking of one order is put into both. A text that names the answers by their place (``answer A is wrong``) speaks of
*the other answer* once the places are changed, so there are two frames: the same tokens (``place``), whose meaning
stays with the places and counts as position, or the names exchanged as well (``item``), whose meaning stays with the
answers and counts as content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.judgments.labels import tokens_after
from verdictscope.rollouts import Rollout, Span
from verdictscope.rollouts.language_model import HasModel, tokenizer_of

FRAMES = ("place", "item")
"""What the names in a shared thinking go on meaning: the places, or the answers."""


@dataclass(frozen=True)
class SharedThinking:
    """Rollouts whose two orders share one thinking."""

    rollouts: tuple[Rollout, ...]
    frame: str
    donor: str
    left_out: tuple[str, ...] = ()

    @property
    def items(self) -> tuple[str, ...]:
        """Items that are in, in order."""
        return tuple(dict.fromkeys(str(r.tags["item"]) for r in self.rollouts))


def shared_thinking(
    model: HasModel | PreTrainedTokenizerBase,
    rollouts: Sequence[Rollout],
    *,
    frame: str = "place",
    donor: str = "AB",
    sides: tuple[str, str] = ("A", "B"),
) -> SharedThinking:
    """Put one order's thinking, closing and beginning of the answer behind the prompts of both orders."""
    if frame not in FRAMES or donor not in ("AB", "BA"):
        raise InputError(f"frame {frame!r}, donor {donor!r}: frames are {' and '.join(FRAMES)}, donors AB and BA")
    found: dict[str, dict[str, Rollout]] = {}
    for rollout in rollouts:
        orders = found.setdefault(str(rollout.tags.get("item")), {})
        if orders.setdefault(str(rollout.tags.get("order")), rollout) is not rollout:
            raise InputError(f"rollout {rollout.id}: its item has two of this order; give one run")
    made: list[Rollout] = []
    left = []
    for item, orders in found.items():
        pair = _pair(tokenizer_of(model), orders, frame, donor, sides)
        made += pair
        left += [] if pair else [item]
    if not made:
        raise InputError("no item has closed thinking in both orders: judge with thinking='on' and both orders")
    return SharedThinking(tuple(made), frame, donor, tuple(left))


def _pair(
    tokenizer: PreTrainedTokenizerBase, orders: dict[str, Rollout], frame: str, donor: str, sides: tuple[str, str]
) -> list[Rollout]:
    """Both orders with the donor's thinking, or nothing."""
    if set(orders) != {"AB", "BA"}:
        return []
    giver, taker = orders[donor], orders[donor[::-1]]
    begins = [at for at in map(_begin, (giver, taker)) if at is not None]
    if len(begins) < 2:
        return []
    ids, spans = giver.ids[begins[0] :], [s for s in giver.spans if s.start >= begins[0]]
    lengths = [len(s) for s in spans]
    thinking = spans[0] if spans[0].segment == "thinking" else None
    if frame == "item" and thinking is not None:
        own = giver.ids[thinking.start : thinking.stop]
        turned = _exchanged(tokenizer, giver.ids[: thinking.start], own, sides)
        if turned is None:
            return []
        ids = (*turned, *giver.ids[thinking.stop :])
        lengths[0] = len(turned)
    taken = _put(taker, begins[1], ids, [s.segment for s in spans], lengths)
    return [giver, taken] if donor == "AB" else [taken, giver]


def _begin(rollout: Rollout) -> int | None:
    """Where the thinking begins, or its closing where it is empty."""
    if not any(s.segment == "think_end" for s in rollout.turn):
        return None
    return next(s.start for s in rollout.turn if s.segment in ("thinking", "think_end"))


def _put(rollout: Rollout, begin: int, ids: Sequence[int], segments: Sequence[str], lengths: Sequence[int]) -> Rollout:
    """The rollout's own beginning and another's end."""
    spans = [Span(s.segment, s.start, min(s.stop, begin)) for s in rollout.spans if s.start < begin]
    at = begin
    for segment, length in zip(segments, lengths, strict=True):
        spans.append(Span(segment, at, at + length))
        at += length
    whole, n_prompt = (*rollout.ids[:begin], *ids), min(rollout.n_prompt, begin)
    return replace(
        rollout,
        ids=whole,
        spans=tuple(spans),
        n_prompt=n_prompt,
        n_forced=len(whole) - n_prompt,
        finish="given",
        tags={**rollout.tags, "shared": True},
    )


def _exchanged(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int], sides: tuple[str, str]
) -> tuple[int, ...] | None:
    """The thinking with the two names exchanged; ``None`` where its tokens are not those its text is encoded to."""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if tokens_after(tokenizer, before, text) != tuple(ids):
        return None
    names = "|".join(re.escape(side) for side in sorted(sides, key=len, reverse=True))
    other = {sides[0]: sides[1], sides[1]: sides[0]}
    turned = re.sub(rf"(?<!\w)({names})(?!\w)", lambda m: other[m[1]], text)
    found = tokens_after(tokenizer, before, turned)
    return None if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in found else found
