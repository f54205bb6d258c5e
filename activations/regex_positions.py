"""Positions that a regular expression finds in the decoded text, made explicit."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from verdictscope.activations.positions import (
    FrozenPositions,
    Positions,
    Term,
    freeze,
    needs_text,
    of_base,
    of_term,
    parse,
    picked,
)
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout

_CONTEXT = 4
_LONGEST = 12
"""A character takes at most four bytes, so at most four tokens; ligatures of several take a few more."""


@dataclass(frozen=True)
class Spelling:
    """Token ids as text, and which characters each token stands for."""

    text: str
    starts: Int[np.ndarray, " pos"]
    stops: Int[np.ndarray, " pos"]


def spell(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """Decodes ids piece by piece, so that every character is known to belong to a token.

    A tokenizer's offsets hold for text that it splits itself; these ids were drawn by a model and may be split
    otherwise. So each token's text is what it adds to the decoding of the few tokens before it; tokens that end within
    a character wait for the next ones and share its span.
    """
    pieces, starts, stops = [], np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    begins, at, length = [0], 0, 0
    for i in range(len(ids)):
        low = begins[-_CONTEXT] if len(begins) >= _CONTEXT else 0
        before, now = (_decode(tokenizer, ids[low:stop]) for stop in (at, i + 1))
        if now.endswith("\ufffd") and i + 1 < len(ids) and i + 1 - at < _LONGEST:
            continue
        piece = now[len(os.path.commonprefix([before, now])) :]
        starts[at : i + 1], stops[at : i + 1] = length, length + len(piece)
        pieces.append(piece)
        length, at = length + len(piece), i + 1
        begins.append(at)
    return Spelling("".join(pieces), starts, stops)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def explicit(
    positions: Positions | FrozenPositions, rollouts: Sequence[Rollout], tokenizer: PreTrainedTokenizerBase | None
) -> Positions | FrozenPositions:
    """Positions that need the text as positions by rollout id; others as they are."""
    terms = parse(positions)
    if isinstance(terms, dict) or not needs_text(terms):
        return positions
    if tokenizer is None:
        raise InputError(f"positions {positions!r} are found in the text, and the model has no tokenizer to decode it")
    found = {}
    for rollout in rollouts:
        spelling = spell(rollout.ids, tokenizer)
        parts = [of_matches(t, rollout, spelling) if t.pattern else of_term(t, rollout) for t in terms]
        found[rollout.id] = np.unique(np.concatenate(parts)).tolist()
    return freeze(found)


def of_matches(term: Term, rollout: Rollout, spelling: Spelling) -> Int[np.ndarray, " chosen"]:
    """The tokens of every match within the term's base; an index or slice picks within each match."""
    base = of_base(term.base, rollout)
    base = base[spelling.stops[base] > spelling.starts[base]]  # a token that is no text is in no match
    if not base.size:
        return base
    begin, end = int(spelling.starts[base[0]]), int(spelling.stops[base[-1]])
    found = []
    for match in re.finditer(term.pattern or "", spelling.text[begin:end]):
        first, last = match.start() + begin, match.end() + begin
        inside = base[(spelling.stops[base] > first) & (spelling.starts[base] < last)]
        found.append(picked(term, inside) if first < last else base[:0])
    together = np.unique(np.concatenate([base[:0], *found]))
    return together if term.count is None else picked(term, together)
