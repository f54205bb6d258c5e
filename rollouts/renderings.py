"""What a chat template prints of conversations of known words: the evidence that markers are found in and tested on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.templates import Render, renderer

ASK, REASON, REPLY, MORE = "Vask", "Vreason", "Vanswer", "Vmore"
SWITCHES: tuple[Mapping[str, bool], ...] = (
    {},
    {"enable_thinking": True, "thinking": True, "reasoning": True},
    {"enable_thinking": False, "thinking": False, "reasoning": False},
)
"""Thinking as the template has it by default, on and off."""

QUESTION = {"role": "user", "content": ASK}
PLAIN = {"role": "assistant", "content": REPLY}
AGAIN = {"role": "user", "content": MORE}
NEEDED: Mapping[str, Any] = {"tools": [], "functions": "", "datetime": ""}
"""What some templates refuse to render without."""


class Renderings:
    """A template asked the same few things; each answer is kept."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, str] = {}

    def text(self, switch: int, turns: Sequence[Mapping[str, Any]], generation_prompt: bool = False) -> str:
        """The rendering, empty where the template refuses the conversation: then it says nothing about its markers."""
        key = f"{switch} {generation_prompt} {turns}"
        if key not in self._known:
            self._known[key] = self._text(switch, turns, generation_prompt)
        return self._known[key]

    def _text(self, switch: int, turns: Sequence[Mapping[str, Any]], generation_prompt: bool) -> str:
        for more in ({}, NEEDED):
            try:
                render: Render = renderer(self.tokenizer, template_kwargs={**SWITCHES[switch], **more})
                return render(turns, generation_prompt)
            except InputError:  # no template, or it refuses these turns
                continue
        return ""

    def tail(self, switch: int) -> str:
        """What stands behind the request, the generation prompt included."""
        return self.text(switch, [QUESTION], True).split(ASK)[-1]

    def reasoned(self, switch: int) -> Iterator[str]:
        """Every rendering of a last turn with its reasoning that shows request, reasoning and reply in this order."""
        for turn in _reasoned_turns():
            text = self.text(switch, [QUESTION, turn])
            places = [text.find(word) for word in (ASK, REASON, REPLY)]
            # a template that prints a structured message as it stands has not understood it
            if -1 not in places and places == sorted(places) and text.count(REASON) == 1 and not _as_it_stands(text):
                yield text

    def shown(self) -> str:
        """All that is printed of a request, with thinking as it is by default, on and off."""
        return "\n".join(self.text(k, [QUESTION], True) for k in range(len(SWITCHES)))

    def header(self, switch: int) -> str | None:
        """What stands between the request and a reply without reasoning; ``None`` where that is not printed."""
        text = self.text(switch, [QUESTION, PLAIN])
        return text.split(ASK)[-1].split(REPLY)[0] if text.count(REPLY) == 1 and ASK in text else None

    def prompt(self, switch: int) -> str:
        """The generation prompt alone; all behind the request where the template prints that otherwise without it."""
        whole, body = self.text(switch, [QUESTION], True), self.text(switch, [QUESTION])
        return whole[len(body) :] if whole.startswith(body) else self.tail(switch)

    def extra(self, switch: int) -> str:
        """What the generation prompt prints beyond what stands before a reply without reasoning."""
        header, prompt = self.header(switch), self.prompt(switch)
        if header is None:
            return ""
        n = next((k for k in range(len(prompt), 0, -1) if prompt[:k] in header), 0)
        begun = max(prompt.rfind(c, 0, n) for c in "<[◁")
        # back to the beginning of a tag whose first letters the header has too
        closed = begun == -1 or re.search(r"[>\]▷\s]", prompt[begun:n])
        return prompt[n if closed else begun :].strip()

    def cuts(self, text: str) -> bool:
        """Whether the template leaves out of a past answer what stands before this text, and the text."""
        past = {"role": "assistant", "content": f"{REASON}{text}{REPLY}"}
        shown = [self.text(k, [QUESTION, past, AGAIN], True) for k in range(len(SWITCHES))]
        return any(REPLY in s and REASON not in s for s in shown)

    def ends(self, text: str) -> bool:
        """Whether the template leaves out of a past answer what stands behind this text, and the text."""
        past = {"role": "assistant", "content": f"{REPLY}{text}{REASON}"}
        shown = [self.text(k, [QUESTION, past, AGAIN], True) for k in range(len(SWITCHES))]
        return any(REPLY in s and REASON not in s and text not in s.split(REPLY)[-1] for s in shown)


def _as_it_stands(text: str) -> bool:
    return any(f"{quote}type{quote}: {quote}t" in text for quote in "'\"")


def _reasoned_turns() -> Iterator[dict[str, Any]]:
    """An assistant turn with reasoning, in the ways templates know."""
    yield PLAIN | dict.fromkeys(("reasoning_content", "reasoning", "thinking", "thought"), REASON)
    answer = {"type": "text", "text": REPLY}
    for thought in (REASON, [{"type": "text", "text": REASON}]):
        yield {"role": "assistant", "content": [{"type": "thinking", "thinking": thought}, answer]}
    blocks = [{"type": "thoughts", "text": REASON}, {"type": "response", "text": REPLY}]
    yield {"role": "assistant", "content": {"blocks": blocks}}
