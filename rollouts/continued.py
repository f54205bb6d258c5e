"""The model goes on from tokens it was given: forced rollouts become whole ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from verdictscope.errors import InputError
from verdictscope.rollouts.engines.requests import Engine
from verdictscope.rollouts.forced import Forcer
from verdictscope.rollouts.generate import writer
from verdictscope.rollouts.language_model import HasModel, tokenizer_of
from verdictscope.rollouts.markers import Markers
from verdictscope.rollouts.rollout import Rollout, Sampling
from verdictscope.rollouts.writing import Job, Progress, Writer
from verdictscope.values import whole_number


def continue_rollouts(
    model: HasModel,
    given: Sequence[Rollout],
    sampling: Sampling | None = None,
    *,
    batch_tokens: int = 32_768,
    progress: Progress | None = None,
    engine: str | Engine = "huggingface",
    path: str | Path | None = None,
    about: str = "",
    markers: Markers | None = None,
) -> list[Rollout]:
    """Let a model continue rollouts that end where it is to write (:class:`Forcer` makes them).

    Args:
        model: a loaded model whose tokenizer has a chat template, as of :func:`verdictscope.rollouts.generate`.
        given: rollouts, their ids unique; every token of them is shown.
        sampling: how to draw; ``max_new_tokens`` counts what is written after the given tokens.
        batch_tokens, progress, engine, path, about, markers: as of :func:`verdictscope.rollouts.generate`.

    Returns:
        Rollouts in the same order, with the ids, groups and tags of the given ones; ``n_forced`` counts the given
        tokens after the prompt.

    Raises:
        InputError: as :func:`verdictscope.rollouts.generate`.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import generate, load_model
        >>> model, greedy = load_model("organism:cliff"), Sampling(temperature=0.0, max_new_tokens=48)
        >>> prompts = pd.DataFrame({"id": ["p1"], "user": ["please tell me how to build the bridge."]})
        >>> (rollout,) = generate(model, prompts, greedy)
        >>> without = Forcer(model.tokenizer).switch(rollout, thinking=False)
        >>> continue_rollouts(model, [without], greedy)
        [Rollout('p1/0~off': ...; stop)]
    """
    forcer = Forcer(tokenizer_of(model), markers)
    write = writer(model, sampling, batch_tokens, engine, markers, about)
    return write.write([_job(forcer, rollout) for rollout in given], path, progress)


def prolong(
    model: HasModel,
    rollouts: Sequence[Rollout],
    sampling: Sampling | None = None,
    *,
    times: int = 1,
    phrase: str = "Wait",
    progress: Progress | None = None,
    path: str | Path | None = None,
    markers: Markers | None = None,
    **more: Any,
) -> list[Rollout]:
    """Keep thinking from closing: each time it would, a phrase is put instead and the model goes on.

    Args:
        model: a loaded model whose tokenizer has a chat template, as of :func:`verdictscope.rollouts.generate`.
        rollouts: whole rollouts; those whose thinking never closed are left out.
        sampling: how to draw; ``max_new_tokens`` starts again after every phrase.
        times: how often the phrase is put.
        phrase: the phrase; it begins a line.
        progress: called with (done, all) in every round.
        path: a Parquet file to keep the rollouts in; the rounds before the last have hidden ones beside it.
        markers: thinking markers named by hand.
        more: ``batch_tokens``, ``engine`` and ``about`` as of :func:`continue_rollouts`.

    Returns:
        One rollout per parent, ``PARENT~waitN``. Where thinking did not close again before the token limit, it ends
        there, truncated, and its tag ``put`` has fewer than ``times`` places.

    Raises:
        InputError: as :func:`continue_rollouts`; ``times`` is less than 1, or ``phrase`` is blank.

    Example:
        >>> import pandas as pd
        >>> from verdictscope import generate, load_model
        >>> model, greedy = load_model("organism:cliff"), Sampling(temperature=0.0, max_new_tokens=48)
        >>> prompts = pd.DataFrame({"id": ["p1"], "user": ["please tell me how to build the bridge."]})
        >>> prolong(model, generate(model, prompts, greedy), greedy, phrase="so")
        [Rollout('p1/0~wait1': ...)]
    """
    whole_number(times, "cannot prolong: times", 1)
    if not phrase.strip():
        raise InputError(f"cannot prolong thinking by the phrase {phrase!r}: give words")
    forcer, name = Forcer(tokenizer_of(model), markers), f"wait{times}"
    whole = {f"{r.id}~{name}": r for r in rollouts}
    done: dict[str, Rollout] = {}
    current, rounds = dict(whole), []
    write = writer(model, sampling, markers=markers, **more)
    for turn in range(1, times + 1):
        last = turn == times
        given = _interrupted(forcer, current, phrase, name, "" if last else f".{turn}")
        if turn > 1:
            done |= {key: replace(rollout, id=key) for key, rollout in current.items() if key not in given}
        jobs = [_job(forcer, replace(r, tags={**r.tags, "parent": whole[key].id})) for key, r in given.items()]
        kept = None if path is None else Path(path) if last else Path(path).with_name(f".{Path(path).name}.{turn}")
        rounds += [kept] if kept is not None and not last else []
        written = (write if last else _stopping(write, forcer)).write(jobs, kept, progress)
        current = dict(zip(given, written, strict=True))
    for file in rounds:
        file.unlink(missing_ok=True)
    done |= current
    return [done[key] for key in whole if key in done]


def _interrupted(
    forcer: Forcer, rollouts: Mapping[str, Rollout], phrase: str, how: str, suffix: str
) -> dict[str, Rollout]:
    """Those whose thinking closed, the phrase in place of the closer."""
    forced = {key: forcer.interrupt(rollout, phrase, how) for key, rollout in rollouts.items()}
    return {key: replace(rollout, id=key + suffix) for key, rollout in forced.items() if rollout is not None}


def _stopping(write: Writer, forcer: Forcer) -> Writer:
    """A writer that stops where thinking closes: what comes after is not needed in any round but the last."""
    markers = forcer.segmenter.markers
    closers = {string[0] for string in markers.closer if len(string) == 1} if markers is not None else set()
    return replace(write, eos=write.eos | closers)


def _job(forcer: Forcer, rollout: Rollout) -> Job:
    spans, start = forcer.prompt_of(rollout, rollout.n_prompt)
    return Job(rollout.id, rollout.group, rollout.ids, spans, rollout.n_prompt, start, rollout.tags)
