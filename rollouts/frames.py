"""How a chat template writes a thinking block: what stands before the thinking, behind it, and in an empty one."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.discover import find_markers, reasoned_texts, switched_off_block
from verdictscope.rollouts.markers import Markers


@dataclass(frozen=True, slots=True)
class Frame:
    """The text around thinking."""

    opening: str
    lead: str
    closing: str
    empty: str
    printed: bool


def find_frame(tokenizer: PreTrainedTokenizerBase, markers: Markers | None = None) -> Frame:
    """The frame, as the template prints it around a message's reasoning."""
    markers = markers if markers is not None else find_markers(tokenizer)
    if markers is None:
        raise InputError("this tokenizer has no thinking markers, so none can be forced: name the markers by hand")
    opener, closer = (_text(tokenizer, side[0]).strip() for side in (markers.opener, markers.closer))
    block = switched_off_block(tokenizer) or ""
    empty = block[block.index(opener) :] if opener in block and closer in block else None
    for before, between in reasoned_texts(tokenizer):
        if opener in before and closer in between:
            opening, at = before[before.rindex(opener) :], between.index(closer)
            lead, closing = between[:at], between[at:]
            return Frame(opening, lead, closing, opening + lead + closing if empty is None else empty, True)
    if empty is not None:
        inside, closing = empty[len(opener) : empty.index(closer)], empty[empty.index(closer) :]
        half = (len(inside) + 1) // 2
        return Frame(opener + inside[:half], inside[half:], closing, empty, False)
    answer = _text(tokenizer, markers.answer_opener[0]).strip() + "\n" if markers.answer_opener else ""
    opening, lead, closing = opener + "\n", "\n", closer + "\n\n" + answer
    return Frame(opening, lead, closing, opening + lead + closing, False)


def _text(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def ids_after(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """A text's tokens where other text stands before it: no token for the beginning, no dummy space."""
    before = "a"
    try:
        encoded = tokenizer(before + text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:
        raise InputError(f"{type(tokenizer).__name__} gives no offsets: load a fast tokenizer") from None
    pairs = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    if any(a < len(before) < b for _, (a, b) in pairs):  # merged with what stands before
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return tuple(i for i, (a, b) in pairs if a >= len(before))
