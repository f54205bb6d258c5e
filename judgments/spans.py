"""Which tokens of a judge's prompt are the question, the first answer, the cue: a name for every token.

The two orders of a pair show the same answers in other places, so what a head takes from an answer is compared by the
*span* and not by the position: answer A's span where it is shown first with answer A's span where it is shown second.
The spans come from the format's own slots, not from a search for the answers' texts, which may be equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.judgments.asking import Insertion, slots_of
from verdictscope.judgments.formats.format import Format
from verdictscope.judgments.items import DebateItem, Item, PairItem
from verdictscope.rollouts import Rollout, pieces
from verdictscope.rollouts.language_model import HasModel, tokenizer_of

FIRST, SECOND, CUE, INSTRUCTION = "first answer", "second answer", "cue", "instruction"
SPANS = (
    "system",
    "question",
    "context",
    "reference",
    "transcript",
    "label of first",
    FIRST,
    "label of second",
    SECOND,
    CUE,
    INSTRUCTION,
    "template",
    "thinking",
    "closing",
    "answer begun",
)
"""Names a token of a judge's prompt can carry, in the order in which they are shown. A *label* is what stands on an
answer's own line before it; *answer begun* is what the judge has written of its answer where the verdict is read."""

_SLOTS = {"question": "question", "first": FIRST, "second": SECOND, "note": CUE, "between": CUE}
_SEGMENTS = {"think_end": "closing", "answer": "answer begun", "verdict": "answer begun"}


def token_spans(
    model: HasModel | PreTrainedTokenizerBase,
    form: Format,
    items: Sequence[Item],
    rollouts: Sequence[Rollout],
    insertions: Callable[[Item, str], Sequence[Insertion]] | None = None,
) -> dict[str, tuple[str, ...]]:
    """A name of :data:`SPANS` for every token of every rollout."""
    tokenizer, found = tokenizer_of(model), {}
    by_id = {item.id: item for item in items}
    for rollout in rollouts:
        item = by_id.get(str(rollout.tags.get("item")))
        if item is None:
            raise InputError(f"rollout {rollout.id} is about no item given here: give the items that were judged")
        order = str(rollout.tags.get("order") or "AB")
        put = () if insertions is None else insertions(item, order)
        found[rollout.id] = _named(tokenizer, rollout, user_spans(form, item, order, put))
    return found


def user_spans(
    form: Format, item: Item, order: str = "AB", insertions: Sequence[Insertion] = ()
) -> list[tuple[str, str]]:
    """The user turn as (name, text) pieces, in order; joined they are its text, without blanks around the whole."""
    slots = slots_of(form, item, order, insertions)
    parts: list[tuple[str, str]] = []
    for at, part in enumerate(re.split(r"\{(\w+)\}", form.user)):
        if at % 2 == 0:
            parts.append((INSTRUCTION, part))
        elif part not in slots:
            parts.append((INSTRUCTION, f"{{{part}}}"))
        elif part in ("first", "second"):
            _label(parts, part)
            parts += _answer(part, item, order, slots[part])
        else:
            cued = part == "reference" and any(i.place == "reference" for i in insertions)
            parts.append((CUE if cued else _SLOTS.get(part, part), slots[part]))
    return _stripped(parts)


def _label(before: list[tuple[str, str]], place: str) -> None:
    """Cut what stands on the answer's own line off the text before it."""
    name, text = before[-1]
    head, newline, label = text.rpartition("\n")
    if label.strip():
        before[-1:] = [(name, head + newline), (f"label of {place}", label)]


def _answer(place: str, item: Item, order: str, text: str) -> list[tuple[str, str]]:
    """An answer, and the cue at its end where there is one."""
    if not isinstance(item, PairItem | DebateItem):
        return [(_SLOTS[place], text)]
    side = order[0] if place == "first" else order[1]
    own = item.a if side == "A" else item.b
    return [(_SLOTS[place], text[: len(own)]), (CUE, text[len(own) :])]


def _stripped(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the blanks around the whole, which templates may trim, and without empty pieces."""
    text = "".join(part for _, part in parts)
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    kept, at = [], 0
    for name, part in parts:
        inside = part[max(begin - at, 0) : max(end - at, 0)]
        at += len(part)
        if inside:
            kept.append((name, inside))
    return kept


def _named(tokenizer: PreTrainedTokenizerBase, rollout: Rollout, parts: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    names = [_SEGMENTS.get(segment, segment) for segment in rollout.labels()]
    user = rollout.span("user")
    text = "".join(part for _, part in parts)
    said = [] if user is None else pieces(rollout.ids[user.start : user.stop], tokenizer)
    begin = "".join(said).find(text)
    if user is None or begin < 0:
        raise InputError(
            f"the user turn of rollout {rollout.id} does not hold the text that format and cues give: spans are known "
            "of prompts as the format shows them, without transforms"
        )
    owner = [INSTRUCTION] * begin + [name for name, part in parts for _ in part]
    starts = [0, *accumulate(map(len, said))]
    for at, (piece, start) in enumerate(zip(said, starts, strict=False)):
        # Byte-level tokens carry the space before a word: the word says where the token belongs.
        start += len(piece) - len(piece.lstrip()) if piece.strip() else 0
        names[user.start + at] = owner[start] if start < len(owner) else INSTRUCTION
    return tuple(names)


def by_side(names: Sequence[str], order: str, side: str | None, words: Mapping[str, str]) -> tuple[str, ...]:
    """Span names with the answers called by what they are, not by where they stand."""
    if side not in ("A", "B"):
        return tuple(names)
    first = order[0] == side
    said = {"first": words["this"] if first else words["other"], "second": words["other"] if first else words["this"]}
    return tuple(re.sub(r"\b(first|second)\b", lambda m: said[m[1]], name) for name in names)
