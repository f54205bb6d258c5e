"""What a model was shown and wrote: token ids with segments.

A rollout is never re-rendered from text. Chat templates of reasoning models rewrite past thinking, and merges such
as ``.\\n`` change token counts, so the ids that went through the model are the only faithful record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal

from verdictscope.errors import InputError
from verdictscope.values import number, whole_number

SEGMENTS = ("system", "user", "template", "thinking", "think_end", "answer", "verdict")
"""Names a token can carry. ``think_end`` runs from the closing token to the last token before the answer."""

Finish = Literal["stop", "length", "given"]
"""Why a rollout ended: the model stopped, the token limit cut it, or it was given and not generated."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``stop`` (exclusive) of one segment.

    Example:
        >>> len(Span("thinking", 4, 10))
        6
    """

    segment: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.segment not in SEGMENTS:
            raise InputError(f"unknown segment {self.segment!r}; known are {', '.join(SEGMENTS)}")
        if not 0 <= self.start < self.stop:
            raise InputError(f"span {self.segment} [{self.start}, {self.stop}) is empty or negative")

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens were drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass, above 0; 1 keeps the whole distribution.
        max_new_tokens: limit on generated tokens, at least 1.
        seed: seed of the noise, 0 or more; with the rollout's id it fixes every draw.

    Raises:
        InputError: a value out of range or of another type.

    Example:
        >>> Sampling(temperature=0.0, max_new_tokens=64).seed
        0
    """

    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        number(self.temperature, "cannot sample: temperature", 0)
        number(self.top_p, "cannot sample: top_p", 0, 1, above=True)
        whole_number(self.max_new_tokens, "cannot sample: max_new_tokens", 1)
        whole_number(self.seed, "cannot sample: seed")


@dataclass(frozen=True, slots=True, repr=False)
class Rollout:
    """One pass of a model over one prompt.

    Attributes:
        id: unique name, ``PROMPT/SAMPLE`` for generated rollouts.
        group: rows of one group never stand on both sides of a split.
        ids: every token id shown and written, in order.
        spans: segments; they partition ``range(len(ids))``.
        n_prompt: number of leading tokens the model was shown; the rest it wrote.
        n_forced: number of tokens after the prompt that were put into the model's mouth and not drawn in this rollout
            (:class:`Forcer`).
        finish: why it ended.
        sampling: how the written tokens were drawn, ``None`` when they were given.
        engine: what drew them.
        tags: the caller's columns (for example ``harm``, ``mode``); never read by this package's lower rooms.

    Example:
        >>> spans = (Span("user", 0, 3), Span("thinking", 3, 5), Span("think_end", 5, 6), Span("answer", 6, 8))
        >>> rollout = Rollout("p1/0", "p1", (5, 6, 7, 8, 9, 10, 11, 12), spans, n_prompt=3, finish="stop")
        >>> rollout
        Rollout('p1/0': 3 user, 2 thinking, 1 think_end, 2 answer; stop)
        >>> rollout.until_answer()
        Rollout('p1/0': 3 user, 2 thinking, 1 think_end; given)
    """

    id: str
    group: str
    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    n_prompt: int
    finish: Finish = "given"
    sampling: Sampling | None = None
    engine: str = "given"
    tags: Mapping[str, Any] = field(default_factory=dict)
    n_forced: int = 0

    def __post_init__(self) -> None:
        at = 0
        for span in self.spans:
            if span.start != at:
                raise InputError(f"rollout {self.id}: spans leave a gap or overlap at token {at}")
            at = span.stop
        if at != len(self.ids):
            raise InputError(f"rollout {self.id}: spans end at {at}, the ids at {len(self.ids)}")
        if not self.ids:
            raise InputError(f"rollout {self.id} has 0 tokens: leave it out")
        if not 0 < self.n_prompt <= len(self.ids):
            raise InputError(f"rollout {self.id}: n_prompt {self.n_prompt} of {len(self.ids)} tokens")
        if not 0 <= self.n_forced <= len(self.ids) - self.n_prompt:
            raise InputError(f"rollout {self.id}: n_forced {self.n_forced} of {len(self.ids) - self.n_prompt} tokens")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(span)} {span.segment}" for span in self.spans)
        return f"Rollout({self.id!r}: {counts}; {self.finish})"

    def _repr_html_(self) -> str:
        colours = zip(SEGMENTS, ("#ddd", "#cde", "#eee", "#fe9", "#fc6", "#bdb", "#f99"), strict=True)
        colour = dict(colours)
        shown = "".join(
            f'<span style="background:{colour[s.segment]};padding:0 {min(4 + len(s) // 4, 60)}px" '
            f'title="tokens {s.start} to {s.stop - 1}">{s.segment} {len(s)}</span>'
            for s in self.spans
        )
        return f"<code>{escape(self.id)}</code> {shown} <small>{self.finish}</small>"

    @property
    def turn(self) -> tuple[Span, ...]:
        """The spans of the turn under study: those after the last system or user message.

        What the model is shown of its earlier turns is thinking and answer too, but a rollout whose thinking was cut
        off has no answer, whatever stood in an earlier one.
        """
        messages = [k for k, s in enumerate(self.spans) if s.segment in ("system", "user")]
        return self.spans[messages[-1] + 1 :] if messages else self.spans

    def span(self, segment: str) -> Span | None:
        """The last span of that name, or ``None``; what a model writes is looked for in the turn under study alone."""
        spans = self.spans if segment in ("system", "user", "template") else self.turn
        return next((s for s in reversed(spans) if s.segment == segment), None)

    def cut(self, length: int) -> Rollout:
        """The first ``length`` tokens as a given rollout with the same id, group and tags."""
        if not 0 < length <= len(self):
            raise ValueError(f"cannot cut rollout {self.id} of {len(self)} tokens to {length}")
        return replace(
            self,
            ids=self.ids[:length],
            spans=tuple(Span(s.segment, s.start, min(s.stop, length)) for s in self.spans if s.start < length),
            n_prompt=min(self.n_prompt, length),
            n_forced=min(self.n_forced, max(length - self.n_prompt, 0)),
            finish="given",
        )

    def until_answer(self) -> Rollout | None:
        """Everything up to the last token before the answer, as a given rollout; ``None`` where it has no answer.

        Attention is causal: a readout there sees the hidden states of the whole rollout, without the cost of answers.
        """
        answer = self.span("answer")
        return None if answer is None else self.cut(answer.start)

    def labels(self) -> list[str]:
        """The segment of every token, as a list as long as ``ids``."""
        return [span.segment for span in self.spans for _ in range(len(span))]
