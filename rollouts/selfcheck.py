"""Do thinking markers segment what the chat template itself prints? Tried on examples whose segments are known.

The template renders a reply with and without reasoning, and prompts with thinking as it is by default, on and off; what
a model writes after them is composed: thinking, empty thinking, thinking that was cut, an answer alone, in a first and
in a later turn. Each must be segmented as it was composed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.markers import Markers, TokenMatcher
from verdictscope.rollouts.renderings import AGAIN, ASK, PLAIN, QUESTION, REASON, REPLY, Renderings
from verdictscope.rollouts.rollout import Finish
from verdictscope.rollouts.scan import Scan

ADVICE = "name them: markers=Markers.from_text(tokenizer, opener, closer)"
_THOUGHT, _SAID = "We look at it. It is fine (yes).", "Yes, it is."
_NAMES = ("thinking as it is by default", "thinking on", "thinking off")
_CUT = re.compile(r"(?:split|partition)\(\s*(['\"])(.{3,60}?)\1|(['\"])([^'\"]{3,60})\3\s+in\s")
_THINKS = re.compile(r"(?i)think|thought|reason|inner|step|reflect|scratch|deliberat|rationale")
_ANSWERS = re.compile(r"(?i)\W*(?:assistant|model|ai|bot|(?:final\W?)?(?:answer|response|solution))\W*")
_known: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[object, ...], str | None]] = WeakKeyDictionary()


def check_markers(tokenizer: PreTrainedTokenizerBase, markers: Markers) -> None:
    """Refuse markers that do not segment the chat template's own examples."""
    problem = fault(tokenizer, markers)
    if problem is not None:
        opener, closer = (marker_text(tokenizer, markers, side) for side in ("opener", "closer"))
        raise InputError(
            f"the thinking markers {opener!r} and {closer!r} do not fit the chat template ({problem}): {ADVICE}"
        )


def fault(tokenizer: PreTrainedTokenizerBase, markers: Markers | None) -> str | None:
    """What the markers segment otherwise than composed, ``None`` where all is right; tried once and kept."""
    known = _known.setdefault(tokenizer, {})
    key = (*state_of(tokenizer), markers)
    if key not in known:
        known[key] = _Trial(tokenizer, markers).fault()
    return known[key]


def state_of(tokenizer: PreTrainedTokenizerBase) -> tuple[object, ...]:
    """What markers depend on: the template and the added tokens."""
    return str(tokenizer.chat_template), len(tokenizer), tuple(tokenizer.added_tokens_decoder)


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of the chat template, empty where there is none."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return template if isinstance(template, str) else str(template.get("default", ""))


def cutting_texts(tokenizer: PreTrainedTokenizerBase, renderings: Renderings) -> list[str]:
    """Texts at which the template cuts past answers, keeping what stands behind: closers of thinking."""
    return [text for text in split_texts(tokenizer) if renderings.cuts(text)]


def split_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts that the source of the template splits strings at."""
    found = [a or b for _, a, _, b in _CUT.findall(template_text(tokenizer))]
    return [text for text in dict.fromkeys(text.replace("\\n", "\n").strip() for text in found) if text]


def marker_text(tokenizer: PreTrainedTokenizerBase, markers: Markers, side: str) -> str:
    """A marker as text; empty where that side has none."""
    spelled = dict(markers.spelled)
    strings = getattr(markers, side)
    if side in spelled or not strings:
        return spelled.get(side, "")
    return str(tokenizer.decode(list(strings[0]), clean_up_tokenization_spaces=False)).strip()


Parts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Example:
    """A rendered prompt, what follows it, and what must be found."""

    name: str
    prompt: str
    start: int
    written: str
    parts: Parts
    never: str | None = None
    finish: Finish = "stop"
    whole: bool = False


class _Trial:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Markers | None) -> None:
        self.tokenizer, self.markers = tokenizer, markers
        self.matcher, self.renderings = TokenMatcher(tokenizer), Renderings(tokenizer)
        sides = ("opener", "closer", "answer_opener") if markers is not None else ()
        self.texts = {side: marker_text(tokenizer, markers, side) for side in sides if markers is not None}

    def fault(self) -> str | None:
        """The first example that is not segmented as composed."""
        for k, name in enumerate(_NAMES):
            if not self.renderings.text(k, [QUESTION], True):
                continue
            if problem := self._unexplained(k):
                return problem
            for example in self._examples(k):
                if not self._holds(example):
                    return f"{name}: {example.name} is not segmented as composed"
        cutting = cutting_texts(self.tokenizer, self.renderings) if template_text(self.tokenizer) else []
        closer = self.texts.get("closer", "")
        strange = [text for text in cutting if text not in closer and closer not in text] if closer else cutting
        if strange and not (closer and any(text in closer or closer in text for text in cutting)):
            return f"it cuts past answers at {strange[0]!r}"
        return None

    def _unexplained(self, k: int) -> str | None:
        """The generation prompt begins something that no marker knows."""
        extra = self.renderings.extra(k)
        known = any(text and text in extra for text in self.texts.values())
        # markers named by hand need not explain a name or a tag around the answer
        strange = _THINKS.search(extra) if self.markers else re.search(r"\w", extra) and not _ANSWERS.fullmatch(extra)
        if strange and not known:
            return f"its generation prompt ends in {extra[-60:]!r}, which no marker explains"
        if self.markers is None and any(self.renderings.reasoned(k)):
            return "it prints reasoning between marks that could not be identified"
        return None

    def _start(self, k: int) -> int:
        prompt, body = self.renderings.text(k, [QUESTION], True), self.renderings.text(k, [QUESTION])
        return len(body) if prompt.startswith(body) else prompt.rfind(ASK) + len(ASK)

    def _examples(self, k: int) -> Iterator[_Example]:
        start, prompt = self._start(k), self.renderings.text(k, [QUESTION], True)
        state = self._state(prompt, start)
        plain = self.renderings.text(k, [QUESTION, PLAIN])
        if (
            plain.count(REPLY) == 1
            and ASK in plain
            and not (state == "open" and plain.startswith(prompt) and self._tag())
        ):
            yield self._printed("a reply without reasoning", prompt, plain, start, ((REPLY, "answer"),), "thinking")
        if self.markers is None:
            return
        for text in self.renderings.reasoned(k):
            parts = ((REASON, "thinking"), (REPLY, "answer"))
            yield self._printed("a reply with reasoning", prompt, text, start, parts)
        yield from self._composed("", prompt, start, state)
        later = self.renderings.text(k, [QUESTION, PLAIN, AGAIN], True)
        body = self.renderings.text(k, [QUESTION, PLAIN, AGAIN])
        if later.startswith(body) and body:
            yield from self._composed(" in a later turn", later, len(body), self._state(later, len(body)))

    def _tag(self) -> bool:
        """Whether the opener is one by its form, so that a template may print it in front of every reply."""
        return bool(_THINKS.search(self.texts.get("opener", "")))

    def _printed(
        self,
        name: str,
        prompt: str,
        text: str,
        start: int,
        parts: tuple[tuple[str, str], ...],
        never: str | None = None,
    ) -> _Example:
        """What the template prints, read as if it had been written after the part it has in common with the prompt."""
        shown, offsets = self._encoded(prompt)
        ids, _ = self._encoded(text)
        n = next((k for k, (a, b) in enumerate(zip(shown, ids, strict=False)) if a != b), min(len(shown), len(ids)))
        at = offsets[n - 1][1] if n else 0
        return _Example(name, text[:at], min(start, at), text[at:], parts, never, whole=True)

    def _composed(self, where: str, prompt: str, start: int, state: str) -> Iterator[_Example]:
        """What a model may write after a prompt."""
        if state == "closed":
            yield _Example("an answer alone" + where, prompt, start, _SAID, ((_SAID, "answer"),), "thinking")
            return
        opener, closer, tag = (self.texts[side] for side in ("opener", "closer", "answer_opener"))
        opener = "" if state == "open" else opener
        for lead, tail, gap in (map(self._space, blanks) for blanks in (("\n", "\n", "\n\n"), (" ", " ", " "))):
            said = gap + tag + (gap if tag else "") + _SAID
            begin = opener + lead if opener else ""
            yield _Example(
                "thinking and an answer" + where,
                prompt,
                start,
                begin + _THOUGHT + tail + closer + said,
                ((_THOUGHT, "thinking"), (closer, "think_end"), (_SAID, "answer")),
            )
            yield _Example(
                "empty thinking" + where,
                prompt,
                start,
                begin + tail + closer + said,
                ((closer, "think_end"), (_SAID, "answer")),
                "thinking",
            )
            yield _Example(
                "thinking that was cut" + where,
                prompt,
                start,
                begin + _THOUGHT,
                ((_THOUGHT, "thinking"),),
                "answer",
                "length",
            )
        if state == "none":
            yield _Example("an answer alone" + where, prompt, start, _SAID, ((_SAID, "answer"),), "thinking")

    def _space(self, blanks: str) -> str:
        """Whitespace, where the vocabulary has any: a model whose words are tokens may write none."""
        ids, _ = self._encoded(blanks)
        return blanks if all(self.matcher.blank(i) for i in ids) else ""

    def _state(self, prompt: str, start: int) -> str:
        """Whether a prompt leaves thinking ``open``, has ``closed`` it, or says nothing of it (``none``)."""
        labels, _, n_prompt = self._labels(_Example("", prompt, start, _SAID, ()))
        if "thinking" in labels[n_prompt:]:
            return "open"
        return "closed" if "think_end" in labels[:n_prompt] else "none"

    def _holds(self, example: _Example) -> bool:
        labels, offsets, n_prompt = self._labels(example)
        for text, segment in example.parts:
            a = len(example.prompt) + example.written.find(text)
            held = [k for k, (x, y) in enumerate(offsets) if x < a + len(text) and y > a]
            inside = [k for k in held if offsets[k][0] >= a and offsets[k][1] <= a + len(text)]
            if not held or any(labels[k] != segment for k in inside or held):
                return False
        return example.never not in labels[n_prompt:]

    def _labels(self, example: _Example) -> tuple[list[str], list[tuple[int, int]], int]:
        """Segment and characters of every token, and how many the prompt has."""
        if example.whole:
            ids, offsets = self._encoded(example.prompt + example.written)
            n_prompt = next((k for k, (a, _) in enumerate(offsets) if a >= len(example.prompt)), len(ids))
        else:
            ids, offsets = self._encoded(example.prompt)
            n_prompt, more = len(ids), self._encoded(example.written)
            ids = [*ids, *more[0]]
            offsets = [*offsets, *((a + len(example.prompt), b + len(example.prompt)) for a, b in more[1])]
        first = next((k for k, (a, _) in enumerate(offsets) if a >= example.start), n_prompt)
        first = min(first, n_prompt)
        scan = Scan(self.matcher, self.markers, ids, first, n_prompt, len(ids), example.finish)
        return ["template"] * first + scan.labels(), offsets, n_prompt

    def _encoded(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), [(int(a), int(b)) for a, b in encoded["offset_mapping"]]
