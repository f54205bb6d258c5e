"""Rollouts laid out for one call of the model, and that call.

Batches are right-padded with explicit position ids; the model keeps its own attention kernels. No mask is given:
padding comes after every real token, and a causal model never looks ahead, so the kernels stay on their fastest path
and nothing of the size tokens x tokens is made. Without logits the head is not called and the pass ends after the
deepest wanted site; with logits the head sees only the wanted rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from verdictscope.activations.attention import Pattern
from verdictscope.activations.hooks import BatchView, Stop, Tap, WriteFn, attach, hooked
from verdictscope.activations.positions import FrozenPositions, Positions, resolve
from verdictscope.activations.sites import Site
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.rope import as_alone
from verdictscope.rollouts.engines.state import evaluating, watching
from verdictscope.rollouts.rollout import Rollout

if TYPE_CHECKING:
    from verdictscope.activations.model import Model


@runtime_checkable
class LaidOut(Protocol):
    """Tokens laid out for one call of the model."""

    @property
    def ids(self) -> Tensor:
        """Token ids."""

    @property
    def view(self) -> BatchView:
        """What they are."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every row's whole rollout, by which some models choose their position embeddings."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rollouts laid out for one call of the model."""

    rollouts: tuple[Rollout, ...]
    device: torch.device
    origins: tuple[tuple[Rollout, int], ...] | None = None
    ids: Tensor = field(init=False)
    view: BatchView = field(init=False)

    def __post_init__(self) -> None:
        longest = max(len(r) for r in self.rollouts)
        ids = torch.zeros(len(self.rollouts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, rollout in enumerate(self.rollouts):
            ids[row, : len(rollout)] = torch.tensor(rollout.ids)
            mask[row, : len(rollout)] = True
        positions = torch.arange(longest).expand_as(ids)
        object.__setattr__(self, "ids", ids.to(self.device))
        view = BatchView(0, self.rollouts, positions.to(self.device), mask.to(self.device), self.origins)
        object.__setattr__(self, "view", view)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of every row's whole rollout, a label appended to its beginning counted."""
        whole = self.rollouts if self.origins is None else [rollout for rollout, _ in self.origins]
        return tuple(max(len(r), len(w)) for r, w in zip(self.rollouts, whole, strict=True))

    def where(self, positions: Positions | FrozenPositions) -> Where:
        """The chosen tokens of the batch, rollout by rollout."""
        chosen = [resolve(positions, rollout) for rollout in self.rollouts]
        rows = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
        return Where(rows, np.concatenate(chosen).astype(np.int64), self.device)


@runtime_checkable
class Listener(Protocol):
    """What sees every batch of a run while the model runs, and keeps what it makes of it."""

    def begin(self, model: Model, rollouts: Sequence[Rollout]) -> None:
        """Called once, before the first batch."""

    def taps(self, model: Model, batch: Batch) -> list[Tap]:
        """The hooks of one batch; called again for each half of a batch that did not fit into memory."""


class Where:
    """Rows of a batch, ascending: which rollout and which token, on the host and on the device."""

    def __init__(self, rows: np.ndarray, tokens: np.ndarray, device: torch.device) -> None:
        self.rows, self.tokens = rows, tokens
        self._frame: pd.DataFrame | None = None
        self.index = (torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device))

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, value: Tensor | Pattern, part: slice | None = None) -> Tensor:
        """``[batch pos ...]`` to ``[row ...]``, a new tensor on the value's device; ``part`` takes some of the rows."""
        rows, tokens = (i if part is None else i[part] for i in self.index)
        return value[rows.to(value.device), tokens.to(value.device)]

    def gather_into(self, value: Tensor, out: Tensor) -> None:
        """``gather`` on the CPU, straight to where the rows stay."""
        flat = self.index[0] * value.shape[1] + self.index[1]
        torch.index_select(value.flatten(0, 1), 0, flat, out=out)

    def parts(self, size: int) -> Iterator[slice]:
        """The rows in pieces of at most ``size``."""
        return (slice(a, a + size) for a in range(0, len(self), size))

    def frame(self, batch: Batch) -> pd.DataFrame:
        """The rows as a table, made once."""
        if self._frame is None:
            starts = np.searchsorted(self.rows, np.arange(len(batch.rollouts) + 1))
            token_ids, segments = np.empty(len(self), np.int64), np.empty(len(self), object)
            for row, rollout in enumerate(batch.rollouts):
                here = slice(starts[row], starts[row + 1])
                token_ids[here] = np.asarray(rollout.ids, dtype=np.int64)[self.tokens[here]]
                segments[here] = segment_names(rollout)[self.tokens[here]]
            names = np.array([r.id for r in batch.rollouts], dtype=object)[self.rows]
            self._frame = pd.DataFrame(
                {"rollout": names, "pos": self.tokens, "token_id": token_ids, "segment": segments}
            )
        return self._frame


def segment_names(rollout: Rollout) -> np.ndarray:
    """The segment of every token, as an array of strings."""
    names = np.array([span.segment for span in rollout.spans], dtype=object)
    return np.repeat(names, [len(span) for span in rollout.spans])


@contextmanager
def gathered_logits(model: Model, rows: Tensor, tokens: Tensor) -> Iterator[None]:
    """Inside the block the model's head sees only the given rows, so its logits are ``[1 row vocab]``.

    What the stock model does after its head (soft cap, scaling) is done by the stock code.
    """
    head = _head(model)
    handle = attach(head, "in", lambda x: x[rows.to(x.device), tokens.to(x.device)][None])
    try:
        yield
    finally:
        handle.remove()


def head_logits(model: Model, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Stock logits of given outputs of the final norm."""
    model.unchanged()
    one_token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with still(model.hf), as_alone(model.hf, [1]):
        handle = attach(_head(model), "in", lambda old: x[None].to(old))
        try:
            return model.hf(input_ids=one_token, use_cache=False).logits[0]
        finally:
            handle.remove()


@contextmanager
def still(hf: PreTrainedModel) -> Iterator[None]:
    """Inside the block passes compute what the stock model does in evaluation, without gradients."""
    with evaluating(hf) as modules, watching(hf, modules), torch.no_grad():
        yield


def _head(model: Model) -> torch.nn.Module:
    if model.sites.unembed is None:
        raise InputError(f"{type(model.hf).__name__} has no head for tokens; log-odds and logits need one")
    return model.sites.unembed


def execute(
    model: Model, batch: LaidOut, taps: Sequence[Tap], write: Mapping[Site, WriteFn] | None, logits: Where | None = None
) -> Tensor | None:
    """One call of the model; returns ``[row vocab]`` logits on the device if rows of them are wanted."""
    if not taps and not write and logits is None:
        return None
    target = model.hf if logits is not None else model.hf.base_model
    kwargs = {"input_ids": batch.ids, "use_cache": False}
    if "position_ids" in inspect.signature(target.forward).parameters:
        kwargs["position_ids"] = batch.view.positions
    if looks_ahead(model):
        kwargs["attention_mask"] = batch.view.mask.long()
    with still(model.hf), as_alone(model.hf, batch.lengths):
        if logits is not None:
            with gathered_logits(model, *logits.index), hooked(model, taps, write, view=batch.view):
                return target(**kwargs).logits[0]
        with suppress(Stop), hooked(model, taps, write, view=batch.view, stop_early=True):
            target(**kwargs)
    return None


def looks_ahead(model: Model) -> bool:
    """Whether a token can attend to later ones, so that padding after it must be masked."""
    config = model.hf.config.get_text_config()
    return not getattr(config, "is_causal", True) or bool(getattr(config, "use_bidirectional_attention", False))


def match(where: Where, asked: Where) -> Tensor:
    """Index of every asked row among ``where``'s rows, which are in the same order and hold them all."""
    width = int(max(where.tokens.max(initial=0), asked.tokens.max(initial=0))) + 1
    found = np.searchsorted(where.rows * width + where.tokens, asked.rows * width + asked.tokens)
    return torch.from_numpy(found).to(where.index[0].device)
