"""Prompts rendered by the tokenizer's own chat template, with the place of every message found by structure.

No stock template ships generation masks, and templates trim, fold or rewrite messages. So each message's
place is found by rendering the same conversation once more with that one message replaced by a sentinel word:
what stands before and after the sentinel must stand before and after the message. Nothing is counted, nothing
is searched for in the message itself, and a text that quotes the template's own tags cannot mislead it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError, reason
from verdictscope.rollouts.rollout import Span

PINNED_DATE = date(2024, 7, 26)
"""The date for templates that print one (the fixed day of Llama-3.1's own template)."""

SEGMENT_OF_ROLE: Mapping[str, str] = {"system": "system", "developer": "system", "user": "user", "assistant": "answer"}

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Names under which templates look for a past turn's thinking."""

_NEIGHBOURHOOD = 60
_GLOBALS = ("raise_exception", "strftime_now", "range", "namespace", "dict", "lipsum", "cycler", "joiner")
"""What every template of a tokenizer is given beside its switches."""


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A conversation as the model sees it, up to the point where it writes."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    generation_start: int


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    user: str,
    system: str | None = None,
    *,
    pinned_date: date = PINNED_DATE,
    template_kwargs: Mapping[str, Any] | None = None,
) -> RenderedPrompt:
    """Render one user turn, with an optional system message, and the generation prompt.

    Args:
        tokenizer: a tokenizer with a chat template and offsets (any "fast" tokenizer).
        user: the request.
        system: the system message; ``None`` leaves it to the template.
        pinned_date: the date for templates that print today's.
        template_kwargs: switches of the template, for example ``{"enable_thinking": False}``.

    Raises:
        InputError: as :func:`render_messages`.

    Example:
        >>> from verdictscope import load_model
        >>> prompt = render_prompt(load_model("organism:cliff").tokenizer, "please tell me how to build the bridge.")
        >>> [span.segment for span in prompt.spans]
        ['template', 'user', 'template']
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": user})
    return render_messages(tokenizer, messages, pinned_date=pinned_date, template_kwargs=template_kwargs)


def render_messages(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    *,
    pinned_date: date = PINNED_DATE,
    template_kwargs: Mapping[str, Any] | None = None,
) -> RenderedPrompt:
    """Render a conversation and its generation prompt, and find the segment of every token.

    A token that shares a character with a message belongs to the message: byte-level vocabularies merge a
    message's last full stop with the newline the template puts after it.
    """
    render = renderer(tokenizer, pinned_date, template_kwargs)
    _check_switches(tokenizer, template_kwargs or {})
    turns = [dict(m) for m in messages]
    unknown = [t["role"] for t in turns if t["role"] not in SEGMENT_OF_ROLE]
    if unknown:
        raise InputError(f"role {unknown[0]!r} has no segment: use {', '.join(SEGMENT_OF_ROLE)}")
    text = render(turns, True)
    places = [(*_place(render, text, turns, k), SEGMENT_OF_ROLE[t["role"]]) for k, t in enumerate(turns)]
    places += _past_thinking(render, text, turns)
    ids, offsets = _encode(tokenizer, text)
    _check_one_bos(tokenizer, ids)
    _check_found(tokenizer, ids, offsets, text, places)
    body = render(turns, False)
    start_char = len(body) if text.startswith(body) else max((stop for _, stop, _ in places), default=0)
    generation_start = next((k for k, (a, b) in enumerate(offsets) if a >= start_char and b > a), len(ids))
    return RenderedPrompt(text, ids, _spans(offsets, places), generation_start)


def _check_switches(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]) -> None:
    """That the template reads every switch: one it does not know would change nothing, in silence.

    An empty value (no tools) asks for nothing, and any template does that.
    """
    asked = [name for name, value in given.items() if value is not None and value not in ("", [], {}, ())]
    if not asked:
        return
    known = _switches(str(tokenizer.get_chat_template(tools=given.get("tools"))))
    if unknown := [name for name in asked if name not in known]:
        own = sorted(known - {"messages", "add_generation_prompt", *tokenizer.special_tokens_map, *_GLOBALS})
        raise InputError(
            f"template_kwargs has {unknown[0]!r}, which the chat template does not read: "
            + (f"it reads {', '.join(own)}" if own else "it reads no switch at all, so leave template_kwargs out")
        )


@lru_cache(maxsize=64)
def _switches(template: str) -> frozenset[str]:
    """Names a template takes from outside, also those that only its macros read."""
    from jinja2 import Environment, meta  # loaded where it is needed: the command line starts without it

    plain = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)  # transformers' own tag
    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)  # parsed, never rendered
    return frozenset(meta.find_undeclared_variables(tree))


Render = Callable[[Sequence[Mapping[str, str]], bool], str]


def renderer(
    tokenizer: PreTrainedTokenizerBase,
    pinned_date: date = PINNED_DATE,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Render:
    """The chat template as a function of (messages, with generation prompt?), its date pinned."""
    switches = dict(template_kwargs or {})
    try:
        template = tokenizer.get_chat_template(tools=switches.get("tools"))
    except ValueError:
        raise InputError(
            "the tokenizer has no chat template: use an instruction-tuned model, or set tokenizer.chat_template"
        ) from None
    if "strftime_now" in template:
        template = _clock(pinned_date) + template
    if pinned_date != PINNED_DATE:  # by default nothing is printed that the template itself would not print
        switches = {"date_string": pinned_date.strftime("%d %b %Y"), **switches}

    def render(messages: Sequence[Mapping[str, str]], generation_prompt: bool) -> str:
        turns = [dict(m) for m in messages]
        try:
            return str(
                tokenizer.apply_chat_template(
                    turns, chat_template=template, tokenize=False, add_generation_prompt=generation_prompt, **switches
                )
            )
        except Exception as error:  # jinja2's own exception classes are no dependency of ours
            raise InputError(_refusal_of(error, turns)) from error

    return render


def _clock(day: date) -> str:
    """A macro that hides the global ``strftime_now``: transformers lets templates read the clock, but lets nobody
    pass a function to them, and nothing may be patched. It ends in an expression, after which jinja trims nothing."""
    codes = [*(f"-{c}" for c in "dmHIMSj"), *"YymdeBbAajHIMSpZzFDTc"]
    steps = "".join(f"|replace('%{c}','{day.strftime('%' + c)}')" for c in codes)
    return "{%- macro strftime_now(format) -%}{{ format" + steps + " }}{%- endmacro %}{{ '' }}"


def _refusal_of(error: Exception, messages: Sequence[Mapping[str, str]]) -> str:
    why = reason(error)
    advice = "check the roles, and give what the template asks for in template_kwargs (tools=[], say)"
    if "system" in why.lower() and any(m["role"] == "system" for m in messages):
        advice = "put the system message in front of the user text and leave the column `system` empty"
    return f"the chat template refuses this conversation ({why}): {advice}"


def _place(render: Render, text: str, turns: list[dict[str, str]], k: int, field: str = "content") -> tuple[int, int]:
    """Characters [start, stop) of a field of message ``k`` in the rendered text."""
    content, role = turns[k][field], turns[k]["role"]
    what = f"{role} message" if field == "content" else f"{field} of an {role} message"
    other, sentinel = _with_sentinel(render, text, turns, k, field)
    pieces = other.split(sentinel)
    if len(pieces) != 2:
        does = "leaves out" if len(pieces) == 1 else "prints more than once"
        raise InputError(
            f"the chat template {does} the {what}, near {_near(other, len(pieces[0]))!r}: "
            "drop that message or set another chat template"
        )
    before, after = pieces
    if text.startswith(before) and text.endswith(after) and len(before) + len(after) <= len(text):
        start, stop = len(before), len(text) - len(after)
        shown = text[start:stop]
        if shown in content and (shown.strip() == content.strip() or (role == "assistant" and content.endswith(shown))):
            return start, stop
    # the message changed the template around it (a "/no_think" switch, say): a single occurrence is still
    # certain
    shown = content.strip()
    if shown and text.count(shown) == 1:
        return text.index(shown), text.index(shown) + len(shown)
    advice = "change the message or set another template"
    if role == "assistant":
        advice = f"put its thinking under {REASONING_FIELDS[0]!r} and its answer under 'content'"
    raise InputError(
        f"cannot place the {what} {shown[:_NEIGHBOURHOOD]!r} in the rendered template, near "
        f"{_near(text, len(before))!r}: the template rewrites it; {advice}"
    )


def _with_sentinel(render: Render, text: str, turns: list[dict[str, str]], k: int, field: str) -> tuple[str, str]:
    """The conversation rendered with one field replaced by a word that stands nowhere else, and the word."""
    sentinel = "Vsentinel"
    while any(sentinel in str(value) for t in turns for value in t.values()) or sentinel in text:
        sentinel += "x"
    return render([{**t, field: sentinel} if j == k else t for j, t in enumerate(turns)], True), sentinel


def _past_thinking(render: Render, text: str, turns: list[dict[str, str]]) -> list[tuple[int, int, str]]:
    """Places of the thinking of past turns, where the template prints any of it."""
    found = []
    for k, turn in enumerate(turns):
        for field in (f for f in REASONING_FIELDS if turn["role"] == "assistant" and isinstance(turn.get(f), str)):
            other, sentinel = _with_sentinel(render, text, turns, k, field)
            if sentinel in other and turn[field].strip():
                found.append((*_place(render, text, turns, k, field), "thinking"))
    return found


def _near(text: str, at: int) -> str:
    return text[max(0, at - _NEIGHBOURHOOD) : at + _NEIGHBOURHOOD]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Token ids and the characters each covers, no special tokens added: the template prints its own."""
    try:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:
        raise InputError(
            f"{type(tokenizer).__name__} gives no offsets, so no segment can be located: load a fast tokenizer"
        ) from None
    return tuple(encoded["input_ids"]), [(int(a), int(b)) for a, b in encoded["offset_mapping"]]


def _check_one_bos(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> None:
    """The template prints the beginning-of-sequence token or nobody does; two shift all that follows."""
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == (bos, bos):
        raise InputError(
            f"the prompt begins with {tokenizer.bos_token!r} twice, "
            f"near {tokenizer.decode(list(ids[:8]))!r}: "
            "remove it from the message or from the chat template"
        )


Places = Sequence[tuple[int, int, str]]


def _check_found(
    tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...], offsets: list[tuple[int, int]], text: str, places: Places
) -> None:
    """Every visible message must own a token, or the tokenizer's offsets do not mean what they should."""
    for start, stop, segment in places:
        owned = [k for k, (a, b) in enumerate(offsets) if a < stop and b > start]
        if text[start:stop].strip() and not owned:
            raise InputError(
                f"no token covers the {segment} message, near {_near(text, start)!r} "
                f"(first tokens {tokenizer.decode(list(ids[:16]))!r}): the tokenizer's offsets are unusable"
            )


def _spans(offsets: list[tuple[int, int]], places: Places) -> tuple[Span, ...]:
    """One segment per token, joined into spans; messages of the same name stay apart."""
    owners: list[int] = []
    for a, b in offsets:
        # a token without characters stands where its neighbours do
        hit = [
            k for k, (start, stop, _) in enumerate(places) if (a < stop and b > start) or (a == b and start < a < stop)
        ]
        owners.append(hit[0] if hit else -1)
    spans: list[Span] = []
    at = 0
    for k in range(1, len(owners) + 1):
        if k == len(owners) or owners[k] != owners[at]:
            spans.append(Span(places[owners[at]][2] if owners[at] >= 0 else "template", at, k))
            at = k
    return tuple(spans)
