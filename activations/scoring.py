"""Evaluates readouts inside a forward pass: linear ones where the site fires, log-odds from gathered
logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..rollouts.rollout import Rollout, Span
from .batch import Batch, Where, execute, match
from .hooks import BatchView, Tap, WriteFn
from .plan import BatchPlan
from .readouts import IdString, LinearReadout, LogOddsReadout
from .sites import Site
from .weights import apply_final_norm

if TYPE_CHECKING:
    from .model import Model

SCORE_COLUMNS = ["rollout", "pos", "segment", "token_id", "readout", "layer", "score"]

Lines = dict[str, pd.DataFrame]


def score_frame(where: Where, batch: Batch, name: str, layer: int | None, scores: Tensor) -> pd.DataFrame:
    """Scores of one readout as lines of the score table."""
    frame = where.frame(batch)[["rollout", "pos", "segment", "token_id"]]
    frame["readout"] = name
    frame["layer"] = pd.array([layer] * len(frame), dtype="Int64")
    frame["score"] = scores.double().cpu().numpy()
    return frame


def linear_taps(model: Model, batch: Batch, readouts: Sequence[LinearReadout]) -> tuple[list[Tap], Callable[[], Lines]]:
    """Hooks that evaluate linear readouts on the device, and a function that makes their lines afterwards.

    Readouts at the same place are evaluated together: the rows are gathered (and normed) once.
    """
    groups: dict[tuple, list[LinearReadout]] = {}
    for readout in readouts:
        layer = Site(readout.site, readout.layer).at(model.n_layers)[0]
        model.sites.place(readout.site, layer)
        width = (
            model.sites.blocks[layer].n_heads * model.sites.blocks[layer].d_head
            if readout.site == "z"
            else model.d_model
        )
        if readout.weight.size != width:
            raise InputError(f"readout {readout.name}: weight has {readout.weight.size} numbers, the site {width}")
        groups.setdefault((readout.site, layer, readout.positions, readout.final_norm), []).append(readout)
    found: dict[tuple, Tensor] = {}
    wheres = {key: batch.where(key[2]) for key in groups}
    taps = [Tap(key[0], key[1], _evaluate(model, key, group, wheres[key], found)) for key, group in groups.items()]

    def finish() -> Lines:
        return {
            r.name: score_frame(wheres[key], batch, r.name, key[1], found[key][:, i])
            for key, group in groups.items()
            for i, r in enumerate(group)
        }

    return taps, finish


def _evaluate(
    model: Model, key: tuple, group: Sequence[LinearReadout], where: Where, found: dict[tuple, Tensor]
) -> Callable[[Tensor, BatchView], None]:
    weight = torch.from_numpy(np.stack([r.weight.reshape(-1) for r in group], axis=1)).float()
    bias = torch.tensor([r.bias for r in group])

    def fn(value: Tensor, _: BatchView) -> None:
        rows = where.gather(value)
        if key[3]:
            rows = apply_final_norm(model, rows)
        rows = rows.flatten(1).float()
        found[key] = rows @ weight.to(rows.device) + bias.to(rows.device)

    return fn


def log_odds_scores(
    model: Model,
    batch: Batch,
    readouts: Sequence[LogOddsReadout],
    where: Where,
    logits: Float[Tensor, "row vocab"],
    write: Mapping[Site, WriteFn] | None,
    budget: int,
) -> Lines:
    """Log-odds at the wanted rows; labels of several tokens are teacher-forced in further passes."""
    lines: Lines = {}
    for readout in readouts:
        rows = batch.where(readout.positions)
        first = logits[match(where, rows)].float().log_softmax(-1)
        strings = readout.strings
        _check_vocabulary(readout, first.shape[-1], strings)
        total = torch.stack([first[:, s[0]] for s in strings], dim=1)
        longer = [s for s in strings if len(s) > 1]
        if longer and len(rows):
            rest = _continuations(model, batch, rows, longer, write, budget)
            for column, string in enumerate(strings):
                if len(string) > 1:
                    total[:, column] += rest[string].to(total.device)
        n = len(readout.positive)
        odds = total[:, :n].logsumexp(-1) - total[:, n:].logsumexp(-1)
        lines[readout.name] = score_frame(rows, batch, readout.name, None, odds)
    return lines


def _check_vocabulary(readout: LogOddsReadout, vocab: int, strings: Sequence[IdString]) -> None:
    if not 0 <= min(map(min, strings)) <= max(map(max, strings)) < vocab:
        raise InputError(f"readout {readout.name}: a label's token id is outside the vocabulary of {vocab}")


def _continuations(
    model: Model,
    batch: Batch,
    rows: Where,
    strings: Sequence[IdString],
    write: Mapping[Site, WriteFn] | None,
    budget: int,
) -> dict[IdString, Float[Tensor, " row"]]:
    """``log p`` of every token after the first of each string, given the row's prefix and the tokens before
    it.

    One sequence per row and distinct ``string[:-1]``: prefix with these tokens appended. Nothing after the
    row's own token is kept, so the score cannot depend on what the rollout says later.
    """
    stems = sorted({s[:-1] for s in strings})
    jobs = [(i, stem) for stem in stems for i in range(len(rows))]
    sequences = [_with_label(batch.rollouts[rows.rows[i]], int(rows.tokens[i]), stem) for i, stem in jobs]
    plan = BatchPlan.make([len(s) for s in sequences], max(budget, 1))
    result = {s: torch.zeros(len(rows)) for s in strings}
    for chosen in plan.batches:
        part = Batch(
            tuple(sequences[j] for j in chosen),
            batch.device,
            tuple((batch.rollouts[rows.rows[jobs[j][0]]], int(rows.tokens[jobs[j][0]]) + 1) for j in chosen),
        )
        # The logits that predict token k of the string stand at token k - 1 of it.
        tokens = [np.arange(int(rows.tokens[jobs[j][0]]) + 1, len(sequences[j])) for j in chosen]
        where = Where(np.repeat(np.arange(len(chosen)), [len(t) for t in tokens]), np.concatenate(tokens), batch.device)
        logits = execute(model, part, (), write, where)
        assert logits is not None
        logp = logits.float().log_softmax(-1).cpu()
        at = 0
        for j, t in zip(chosen, tokens, strict=True):
            i, stem = jobs[j]
            for string in (s for s in strings if s[:-1] == stem):
                result[string][i] = logp[torch.arange(at, at + len(t)), torch.tensor(string[1:])].sum()
            at += len(t)
    return result


def _with_label(rollout: Rollout, token: int, stem: IdString) -> Rollout:
    """The rollout up to and including ``token``, followed by the tokens of a label as its answer."""
    cut = token + 1
    spans = tuple(Span(s.segment, s.start, min(s.stop, cut)) for s in rollout.spans if s.start < cut)
    return replace(
        rollout,
        ids=(*rollout.ids[:cut], *stem),
        spans=(*spans, Span("answer", cut, cut + len(stem))),
        n_prompt=min(rollout.n_prompt, cut),
    )
