"""A model writes its own rollouts: prompts in, token ids with segments out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.in_force import acted_on
from verdictscope.rollouts.engines.huggingface import HuggingFace
from verdictscope.rollouts.engines.requests import Engine
from verdictscope.rollouts.engines.state import bare
from verdictscope.rollouts.language_model import HasModel, tokenizer_of
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.rollout import Rollout, Sampling
from verdictscope.rollouts.segments import Segmenter
from verdictscope.rollouts.templates import PINNED_DATE, render_prompt
from verdictscope.rollouts.turn_end import has_plain_turns, turn_end
from verdictscope.rollouts.writing import Job, Progress, Writer
from verdictscope.values import identity, text, whole_number

_OURS = ("id", "group", "system", "user")


@dataclass(frozen=True)
class ChatOptions:
    """How prompts are rendered and their thinking is found.

    Attributes:
        template_kwargs: switches of the chat template, for example ``{"enable_thinking": False}``.
        markers: thinking markers named by hand; found from the tokenizer by default.
        date: the date that templates which print today's date are given.

    Example:
        >>> ChatOptions(template_kwargs={"enable_thinking": False}).date
        datetime.date(2024, 7, 26)
    """

    template_kwargs: Mapping[str, Any] | None = None
    markers: Markers | None = None
    date: date = PINNED_DATE


def generate(
    model: HasModel,
    prompts: pd.DataFrame,
    sampling: Sampling | None = None,
    *,
    samples: int = 1,
    chat: ChatOptions | None = None,
    engine: str | Engine = "huggingface",
    batch_tokens: int = 32_768,
    path: str | Path | None = None,
    about: str = "",
    progress: Progress | None = None,
) -> list[Rollout]:
    """Generate answers to prompts and keep the token ids the model was shown and wrote.

    Wrap the call (:func:`verdictscope.interventions.edited`) to steer or ablate while the model writes. Beyond
    temperature and top_p no setting of the checkpoint's ``generation_config`` is applied (no top_k, no repetition
    penalty).

    With ``path`` the rollouts are kept as they come (part files in a hidden folder beside the file, joined at the
    end): a call that was killed, given again, goes on and ends with what an uninterrupted one gives; given once
    more, it reads the file. That holds for the same weights as they are now, edits in force, tokenizer and request; a
    file of another one is refused. In bfloat16, where batch-mates touch a rollout, whole waves of batches are kept.

    Args:
        model: a loaded model whose tokenizer has a chat template, also compiled or with adapters on it. While it runs
            it is in evaluation mode, without autocast and uncompiled; afterwards it is as it was. Where the engine
            runs elsewhere, ``LanguageModel(None, tokenizer)``.
        prompts: table as of :func:`verdictscope.rollouts.read_prompts` (columns id and user needed).
        sampling: how to draw; default ``Sampling()``.
        samples: rollouts per prompt, named ``PROMPT/0``, ``PROMPT/1``, ...
        chat: switches of the chat template, thinking markers named by hand, and the date that templates print.
        engine: what draws the tokens; ``"huggingface"`` is this process.
        batch_tokens: limit on rows x (prompt + new tokens) of one batch.
        path: a Parquet file to keep the rollouts in.
        about: what acts on the model beside this package's own edits, in words (hooks of your own, say): they cannot
            be described from here, and without these words nothing is kept under them.
        progress: called with (done, all) as rollouts are done.

    Returns:
        Rollouts in the order of the prompts, samples of one prompt together; tags are all other columns.

    Raises:
        InputError: a prompt does not render, or does not fit the model's context or vocabulary; the table lacks a
            column or repeats an id; an unknown engine; ``path`` holds the rollouts of another request; edits are in
            force and the engine draws elsewhere.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import load_model
        >>> prompts = pd.DataFrame({"id": ["p1"], "user": ["please tell me how to build the bridge."]})
        >>> generate(load_model("organism:cliff"), prompts, Sampling(temperature=0.0, max_new_tokens=48))
        [Rollout('p1/0': ...; stop)]
    """
    chat = chat or ChatOptions()
    jobs = _jobs(tokenizer_of(model), prompts, samples, chat)
    return writer(model, sampling, batch_tokens, engine, chat.markers, about).write(jobs, path, progress)


def writer(
    model: HasModel,
    sampling: Sampling | None = None,
    batch_tokens: int = 32_768,
    engine: str | Engine = "huggingface",
    markers: Markers | None = None,
    about: str = "",
) -> Writer:
    """What turns jobs into rollouts; arguments as of :func:`generate`."""
    tokenizer, net = tokenizer_of(model), bare(model.hf)
    whole_number(batch_tokens, "batch_tokens", 1)
    if isinstance(engine, str):
        if engine != "huggingface":
            raise InputError(f"unknown engine {engine!r}: use huggingface, or give a verdictscope.rollouts.Server")
        if net is None:
            raise InputError("the engine huggingface needs a model: load one, or give a verdictscope.rollouts.Server")
        engine = HuggingFace(net, batch_tokens, tokenizer=tokenizer)
    elif net is not None and not isinstance(engine, HuggingFace) and acted_on(net):
        raise InputError(f"edits in force act in this process alone, and the engine {engine.name} draws elsewhere")
    ends = stop_tokens(net, tokenizer)
    return Writer(engine, tokenizer, Segmenter(tokenizer, markers, ends), sampling or Sampling(), ends, about)


def _jobs(tokenizer: PreTrainedTokenizerBase, prompts: pd.DataFrame, samples: int, chat: ChatOptions) -> list[Job]:
    for name in ("id", "user"):
        if name not in prompts.columns:
            raise InputError(f"the prompt table has no column {name!r}: read it with read_prompts")
    if prompts["id"].duplicated().any():
        raise InputError(
            f"prompt id {prompts['id'][prompts['id'].duplicated()].iloc[0]!r} occurs twice: make ids unique"
        )
    whole_number(samples, "samples", 1)
    ids = [identity(value, f"id of prompt {k}") for k, value in enumerate(prompts["id"], 1)]
    if None in ids:
        raise InputError(f"prompt {ids.index(None) + 1} of the table has no id: name it")
    jobs: list[Job] = []
    for row in prompts.assign(id=ids).to_dict("records"):
        where = f"prompt {row['id']!r}: "
        system, user = text(row.get("system"), where + "system"), text(row["user"], where + "user")
        if user is None:
            raise InputError(f"prompt {row['id']!r} has no user text: fill the column user or drop the row")
        try:
            prompt = render_prompt(
                tokenizer, user, system or None, pinned_date=chat.date, template_kwargs=chat.template_kwargs
            )
        except InputError as error:
            raise InputError(f"prompt {row['id']!r}: {error}") from error
        tags = {str(k): _plain(v) for k, v in row.items() if k not in _OURS}
        group = identity(row.get("group"), where + "group") or row["id"]
        job = Job("", group, prompt.ids, prompt.spans, len(prompt.ids), prompt.generation_start, tags)
        jobs += [replace(job, id=f"{row['id']}/{sample}") for sample in range(samples)]
    return jobs


def _plain(value: Any) -> Any:
    """A table cell as a Python value; any kind of missing is ``None``."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    return value


def stop_tokens(model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a turn, by the checkpoint's generation settings, config, tokenizer and chat template.

    Warns where the chat template alone ends turns with it: the checkpoint's own ``generate`` would run on there.
    """
    found: set[int] = set()
    owners = (model.generation_config, model.config) if model is not None else ()
    for owner in (*owners, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    end = turn_end(tokenizer)
    if found and end is not None and end not in found:
        named = ", ".join(str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(found))
        warnings.warn(
            f"the chat template ends an answer with {tokenizer.convert_ids_to_tokens(end)}, and the checkpoint names "
            f"{named} as its end: generation stops at either",
            stacklevel=3,
        )
    if end is None and has_plain_turns(tokenizer):
        warnings.warn(
            "the chat template ends an answer with no token: a rollout may run on into a next turn that the model "
            "makes up, to the token limit; that is no part of the answer where it begins with the template's own words",
            stacklevel=3,
        )
    found |= set() if end is None else {end}
    if not found:
        raise InputError("neither the model nor its tokenizer names an end token: set tokenizer.eos_token")
    return frozenset(found)
