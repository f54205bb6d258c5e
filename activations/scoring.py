"""Evaluates readouts inside a forward pass: linear ones where the site fires, log-odds from gathered
logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations.batch import Batch, Where, execute, match
from verdictscope.activations.hooks import BatchView, Tap, WriteFn
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.positions import FrozenPositions, Positions, freeze
from verdictscope.activations.readouts import IdString, LinearReadout, LogOddsReadout
from verdictscope.activations.sites import Site
from verdictscope.activations.transfer import Transfer
from verdictscope.activations.weights import apply_final_norm
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.limits import check_lengths
from verdictscope.rollouts.engines.rope import changing
from verdictscope.rollouts.rollout import Rollout, Span

if TYPE_CHECKING:
    from verdictscope.activations.model import Model

SCORE_COLUMNS = ["rollout", "pos", "segment", "token_id", "readout", "layer", "score"]

Lines = dict[tuple[str, int | None], pd.DataFrame]
"""Lines of the score table by name and layer of their readout."""
CHUNK = 4096
"""Rows that are gathered, normed and widened to float32 at a time."""


def readout_key(readout: LinearReadout | LogOddsReadout, n_layers: int) -> tuple[str, int | None]:
    """Key of a readout's rows in the score table: one name may be read at several layers."""
    if isinstance(readout, LogOddsReadout):
        return readout.name, None
    return readout.name, Site(readout.site, readout.layer).at(n_layers)[0]


def score_frame(where: Where, batch: Batch, name: str, layer: int | None, scores: Tensor) -> pd.DataFrame:
    """Scores of one readout as lines of the score table."""
    frame = where.frame(batch)[["rollout", "pos", "segment", "token_id"]]
    frame["readout"] = name
    frame["layer"] = pd.array([layer] * len(frame), dtype="Int64")
    frame["score"] = scores.double().cpu().numpy()
    return frame


@dataclass(eq=False)
class LinearGroup:
    """Linear readouts at the same site and positions, evaluated together: the rows are gathered (and normed) once."""

    site: str
    layer: int
    final_norm: bool
    positions: Positions | FrozenPositions
    readouts: list[LinearReadout] = field(default_factory=list)

    @cached_property
    def weight(self) -> Float[Tensor, "value readout"]:
        """The directions side by side, in float32."""
        return torch.from_numpy(np.stack([np.reshape(r.weight, -1) for r in self.readouts], axis=1)).float()

    @cached_property
    def bias(self) -> Float[Tensor, " readout"]:
        """The offsets."""
        return torch.tensor([r.bias for r in self.readouts])

    def tap(self, model: Model, where: Where, transfer: Transfer) -> tuple[Tap, ScoredRows]:
        """The hook that evaluates the readouts on the device, and where their scores arrive."""
        found = ScoredRows(self, where)
        return Tap(self.site, self.layer, partial(self._evaluate, model, found, transfer)), found

    def _evaluate(self, model: Model, found: ScoredRows, transfer: Transfer, value: Tensor, _: BatchView) -> None:
        if self.weight.device != value.device:  # once a run, not once a batch
            self.__dict__ |= {"weight": self.weight.to(value.device), "bias": self.bias.to(value.device)}
        scores = torch.empty(len(found.where), len(self.readouts), device=value.device)
        for part in found.where.parts(CHUNK):
            rows = found.where.gather(value, part)
            if self.final_norm:
                rows = apply_final_norm(model, rows)
            scores[part] = rows.flatten(1).float() @ self.weight + self.bias
        found.scores = transfer.room(tuple(scores.shape), scores)
        transfer.copy(scores, found.scores)


@dataclass(eq=False)
class ScoredRows:
    """Scores of a group in one batch; they are there once the transfer has been waited for."""

    group: LinearGroup
    where: Where
    scores: Float[Tensor, "row readout"] | None = None

    def lines(self, batch: Batch) -> Lines:
        """The score table's lines, by readout."""
        assert self.scores is not None
        pairs, layer = zip(self.group.readouts, self.scores.unbind(1), strict=True), self.group.layer
        return {(r.name, layer): score_frame(self.where, batch, r.name, layer, column) for r, column in pairs}


def linear_groups(model: Model, readouts: Sequence[LinearReadout]) -> list[LinearGroup]:
    """Linear readouts grouped by site, layer and positions."""
    groups: dict[tuple, LinearGroup] = {}
    for readout in readouts:
        layer = Site(readout.site, readout.layer).at(model.n_layers)[0]
        width = math.prod(model.sites.shape(readout.site, layer))
        if np.size(readout.weight) != width:
            raise InputError(f"readout {readout.name}: {np.size(readout.weight)} weights for a site of width {width}")
        key = (readout.site, layer, readout.final_norm, freeze(readout.positions))
        groups.setdefault(key, LinearGroup(*key)).readouts.append(readout)
    return list(groups.values())


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
        check_vocabulary(readout, first.shape[-1], strings)
        total = torch.stack([first[:, s[0]] for s in strings], dim=1)
        longer = [s for s in strings if len(s) > 1]
        if longer and len(rows):
            rest = _continuations(model, batch, rows, longer, write, budget)
            for column, string in enumerate(strings):
                if len(string) > 1:
                    total[:, column] += rest[string].to(total.device)
        n = len(readout.positive)
        odds = total[:, :n].logsumexp(-1) - total[:, n:].logsumexp(-1)
        lines[readout.name, None] = score_frame(rows, batch, readout.name, None, odds)
    return lines


def check_vocabulary(readout: LogOddsReadout, vocab: int, strings: Sequence[IdString]) -> None:
    """Raises ``InputError`` for a label that the model cannot write."""
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
    row's own token is kept, so the score cannot depend on later tokens of the rollout. Where position embeddings
    depend on the length, every token has a sequence of its own: the one that the model would go on from.
    """
    each = bool(changing(model.hf))
    stems = sorted({s[:k] for s in strings for k in (range(1, len(s)) if each else (len(s) - 1,))})
    jobs = [(i, stem) for stem in stems for i in range(len(rows))]
    sequences = [with_label(batch.rollouts[rows.rows[i]], int(rows.tokens[i]), stem) for i, stem in jobs]
    check_lengths(model.hf, ((s.id, len(s)) for s in sequences))
    plan = BatchPlan.make([len(s) for s in sequences], max(budget, 1))
    result = {s: torch.zeros(len(rows)) for s in strings}
    for chosen in plan.batches:
        part = Batch(
            tuple(sequences[j] for j in chosen),
            batch.device,
            tuple((batch.rollouts[rows.rows[jobs[j][0]]], int(rows.tokens[jobs[j][0]]) + 1) for j in chosen),
        )
        # The logits that predict token k of the string are at token k - 1 of it.
        tokens = [np.arange(len(sequences[j]) - (1 if each else len(jobs[j][1])), len(sequences[j])) for j in chosen]
        where = Where(np.repeat(np.arange(len(chosen)), [len(t) for t in tokens]), np.concatenate(tokens), batch.device)
        logits = execute(model, part, (), write, where)
        assert logits is not None
        logp = logits.float().log_softmax(-1).cpu()
        at = 0
        for j, t in zip(chosen, tokens, strict=True):
            i, stem = jobs[j]
            for string in (s for s in strings if s[: len(stem)] == stem and (each or len(s) == len(stem) + 1)):
                predicted = string[len(stem) + 1 - len(t) : len(stem) + 1]
                result[string][i] += logp[torch.arange(at, at + len(t)), torch.tensor(predicted)].sum()
            at += len(t)
    return result


def with_label(rollout: Rollout, token: int, stem: IdString) -> Rollout:
    """The rollout up to and including ``token``, followed by the tokens of a label, if any, as its answer."""
    if not stem:
        return rollout.cut(token + 1)
    end = token + 1
    spans = tuple(Span(s.segment, s.start, min(s.stop, end)) for s in rollout.spans if s.start < end)
    return replace(
        rollout,
        ids=(*rollout.ids[:end], *stem),
        spans=(*spans, Span("answer", end, end + len(stem))),
        n_prompt=min(rollout.n_prompt, end),
        n_forced=min(rollout.n_forced, max(end - rollout.n_prompt, 0)),
    )
