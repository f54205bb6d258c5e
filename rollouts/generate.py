"""A model writes its own rollouts: prompts in, token ids with segments out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.rollouts.engines import huggingface
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.rollout import Rollout, Sampling
from verdictscope.rollouts.segments import Segmenter
from verdictscope.rollouts.templates import PINNED_DATE, RenderedPrompt, render_prompt

Progress = Callable[[int, int], None]
"""Called with (rollouts done, rollouts in all)."""

_OURS = ("id", "group", "system", "user")


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    sampling: Sampling | None = None,
    *,
    samples: int = 1,
    batch_tokens: int = 32_768,
    progress: Progress | None = None,
    engine: str = "huggingface",
    markers: Markers | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    pinned_date: date = PINNED_DATE,
) -> list[Rollout]:
    """Let a model answer prompts and keep what it was shown and wrote.

    Knows nothing of hooks: wrap the call to steer or ablate while the model writes. Beyond temperature and
    top_p no setting of the checkpoint's ``generation_config`` is applied (no top_k, no repetition penalty).

    Args:
        model: a causal language model; put to evaluation mode and back.
        tokenizer: its tokenizer, with a chat template.
        prompts: table as of :func:`verdictscope.rollouts.read_prompts` (columns id and user needed).
        sampling: how to draw; default ``Sampling()``.
        samples: rollouts per prompt, named ``PROMPT/0``, ``PROMPT/1``, ...
        batch_tokens: limit on rows x (prompt + new tokens) of one batch.
        progress: called with (done, all) after each batch.
        engine: what draws the tokens; ``"huggingface"`` is this process.
        markers: thinking markers named by hand; found from the tokenizer by default.
        template_kwargs: switches of the chat template, for example ``{"enable_thinking": False}``.
        pinned_date: what templates that print today's date are told.

    Returns:
        Rollouts in the order of the prompts, samples of one prompt together; tags are all other columns.

    Raises:
        InputError: a prompt does not render, or does not fit the model's context; the table lacks a column or
            repeats an id; an unknown engine.
    """
    jobs = _jobs(tokenizer, prompts, samples, template_kwargs, pinned_date)
    found: dict[int, Rollout] = {}
    segmenter = Segmenter(tokenizer, markers, stop_tokens(model, tokenizer))
    for batch in _engine(engine)(model, tokenizer, jobs, sampling or Sampling(), batch_tokens):
        for done in batch:
            found[done.index] = _rollout(jobs[done.index], done, segmenter, sampling or Sampling(), engine)
        if progress is not None:
            progress(len(found), len(jobs))
    return [found[k] for k in range(len(jobs))]


Job = tuple[str, str, RenderedPrompt, Mapping[str, Any]]
"""Rollout id, group, prompt, tags."""


def _jobs(
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    samples: int,
    template_kwargs: Mapping[str, Any] | None,
    pinned_date: date,
) -> list[Job]:
    for name in ("id", "user"):
        if name not in prompts.columns:
            raise InputError(f"the prompt table has no column {name!r}: read it with read_prompts")
    if prompts["id"].duplicated().any():
        raise InputError(
            f"prompt id {prompts['id'][prompts['id'].duplicated()].iloc[0]!r} occurs twice: make ids unique"
        )
    if samples < 1:
        raise InputError(f"samples is {samples}: ask for at least one rollout per prompt")
    jobs: list[Job] = []
    for row in prompts.to_dict("records"):
        if not isinstance(row["user"], str):
            raise InputError(f"prompt {row['id']!r} has no user text: fill the column user or drop the row")
        system = _plain(row.get("system"))
        try:
            prompt = render_prompt(
                tokenizer,
                row["user"],
                system or None,
                pinned_date=pinned_date,
                template_kwargs=template_kwargs,
            )
        except InputError as error:
            raise InputError(f"prompt {row['id']!r}: {error}") from error
        tags = {str(k): _plain(v) for k, v in row.items() if k not in _OURS}
        group = str(_plain(row.get("group")) or row["id"])
        jobs += [(f"{row['id']}/{sample}", group, prompt, tags) for sample in range(samples)]
    return jobs


def _plain(value: Any) -> Any:
    """A table cell as a Python value; any kind of missing is ``None``."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    return value


Engine = Callable[
    [PreTrainedModel, PreTrainedTokenizerBase, list[Job], Sampling, int], Iterator[list[huggingface.Written]]
]


def _engine(name: str) -> Engine:
    engines: dict[str, Engine] = {"huggingface": _huggingface}
    if name not in engines:
        raise InputError(f"unknown engine {name!r}: use {', '.join(engines)}")
    return engines[name]


def _huggingface(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    jobs: list[Job],
    sampling: Sampling,
    batch_tokens: int,
) -> Iterator[list[huggingface.Written]]:
    requests = [huggingface.Request(name, prompt.ids) for name, _, prompt, _ in jobs]
    return huggingface.decode(model, requests, sampling, stop_tokens(model, tokenizer), batch_tokens)


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a turn, by the checkpoint's generation settings, its config and its tokenizer."""
    found: set[int] = set()
    for owner in (model.generation_config, model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    if not found:
        raise InputError("neither the model nor its tokenizer names an end token: set tokenizer.eos_token")
    return frozenset(found)


def _rollout(job: Job, written: huggingface.Written, segmenter: Segmenter, sampling: Sampling, engine: str) -> Rollout:
    name, group, prompt, tags = job
    return Rollout(
        id=name,
        group=group,
        ids=(*prompt.ids, *written.ids),
        spans=segmenter(prompt, written.ids, written.finish),
        n_prompt=len(prompt.ids),
        finish=written.finish,
        sampling=sampling,
        engine=engine,
        tags=tags,
    )
