"""Neutral text of a given length: the control of a cue has as many tokens as the cue, in the judge's own vocabulary."""

from __future__ import annotations

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError

NEUTRAL = re.findall(
    r"\w+",
    """
    The entries on this page are kept in the form in which they came in and are listed one below the other with a blank
    line after each part so that they can be read without effort on any screen and the page has a margin on both sides
    and a number at the foot which is there for the printed copy only and is not used for anything else in the text that
    follows here or on the next page where the list goes on in the same way until it comes to its end as it does in
    every copy that has been made of it since the first one was put on the shelf
    """,
)


ALONE, INLINE = ("a\n\n", "\n\na"), ("a. ", "\na")
"""What stands around a text: on lines of its own, or at the end of a sentence."""

Around = tuple[str, str]


def count(tokenizer: PreTrainedTokenizerBase, text: str, around: Around = ALONE) -> int:
    """Tokens that a text adds to what stands around it."""
    without = tokenizer("".join(around), add_special_tokens=False)["input_ids"]
    return len(tokenizer(text.join(around), add_special_tokens=False)["input_ids"]) - len(without)


def matched(
    tokenizer: PreTrainedTokenizerBase, text: str, around: Around = ALONE, neutral_around: Around | None = None
) -> str:
    """A neutral text with exactly as many tokens as ``text``, ending as it ends."""
    return _matched(tokenizer, text, around, neutral_around or around)


@lru_cache(maxsize=4096)
def _matched(tokenizer: PreTrainedTokenizerBase, text: str, around: Around, neutral_around: Around) -> str:
    wanted = count(tokenizer, text, around)
    bracket = text.startswith("(") and text.endswith(")")
    ends = [text[-1]] if text[-1:] in ".!?:" else []
    for end in (*ends, ".", " so.", ""):
        for start in range(len(NEUTRAL) // 2):
            found = _stretch(tokenizer, start, wanted, end, bracket, neutral_around)
            if found is not None:
                return found
    raise InputError(f"no neutral text has the {wanted} tokens of {text[:40]!r} in this vocabulary: shorten the cue")


def _stretch(
    tokenizer: PreTrainedTokenizerBase, start: int, wanted: int, end: str, bracket: bool, around: Around
) -> str | None:
    """The stretch from a word on that has the wanted tokens, if one has."""
    low, high = 1, min(len(NEUTRAL) - start, wanted)
    while low <= high:
        k = (low + high) // 2
        words = " ".join(NEUTRAL[start : start + k])
        words = words[:1].upper() + words[1:] + end
        words = f"({words})" if bracket else words
        n = count(tokenizer, words, around)
        if n == wanted:
            return words
        low, high = (k + 1, high) if n < wanted else (low, k - 1)
    return None
