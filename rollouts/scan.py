"""One pass over a generation prompt and what was written after it: a segment for every token, by id."""

from __future__ import annotations

from collections.abc import Sequence

from verdictscope.rollouts.markers import Markers, TokenMatcher
from verdictscope.rollouts.rollout import Finish


class Scan:
    """One pass over the generation prompt and the written tokens."""

    def __init__(
        self,
        matcher: TokenMatcher,
        markers: Markers | None,
        ids: Sequence[int],
        start: int,
        n_prompt: int,
        stop: int,
        finish: Finish,
    ) -> None:
        self.matcher, self.markers, self.ids, self.start, self.n_prompt = matcher, markers, ids, start, n_prompt
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
                elif self.out[-1] == "template" and (size := self._match("opener", at)):
                    at = self._put("template", at, size)  # the prompt's opener, written once more
                else:
                    # what the prompt prints in a block (a budget, "Okay,") no model thought
                    at = self._put("thinking" if at >= self.n_prompt else "template", at, 1, blanks=False)
            elif self._closes_again(at):
                at = self._close(at, self._match("closer", at))
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
                self.answered |= at >= self.n_prompt and not self.matcher.blank(self.ids[at])
                at = self._put("answer" if at >= self.n_prompt else "template", at, 1, blanks=False)
        self._answer_closer_is_template()
        return self.out

    def _answer_closer_is_template(self) -> None:
        """A tag that ends the answer, where it is the last thing written."""
        last = len(self.out)
        while last and self.out[last - 1] == "answer" and self.matcher.blank(self.ids[self.start + last - 1]):
            last -= 1
        for at in range(last - 1, max(last - 64, -1), -1):
            size = self._match("answer_closer", self.start + at) if self.out[at] == "answer" else 0
            if size and at + size == last:
                self.out[at:] = ["template"] * (len(self.out) - at)
                return

    def _close(self, at: int, size: int) -> int:
        """The closer, the separator, and a tag that opens the answer with the whitespace after it."""
        begun = next((k for k in range(len(self.out), 0, -1) if self.out[k - 1] != "thinking"), 0)
        if all(self.matcher.blank(i) for i in self.ids[self.start + begun : at]):
            self.out[begun:] = ["template"] * (len(self.out) - begun)  # nothing was thought
        at = self._put("think_end", at, size)
        size = self._match("answer_opener", at) or self._straddled("answer_opener", at)
        return self._put("think_end", at, size) if size else at

    def _straddled(self, side: str, at: int) -> int:
        """Tokens from ``at`` on of a marker that begins in the last token of the marker before (``><``)."""
        after_marker = at > self.start and self.out[-1] in ("template", "think_end")
        return max(self._match(side, at - 1) - 1, 0) if after_marker else 0

    def _put(self, label: str, at: int, size: int, *, blanks: bool = True) -> int:
        """Label ``size`` tokens and, unless asked otherwise, the whitespace-only tokens after them."""
        end = at + size
        while blanks and end < self.stop and self.matcher.blank(self.ids[end]):
            end += 1
        self.out += [label] * (end - at)
        return end

    def _match(self, side: str, at: int) -> int:
        """Tokens of the longest marker that stands at ``at``, 0 where none does."""
        return self.matcher.match(self.markers, side, self.ids, at, self.stop)

    def _opens(self, at: int) -> bool:
        """Whether a block begins here. After an answer began, a tag inside a line is quoted, and so is one
        that is never closed by a model that stopped by itself."""
        if not self._match("opener", at):
            return False
        if not self.answered:
            return True
        at_line_start = self.matcher.text(self.ids[at - 1]).endswith("\n")
        closed = any(self._match("closer", k) for k in range(at + 1, self.stop))
        return at_line_start and (closed or self.finish == "length")

    def _closes_again(self, at: int) -> bool:
        """Whether a closer follows a closer, nothing but whitespace between: then it is no part of the answer."""
        return bool(self.out) and self.out[-1] == "think_end" and bool(self._match("closer", at))

    def _closes_unopened(self, at: int) -> bool:
        """Whether a closer without an opener ends thinking here: only the first closer, and only where a line begins
        or ends. Some transcripts lose the opener; a tag inside a line is quoted."""
        size = self._match("closer", at)
        if not size or self.blocks or self.quoted:
            return False
        if at <= self.n_prompt:  # a generation prompt that switches thinking off by closing it (DeepSeek V4)
            return True
        after = at + size
        beside = self.matcher.text(self.ids[after - 1])[-1:] + (
            self.matcher.text(self.ids[after]) if after < self.stop else "\n"
        )
        self.quoted = "\n" not in beside and not self.matcher.text(self.ids[at - 1]).endswith("\n")
        return not self.quoted

    def _blanks_before_are_template(self) -> None:
        at = len(self.out)
        while at and self.out[at - 1] == "answer" and self.matcher.blank(self.ids[self.start + at - 1]):
            at -= 1
            self.out[at] = "template"
