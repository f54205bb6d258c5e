"""What a readout asks of a few rollouts: which sequences are run, which rows are read, and how they become one number.

A rollout is cut behind the last row that counts; labels of several tokens are appended to copies of it. Positions are
those of the whole rollout all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations import LinearReadout, LogOddsReadout, Model, Readout, Site
from verdictscope.activations.batch import Batch, Where
from verdictscope.activations.capture import embedding_weight
from verdictscope.activations.hooks import Tap
from verdictscope.activations.positions import resolve
from verdictscope.activations.readouts import IdString
from verdictscope.activations.scoring import check_vocabulary, with_label
from verdictscope.activations.weights import apply_final_norm
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout
from verdictscope.rollouts.engines.finite import all_finite, not_finite
from verdictscope.rollouts.engines.limits import check_lengths
from verdictscope.rollouts.engines.rope import changing

Runner = Callable[[Sequence[Tap], Where | None], Tensor | None]
"""Runs one pass with taps and gives the logits of the wanted rows."""


@dataclass(frozen=True)
class Lane:
    """One sequence that is run."""

    who: int
    rollout: Rollout
    origin: tuple[Rollout, int]
    base: tuple[int, ...]
    stem: IdString = ()
    last: bool = False

    @property
    def wanted(self) -> tuple[int, ...]:
        """Positions whose rows are read."""
        if not self.stem:
            return self.base
        if self.last:
            return (self.base[0] + len(self.stem),)
        return tuple(range(self.base[0], self.base[0] + len(self.stem) + 1))


def lanes_of(model: Model, readout: Readout, rollouts: Sequence[Rollout]) -> list[Lane]:
    """The sequences to be run, rollout by rollout."""
    lanes: list[Lane] = []
    stems: list[IdString] = [()]
    each = False
    if isinstance(readout, LogOddsReadout) and any(len(s) > 1 for s in readout.strings):
        each = bool(changing(model.hf))
        cuts = {s: range(len(s)) if each else (len(s) - 1,) for s in readout.strings if each or len(s) > 1}
        stems = sorted({s[:k] for s, at in cuts.items() for k in at})
    for who, rollout in enumerate(rollouts):
        tokens = tuple(int(t) for t in resolve(readout.positions, rollout))
        if not tokens:
            raise InputError(f"readout {readout.name!r} has no position in rollout {rollout.id}: leave it out")
        groups = [tokens] if stems == [()] else [(t,) for t in tokens]
        for base in groups:
            origin = rollout, base[-1] + 1
            lanes += [Lane(who, with_label(rollout, base[-1], stem), origin, base, stem, each) for stem in stems]
    check_lengths(model.hf, ((lane.rollout.id, len(lane.rollout)) for lane in lanes))
    return lanes


@dataclass(eq=False)
class Asked:
    """A readout of the rollouts of one batch."""

    model: Model
    readout: Readout
    lanes: Sequence[Lane]
    batch: Batch = field(init=False)
    sequences: Int[np.ndarray, " row"] = field(init=False)
    tokens: Int[np.ndarray, " row"] = field(init=False)

    def __post_init__(self) -> None:
        lanes = self.lanes
        self.batch = Batch(tuple(x.rollout for x in lanes), self.model.device, tuple(x.origin for x in lanes))
        self.sequences = np.repeat(np.arange(len(lanes)), [len(x.wanted) for x in lanes])
        self.tokens = np.concatenate([np.array(x.wanted, dtype=np.int64) for x in lanes])
        self._begin = np.cumsum([0, *(len(x.wanted) for x in lanes)])

    @property
    def top(self) -> int:
        """The deepest layer that has to be run."""
        if isinstance(self.readout, LogOddsReadout):
            return self.model.n_layers - 1
        return Site(self.readout.site, self.readout.layer).at(self.model.n_layers)[0]

    @property
    def vocab(self) -> int:
        """Logits a row; 0 where none are made."""
        return embedding_weight(self.model.hf).shape[0] if isinstance(self.readout, LogOddsReadout) else 0

    def first(self) -> Int[np.ndarray, " sequence"]:
        """The first wanted position of every sequence."""
        return np.array([lane.wanted[0] for lane in self.lanes], dtype=np.int64)

    def read(self, run: Runner, where: Where) -> Float[Tensor, "row value"]:
        """The rows that the readout needs: of its site, or logits."""
        if isinstance(self.readout, LogOddsReadout):
            logits = run([], where)
            assert logits is not None
            if not all_finite(logits.amax(-1)):
                raise not_finite(self.model.hf, f"the logits for {self.readout.name!r}")
            return logits
        found: list[Tensor] = []
        run([Tap(self.readout.site, self.top, lambda value, _: found.append(where.gather(value)))], None)
        if not all_finite(found[0]):
            raise not_finite(self.model.hf, f"the values of {self.readout.site}[{self.top}] for {self.readout.name!r}")
        return found[0].flatten(1)

    def scores(self, rows: Float[Tensor, "row value"]) -> Float[np.ndarray, "variant rollout"]:
        """One number per rollout, the mean over its positions, from the rows of one or several variants."""
        if isinstance(self.readout, LogOddsReadout):
            values = self._log_odds(self.readout, rows)
            who = np.array([x.who for i, x in enumerate(self.lanes) if self._leads(i) for _ in x.base])
        else:
            values, who = self._linear(self.readout, rows), np.array([self.lanes[s].who for s in self.sequences])
        scores = values.double().cpu().numpy().reshape(-1, len(who))
        return np.stack([scores[:, who == w].mean(1) for w in np.unique(who)], axis=1)

    def _linear(self, readout: LinearReadout, rows: Tensor) -> Tensor:
        if readout.final_norm:
            rows = apply_final_norm(self.model, rows)
        weight = torch.tensor(readout.weight, dtype=torch.float32, device=rows.device).flatten()
        return rows.float() @ weight + readout.bias

    def _leads(self, lane: int) -> bool:
        """Whether a lane is the first of those that differ in the label's beginning only."""
        before, this = self.lanes[lane - 1], self.lanes[lane]
        return lane == 0 or (before.who, before.base) != (this.who, this.base)

    def _log_odds(self, readout: LogOddsReadout, rows: Tensor) -> Tensor:
        """Log-odds at every base position; ``log p`` of a label is summed over its tokens, as they follow."""
        strings = readout.strings
        check_vocabulary(readout, rows.shape[-1], strings)
        cells, picks, tokens = self._picks(strings)
        logp = rows.float().log_softmax(-1).reshape(-1, len(self.tokens), rows.shape[-1])
        taken = logp[:, picks, tokens]
        total = taken.new_zeros(len(taken), int(cells.max()) + 1).index_add_(1, cells.to(taken.device), taken)
        total = total.reshape(len(taken), -1, len(strings))
        n = len(readout.positive)
        return total[..., :n].logsumexp(-1) - total[..., n:].logsumexp(-1)

    def _picks(self, strings: Sequence[IdString]) -> tuple[Tensor, Tensor, Tensor]:
        """Which numbers of the rows make up ``log p`` of which label at which base position."""
        found, at = [], -1
        for number, lane in enumerate(self.lanes):
            leads = self._leads(number)
            for offset in range(len(lane.base)):
                at += leads
                row = int(self._begin[number]) + offset
                for column, string in enumerate(strings):
                    cell = at * len(strings) + column
                    if lane.last:
                        k = len(lane.stem)
                        found += [(cell, row, string[k])] if k < len(string) and string[:k] == lane.stem else []
                    elif (len(string) == 1 and leads) or (len(string) > 1 and string[:-1] == lane.stem):
                        found += [(cell, row + step, token) for step, token in enumerate(string)]
        cells, picks, tokens = torch.tensor(found).T
        return cells, picks, tokens
