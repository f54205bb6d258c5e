"""One set of token sequences through the model in different layouts: alone, with mates, padded, cached."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations.capture import embedding_weight
from verdictscope.activations.forward import forward
from verdictscope.activations.hooks import reading
from verdictscope.activations.model import Model
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.sites import Site
from verdictscope.rollouts.rollout import Rollout, Span

Ids = tuple[int, ...]
States = list[Float[Tensor, "value pos d"]]
"""Per sequence its residual stream before and after every layer, and the final norm."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How sequences of different length share a batch.

    Attributes:
        side: where the padding goes.
        position_ids: whether the model is told which position each token has.
        pad: the token id that fills.
    """

    side: Literal["left", "right"] = "right"
    position_ids: bool = True
    pad: int = 0

    def __str__(self) -> str:
        return f"padded on the {self.side}, {'with' if self.position_ids else 'without'} position ids"


@dataclass(frozen=True, eq=False)
class Seen:
    """What a layout gave.

    Attributes:
        states: ``[value pos d_model]`` per sequence.
        logits: ``[pos vocab]`` per sequence; empty for a model without a head.
    """

    states: list[Tensor]
    logits: list[Tensor]


def as_rollout(name: str, ids: Sequence[int]) -> Rollout:
    """Token ids as a rollout without an answer."""
    return Rollout(name, name, tuple(ids), (Span("user", 0, len(ids)),), len(ids))


def random_sequences(model: Model, lengths: Sequence[int], seed: int = 0) -> list[Ids]:
    """Random token ids of the given lengths, the same on every machine."""
    vocab = embedding_weight(model.hf).shape[0]
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(vocab, (n,), generator=generator).tolist()) for n in lengths]


def captured(model: Model, sequences: Sequence[Ids]) -> Seen:
    """All sequences in one batch, through ``forward``: the way everything else in the package reads."""
    rollouts = [as_rollout(f"s{i}", ids) for i, ids in enumerate(sequences)]
    reads = [Site("resid_pre") @ "all", Site("resid_post") @ "all", Site("final_norm") @ "all"]
    plan = BatchPlan((tuple(range(len(rollouts))),), sum(len(r) for r in rollouts) * 2)
    heads = model.sites.unembed is not None
    done = forward(model, rollouts, reads, plan=plan, logits_at="all" if heads else None)
    values = torch.cat([done.values[r] for r in reads])
    lengths = [len(ids) for ids in sequences]
    logits = list(done.logits.split(lengths)) if done.logits is not None else []
    return Seen(list(values.split(lengths, dim=1)), logits)


def laid_out(model: Model, sequences: Sequence[Ids], layout: Layout) -> Seen:
    """All sequences in one call of the model, laid out as asked."""
    longest = max(len(ids) for ids in sequences)
    ids = torch.full((len(sequences), longest), layout.pad)
    mask = torch.zeros_like(ids)
    starts = [longest - len(s) if layout.side == "left" else 0 for s in sequences]
    for row, (s, start) in enumerate(zip(sequences, starts, strict=True)):
        ids[row, start : start + len(s)] = torch.tensor(s)
        mask[row, start : start + len(s)] = 1
    call = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device), "use_cache": False}
    if layout.position_ids and takes_positions(model):
        call["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0).to(model.device)
    kept: dict[tuple[str, int], Tensor] = {}
    with torch.no_grad(), reading(model, _keepers(kept)):
        out = model.hf(**call)
    values = _stacked(model, kept)
    spans = [(row, slice(start, start + len(s))) for row, (s, start) in enumerate(zip(sequences, starts, strict=True))]
    logits = out.logits.float().cpu() if model.sites.unembed is not None else None
    states = [values[:, row, span] for row, span in spans]
    return Seen(states, [] if logits is None else [logits[row, span] for row, span in spans])


def decoded(model: Model, ids: Ids, steps: int) -> Seen:
    """A prefill, then ``steps`` tokens one at a time from the cache; only the values of these tokens."""
    parts: list[Tensor] = []
    logits: list[Tensor] = []
    cache, tokens = None, torch.tensor([ids], device=model.device)
    cuts = [0, *range(len(ids) - steps, len(ids) + 1)]
    for start, stop in zip(cuts, cuts[1:], strict=False):
        kept: dict[tuple[str, int], Tensor] = {}
        with torch.no_grad(), reading(model, _keepers(kept)):
            call = {"input_ids": tokens[:, start:stop], "past_key_values": cache, "use_cache": True}
            if takes_positions(model):  # as generate does: some families cannot count what a cache holds
                call["position_ids"] = torch.arange(start, stop, device=model.device)[None]
            out = model.hf(**call)
        cache = out.past_key_values
        parts.append(_stacked(model, kept)[:, 0])
        if model.sites.unembed is not None:
            logits.append(out.logits[0].float().cpu())
    tail = torch.cat(parts[1:], dim=1)
    return Seen([tail], [torch.cat(logits[1:])] if logits else [])


def takes_positions(model: Model) -> bool:
    """Whether the model's ``forward`` takes position ids."""
    return "position_ids" in inspect.signature(model.hf.forward).parameters


def _keepers(kept: dict[tuple[str, int], Tensor]) -> dict[Site, object]:
    def keep(name: str) -> object:
        return lambda value, view: kept.__setitem__((name, view.layer), value.detach().cpu())

    return {Site(name): keep(name) for name in ("resid_pre", "resid_post", "final_norm")}


def _stacked(model: Model, kept: dict[tuple[str, int], Tensor]) -> Tensor:
    layers = range(model.n_layers)
    order = [*(("resid_pre", i) for i in layers), *(("resid_post", i) for i in layers)]
    return torch.stack([*(kept[key] for key in order), kept["final_norm", model.n_layers - 1]])


def difference(a: Tensor, b: Tensor) -> Float[Tensor, " row"]:
    """Relative difference of vectors, row by row, in the norm over the last axis."""
    a, b = a.double().flatten(0, -2), b.double().flatten(0, -2)
    return (a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)


def differences(a: Seen, b: Seen) -> Float[Tensor, " row"]:
    """Of everything two layouts gave, sequence by sequence."""
    pairs = [*zip(a.states, b.states, strict=True), *zip(a.logits, b.logits, strict=True)]
    return torch.cat([difference(x, y) for x, y in pairs])
