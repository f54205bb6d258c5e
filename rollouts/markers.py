"""The strings that open and close thinking, as token ids, and how one is recognised in a row of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError

IdString = tuple[int, ...]

# neighbours with which a marker spelled in ordinary tokens can merge
_BEFORE = ("", "\n", "\n\n", " ", "a", ".", ".\n", "!", "?", ")")
_AFTER = ("", "\n", "\n\n", "\n\n\n", " ", "A")


@dataclass(frozen=True, slots=True)
class Markers:
    """What opens and closes thinking, and what may open and close the answer, as token ids.

    Attributes:
        opener: id-strings, any of which opens a block. One, where the opener is a token of its own; several,
            where it is spelled in ordinary tokens that merge with their neighbours.
        closer: id-strings, any of which closes it.
        answer_opener: id-strings that may stand between closer and answer (``<answer>``,
            ``<|START_RESPONSE|>``), or in front of an answer without thinking (gpt-oss's final channel).
        answer_closer: id-strings that may end the answer.
        spelled: (side, text) of the sides that are ordinary tokens and merge with any neighbour: they are
            recognised by their text as well.

    Example:
        >>> Markers(opener=((5,),), closer=((6,),)).answer_opener
        ()
    """

    opener: tuple[IdString, ...]
    closer: tuple[IdString, ...]
    answer_opener: tuple[IdString, ...] = ()
    answer_closer: tuple[IdString, ...] = ()
    spelled: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not all(self.opener) or not all(self.closer) or not self.opener or not self.closer:
            raise InputError("thinking markers need at least one token each: name both an opener and a closer")
        if set(self.opener) & set(self.closer):
            raise InputError("opener and closer of the thinking are the same tokens: name two different markers")

    @classmethod
    def from_text(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        opener: str,
        closer: str,
        answer_opener: str | None = None,
        answer_closer: str | None = None,
    ) -> Markers:
        """Markers named by hand, for example ``Markers.from_text(tokenizer, "<think>", "</think>")``.

        Args:
            tokenizer: the tokenizer that will write them.
            opener: what opens thinking; whitespace around it is ignored.
            closer: what closes it.
            answer_opener: what may stand between the closer and the answer.
            answer_closer: what may end the answer.

        Raises:
            InputError: the tokenizer cannot write one of them.
        """
        texts = {"opener": opener, "closer": closer, "answer_opener": answer_opener, "answer_closer": answer_closer}
        named = {side: text.strip() for side, text in texts.items() if text and text.strip()}
        if not {"opener", "closer"} <= named.keys():
            raise InputError("thinking markers need at least one token each: name both an opener and a closer")
        ids = {side: _id_strings(tokenizer, text) for side, text in named.items()}
        own = set(tokenizer.added_tokens_decoder)
        merging = tuple((s, named[s]) for s, strings in ids.items() if not {strings[0][0], strings[0][-1]} <= own)
        return cls(**ids, spelled=merging)


def _id_strings(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[IdString, ...]:
    """Every token string that covers ``text`` between common neighbours, the most frequent spelling first."""
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


class TokenMatcher:
    """Tokens as text, and markers in a row of tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """One token as text. SentencePiece decoders drop a leading space, so that is read from the piece."""
        if token not in self._texts:
            text = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
            piece = str(self.tokenizer.convert_ids_to_tokens(token) or "")
            spaces = len(piece) - len(piece.lstrip("▁"))
            self._texts[token] = " " * (spaces - (len(text) - len(text.lstrip(" ")))) + text if spaces else text
        return self._texts[token]

    def blank(self, token: int) -> bool:
        """Whether a token is whitespace and nothing else."""
        text = self.text(token)
        return bool(text) and not text.strip()

    def match(self, markers: Markers | None, side: str, ids: Sequence[int], at: int, stop: int) -> int:
        """Tokens of the longest marker of that side that begins in token ``at`` and ends before ``stop``, or 0."""
        if markers is None or at >= stop:
            return 0
        strings: tuple[IdString, ...] = getattr(markers, side)
        sizes = [len(s) for s in strings if tuple(ids[at : min(at + len(s), stop)]) == s]
        sizes += [self.spelled(text, ids, at, stop) for name, text in markers.spelled if name == side]
        return max(sizes, default=0)

    def spelled(self, text: str, ids: Sequence[int], at: int, stop: int) -> int:
        """Tokens from ``at`` on that spell a text beginning in the first of them, 0 where they do not."""
        first = self.text(ids[at])
        for begin in (k for k, char in enumerate(first) if char == text[0]):
            read, end = first[begin:], at + 1
            while end < stop and len(read) < len(text) and text.startswith(read):
                read, end = read + self.text(ids[end]), end + 1
            if read.startswith(text):
                return end - at
        return 0
