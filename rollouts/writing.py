"""Jobs become rollouts: an engine draws, a segmenter reads, a journal keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.in_force import check_hooks
from verdictscope.kept import tokenizer_facts
from verdictscope.provenance import digest
from verdictscope.rollouts.engines.huggingface import HuggingFace
from verdictscope.rollouts.engines.requests import Engine, Request, Written
from verdictscope.rollouts.engines.state import kept_again
from verdictscope.rollouts.journal import Journal, kept_weights
from verdictscope.rollouts.rollout import Rollout, Sampling, Span
from verdictscope.rollouts.segments import Segmenter

Progress = Callable[[int, int], None]
"""Called with (rollouts done, rollouts in all)."""


@dataclass(frozen=True, slots=True)
class Job:
    """A rollout to be."""

    id: str
    group: str
    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    n_prompt: int
    generation_start: int
    tags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Writer:
    """Everything a job needs to become a rollout."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    segmenter: Segmenter
    sampling: Sampling
    eos: frozenset[int]
    about: str = ""

    def write(
        self, jobs: Sequence[Job], path: str | Path | None = None, progress: Progress | None = None
    ) -> list[Rollout]:
        """Rollouts in the order of the jobs, taken from the file or its parts where an earlier call left them there."""
        journal = None if path is None else Journal(Path(path), self._request(jobs, kept_weights(Path(path))))
        if journal is not None and (finished := journal.finished()) is not None:
            kept_again()
            return finished
        with journal.held() if journal is not None else nullcontext():
            found = journal.committed() if journal is not None else {}
            if all(job.id in found for job in jobs):
                kept_again()
            for rollouts, whole in self._drawn(jobs, found):
                found |= {r.id: r for r in rollouts}
                if journal is not None:
                    journal.add(rollouts, now=whole)
                if progress is not None:
                    progress(len(found), len(jobs))
            ordered = [found[job.id] for job in jobs]
            if journal is not None:
                journal.finish(ordered, self.tokenizer)
        return ordered

    def _drawn(self, jobs: Sequence[Job], found: Mapping[str, Rollout]) -> Iterator[tuple[list[Rollout], bool]]:
        """Rollouts that are not there yet, and whether they must be committed together and at once."""
        if self.engine.independent:
            for done in self._engine([job for job in jobs if job.id not in found]):
                yield done, False
            return
        # where batch-mates touch a rollout, a wave has the same batches whether or not a run was killed before it
        order = sorted(jobs, key=lambda job: -len(job.ids))
        while order:
            count = self.engine.wave([len(job.ids) + self.sampling.max_new_tokens for job in order])
            wave, order = order[:count], order[count:]
            if not all(job.id in found for job in wave):
                yield [rollout for done in self._engine(wave) for rollout in done], True

    def _engine(self, jobs: Sequence[Job]) -> Iterator[list[Rollout]]:
        requests = [Request(job.id, job.ids) for job in jobs]
        for done in self.engine.write(requests, self.sampling, self.eos):
            yield [self._rollout(jobs[written.index], written) for written in done]

    def _rollout(self, job: Job, written: Written) -> Rollout:
        ids = (*job.ids, *written.ids)
        return Rollout(
            id=job.id,
            group=job.group,
            ids=ids,
            spans=self.segmenter.segment(ids, job.spans, job.generation_start, written.finish),
            n_prompt=job.n_prompt,
            finish=written.finish,
            sampling=self.sampling,
            engine=self.engine.name,
            tags=job.tags,
            n_forced=len(job.ids) - job.n_prompt,
        )

    def _request(self, jobs: Sequence[Job], like: str | None) -> dict[str, Any]:
        """Everything that fixes the rollouts, by name."""
        names = {job.id for job in jobs}
        if len(names) != len(jobs):
            raise InputError("two rollouts to write have the same id: make ids unique")
        engine = self.engine
        if isinstance(engine, HuggingFace) and not self.about:
            check_hooks(engine.model)
        source = engine.describe(like) if isinstance(engine, HuggingFace) else engine.describe()
        return {
            "prompts": _word([[job.id, job.ids, job.n_prompt] for job in jobs]),
            "groups_and_tags": _word([[job.group, dict(job.tags)] for job in jobs]),
            "sampling": asdict(self.sampling),
            "engine": {"name": engine.name, **source},
            "end_tokens": sorted(self.eos),
            "markers": repr(self.segmenter.markers),
            "about": self.about,
            **tokenizer_facts(self.tokenizer),
        }


def _word(what: Any) -> str:
    return digest(json.dumps(what, sort_keys=True, default=str))
