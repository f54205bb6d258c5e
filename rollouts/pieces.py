"""The text of every single token, such that the texts joined are the decoded text.

Decoding tokens one by one is not that: a character may be spread over several byte-level tokens (each alone decodes to
a replacement character), and some decoders drop the space of a first token.
"""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no character (yet)."""


def pieces(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text each token adds; joined, they are exactly ``tokenizer.decode(ids)``, special tokens included.

    A token that only begins a character adds nothing (``""``); the one that completes it adds the character. Each token
    is decoded after the one before it, so that decoders which drop a leading space drop it once.

    Args:
        ids: token ids, for example those of a rollout.
        tokenizer: the tokenizer they belong to.

    Returns:
        as many strings as ids.

    Example:
        >>> from verdictscope import load_model
        >>> tokenizer = load_model("organism:cliff").tokenizer
        >>> "".join(pieces(tokenizer("please tell me.")["input_ids"], tokenizer))
        'please tell me.'
    """
    ids = [int(i) for i in ids]
    whole = _decode(tokenizer, ids)
    found: list[str] = []
    context, begin = 0, 0  # tokens from `context` to `begin` are known and decoded again for what they do to the next
    known, done = "", 0  # their text; characters of `whole` before token `begin`
    given = 0  # characters of `whole` handed out
    for k in range(len(ids)):
        new = _decode(tokenizer, ids[context : k + 1])[len(known) :]
        agreed = len(commonprefix([new, whole[done : done + len(new)]]))
        settled = agreed == len(new) and not new.endswith(REPLACEMENT)
        # while bytes are pending, replacement characters at the end are not text yet
        reached = done + (agreed if settled else len(new[:agreed].rstrip(REPLACEMENT)))
        found.append(whole[given : max(given, reached)])
        given = max(given, reached)
        if settled:
            context, begin, done = begin, k + 1, reached
            known = _decode(tokenizer, ids[context:begin])
    if found:
        found[-1] += whole[given:]
    return found


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
