"""With which token an assistant's turn ends: by the chat template, whatever config and tokenizer call their end token.

A checkpoint whose template ends turns with ``<|im_end|>`` may name ``<|endoftext|>`` alone as its end: its answers
would run on into a next turn that the model makes up. So the template is asked: it renders a conversation whose last
turn is the assistant's, and the end is the first token of its own behind the words, tags around the answer apart:
``</answer>`` ends a turn only where nothing else does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.discover import known_markers, wraps
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.renderings import NEEDED
from verdictscope.rollouts.templates import renderer

_REPLY = "Vanswer"
_TALK = ({"role": "user", "content": "Vask"}, {"role": "assistant", "content": _REPLY})
_MORE = ({"role": "user", "content": "Vmore"},)
_TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def turn_end(tokenizer: PreTrainedTokenizerBase, markers: Markers | None = None) -> int | None:
    """The token with which the chat template ends an assistant's turn."""
    markers = markers or known_markers(tokenizer)
    sides = (markers.opener, markers.closer, markers.answer_opener, markers.answer_closer) if markers else ()
    tags = {i for side in sides for string in side for i in string if i in tokenizer.added_tokens_decoder}
    around: int | None = None
    for text in _renderings(tokenizer):
        head, _, _ = text.rpartition(_REPLY)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        placed = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        # a token that opens turns too (``<|im_start|>``) ends none
        opens = {i for i, (a, _) in placed if a < len(head)}
        for i, (a, b) in placed:
            behind = a >= len(head) + len(_REPLY) and b > a
            if behind and i not in tags and _own(tokenizer, i, text[a:b]):
                if "Vmore" in text and (i in opens or "Vmore" in text[:a]):
                    break
                if not _closes(head, text[a:b].strip()):
                    return int(i)
                around = int(i) if around is None else around
    return around


def spelled_turn_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tag that the chat template prints right behind an answer, as text: the vocabulary need not know it."""
    for text in _renderings(tokenizer):
        head, _, behind = text.rpartition(_REPLY)
        tags = []
        while tag := _TAG.match(behind := behind.lstrip()):
            tags.append(tag.group())
            behind = behind[tag.end() :]
        if tags:
            return next((tag for tag in tags if not _closes(head, tag)), tags[0])
    return ""


def has_plain_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there is a chat template that renders a plain conversation."""
    return any(True for _ in _renderings(tokenizer))


def _closes(head: str, tag: str) -> bool:
    """Whether a tag behind the reply belongs to the one right in front of it."""
    opener = re.search(rf"(?:{_TAG.pattern})$", head.rstrip())
    return opener is not None and wraps(opener.group(), tag)


def _own(tokenizer: PreTrainedTokenizerBase, token: int, text: str) -> bool:
    """Whether a token is one of the template's own: added to the vocabulary, or a whole tag."""
    return bool(text.strip()) and (token in tokenizer.added_tokens_decoder or bool(_TAG.fullmatch(text.strip())))


def _renderings(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """A conversation that ends with the assistant's turn; where that turn is left open, one that goes on."""
    for turns, prompt in ((_TALK, False), (_TALK + _MORE, True)):
        for switches in ({}, NEEDED):
            try:
                text = renderer(tokenizer, template_kwargs=switches)(turns, prompt)
            except InputError:  # no template, or it refuses the probe: then it says nothing of its turns' ends
                continue
            if text.count(_REPLY) == 1:
                yield text
                break
