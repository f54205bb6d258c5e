"""The tokens that open and close thinking, found from a tokenizer and its template, not a model's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.templates import renderer

IdString = tuple[int, ...]

_WORD = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?)"
# how vocabularies write an opener, each with the form of its closer
_FORMS: tuple[tuple[str, str], ...] = (
    (rf"<({_WORD})>", r"</\1>"),
    (rf"\[({_WORD})\]", r"[/\1]"),
    (rf"<\|(?:begin|start)_of_({_WORD})\|>", r"<|end_of_\1|>"),
    (rf"<\|({_WORD})_(?:begin|start)\|>", r"<|\1_end|>"),
    (rf"<\|({_WORD})\|>", r"<|/\1|>"),
    (rf"◁({_WORD})▷", r"◁/\1▷"),
)
# neighbours with which a marker spelled in ordinary tokens can merge
_BEFORE = ("", "\n", "\n\n", " ", "a", ".", ".\n", "!", "?", ")")
_AFTER = ("", "\n", "\n\n", "\n\n\n", " ", "A")


@dataclass(frozen=True, slots=True)
class Markers:
    """What opens and closes thinking, as token ids.

    Attributes:
        opener: id-strings, any of which opens a block. One, where the opener is a token of its own; several,
            where it is spelled in ordinary tokens that merge with their neighbours.
        closer: id-strings, any of which closes it.
    """

    opener: tuple[IdString, ...]
    closer: tuple[IdString, ...]

    def __post_init__(self) -> None:
        if not all(self.opener) or not all(self.closer) or not self.opener or not self.closer:
            raise InputError("thinking markers need at least one token each: name both an opener and a closer")
        if set(self.opener) & set(self.closer):
            raise InputError("opener and closer of the thinking are the same tokens: name two different markers")

    @classmethod
    def from_text(cls, tokenizer: PreTrainedTokenizerBase, opener: str, closer: str) -> Markers:
        """Markers named by hand, for example ``Markers.from_text(tokenizer, "<think>", "</think>")``."""
        return cls(_id_strings(tokenizer, opener), _id_strings(tokenizer, closer))


def _id_strings(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[IdString, ...]:
    """Every token string that covers ``text`` between common neighbours, the most frequent spelling first."""
    text = text.strip()
    found: dict[IdString, None] = {}
    for before in _BEFORE:
        for after in _AFTER:
            whole = before + text + after
            encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
            start, stop = len(before), len(before) + len(text)
            cover = tuple(
                i
                for i, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
                if a < stop and b > start
            )
            # a covering token that also holds a letter of a neighbour is this context's own accident
            if cover and tokenizer.unk_token_id not in cover:
                found[cover] = None
    if not found:
        raise InputError(f"this tokenizer cannot write the thinking marker {text!r}: name markers it knows")
    return tuple(found)


def find_markers(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    """The thinking markers of a tokenizer, or ``None`` where it has none.

    Looked for, in this order: what the chat template prints around a message's reasoning; an added token of
    the vocabulary with its counterpart (``<think>``/``</think>``, ``[THINK]``/``[/THINK]``, ...); a tag the
    template writes although the vocabulary has no token for it.

    Args:
        tokenizer: a tokenizer, with or without a chat template.
    """
    return _from_reasoning(tokenizer) or _from_added_tokens(tokenizer) or _from_template_text(tokenizer)


def _from_reasoning(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    """What stands before and after a message's ``reasoning_content`` where the template prints that field."""
    ask, reason, answer = "Vask", "Vreason", "Vanswer"
    question = {"role": "user", "content": ask}
    turn = {"role": "assistant", "content": answer, "reasoning_content": reason, "thinking": reason}
    try:
        render = renderer(tokenizer)
        text, plain = render([question, turn], False), render([question], True)
    except InputError:  # a template that refuses the probe says nothing about its markers
        return None
    if text.count(reason) != 1 or text.count(answer) != 1 or text.index(reason) > text.index(answer):
        return None
    before, rest = text.split(reason)
    closer = rest.split(answer)[0].strip()
    # the header of the assistant turn is what the generation prompt and this rendering share
    shared = next((k for k, (x, y) in enumerate(zip(before, plain, strict=False)) if x != y), None)
    opener = before[shared if shared is not None else min(len(before), len(plain)) :].strip()
    if not opener:  # the generation prompt holds the opener already: it is the last tag
        tags = re.findall(r"\S+", before)
        opener = tags[-1] if tags else ""
        opener = opener[max(opener.rfind("<"), opener.rfind("["), 0) :]
    if not opener or not closer:
        return None
    try:
        return Markers.from_text(tokenizer, opener, closer)
    except InputError:
        return None


def _pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Openers among ``texts`` whose counterpart is there too."""
    known = set(texts)
    found = []
    for text in texts:
        for form, counterpart in _FORMS:
            match = re.fullmatch(form, text, flags=re.IGNORECASE)
            if match and (closer := match.expand(counterpart)) in known:
                found.append((text, closer))
    return found


def _from_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    by_text = {str(token): i for i, token in sorted(tokenizer.added_tokens_decoder.items())}
    pairs = _pairs(list(by_text))
    template = getattr(tokenizer, "chat_template", None) or ""
    # of several, the one the template speaks of
    pairs.sort(key=lambda pair: pair[1] not in str(template))
    return Markers(((by_text[pairs[0][0]],),), ((by_text[pairs[0][1]],),)) if pairs else None


def _from_template_text(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    template = str(getattr(tokenizer, "chat_template", None) or "")
    tags = sorted(set(re.findall(rf"</?{_WORD}>|\[/?{_WORD}\]", template, flags=re.IGNORECASE)))
    pairs = _pairs(tags)
    return Markers.from_text(tokenizer, *pairs[0]) if pairs else None
