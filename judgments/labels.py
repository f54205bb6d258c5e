"""Label strings as tokens: what they share after a prefix, where they first differ, and the probability of each.

Which tokens a label is depends on what stands before it, so labels are encoded after the prefix's own last tokens. The
first token at which they differ is the verdict's; the token before it is where the verdict is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from verdictscope.activations import BatchPlan, LogOddsReadout, Model
from verdictscope.activations.forward import Progress, passes
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.sites import Site
from verdictscope.errors import InputError
from verdictscope.judgments.formats.format import Format
from verdictscope.judgments.items import Item
from verdictscope.rollouts import Rollout, Span
from verdictscope.rollouts.engines.limits import check_ids, check_lengths
from verdictscope.rollouts.engines.rope import changing
from verdictscope.rollouts.frames import ids_after
from verdictscope.rollouts.language_model import HasModel, tokenizer_of

IdString = tuple[int, ...]
CONTEXT = 16
"""Tokens of a prefix that labels are encoded after: no merge reaches further."""


@dataclass(frozen=True)
class Encoded:
    """Label strings after a prefix."""

    shared: IdString
    strings: tuple[IdString, ...]


def encode_labels(
    model: HasModel | PreTrainedTokenizerBase, labels: Sequence[str], lead: str = "", before: Sequence[int] = ()
) -> Encoded:
    """Labels as tokens after a prefix."""
    if len(labels) < 2:
        raise InputError("a verdict needs at least two label strings")
    tokenizer = tokenizer_of(model)
    whole = [tokens_after(tokenizer, before, lead + label) for label in labels]
    n = next((k for k in range(max(map(len, whole))) if len({ids[: k + 1] for ids in whole}) > 1), 0)
    strings = tuple(ids[n:] for ids in whole)
    for (a, first), (b, second) in permutations(zip(labels, strings, strict=True), 2):
        if second[: len(first)] == first:
            raise InputError(f"label string {a!r} begins (or is) {b!r} in this tokenizer's tokens: end it differently")
    return Encoded(whole[0][:n], strings)


def tokens_after(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], text: str) -> IdString:
    """A text's tokens behind a prefix: encoded together with its last tokens where these come back as they were."""
    last = list(before[-CONTEXT:])
    if last:
        context = str(tokenizer.decode(last, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        ids = tokenizer(context + text, add_special_tokens=False)["input_ids"]
        if list(ids[: len(last)]) == last and len(ids) > len(last):
            return tuple(ids[len(last) :])
    return ids_after(tokenizer, text)


def extended(rollout: Rollout, ids: Sequence[int], id: str | None = None) -> Rollout:
    """The rollout with tokens appended as its answer, as a given one."""
    n, name, spans = len(rollout), id or rollout.id, rollout.spans
    if not ids:
        return replace(rollout, id=name, finish="given")
    start = n
    if spans[-1].segment == "answer":
        start, spans = spans[-1].start, spans[:-1]
    spans = (*spans, Span("answer", start, n + len(ids)))
    whole, forced = (*rollout.ids, *ids), n + len(ids) - rollout.n_prompt
    return replace(rollout, id=name, ids=whole, spans=spans, finish="given", n_forced=forced)


def distinct(strings: Sequence[IdString]) -> tuple[IdString, ...]:
    """The shortest beginning of each string that begins no other one."""
    found = []
    for string in strings:
        n = next(
            (k for k in range(1, len(string)) if sum(other[:k] == string[:k] for other in strings) == 1), len(string)
        )
        found.append(string[:n])
    return tuple(found)


def verdict_readout(
    model: HasModel | PreTrainedTokenizerBase,
    form: Format,
    item: Item | None = None,
    *,
    name: str = "verdict",
    positive: str = "first",
    negative: str = "second",
) -> LogOddsReadout:
    """The log-odds of one verdict against another over a format's label strings, at the last token before them.

    Like every readout it is data: ``effects``, ``forward`` and traces take it.

    Args:
        model: the judge, or its tokenizer.
        form: the format.
        item: whose label strings, where they depend on the item (options of a multiple-choice question).
        name: name of the readout.
        positive: the verdict whose probability is the numerator.
        negative: the denominator's.

    Raises:
        InputError: no label string means one of the verdicts, or labels cannot be distinguished in this vocabulary.

    Example:
        >>> from verdictscope import load_model
        >>> from verdictscope.judgments import load_format
        >>> from verdictscope.sources import locate
        >>> verdict_readout(load_model("organism:judge"), load_format(locate("organism:judge/format.toml"))).positions
        'last'
    """
    labels = form.labels(item)
    encoded = encode_labels(model, [label.text for label in labels], form.lead)
    return label_log_odds(name, encoded, [label.verdict for label in labels], positive, negative)


def label_log_odds(
    name: str, encoded: Encoded, verdicts: Sequence[str], positive: str = "first", negative: str = "second"
) -> LogOddsReadout:
    """The log-odds of one verdict against another over encoded label strings, and what each of them means."""
    sides = [[s for s, v in zip(encoded.strings, verdicts, strict=True) if v == side] for side in (positive, negative)]
    if not all(sides):
        raise InputError(f"no label string means {positive if not sides[0] else negative}: name other verdicts")
    return LogOddsReadout(name, tuple(sides[0]), tuple(sides[1]), positions="last")


def at_first_difference(readout: LogOddsReadout) -> LogOddsReadout:
    """The same log-odds over the shortest beginnings of its labels that tell them apart (:func:`distinct`).

    Where the rest of a label is certain (``]]`` behind ``[[A``) the number is the same; it is read at one token, so
    that it can be taken apart, and costs a fraction in sweeps.
    """
    strings, n = distinct(readout.strings), len(readout.positive)
    return replace(readout, positive=strings[:n], negative=strings[n:])


def label_logprobs(
    model: Model,
    prefixes: Sequence[Rollout],
    strings: Sequence[Sequence[IdString]],
    *,
    write: Mapping[Site, WriteFn] | None = None,
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Log-probability of every label string after its prefix, each token teacher-forced after those before it."""
    if len(strings) != len(prefixes):
        raise InputError(f"{len(prefixes)} prefixes and labels for {len(strings)}: give label strings for each prefix")
    named = (
        (f"label {k} of rollout {r.id}", s)
        for r, own in zip(prefixes, strings, strict=True)
        for k, s in enumerate(own, 1)
    )
    check_ids(model.hf, named, model.optional_tokenizer)
    each = bool(changing(model.hf))
    jobs: list[tuple[int, IdString]] = []
    for i, labels in enumerate(strings):
        if each:
            jobs += [(i, s) for s in sorted({s[:k] for s in labels for k in range(len(s))})]
            continue
        stems = {s[:-1] for s in labels}
        jobs += [(i, s) for s in sorted(stems) if not any(len(t) > len(s) and t[: len(s)] == s for t in stems)]
    if not jobs:
        return []
    check_lengths(model.hf, ((prefixes[i].id, len(prefixes[i]) + len(stem)) for i, stem in jobs))
    check_ids(model.hf, ((f"rollout {r.id}", r.ids) for r in prefixes), model.optional_tokenizer)
    made = [extended(prefixes[i], stem, f"{k}") for k, (i, stem) in enumerate(jobs)]
    begins = [len(r) - 1 if each else len(prefixes[i]) - 1 for r, (i, _) in zip(made, jobs, strict=True)]
    places = {r.id: list(range(begin, len(r))) for r, begin in zip(made, begins, strict=True)}
    given: dict[tuple[int, IdString], dict[int, float]] = {}
    plan = None if token_budget is None else BatchPlan.make([len(r) for r in made], token_budget)
    done, total = 0, sum(map(len, made))
    for part in passes(model, made, write=write, plan=plan, logits_at=places):
        assert part.logits is not None
        assert part.logit_rows is not None
        wanted = part.logit_rows.reset_index(drop=True)
        for name, rows in wanted.groupby("rollout", sort=False):
            i, stem = jobs[int(str(name))]
            for depth, row in enumerate(rows.sort_values("pos").index, len(stem) + 1 - len(rows)):
                _keep(given.setdefault((i, stem[:depth]), {}), part.logits[row], strings[i], stem[:depth])
        done += sum(len(made[j]) for j in part.batch)
        if progress is not None:
            progress(done, total)
    return [
        np.array([sum(given[i, s[:d]][s[d]] for d in range(len(s))) for s in labels])
        for i, labels in enumerate(strings)
    ]


def _keep(found: dict[int, float], logits: Tensor, labels: Sequence[IdString], stem: IdString) -> None:
    """The log-probabilities of the tokens with which labels go on from a beginning."""
    n = len(stem)
    following = sorted({s[n] for s in labels if len(s) > n and s[:n] == stem} - set(found))
    if following:
        logp = logits.double().log_softmax(-1)
        found |= {token: float(logp[token]) for token in following}
