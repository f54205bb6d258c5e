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

from verdictscope.rollouts.discover import find_markers, spoken_markers
from verdictscope.rollouts.markers import Markers, Reader
from verdictscope.rollouts.rollout import Finish, Rollout, Span
from verdictscope.rollouts.templates import RenderedPrompt
from verdictscope.rollouts.turn_end import turn_end


class Segmenter:
    """Segments rollouts of one tokenizer.

    Attributes:
        markers: what opens and closes thinking; ``None`` where neither tokenizer nor template knows any. Then
            a rollout that begins with an opening tag of its own is read by that tag, and any other is all answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        markers: Markers | None = None,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        """Prepare for a tokenizer.

        Args:
            tokenizer: the tokenizer whose ids will be segmented.
            markers: thinking markers named by hand; by default those :func:`find_markers` finds.
            ends: tokens that end a turn, beside the tokenizer's special ones and the template's own end.
        """
        self.markers = markers if markers is not None else find_markers(tokenizer)
        self.reader = Reader(tokenizer)
        m = self.markers
        sides = (m.opener, m.closer, m.answer_opener, m.answer_closer) if m else ()
        own = {i for side in sides for string in side for i in string}
        end = turn_end(tokenizer)
        # some vocabularies flag the thinking tokens as special; they end no turn, and an unknown word is content
        self._ends = (frozenset(tokenizer.all_special_ids) | ends | ({end} - {None})) - own - {tokenizer.unk_token_id}

    def __call__(self, prompt: RenderedPrompt, written: Sequence[int], finish: Finish) -> tuple[Span, ...]:
        """The segments of a rendered prompt and what the model wrote after it.

        Args:
            prompt: the rendered prompt.
            written: token ids the model wrote, the end-of-turn token included where it wrote one.
            finish: why it ended; an unclosed block of a rollout cut by the limit has no answer.

        Returns:
            Spans that partition ``range(len(prompt.ids) + len(written))``.
        """
        return self.segment((*prompt.ids, *written), prompt.spans, prompt.generation_start, finish)

    def segment(
        self, ids: Sequence[int], prompt_spans: Sequence[Span], generation_start: int, finish: Finish
    ) -> tuple[Span, ...]:
        """The same from raw parts.

        Args:
            ids: prompt and written tokens.
            prompt_spans: segments of the prompt; they partition its tokens.
            generation_start: first token of the generation prompt, where the scan begins.
            finish: why the rollout ended.
        """
        n_prompt = prompt_spans[-1].stop if prompt_spans else 0
        messages_end = max((s.stop for s in prompt_spans if s.segment != "template"), default=0)
        start = max(min(generation_start, n_prompt), messages_end)
        stop = self._end_of_turn(ids, n_prompt)
        markers = self.markers or spoken_markers(self.reader.tokenizer, ids[n_prompt:])
        tail = _Scan(self.reader, markers, ids, start, n_prompt, stop, finish).labels()
        tail += ["template"] * (len(ids) - stop)
        spans = [s for s in prompt_spans if s.stop <= start]
        spans += [Span(s.segment, s.start, start) for s in prompt_spans if s.start < start < s.stop]
        return _join(spans, tail, start)

    def _end_of_turn(self, ids: Sequence[int], n_prompt: int) -> int:
        """First of the trailing end-of-turn tokens (with the newline a transcript may put after them)."""
        stop = at = len(ids)
        while at > n_prompt and (ids[at - 1] in self._ends or self.reader.blank(ids[at - 1])):
            at -= 1
            if ids[at] in self._ends:
                stop = at
        return stop


class _Scan:
    """One pass over the generation prompt and the written tokens."""

    def __init__(
        self,
        reader: Reader,
        markers: Markers | None,
        ids: Sequence[int],
        start: int,
        n_prompt: int,
        stop: int,
        finish: Finish,
    ) -> None:
        self.reader, self.markers, self.ids, self.start, self.n_prompt = reader, markers, ids, start, n_prompt
        self.stop, self.finish = stop, finish
        self.out: list[str] = []
        self.blocks = 0  # opened so far
        self.quoted = False  # a closer was passed over that closed nothing
        self.answered = False  # something other than whitespace was written outside a block

    def labels(self) -> list[str]:
        """The segment of every token from ``start`` to ``stop``."""
        at = self.start
        inside = False
        while at < self.stop:
            if inside:
                size = self._match("closer", at) or self._straddled("closer", at)
                if size:
                    at, inside = self._close(at, size), False
                else:
                    at = self._put("thinking", at, 1, blanks=False)
            elif self._opens(at):
                self._blanks_before_are_template()
                at, inside = self._put("template", at, self._match("opener", at)), True
                self.blocks += 1
            elif self._closes_unopened(at):
                shown = min(self.n_prompt - self.start, len(self.out))
                self.out[shown:] = ["thinking"] * (len(self.out) - shown)
                at = self._close(at, self._match("closer", at))
                self.blocks, self.answered = 1, False
            elif not self.answered and at >= self.n_prompt and (size := self._match("answer_opener", at)):
                self._blanks_before_are_template()
                at, self.answered = self._put("template", at, size), True
            else:
                self.answered |= at >= self.n_prompt and not self.reader.blank(self.ids[at])
                at = self._put("answer" if at >= self.n_prompt else "template", at, 1, blanks=False)
        self._answer_closer_is_template()
        return self.out

    def _answer_closer_is_template(self) -> None:
        """A tag that ends the answer, where it is the last thing written."""
        last = len(self.out)
        while last and self.out[last - 1] == "answer" and self.reader.blank(self.ids[self.start + last - 1]):
            last -= 1
        for at in range(last - 1, max(last - 16, -1), -1):
            size = self._match("answer_closer", self.start + at) if self.out[at] == "answer" else 0
            if size and at + size == last:
                self.out[at:] = ["template"] * (len(self.out) - at)
                return

    def _close(self, at: int, size: int) -> int:
        """The closer, the separator, and a tag that opens the answer with the whitespace after it."""
        at = self._put("think_end", at, size)
        size = self._match("answer_opener", at) or self._straddled("answer_opener", at)
        return self._put("think_end", at, size) if size else at

    def _straddled(self, side: str, at: int) -> int:
        """Tokens from ``at`` on of a marker that begins in the last token of the marker before (``><``)."""
        after_marker = at > self.start and self.out[-1] in ("template", "think_end")
        return max(self._match(side, at - 1) - 1, 0) if after_marker else 0

    def _put(self, label: str, at: int, size: int, *, blanks: bool = True) -> int:
        """Label ``size`` tokens and, unless told otherwise, the whitespace-only tokens after them."""
        end = at + size
        while blanks and end < self.stop and self.reader.blank(self.ids[end]):
            end += 1
        self.out += [label] * (end - at)
        return end

    def _match(self, side: str, at: int) -> int:
        """Tokens of the longest marker that stands at ``at``, 0 where none does."""
        return self.reader.match(self.markers, side, self.ids, at, self.stop)

    def _opens(self, at: int) -> bool:
        """Whether a block begins here. After an answer began, a tag inside a line is quoted, and so is one
        that is never closed by a model that stopped by itself."""
        if not self._match("opener", at):
            return False
        if not self.answered:
            return True
        at_line_start = self.reader.text(self.ids[at - 1]).endswith("\n")
        closed = any(self._match("closer", k) for k in range(at + 1, self.stop))
        return at_line_start and (closed or self.finish == "length")

    def _closes_unopened(self, at: int) -> bool:
        """Whether a closer without an opener ends thinking here: only the first closer, and only where a line begins
        or ends. Some transcripts lose the opener; a tag inside a line is quoted.
        """
        size = self._match("closer", at)
        if not size or self.blocks or self.quoted:
            return False
        if at <= self.n_prompt:  # a generation prompt that switches thinking off by closing it (DeepSeek V4)
            return True
        after = at + size
        beside = self.reader.text(self.ids[after - 1])[-1:] + (
            self.reader.text(self.ids[after]) if after < self.stop else "\n"
        )
        self.quoted = "\n" not in beside and not self.reader.text(self.ids[at - 1]).endswith("\n")
        return not self.quoted

    def _blanks_before_are_template(self) -> None:
        at = len(self.out)
        while at and self.out[at - 1] == "answer" and self.reader.blank(self.ids[self.start + at - 1]):
            at -= 1
            self.out[at] = "template"


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
    """The answer as text, ``None`` where the rollout has none (thinking cut off or never closed)."""
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
