"""Which strings open and close thinking, found from a tokenizer and its template, never from a model's name.

Four places are asked, the most telling first: what the template prints around a message's reasoning; what its
generation prompt prints when thinking is switched off; the vocabulary's added tokens; what the template's own
instructions tell the model to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.templates import renderer

_WORD = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?)"
_ANSWER = r"(?:final_)?(?:answer|response|solution)"


def _forms(word: str) -> tuple[tuple[str, str], ...]:
    """How vocabularies write an opener around a word, each with the form of its closer."""
    return (
        (rf"(?i:<({word})>)", r"</\1>"),
        (rf"(?i:\[({word})\])", r"[/\1]"),
        (rf"(?i:<\|((?:begin|start)_of_)({word})\|>)", r"<|end_of_\2|>"),
        (rf"(?i:<\|({word})_(?:begin|start)\|>)", r"<|\1_end|>"),
        (rf"<\|(?:start|begin)_({word})\|>", r"<|end_\1|>"),
        (
            rf"<\|(?:START|BEGIN)_({word.upper() if word == _ANSWER else '(?:THINKING|THOUGHT|REASONING)'})\|>",
            r"<|END_\1|>",
        ),
        (rf"(?i:<\|({word})\|>)", r"<|/\1|>"),
        (rf"(?i:◁({word})▷)", r"◁/\1▷"),
    )


_THINKING_FORMS = (*_forms(_WORD), (r"<\|inner_prefix\|>", "<|inner_suffix|>"), (r"<(\w+):think>", r"</\1:think>"))
_ANSWER_FORMS = _forms(_ANSWER)
_TAG = r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]|◁[^◁▷\s]{1,40}▷"
_TOLD = re.compile(
    r"thoughts?[^'\"\n]{0,30}\bafter\s+['\"](.{4,60}?)['\"].{0,60}?\bresponse\b[^'\"\n]{0,30}\bafter\s+['\"](.{4,60}?)['\"]",
    flags=re.IGNORECASE | re.DOTALL,
)
_UNREAD = re.compile(r"['\"]type['\"]: ['\"]t(?:ext|hinking|houghts)['\"]")
_ASK, _REASON, _REPLY = "Vask", "Vreason", "Vanswer"
_SWITCHES: tuple[Mapping[str, bool], ...] = (
    {},
    {"enable_thinking": True, "thinking": True},
    {"enable_thinking": False, "thinking": False},
)


def find_markers(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    """The thinking markers of a tokenizer, or ``None`` where neither it nor its template speaks of thinking.

    Args:
        tokenizer: a tokenizer, with or without a chat template.
    """
    texts = (
        _from_reasoning(tokenizer)
        or _from_switch(tokenizer)
        or _from_added_tokens(tokenizer)
        or _from_instructions(tokenizer)
    )
    if texts is None:
        return None
    opener, closer, *answer = texts
    return Markers.from_text(tokenizer, opener, closer, *(answer or _answer_pair(tokenizer)))


def spoken_markers(tokenizer: PreTrainedTokenizerBase, written: Sequence[int]) -> Markers | None:
    """The markers of a model whose template knows none, where what it wrote begins with an opening tag (MiMo).

    Args:
        tokenizer: the model's tokenizer.
        written: what it wrote.
    """
    begin = str(tokenizer.decode(list(written[:32]), clean_up_tokenization_spaces=False)).lstrip()
    for form, counterpart in _THINKING_FORMS:
        if match := re.match(form, begin):
            return Markers.from_text(tokenizer, match.group(), match.expand(counterpart), *_answer_pair(tokenizer))
    return None


Texts = tuple[str, ...]
"""Opener and closer, and sometimes the answer's opener and closer."""


def _from_reasoning(tokenizer: PreTrainedTokenizerBase) -> Texts | None:
    """What stands before and after a message's reasoning where the template prints it."""
    question = {"role": "user", "content": _ASK}
    for switches in _SWITCHES[:2]:
        try:
            render = renderer(tokenizer, template_kwargs=switches)
        except InputError:  # no template
            return None
        for turn in _reasoned_turns():
            text = _attempt(render, [question, turn])
            places = [text.find(word) for word in (_ASK, _REASON, _REPLY)]
            # a template that prints a structured message as it stands has not understood it
            if -1 in places or places != sorted(places) or text.count(_REASON) > 1 or _UNREAD.search(text):
                continue
            heads = [_attempt(render, [question], True)]
            heads += _attempt(render, [question, {"role": "assistant", "content": _REPLY}]).split(_REPLY)[:1]
            if found := _around(text, heads):
                return found
    return None


def _reasoned_turns() -> Iterator[dict[str, Any]]:
    """An assistant turn with reasoning, in the ways templates know."""
    yield {"role": "assistant", "content": _REPLY} | dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking", "thought"), _REASON
    )
    answer = {"type": "text", "text": _REPLY}
    for thought in (_REASON, [{"type": "text", "text": _REASON}]):
        yield {"role": "assistant", "content": [{"type": "thinking", "thinking": thought}, answer]}
    blocks = [{"type": "thoughts", "text": _REASON}, {"type": "response", "text": _REPLY}]
    yield {"role": "assistant", "content": {"blocks": blocks}}


def _attempt(render: Any, turns: Sequence[Mapping[str, Any]], generation_prompt: bool = False) -> str:
    """The rendering, empty where the template refuses the probe: then it says nothing about its markers."""
    try:
        return str(render(turns, generation_prompt))
    except InputError:
        return ""


def _around(text: str, heads: Sequence[str]) -> Texts | None:
    """Markers of a rendered turn, given what a turn without reasoning begins with."""
    before, rest = text.split(_REASON)
    between, after = rest.split(_REPLY, 1)
    prompt, plain = (heads[0], heads[1]) if len(heads) > 1 else (heads[0], "")
    openers = [before[len(head) :].strip() for head in (prompt, plain) if head and before.startswith(head)]
    openers = [o for o in openers if o] or re.findall(rf"(?:{_TAG})\s*$", before)
    # where the generation prompt holds the opener already, it is the last tag
    closer = between.strip()
    if not openers or not closer:
        return None
    opener = min(openers, key=len).strip()
    preamble = plain[len(prompt) :].strip() if prompt and plain.startswith(prompt) else ""
    own = _counterpart(opener, _THINKING_FORMS)
    if own and closer.startswith(own) and closer != own:
        answer = closer[len(own) :].strip()
        ends = _counterpart(answer, _ANSWER_FORMS) or ""
        return (opener, own, answer, *([ends] if ends and ends in after else []))
    if preamble and opener not in preamble and closer.endswith(preamble) and closer != preamble:
        return opener, closer, preamble
    return opener, closer


def reasoned_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    """What the template prints before a message's reasoning (up to the message), and between it and the answer.

    Args:
        tokenizer: a tokenizer, with or without a chat template.
    """
    question = {"role": "user", "content": _ASK}
    for switches in _SWITCHES[:2]:
        try:
            render = renderer(tokenizer, template_kwargs=switches)
        except InputError:  # no template
            return
        for turn in _reasoned_turns():
            text = _attempt(render, [question, turn])
            places = [text.find(word) for word in (_ASK, _REASON, _REPLY)]
            if -1 in places or places != sorted(places) or text.count(_REASON) > 1 or _UNREAD.search(text):
                continue
            before, rest = text.split(_REASON)
            yield before.split(_ASK)[-1], rest.split(_REPLY, 1)[0]


def switched_off_block(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the generation prompt ends with when thinking is switched off and not when it is on; ``None`` where there
    is no such switch.

    Args:
        tokenizer: a tokenizer, with or without a chat template.
    """
    tails = _switched_tails(tokenizer)
    return tails[1] if tails is not None and tails[1] != tails[0] else None


def _switched_tails(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """What follows the request with thinking switched on, and off."""
    tails = []
    for switches in _SWITCHES[1:]:
        try:
            render = renderer(tokenizer, template_kwargs=switches)
        except InputError:  # no template
            return None
        tails.append(_attempt(render, [{"role": "user", "content": _ASK}], True).split(_ASK)[-1])
    return tails[0], tails[1]


def _counterpart(opener: str, forms: Sequence[tuple[str, str]]) -> str | None:
    return next((m.expand(closer) for form, closer in forms if (m := re.fullmatch(form, opener))), None)


def _from_switch(tokenizer: PreTrainedTokenizerBase) -> Texts | None:
    """The empty block a generation prompt ends in when thinking is switched off, and not when it is on."""
    tails = _switched_tails(tokenizer)
    if tails is None:
        return None
    on, off = tails
    block = re.search(r"([<\[◁][^<\[◁\s]+)\s*([<\[◁][^<\[◁\s]+)\s*$", off)
    # an empty block is what the two prompts differ in, and nothing of it stands before the answer when on
    if on == off or block is None or on.rstrip().endswith(block.group(2)) or not off.startswith(on[: block.start()]):
        return None
    return block.group(1), block.group(2)


def _pairs(texts: Iterable[str], forms: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Openers among ``texts`` whose counterpart is there too."""
    known = list(dict.fromkeys(texts))
    return [(text, closer) for text in known if (closer := _counterpart(text, forms)) in known and closer]


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    template = getattr(tokenizer, "chat_template", None) or ""
    return template if isinstance(template, str) else str(template.get("default", ""))


def _added(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]


def _from_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Texts | None:
    pairs = _pairs(_added(tokenizer), _THINKING_FORMS)
    # of several, the one the template speaks of
    return min(pairs, key=lambda pair: pair[1] not in _template(tokenizer), default=None)


def _from_instructions(tokenizer: PreTrainedTokenizerBase) -> Texts | None:
    """A tag the template writes although the vocabulary has no token for it, or a sentence it asks for."""
    template = _template(tokenizer)
    pairs = _pairs(re.findall(_TAG, template), _THINKING_FORMS)
    if pairs:
        return pairs[0]
    told = _TOLD.search(template)
    return (told.group(1).strip(), told.group(2).strip()) if told else None


def _answer_pair(tokenizer: PreTrainedTokenizerBase) -> Texts:
    """Tags around an answer that the vocabulary or the template names."""
    pairs = _pairs([*_added(tokenizer), *re.findall(_TAG, _template(tokenizer))], _ANSWER_FORMS)
    return pairs[0] if pairs else ()
