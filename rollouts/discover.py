"""Which strings open and close thinking, found from a tokenizer and its template, never from a model's name.

Sources, the most reliable first: what the template prints around a message's reasoning; what its generation prompt
prints when thinking is switched off, and what it begins that a plain reply does not; where it cuts past answers; what
its printed instructions tell the model to write; the vocabulary's added tokens. Only what is printed counts: a branch
that no rendering takes says nothing. What is found is then tried on the template's own examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.renderings import ASK, PLAIN, QUESTION, REASON, REPLY, SWITCHES, Renderings
from verdictscope.rollouts.selfcheck import ADVICE, cutting_texts, fault, split_texts, state_of

_WORD = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|scratch_?pad|reflection|rationale|deliberation)"
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
_INSTRUCTED = re.compile(
    r"thoughts?[^'\"\n]{0,30}\bafter\s+['\"](.{4,60}?)['\"].{0,60}?\bresponse\b[^'\"\n]{0,30}\bafter\s+['\"](.{4,60}?)['\"]",
    flags=re.IGNORECASE | re.DOTALL,
)
_BEGUN = re.compile(r"(\[BEGIN ((?:FINAL )?(?:RESPONSE|ANSWER|SOLUTION))\])", flags=re.IGNORECASE)
_known: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[object, ...], Markers | str | None]] = WeakKeyDictionary()

Texts = tuple[str, ...]
"""Opener and closer, and sometimes the answer's opener and closer (the opener empty where there is none)."""


def find_markers(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    """The thinking markers of a tokenizer, or ``None`` where neither it nor its template marks thinking.

    They are taken only if they read the template's own examples as these were composed
    (:func:`~verdictscope.rollouts.selfcheck.fault`). Found once per tokenizer and template.

    Args:
        tokenizer: a tokenizer, with or without a chat template.

    Raises:
        InputError: the template thinks in a way whose markers cannot be identified: name them.

    Example:
        >>> from verdictscope import load_model
        >>> tokenizer = load_model("organism:cliff").tokenizer
        >>> tokenizer.decode(find_markers(tokenizer).opener[0])
        '<think>'
    """
    found = _kept(tokenizer)
    if isinstance(found, str):
        raise InputError(f"the thinking markers of this chat template cannot be identified ({found}): {ADVICE}")
    return found


def known_markers(tokenizer: PreTrainedTokenizerBase) -> Markers | None:
    """The same for questions that do not rest on them: ``None`` also where they cannot be identified."""
    found = _kept(tokenizer)
    return None if isinstance(found, str) else found


def _kept(tokenizer: PreTrainedTokenizerBase) -> Markers | str | None:
    known = _known.setdefault(tokenizer, {})
    state = state_of(tokenizer)
    if state not in known:
        known[state] = _found(tokenizer)
    return known[state]


def _found(tokenizer: PreTrainedTokenizerBase) -> Markers | str | None:
    """The first candidate that reads every example, or why none does."""
    problem, tried = fault(tokenizer, None), set()
    renderings = Renderings(tokenizer)
    for texts in _candidates(tokenizer, renderings):
        opener, closer, *answer = texts
        answer = answer or [*_answer_pair(tokenizer, renderings)]
        if len(answer) < 2:
            ends = [t for t in ending_texts(tokenizer, renderings) if t not in (opener, closer)]
            answer = [*(answer or [""]), *ends[:1]]
        if (opener, closer, *answer) in tried:
            continue
        tried.add((opener, closer, *answer))
        try:
            markers = Markers.from_text(tokenizer, opener, closer, *answer)
        except InputError as error:  # no markers at all: the next candidate may be
            problem = str(error)
            continue
        trouble = fault(tokenizer, markers)
        if trouble is None:
            return markers
        problem = problem if len(tried) > 1 and problem else f"{opener!r} and {closer!r} are not: {trouble}"
    return problem


def _candidates(tokenizer: PreTrainedTokenizerBase, renderings: Renderings) -> Iterator[Texts]:
    """Candidate markers, the most reliable first."""
    yield from _from_reasoning(renderings)
    yield from _from_switch(renderings)
    yield from _from_prompt(tokenizer, renderings)
    yield from _from_cuts(tokenizer, renderings)
    yield from _from_instructions(renderings)
    yield from _from_added_tokens(tokenizer)


def spoken_markers(tokenizer: PreTrainedTokenizerBase, written: Sequence[int]) -> Markers | None:
    """The markers of a model whose template knows none, where what it wrote begins with an opening tag (MiMo)."""
    begin = str(tokenizer.decode(list(written[:32]), clean_up_tokenization_spaces=False)).lstrip()
    for form, counterpart in _THINKING_FORMS:
        if match := re.match(form, begin):
            return Markers.from_text(tokenizer, match.group(), match.expand(counterpart), *_answer_pair(tokenizer))
    return None


def _from_reasoning(renderings: Renderings) -> Iterator[Texts]:
    """What stands before and after a message's reasoning where the template prints it."""
    for k in range(2):
        for text in renderings.reasoned(k):
            heads = [renderings.text(k, [QUESTION], True)]
            heads += renderings.text(k, [QUESTION, PLAIN]).split(REPLY)[:1]
            yield from _around(text, heads)


def _around(text: str, heads: Sequence[str]) -> Iterator[Texts]:
    """Markers of a rendered turn, given what a turn without reasoning begins with."""
    before, rest = text.split(REASON)
    between, after = rest.split(REPLY, 1)
    prompt, plain = (heads[0], heads[1]) if len(heads) > 1 else (heads[0], "")
    openers = [before[len(head) :].strip() for head in (prompt, plain) if head and before.startswith(head)]
    openers = [o for o in openers if o] or re.findall(rf"(?:{_TAG})\s*$", before)
    # where the generation prompt holds the opener already, it is the last tag
    closer = between.strip()
    if not closer:
        return
    if not openers or _turned(closer) not in ("", openers[-1]):
        # a role's token stands before the reasoning: the opener is the closer's counterpart
        if named := _turned(closer):
            yield named, closer
        if not openers:
            return
    opener = min(openers, key=len).strip()
    preamble = plain[len(prompt) :].strip() if prompt and plain.startswith(prompt) else ""
    own = _counterpart(opener, _THINKING_FORMS)
    if own and closer.startswith(own) and closer != own:
        answer = closer[len(own) :].strip()
        ends = _counterpart(answer, _ANSWER_FORMS) or ""
        yield opener, own, answer, *([ends] if ends and ends in after else [])
    if preamble and opener not in preamble and closer.endswith(preamble) and closer != preamble:
        yield opener, closer, preamble
    yield opener, closer


def _turned(closer: str) -> str:
    """The opener that a closer of the form ``</x>`` belongs to, empty where it has another form."""
    opener = closer.replace("/", "", 1)
    return opener if _counterpart(opener, _THINKING_FORMS) == closer else ""


def reasoned_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    """What the template prints before a message's reasoning (up to the message), and between it and the answer."""
    renderings = Renderings(tokenizer)
    for k in range(2):
        for text in renderings.reasoned(k):
            before, rest = text.split(REASON)
            yield before.split(ASK)[-1], rest.split(REPLY, 1)[0]


def switched_off_block(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What the generation prompt ends with when thinking is switched off and not when it is on; ``None`` where there
    is no such switch."""
    renderings = Renderings(tokenizer)
    on, off = renderings.tail(1), renderings.tail(2)
    return off if off and off != on else None


def _counterpart(opener: str, forms: Sequence[tuple[str, str]]) -> str | None:
    return next((m.expand(closer) for form, closer in forms if (m := re.fullmatch(form, opener))), None)


def _from_switch(renderings: Renderings) -> Iterator[Texts]:
    """The empty block a generation prompt ends in when thinking is switched off, and not when it is on."""
    on, off = renderings.tail(1), renderings.tail(2)
    block = re.search(r"([<\[◁][^<\[◁\s]+)\s*([<\[◁][^<\[◁\s]+)\s*$", off)
    # an empty block is what the two prompts differ in, and nothing of it stands before the answer when on
    if (
        on.startswith(off.rstrip())
        or block is None
        or on.rstrip().endswith(block.group(2))
        or not off.startswith(on[: block.start()])
    ):
        return
    yield block.group(1), block.group(2)


def _from_prompt(tokenizer: PreTrainedTokenizerBase, renderings: Renderings) -> Iterator[Texts]:
    """What the generation prompt begins that no reply without reasoning does, with the closer it has by its form, by
    where the template cuts past answers, or by the tag that the prompt asks the answer to stand behind."""
    shown = renderings.shown()
    for k in range(len(SWITCHES)):
        extra = renderings.extra(k)
        if not extra:
            continue
        if closer := _counterpart(extra, _THINKING_FORMS):
            yield extra, closer
        if opener := _turned(extra):  # thinking is switched off by a closer alone
            yield opener, extra
        for closer in cutting_texts(tokenizer, renderings):
            yield extra, closer
        for begin, word in _BEGUN.findall(shown):
            ends = re.search(rf"(?i)\[END {re.escape(word)}\]", shown)
            # the closer opens the answer as well, so only its end is the answer's own
            yield (extra, begin, "", ends.group()) if ends else (extra, begin)


def _from_cuts(tokenizer: PreTrainedTokenizerBase, renderings: Renderings) -> Iterator[Texts]:
    """The text at which the template cuts past answers, where its form says what opens it."""
    for closer in cutting_texts(tokenizer, renderings):
        if opener := _turned(closer):
            yield opener, closer


def ending_texts(tokenizer: PreTrainedTokenizerBase, renderings: Renderings) -> list[str]:
    """Texts at which the template cuts past answers, keeping what stands before: they end an answer."""
    return [text for text in split_texts(tokenizer) if renderings.ends(text)]


def wraps(opener: str, closer: str) -> bool:
    """Whether a tag behind a reply is the counterpart of the one in front of it."""
    return "/" in closer and closer.replace("/", "", 1) == opener or _counterpart(opener, _ANSWER_FORMS) == closer


def _pairs(texts: Iterable[str], forms: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Openers among ``texts`` whose counterpart is there too."""
    known = list(dict.fromkeys(texts))
    return [(text, closer) for text in known if (closer := _counterpart(text, forms)) in known and closer]


def _added(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]


def _from_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[Texts]:
    """The pair of the vocabulary. Of several no one is the model's for certain: a rollout says which it wrote."""
    pairs = _pairs(_added(tokenizer), _THINKING_FORMS)
    if len(pairs) == 1:
        yield pairs[0]


def _from_instructions(renderings: Renderings) -> Iterator[Texts]:
    """A tag the template prints although the vocabulary has no token for it, or a sentence it asks for."""
    shown = renderings.shown()
    yield from _pairs(re.findall(_TAG, shown), _THINKING_FORMS)
    if match := _INSTRUCTED.search(shown):
        yield match.group(1).strip(), match.group(2).strip()


def _answer_pair(tokenizer: PreTrainedTokenizerBase, renderings: Renderings | None = None) -> Texts:
    """Tags around an answer that the vocabulary or the rendered template names."""
    shown = (renderings or Renderings(tokenizer)).shown()
    pairs = _pairs([*_added(tokenizer), *re.findall(_TAG, shown)], _ANSWER_FORMS)
    return pairs[0] if pairs else ()
