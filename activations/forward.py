"""The only place that runs a model on stored token ids.

Capture, edits and scores happen in the same passes. The wanted rows are gathered on the device before they
are copied. Running out of GPU memory splits the batch in the plan and goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations.attention import Pattern
from verdictscope.activations.batch import Batch, Where, execute, match
from verdictscope.activations.hooks import BatchView, Tap, WriteFn
from verdictscope.activations.identities import embedding_weight
from verdictscope.activations.model import Model
from verdictscope.activations.plan import TOKEN_BUDGET, BatchPlan
from verdictscope.activations.positions import resolve
from verdictscope.activations.readouts import LinearReadout, LogOddsReadout, Readout
from verdictscope.activations.scoring import SCORE_COLUMNS, linear_groups, log_odds_scores
from verdictscope.activations.sites import FrozenPositions, Positions, Read, Site
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout


@dataclass(frozen=True, eq=False)
class Pass:
    """What one or several batches gave.

    Attributes:
        rows: per read, the rollout, position, token id and segment of each row.
        values: per read, ``[layer row d_model]`` (``[layer row head d_head]`` for z) in the model's dtype on
            the CPU.
        scores: one line per rollout, position and readout; ``layer`` is missing for log-odds.
        plan: the batches as they were run, splits included.
        batch: the rollouts in it, as indices into the list given.
        logits: ``[row vocab]`` in float32 where ``logits_at`` asked for them.
        logit_rows: the rows of ``logits``.
    """

    rows: dict[Read, pd.DataFrame]
    values: dict[Read, Tensor]
    scores: pd.DataFrame
    plan: BatchPlan
    batch: tuple[int, ...]
    logits: Float[Tensor, "row vocab"] | None = None
    logit_rows: pd.DataFrame | None = None


def passes(
    model: Model,
    rollouts: Sequence[Rollout],
    read: Sequence[Read] = (),
    write: Mapping[Site, WriteFn] | None = None,
    score: Sequence[Readout] = (),
    plan: BatchPlan | None = None,
    *,
    logits_at: Positions | None = None,
    skip: int = 0,
) -> Iterator[Pass]:
    """Runs a model on rollouts and yields what each batch gave, in the plan's order.

    Args:
        model: the model.
        rollouts: what it is run on; ids must be unique.
        read: sites and positions to return.
        write: site to ``fn(value, view) -> new value``, see ``hooks.writing``.
        score: readouts to evaluate; linear ones need no stored hidden state.
        plan: which rollouts share a batch; made from the lengths if not given.
        logits_at: positions whose full logits are returned.
        skip: leave out the first ``skip`` batches of the plan (a resumed run).

    Raises:
        InputError: the rollouts, sites, readouts or plan do not fit the model or each other.
    """
    rollouts, read, score = list(rollouts), tuple(read), tuple(score)
    check_inputs(model, rollouts, read, score)
    plan = plan or default_plan(model, rollouts)
    plan.check(len(rollouts))
    i = skip
    while i < len(plan.batches):
        batch, out_of_memory = plan.batches[i], False
        try:
            parts = _run(model, tuple(rollouts[j] for j in batch), read, write, score, logits_at, plan.token_budget)
        except torch.OutOfMemoryError:
            out_of_memory = True  # handled below: here the traceback still holds the tensors
        if out_of_memory:
            plan = plan.split(i)
            torch.cuda.empty_cache()
            continue
        yield Pass(parts.rows, parts.values, parts.scores, plan, batch, parts.logits, parts.logit_rows)
        i += 1


def default_plan(model: Model, rollouts: Sequence[Rollout]) -> BatchPlan:
    """The plan used where the caller gives none."""
    return BatchPlan.make([len(r) for r in rollouts], TOKEN_BUDGET.get(model.device.type, TOKEN_BUDGET["cpu"]))


@dataclass(eq=False)
class _Parts:
    rows: dict[Read, pd.DataFrame]
    values: dict[Read, Tensor]
    scores: pd.DataFrame
    logits: Tensor | None = None
    logit_rows: pd.DataFrame | None = None


def check_inputs(model: Model, rollouts: list[Rollout], read: Sequence[Read], score: Sequence[Readout]) -> None:
    """Raises ``InputError`` for what can be seen to be wrong before anything runs."""
    if not rollouts:
        raise InputError("there are no rollouts to run")
    if len({r.id for r in rollouts}) != len(rollouts):
        raise InputError("two rollouts have the same id; ids must be unique")
    vocab = embedding_weight(model.hf).shape[0]
    for rollout in rollouts:
        if not 0 <= min(rollout.ids) <= max(rollout.ids) < vocab:
            raise InputError(f"rollout {rollout.id} has token ids outside the model's vocabulary of {vocab}")
    if len(set(read)) != len(read):
        raise InputError("the same read is asked for twice")
    if len({s.name for s in score}) != len(score):
        raise InputError("two readouts have the same name")
    for r in read:
        for layer in r.site.at(model.n_layers):
            model.sites.place(r.site.name, layer)


def _run(
    model: Model,
    rollouts: tuple[Rollout, ...],
    read: Sequence[Read],
    write: Mapping[Site, WriteFn] | None,
    score: Sequence[Readout],
    logits_at: Positions | None,
    budget: int,
) -> _Parts:
    batch = Batch(rollouts, model.device)
    wheres = {r: batch.where(r.positions) for r in read}
    kept: dict[tuple[Read, int], Tensor] = {}
    wanted = [(r, layer) for r in read for layer in r.site.at(model.n_layers)]
    taps = [Tap(r.site.name, layer, partial(_keep, kept, (r, layer), wheres[r])) for r, layer in wanted]
    lines: dict[str, pd.DataFrame] = {}
    linear = [s for s in score if isinstance(s, LinearReadout)]
    log_odds = [s for s in score if isinstance(s, LogOddsReadout)]
    groups = linear_groups(model, batch, linear)
    places = [s.positions for s in log_odds] + ([logits_at] if logits_at is not None else [])
    where = _union(batch, places) if places else None
    logits = execute(model, batch, [*taps, *(group.tap(model) for group in groups)], write, where)
    for group in groups:
        lines |= group.lines(batch)
    values = {r: torch.stack([kept[r, layer].cpu() for layer in r.site.at(model.n_layers)]) for r in read}
    parts = _Parts({r: wheres[r].frame(batch) for r in read}, values, pd.DataFrame(columns=SCORE_COLUMNS))
    if log_odds:
        assert logits is not None
        assert where is not None
        lines |= log_odds_scores(model, batch, log_odds, where, logits, write, budget)
    if logits_at is not None:
        assert logits is not None
        assert where is not None
        asked = batch.where(logits_at)
        parts.logits, parts.logit_rows = logits[match(where, asked)].float().cpu(), asked.frame(batch)
    if lines:
        parts.scores = pd.concat([lines[s.name] for s in score], ignore_index=True)
    return parts


def _keep(
    kept: dict[tuple[Read, int], Tensor],
    key: tuple[Read, int],
    where: Where,
    value: Tensor | Pattern,
    _: BatchView,
) -> None:
    kept[key] = where.gather(value)


def _union(batch: Batch, wanted: Sequence[Positions | FrozenPositions]) -> Where:
    chosen = [np.unique(np.concatenate([resolve(p, r) for p in wanted])) for r in batch.rollouts]
    rows = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
    return Where(rows, np.concatenate(chosen).astype(np.int64), batch.device)


def forward(
    model: Model,
    rollouts: Sequence[Rollout],
    read: Sequence[Read] = (),
    write: Mapping[Site, WriteFn] | None = None,
    score: Sequence[Readout] = (),
    plan: BatchPlan | None = None,
    *,
    logits_at: Positions | None = None,
) -> Pass:
    """Runs a model on rollouts: capture, edits and scores in the same passes. Rows come in the rollouts'
    order.

    Args:
        model: the model.
        rollouts: what it is run on; ids must be unique.
        read: sites and positions to return, for example ``[Site("resid_post") @ "thinking:8,think_end"]``.
        write: site to ``fn(value, view) -> new value``, see ``hooks.writing``.
        score: readouts to evaluate.
        plan: which rollouts share a batch; made from the lengths if not given.
        logits_at: positions whose full logits are returned.

    Raises:
        InputError: the rollouts, sites, readouts or plan do not fit the model or each other.
    """
    rollouts = list(rollouts)
    done = list(passes(model, rollouts, read, write, score, plan, logits_at=logits_at))
    at = {rollout.id: i for i, rollout in enumerate(rollouts)}
    rows, values = {}, {}
    for r in read:
        rows[r], order = _in_order([p.rows[r] for p in done], at)
        values[r] = _place([p.values[r] for p in done], order)
    merged = Pass(rows, values, _sorted_scores([p.scores for p in done], at, score), done[-1].plan, tuple(at.values()))
    if logits_at is not None:
        frame, order = _in_order([p.logit_rows for p in done if p.logit_rows is not None], at)
        logits = _place([p.logits[None] for p in done if p.logits is not None], order)[0]
        merged = Pass(rows, values, merged.scores, merged.plan, merged.batch, logits, frame)
    return merged


def _place(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    """Joins parts along their rows so that row ``i`` is what stood at ``order[i]``, with one copy at most."""
    if len(parts) == 1 and torch.equal(order, torch.arange(len(order))):
        return parts[0]
    out = parts[0].new_empty(parts[0].shape[0], len(order), *parts[0].shape[2:])
    slots = torch.empty_like(order)
    slots[order] = torch.arange(len(order))
    at = 0
    for part in parts:
        out.index_copy_(1, slots[at : at + part.shape[1]], part)
        at += part.shape[1]
    return out


def _in_order(frames: Sequence[pd.DataFrame], at: Mapping[str, int]) -> tuple[pd.DataFrame, Tensor]:
    frame = pd.concat(frames, ignore_index=True)
    order = np.argsort(frame["rollout"].map(at).to_numpy(dtype=np.int64), kind="stable")
    return frame.iloc[order].reset_index(drop=True), torch.from_numpy(order)


def _sorted_scores(frames: Sequence[pd.DataFrame], at: Mapping[str, int], score: Sequence[Readout]) -> pd.DataFrame:
    frames = [f for f in frames if len(f)] or list(frames[:1])
    frame = pd.concat(frames, ignore_index=True)
    names = {s.name: i for i, s in enumerate(score)}
    keys = (
        frame["rollout"].map(at).to_numpy(dtype=np.int64),
        frame["readout"].map(names).to_numpy(dtype=np.int64),
    )
    return frame.iloc[np.lexsort(keys)].reset_index(drop=True)
