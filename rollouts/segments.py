"""Which token is thinking, which closes it, which is the answer: found by token id, never by counting.

The opener may stand in the generation prompt (R1, QwQ) or be written by the model (Qwen3); the block may be
missing, empty, unclosed or repeated. One scan from the generation prompt on handles all of them:

    template    opener, whitespace-only tokens right after it, end-of-turn tokens, a tag that ends the answer
    thinking    everything up to the closer, whitespace right before it included
    think_end   the closer, every whitespace-only token after it and a tag that opens the answer: where it is decided
    answer      the rest of what the model wrote
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from verdictscope.rollouts.answer_frame import AnswerFrame
from verdictscope.rollouts.discover import find_markers, spoken_markers
from verdictscope.rollouts.markers import Markers, TokenMatcher
from verdictscope.rollouts.rollout import Finish, Rollout, Span
from verdictscope.rollouts.scan import Scan
from verdictscope.rollouts.selfcheck import check_markers
from verdictscope.rollouts.templates import RenderedPrompt
from verdictscope.rollouts.turn_end import spelled_turn_end, turn_end

_LONGEST_END = 16
"""Tokens an end of turn may be spelled in."""


class Segmenter:
    """Segments rollouts of one tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, markers: Markers | None = None, ends: frozenset[int] = frozenset()
    ) -> None:
        """Prepare for a tokenizer."""
        if markers is not None:
            check_markers(tokenizer, markers)
        self.markers = markers if markers is not None else find_markers(tokenizer)
        self.matcher = TokenMatcher(tokenizer)
        m = self.markers
        sides = (m.opener, m.closer, m.answer_opener, m.answer_closer) if m else ()
        own = {i for side in sides for string in side for i in string}
        end = turn_end(tokenizer, m)
        control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        ends |= {*tokenizer.all_special_ids, *control, *([] if end is None else [end])}
        # some vocabularies flag the thinking tokens as special; they end no turn, and an unknown word is content
        self._ends = ends - own - {tokenizer.unk_token_id}
        self._spelled_end = spelled_turn_end(tokenizer)
        self._frame = AnswerFrame.of(tokenizer, ended=end is not None)

    def __call__(self, prompt: RenderedPrompt, written: Sequence[int], finish: Finish) -> tuple[Span, ...]:
        """The segments of a rendered prompt and what the model wrote after it."""
        return self.segment((*prompt.ids, *written), prompt.spans, prompt.generation_start, finish)

    def prompt_state(self, prompt: RenderedPrompt) -> str:
        """Whether a rendered prompt leaves thinking ``open``, has ``closed`` it, or says nothing of it (``none``)."""
        word = self.matcher.tokenizer("a", add_special_tokens=False)["input_ids"]
        spans = self(prompt, word, "length")
        if spans[-1].segment == "thinking":
            return "open"
        turn = [s.segment for s in spans if s.start >= prompt.generation_start]
        return "closed" if "think_end" in turn else "none"

    def segment(
        self, ids: Sequence[int], prompt_spans: Sequence[Span], generation_start: int, finish: Finish
    ) -> tuple[Span, ...]:
        """The same from raw parts."""
        n_prompt = prompt_spans[-1].stop if prompt_spans else 0
        messages_end = max((s.stop for s in prompt_spans if s.segment != "template"), default=0)
        start = max(min(generation_start, n_prompt), messages_end)
        stop = self._end_of_turn(ids, n_prompt)
        markers = self.markers or spoken_markers(self.matcher.tokenizer, ids[n_prompt:])
        tail = Scan(self.matcher, markers, ids, start, n_prompt, stop, finish).labels()
        tail = self._frame.labelled(self.matcher, ids[start:stop], tail, n_prompt - start, markers is not None)
        tail += ["template"] * (len(ids) - stop)
        spans = [s for s in prompt_spans if s.stop <= start]
        spans += [Span(s.segment, s.start, start) for s in prompt_spans if s.start < start < s.stop]
        return _join(spans, tail, start)

    def _end_of_turn(self, ids: Sequence[int], n_prompt: int) -> int:
        """First of the trailing end-of-turn tokens (with the newline a transcript may put after them)."""
        stop = at = len(ids)
        while at > n_prompt:
            if ids[at - 1] in self._ends:
                stop = at = at - 1
            elif self.matcher.blank(ids[at - 1]):
                at -= 1
            elif size := self._spelled(ids, n_prompt, at):
                stop = at = at - size
            else:
                break
        return stop

    def _spelled(self, ids: Sequence[int], n_prompt: int, stop: int) -> int:
        """Tokens of the end of turn before ``stop`` where the vocabulary has no token for it, 0 where none stands."""
        sizes = range(1, min(_LONGEST_END, stop - n_prompt) + 1) if self._spelled_end else ()
        return next((n for n in sizes if self.matcher.spelled(self._spelled_end, ids, stop - n, stop) == n), 0)


def _join(spans: list[Span], tail: list[str], start: int) -> tuple[Span, ...]:
    """Spans of the prompt, then one per run of equal labels; neighbours of the template are one span."""
    at = 0
    for k in range(1, len(tail) + 1):
        if k == len(tail) or tail[k] != tail[at]:
            new = Span(tail[at], start + at, start + k)
            if spans and spans[-1].segment == new.segment == "template":
                new = Span("template", spans.pop().start, new.stop)
            spans.append(new)
            at = k
    return tuple(spans)


def answer_text(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The answer as text, ``None`` where the rollout has none (thinking cut off or never closed).

    Example:
        >>> import pandas as pd
        >>> from verdictscope import generate, load_model
        >>> from verdictscope.rollouts import Sampling
        >>> model = load_model("organism:cliff")
        >>> prompts = pd.DataFrame({"id": ["p1"], "user": ["please tell me how to build the bridge."]})
        >>> (rollout,) = generate(model, prompts, Sampling(temperature=0.0, max_new_tokens=48))
        >>> answer_text(rollout, model.tokenizer)
        '...'
    """
    return _span_text(rollout, tokenizer, ("answer", "verdict"))


def thinking_text(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The thinking as text, ``None`` where the rollout has none."""
    return _span_text(rollout, tokenizer, ("thinking",))


def _span_text(rollout: Rollout, tokenizer: PreTrainedTokenizerBase, names: tuple[str, ...]) -> str | None:
    """The last run of spans of these names: a verdict stands inside its answer."""
    spans = list(rollout.turn)
    while spans and spans[-1].segment not in names:
        spans.pop()
    if not spans:
        return None
    stop = start = spans[-1].stop
    while spans and spans[-1].segment in names:
        start = spans.pop().start
    return str(
        tokenizer.decode(list(rollout.ids[start:stop]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )
