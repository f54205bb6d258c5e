"""From items to the places where a judge's verdict is read: prompts, thinking switched or forced, answers parsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from verdictscope.activations import Model
from verdictscope.errors import InputError
from verdictscope.judgments.asking import ORDERS, Asked, Insertion, ask, rendered, shown_to_own
from verdictscope.judgments.formats.format import Format, Parsed
from verdictscope.judgments.items import LETTERS, ChoiceItem, Item
from verdictscope.judgments.labels import CONTEXT, Encoded, encode_labels, extended
from verdictscope.provenance import digest
from verdictscope.rollouts import Forcer, Markers, Rollout, Sampling, Span, answer_text, find_markers, pieces, prolong
from verdictscope.rollouts.engines.requests import Engine
from verdictscope.rollouts.generate import writer
from verdictscope.rollouts.language_model import tokenizer_of
from verdictscope.rollouts.templates import RenderedPrompt
from verdictscope.rollouts.writing import Job

Transform = Callable[[Asked], Asked]
Progress = Callable[[int, int], None]
SCORED = Parsed(None, "scored")


@dataclass(frozen=True)
class Case:
    """One verdict to be read: an item in an order, for the ``run``-th time."""

    id: str
    item: Item
    order: str
    run: int


@dataclass(frozen=True)
class CaseAnswer:
    """What came of a case: the parsed verdict, and the position where its probability is read."""

    case: Case
    parsed: Parsed
    prefix: Rollout | None = None
    encoded: Encoded | None = None
    whole: Rollout | None = None
    answer: str | None = None
    n_thinking: int = 0


def own_verdict(shown: str | None, case: Case) -> str | None:
    """A verdict in the shown frame, in the item's own."""
    if isinstance(case.item, ChoiceItem) and shown is not None:
        return case.item.letters[LETTERS.index(shown)]
    return shown_to_own(shown, case.order) if case.order else shown


def make_cases(form: Format, items: Sequence[Item], orders: Sequence[str], runs: int) -> list[Case]:
    """Every item in every order, ``runs`` times."""
    if not items:
        raise InputError("there are no items to judge")
    if len({item.id for item in items}) != len(items):
        raise InputError("two items have the same id: ids must be unique")
    orders = [orders] if isinstance(orders, str) else list(orders)
    if wrong := [order for order in orders if order not in (*ORDERS, "random")]:
        raise InputError(f"order {wrong[0]!r} is not one of AB, BA, random")
    if not orders or len(set(orders)) != len(orders) or ("random" in orders and len(orders) > 1) or runs < 1:
        raise InputError("name each order once (or random alone), and at least one run")
    found = []
    for item in items:
        for order in orders if form.sided else [""]:
            drawn = ORDERS[int(digest(item.id)[:8], 16) % 2] if order == "random" else order
            name = f"{item.id}/{drawn}" if drawn else item.id
            found += [Case(f"{name}/{run}", item, drawn, run) for run in range(runs)]
    return found


def make_prompts(
    tokenizer: PreTrainedTokenizerBase,
    form: Format,
    cases: Sequence[Case],
    insertions: Callable[[Item, str], Sequence[Insertion]] | None = None,
    transforms: Sequence[Transform] = (),
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[RenderedPrompt]:
    """The prompt of every case; runs of one prompt share it."""
    found: dict[tuple[str, str], RenderedPrompt] = {}
    for case in cases:
        key = (case.item.id, case.order)
        if key in found:
            continue
        put = () if insertions is None else insertions(case.item, case.order)
        asked = ask(form, case.item, case.order or "AB", put)
        for transform in transforms:
            asked = transform(asked)
        try:
            found[key] = rendered(tokenizer, asked, template_kwargs)
        except InputError as error:
            raise InputError(f"item {case.item.id}: {error}") from error
    return [found[case.item.id, case.order] for case in cases]


@dataclass
class Asker:
    """How cases are put to the judge."""

    model: Model
    form: Format
    answer: str
    thinking: str | int
    sampling: Sampling
    markers: Markers | None = None
    engine: str | Engine = "huggingface"
    batch_tokens: int = 16_384
    progress: Progress | None = None
    waits: int = 0
    forcer: Forcer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.tokenizer = tokenizer_of(self.model)
        if self.answer not in ("scored", "written"):
            raise InputError(f"answer {self.answer!r} is neither scored nor written")
        named = self.thinking in ("template", "on", "off")
        if not named and (isinstance(self.thinking, str | bool) or self.thinking < 0):
            raise InputError(f"thinking {self.thinking!r} is not one of off, on, template or a number of tokens")
        if self.waits and (self.waits < 0 or self.thinking not in ("on", "template")):
            raise InputError(f"waits={self.waits} is for thinking that is on: use thinking='on' and waits of 0 or more")
        if self.markers is None:
            self.markers = find_markers(self.tokenizer)
        if self.markers is not None and getattr(self.tokenizer, "chat_template", None):
            self.forcer = Forcer(self.tokenizer, self.markers)
        elif self.thinking not in ("off", "template"):
            raise InputError("this judge has no thinking markers: use thinking='off', or name its markers")
        self._cache: dict[Any, Encoded] = {}

    def answers(
        self, cases: Sequence[Case], prompts: Sequence[RenderedPrompt], folder: Path | None = None
    ) -> list[CaseAnswer]:
        """The place of every case's verdict; writes what must be written."""
        given = [self._given(case, prompt) for case, prompt in zip(cases, prompts, strict=True)]
        if self.thinking in ("off", "template") and self.answer == "scored" and not self.waits:
            return [self._scored(case, rollout) for case, (rollout, _) in zip(cases, given, strict=True)]
        jobs = [_job(rollout, start) for rollout, start in given]
        only_thinking = self.answer == "scored" or not isinstance(self.thinking, str)
        written = self._write(jobs, folder, "written", only_thinking)
        if self.waits:
            written = self._prolonged(written, folder)
        if isinstance(self.thinking, str) and self.answer == "written":
            return [self._parsed(case, rollout) for case, rollout in zip(cases, written, strict=True)]
        closed = [self._closed(rollout) for rollout in written]
        if self.answer == "scored":
            return [
                self._scored(case, prefix) if prefix is not None else CaseAnswer(case, Parsed(None, why), whole=rollout)
                for case, rollout, (prefix, why) in zip(cases, written, closed, strict=True)
            ]
        return self._answered(cases, written, closed, folder)

    def _given(self, case: Case, prompt: RenderedPrompt) -> tuple[Rollout, int]:
        """The prompt as a rollout, its thinking switched, and where its generation prompt begins."""
        tags = {"item": case.item.id, "order": case.order, "run": case.run, "format": self.form.name}
        rollout = Rollout(case.id, case.item.group, prompt.ids, prompt.spans, len(prompt.ids), tags=tags)
        if self.forcer is None or self.thinking == "template":
            return rollout, prompt.generation_start
        return replace(self.forcer.switch(rollout, self.thinking != "off"), id=case.id), prompt.generation_start

    def _write(self, jobs: list[Job], folder: Path | None, name: str, only_thinking: bool) -> list[Rollout]:
        write = writer(self.model, self.sampling, self.batch_tokens, self.engine, self.markers)
        if only_thinking and self.markers is not None:
            closers = {string[0] for string in self.markers.closer if len(string) == 1}
            write = replace(write, eos=write.eos | closers)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return write.write(jobs, None if folder is None else folder / f"{name}.parquet", self.progress)

    def _prolonged(self, written: list[Rollout], folder: Path | None) -> list[Rollout]:
        """Thinking that closed, kept going; every rollout under the name it had."""
        path = None if folder is None else folder / "prolonged.parquet"
        more: dict[str, Any] = {"batch_tokens": self.batch_tokens, "engine": self.engine, "markers": self.markers}
        made = prolong(self.model, written, self.sampling, times=self.waits, path=path, **more)
        longer = {rollout.tags["parent"]: rollout for rollout in made}
        return [replace(longer[r.id], id=r.id, tags=r.tags) if r.id in longer else r for r in written]

    def _closed(self, rollout: Rollout) -> tuple[Rollout | None, str]:
        """The rollout up to its answer, thinking closed where it is to be; or ``None`` and why there is none."""
        assert self.forcer is not None
        thinking = next((s for s in rollout.turn if s.segment == "thinking"), None)
        if not isinstance(self.thinking, str):
            found = self.forcer.close(rollout, self.thinking) if thinking is not None else None
            return (None, "shorter") if found is None else (replace(found, id=rollout.id), "ok")
        if rollout.span("think_end") is None:
            answered = rollout.until_answer() if thinking is None else None  # it answered without thinking
            return answered, "truncated" if rollout.finish == "length" else "empty"
        found = self.forcer.close(rollout, len(thinking)) if thinking is not None else rollout.until_answer()
        return (None, "empty") if found is None else (replace(found, id=rollout.id), "ok")

    def _answered(
        self,
        cases: Sequence[Case],
        written: Sequence[Rollout],
        closed: Sequence[tuple[Rollout | None, str]],
        folder: Path | None,
    ) -> list[CaseAnswer]:
        """Answers written after thinking that was closed by force."""
        assert self.forcer is not None
        jobs = []
        for prefix, _ in closed:
            if prefix is not None:
                spans, start = self.forcer.prompt_of(prefix, prefix.n_prompt)
                jobs.append(Job(prefix.id, prefix.group, prefix.ids, spans, prefix.n_prompt, start, prefix.tags))
        answers = {r.id: r for r in self._write(jobs, folder, "answered", False)} if jobs else {}
        return [
            self._parsed(case, answers[case.id])
            if case.id in answers
            else CaseAnswer(case, Parsed(None, why), whole=rollout)
            for case, rollout, (_, why) in zip(cases, written, closed, strict=True)
        ]

    def _scored(self, case: Case, prefix: Rollout) -> CaseAnswer:
        encoded = self._encoded(case.item, prefix.ids, self.form.lead)
        until = extended(prefix, encoded.shared, case.id)
        return CaseAnswer(case, SCORED, until, encoded, n_thinking=_n_thinking(prefix))

    def _parsed(self, case: Case, rollout: Rollout) -> CaseAnswer:
        answer = answer_text(rollout, self.tokenizer)
        parsed = self.form.parse(answer, truncated=rollout.finish == "length", item=case.item)
        known = {label.verdict for label in self.form.labels(case.item)}
        plain = CaseAnswer(case, parsed, whole=rollout, answer=answer, n_thinking=_n_thinking(rollout))
        if parsed.verdict is None or parsed.verdict not in known or answer is None:
            return plain
        at, head = _token_at(rollout, self.tokenizer, parsed.start)
        prefix = rollout.cut(at)
        encoded = self._encoded(case.item, prefix.ids, head)
        stop = at + len(encoded.shared)
        if rollout.ids[at:stop] == encoded.shared and stop < len(rollout):
            plain = replace(plain, whole=_marked(rollout, stop))
        return replace(plain, prefix=extended(prefix, encoded.shared, case.id), encoded=encoded)

    def _encoded(self, item: Item, before: Sequence[int], lead: str) -> Encoded:
        texts = tuple(label.text for label in self.form.labels(item))
        key = (tuple(before[-CONTEXT:]), lead, texts)
        if key not in self._cache:
            self._cache[key] = encode_labels(self.tokenizer, texts, lead, before)
        return self._cache[key]


def _job(rollout: Rollout, start: int) -> Job:
    """The prompt to go on from; what was put there is read as part of the generation prompt."""
    kept = [Span(s.segment, s.start, min(s.stop, start)) for s in rollout.spans if s.start < start]
    spans = (*kept, Span("template", start, len(rollout)))
    return Job(rollout.id, rollout.group, rollout.ids, spans, len(rollout), start, _plain(rollout.tags))


def _plain(tags: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tags.items() if key in ("item", "order", "run", "format")}


def _n_thinking(rollout: Rollout) -> int:
    return sum(len(s) for s in rollout.turn if s.segment == "thinking")


def _token_at(rollout: Rollout, tokenizer: PreTrainedTokenizerBase, char: int) -> tuple[int, str]:
    """The token that holds a character of the answer, and its text before that character."""
    span = next(s for s in reversed(rollout.turn) if s.segment == "answer")
    texts = pieces(rollout.ids[span.start : span.stop], tokenizer)
    ends = list(accumulate(map(len, texts)))
    k = next(k for k, end in enumerate(ends) if end > char)
    return span.start + k, texts[k][: char - (ends[k] - len(texts[k]))]


def _marked(rollout: Rollout, at: int) -> Rollout:
    """The rollout with one token of its answer marked as the verdict."""
    spans: list[Span] = []
    for span in rollout.spans:
        if not (span.segment == "answer" and span.start <= at < span.stop):
            spans.append(span)
            continue
        parts = [("answer", span.start, at), ("verdict", at, at + 1), ("answer", at + 1, span.stop)]
        spans += [Span(name, a, b) for name, a, b in parts if a < b]
    return replace(rollout, spans=tuple(spans))
