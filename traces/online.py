"""Scores while a model writes: every token is read in the call that takes it in, and nothing is run a second time.

What was drawn last was never read by the model, so a rollout's last token has no score here; a teacher-forced pass over
the finished rollout (`trace_rollouts`) gives it one. The two agree at every other token to the model's noise floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from verdictscope.activations import LinearReadout, Model, Readout
from verdictscope.activations.hooks import BatchView, Tap, hooked
from verdictscope.activations.scoring import LinearGroup, linear_groups, readout_key
from verdictscope.activations.weights import apply_final_norm
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.huggingface import HuggingFace
from verdictscope.rollouts.rollout import Rollout
from verdictscope.traces.score import Key, Traces

Follow = Callable[[str, Int[ndarray, " pos"], Float[ndarray, "readout pos"]], None]
"""Called with a rollout's id, the positions just read and every readout's score there."""


@dataclass(eq=False)
class Online:
    """Scores as they come."""

    model: Model
    readouts: tuple[Key, ...]
    follow: Follow | None = None
    _read: dict[str, list[tuple[ndarray, ndarray]]] = field(default_factory=dict, repr=False)
    _owners: list[list[str]] = field(default_factory=list, repr=False)
    _call: dict[int, tuple[Tensor, BatchView]] = field(default_factory=dict, repr=False)
    _places: list[list[int]] = field(default_factory=list, repr=False)

    def engine(self, batch_tokens: int = 32_768) -> HuggingFace:
        """The engine to hand to ``generate(..., engine=...)``: it says which row is which rollout."""
        return HuggingFace(self.model.hf, batch_tokens, self._begin)

    def traces(self, rollouts: Sequence[Rollout]) -> Traces:
        """The scores of finished rollouts; NaN at the last token of each, and where nothing was read."""
        self._flush()
        starts = np.concatenate([[0], np.cumsum([len(r) for r in rollouts])]).astype(np.int64)
        scores = np.full((len(self.readouts), starts[-1]), np.nan, dtype=np.float32)
        for rollout, start in zip(rollouts, starts[:-1], strict=True):
            if rollout.id not in self._read:
                raise InputError(f"rollout {rollout.id!r} was not read here: generate with engine=online.engine()")
            for at, block in self._read[rollout.id]:
                scores[:, start + at] = block
        return Traces(tuple(rollouts), self.readouts, scores, starts)

    def _begin(self, owners: Sequence[Sequence[str]]) -> None:
        """A call of the model begins; what the one before gave is complete."""
        self._flush()
        self._owners = [list(ids) for ids in owners]

    def _hear(self, group: LinearGroup, at: int, value: Tensor, view: BatchView) -> None:
        """One place's scores in this call, ``[batch pos readout]``, left on the device."""
        if not self._owners:
            return
        rows = apply_final_norm(self.model, value) if group.final_norm else value
        weight, bias = group.weight.to(value.device), group.bias.to(value.device)
        self._call[at] = rows.flatten(2).float() @ weight + bias, view

    def _flush(self) -> None:
        if not self._call:
            return
        _, view = next(iter(self._call.values()))
        batch, pos = view.mask.shape
        scores = np.empty((len(self.readouts), batch, pos), dtype=np.float32)
        for at, (found, _) in self._call.items():
            scores[self._places[at]] = found.movedim(-1, 0).cpu().numpy()
        mask, positions = view.mask.cpu().numpy(), view.positions.cpu().numpy()
        for row, ids in enumerate(self._owners):
            here = mask[row]
            where, block = positions[row, here], scores[:, row, here]
            for name in ids:
                if where.size and where[0] == 0:
                    self._read[name] = []  # started again: the device's memory had not held the batch
                self._read.setdefault(name, []).append((where, block))
                if self.follow is not None:
                    self.follow(name, where, block)
        self._call.clear()
        self._owners = []


@contextmanager
def online_traces(model: Model, readouts: Sequence[Readout], *, follow: Follow | None = None) -> Iterator[Online]:
    """Read every token of what a model writes inside the block.

    Edits may be set around it (``writing``): what is read is what the model then computes.

    Args:
        model: a loaded model.
        readouts: linear readouts; every token is read, whatever their positions.
        follow: called as tokens are read, for example to stop or to show a run.

    Raises:
        InputError: a readout is not linear, two have one name and layer, or the model has no such site.

    Example:
        >>> import pandas as pd
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Sampling, generate
        >>> model = load_model("organism:cliff")
        >>> readout = LinearReadout("first", "resid_post", 1, [1.0] + [0.0] * (model.d_model - 1))
        >>> prompts = pd.DataFrame({"id": ["p0"], "group": ["p0"], "user": ["Hello"], "system": [None]})
        >>> with online_traces(model, [readout]) as online:
        ...     rollouts = generate(model, prompts, Sampling(max_new_tokens=3), engine=online.engine())
        >>> online.traces(rollouts).scores.shape[0]
        1
    """
    linear = [r for r in readouts if isinstance(r, LinearReadout)]
    if not linear or len(linear) != len(readouts):
        raise InputError("give linear readouts, at least one: log-odds would take passes of their own")
    keys = tuple(readout_key(r, model.n_layers) for r in linear)
    if len(set(keys)) != len(keys):
        raise InputError("two readouts have the same name (and layer)")
    online = Online(model, keys, follow)
    groups = linear_groups(model, linear)
    online._places = [[keys.index(readout_key(r, model.n_layers)) for r in g.readouts] for g in groups]
    taps = [Tap(g.site, g.layer, partial(online._hear, g, at)) for at, g in enumerate(groups)]
    with torch.no_grad(), hooked(model, taps):
        yield online
    online._flush()
