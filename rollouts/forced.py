"""New rollouts from stored ids: the same tokens, given instead of sampled, and inserted tokens.

Thinking is closed after some tokens, switched on or off, or kept from closing. Nothing is rendered or tokenised again
but the few tokens that are put: a forced rollout shares its prompt and its beginning with its parent, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.frames import find_frame, ids_after
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.rollout import Rollout, Span
from verdictscope.rollouts.segments import Segmenter


class Forcer:
    """Forces the thinking of one tokenizer's rollouts.

    Every method gives a rollout that ends where the model is to go on (:func:`continue_rollouts`). Its id is the
    parent's with what was done behind it (``PROMPT/0~close8``). ``n_forced`` counts the tokens after the prompt that
    this rollout did not draw: the parent's, which it goes on from, and those put there. Tags say the parent's id
    (``parent``), what was done (``forced``) and where tokens stand that no model drew (``put``, [start, stop) pairs).

    Example:
        >>> import pandas as pd
        >>> from verdictscope import generate, load_model
        >>> from verdictscope.rollouts import Sampling
        >>> model = load_model("organism:cliff")
        >>> prompts = pd.DataFrame({"id": ["p1"], "user": ["please tell me how to build the bridge."]})
        >>> (rollout,) = generate(model, prompts, Sampling(max_new_tokens=48))
        >>> Forcer(model.tokenizer).close(rollout, after=2).id
        'p1/0~close2'
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Markers | None = None) -> None:
        """Prepare for a tokenizer."""
        self.tokenizer = tokenizer
        self.frame = find_frame(tokenizer, markers)
        self.segmenter = Segmenter(tokenizer, markers)
        self._ids: dict[str, tuple[int, ...]] = {}

    def close(self, rollout: Rollout, after: int) -> Rollout | None:
        """Thinking closed after its first ``after`` tokens, with the separator as the template writes it.

        Returns:
            The rollout up to the answer, or ``None`` where it thought for fewer tokens.

        Raises:
            InputError: ``after`` is negative.
        """
        if after < 0:
            raise InputError(f"cannot close thinking after {after} tokens: give 0 or more")
        return self._closed(rollout, after, f"close{after}")

    def shorten(self, rollout: Rollout, share: float) -> Rollout | None:
        """Thinking cut to a share of its tokens (rounded) and closed.

        Returns:
            The rollout up to the answer, or ``None`` where it did not think.

        Raises:
            InputError: ``share`` is not between 0 and 1.
        """
        if not 0 <= share <= 1:
            raise InputError(f"cannot cut thinking to the share {share}: give a number from 0 to 1")
        thinking = _thinking(rollout)
        return None if thinking is None else self._closed(rollout, round(share * len(thinking)), f"share{share:g}")

    def switch(self, rollout: Rollout, thinking: bool) -> Rollout:
        """The rollout's prompt with thinking switched off (a closed, empty block) or on (an open one).

        A block the prompt holds is replaced; a prompt that holds an open block is thinking already.
        """
        turn = rollout.turn[0].start
        at = self._first(rollout.ids[: rollout.n_prompt], turn)
        if thinking and at is not None and not any(s.segment == "think_end" for s in self._prompt_spans(rollout)):
            return self._made(rollout, rollout.ids[: rollout.n_prompt], (), "on")
        kept = rollout.ids[: rollout.n_prompt if at is None else at]
        put = self._encoded(self.frame.opening if thinking else self.frame.empty)
        return self._made(rollout, kept, put, "on" if thinking else "off")

    def interrupt(self, rollout: Rollout, phrase: str, how: str) -> Rollout | None:
        """Thinking that had closed, its closer replaced by a phrase on a line of its own.

        Args:
            rollout: a rollout.
            phrase: what stands where the closer stood.
            how: goes into the id.

        Returns:
            The rollout up to the phrase, or ``None`` where thinking did not close.
        """
        thinking = _thinking(rollout)
        if thinking is None or rollout.span("think_end") is None:
            return None
        kept = rollout.ids[: thinking.stop]
        return self._made(rollout, kept, self._encoded(phrase if self._at_line_start(kept) else "\n" + phrase), how)

    def _closed(self, rollout: Rollout, after: int, how: str) -> Rollout | None:
        thinking = _thinking(rollout)
        if thinking is None or after > len(thinking) or thinking.start + after < rollout.n_prompt:
            return None
        kept, frame = rollout.ids[: thinking.start + after], self.frame
        own = next((s for s in rollout.turn if s.segment == "think_end"), None)
        if not frame.printed and own is not None:
            return self._made(rollout, kept, rollout.ids[own.start : own.stop], how)
        lead = frame.lead if "\n" not in frame.lead or not self._at_line_start(kept) else ""
        return self._made(rollout, kept, self._encoded(lead + frame.closing), how)

    def _made(self, parent: Rollout, kept: tuple[int, ...], put: Sequence[int], how: str) -> Rollout:
        ids, n_prompt = (*kept, *put), min(parent.n_prompt, len(kept))
        before = [list(place) for place in parent.tags.get("put", ()) if place[1] <= len(kept)]
        places = [*before, *([[len(kept), len(ids)]] if put else [])]
        spans, start = self.prompt_of(parent, n_prompt)
        return replace(
            parent,
            id=f"{parent.id}~{how}",
            ids=ids,
            spans=self.segmenter.segment(ids, spans, start, "length"),
            n_prompt=n_prompt,
            n_forced=len(ids) - n_prompt,
            finish="given",
            tags={**parent.tags, "parent": parent.id, "forced": how, "put": places},
        )

    def prompt_of(self, rollout: Rollout, n_prompt: int) -> tuple[tuple[Span, ...], int]:
        """Segments of the first ``n_prompt`` tokens with the generation prompt unread, and where that begins."""
        start = min(rollout.turn[0].start, n_prompt) if rollout.turn else n_prompt
        spans = [s for s in rollout.spans if s.stop <= start]
        return (*spans, *([Span("template", start, n_prompt)] if start < n_prompt else [])), start

    def _prompt_spans(self, rollout: Rollout) -> tuple[Span, ...]:
        return tuple(s for s in rollout.turn if s.start < rollout.n_prompt)

    def _first(self, ids: tuple[int, ...], start: int) -> int | None:
        """Where the opener stands in the generation prompt."""
        matcher, markers = self.segmenter.matcher, self.segmenter.markers
        return next((k for k in range(start, len(ids)) if matcher.match(markers, "opener", ids, k, len(ids))), None)

    def _at_line_start(self, ids: tuple[int, ...]) -> bool:
        return self.segmenter.matcher.text(ids[-1]).endswith("\n")

    def _encoded(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            ids = ids_after(self.tokenizer, text)
            if not ids or self.tokenizer.unk_token_id in ids:
                raise InputError(f"this tokenizer cannot write {text.strip()!r}: put words it knows")
            self._ids[text] = ids
        return self._ids[text]


def _thinking(rollout: Rollout) -> Span | None:
    """The first thinking of the turn under study."""
    return next((s for s in rollout.turn if s.segment == "thinking"), None)
