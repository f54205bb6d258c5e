"""One set of token sequences through the model in different layouts: alone, with batch mates, padded, cached."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

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
SITES_READ = ("resid_pre", "resid_post", "final_norm")


@dataclass(frozen=True, slots=True)
class Layout:
    """How sequences of different length share a batch: where padding goes, whether the model gets position ids, and
    the token id used as padding."""

    side: Literal["left", "right"] = "right"
    position_ids: bool = True
    pad: int = 0

    def __str__(self) -> str:
        return f"padded on the {self.side}, {'with' if self.position_ids else 'without'} position ids"


@dataclass(frozen=True, eq=False)
class Values:
    """Per sequence: states ``[value pos d_model]`` and logits ``[pos vocab]`` (no logits without a head)."""

    states: list[Tensor]
    logits: list[Tensor]

    def at(self, tokens: slice) -> Values:
        """The values at some tokens of every sequence."""
        return Values([s[:, tokens] for s in self.states], [x[tokens] for x in self.logits])


def as_rollout(name: str, ids: Sequence[int]) -> Rollout:
    """Token ids as a rollout without an answer."""
    return Rollout(name, name, tuple(ids), (Span("user", 0, len(ids)),), len(ids))


def random_sequences(model: Model, lengths: Sequence[int], seed: int = 0) -> list[Ids]:
    """Random token ids of the given lengths, the same on every machine."""
    vocab = embedding_weight(model.hf).shape[0]
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(vocab, (n,), generator=generator).tolist()) for n in lengths]


def in_one_batch(model: Model, sequences: Sequence[Ids]) -> Values:
    """All sequences in one batch, through ``forward``: the way everything else in the package reads."""
    rollouts = [as_rollout(f"s{i}", ids) for i, ids in enumerate(sequences)]
    reads = [Site(name) @ "all" for name in SITES_READ]
    plan = BatchPlan((tuple(range(len(rollouts))),), sum(len(r) for r in rollouts) * 2)
    done = forward(model, rollouts, reads, plan=plan, logits_at="all" if model.sites.unembed is not None else None)
    lengths = [len(ids) for ids in sequences]
    values = torch.cat([done.values[r] for r in reads])
    return Values(
        list(values.split(lengths, dim=1)), list(done.logits.split(lengths)) if done.logits is not None else []
    )


def laid_out(model: Model, sequences: Sequence[Ids], layout: Layout) -> Values:
    """All sequences in one call of the model, laid out as given."""
    longest = max(len(ids) for ids in sequences)
    ids = torch.full((len(sequences), longest), layout.pad)
    mask = torch.zeros_like(ids)
    starts = [longest - len(s) if layout.side == "left" else 0 for s in sequences]
    for row, (s, start) in enumerate(zip(sequences, starts, strict=True)):
        ids[row, start : start + len(s)] = torch.tensor(s)
        mask[row, start : start + len(s)] = 1
    call: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if layout.position_ids and takes_positions(model):
        call["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    values, logits, _ = _called(model, {key: value.to(model.device) for key, value in call.items()}, use_cache=False)
    spans = [(row, slice(start, start + len(s))) for row, (s, start) in enumerate(zip(sequences, starts, strict=True))]
    return Values(
        [values[:, row, span] for row, span in spans],
        [] if logits is None else [logits[row, span] for row, span in spans],
    )


def decoded(model: Model, ids: Ids, steps: int) -> Values:
    """A prefill, then ``steps`` tokens one at a time from the cache; only the values of these tokens."""
    parts: list[Tensor] = []
    logits: list[Tensor] = []
    cache, tokens = None, torch.tensor([ids], device=model.device)
    cuts = [0, *range(len(ids) - steps, len(ids) + 1)]
    for start, stop in zip(cuts, cuts[1:], strict=False):
        call: dict[str, Any] = {"input_ids": tokens[:, start:stop], "past_key_values": cache}
        if takes_positions(model):  # as generate does: some families cannot count what a cache holds
            call["position_ids"] = torch.arange(start, stop, device=model.device)[None]
        values, made, cache = _called(model, call, use_cache=True)
        parts.append(values[:, 0])
        logits += [] if made is None else [made[0]]
    return Values([torch.cat(parts[1:], dim=1)], [torch.cat(logits[1:])] if logits else [])


def _called(model: Model, call: dict[str, Any], use_cache: bool) -> tuple[Tensor, Tensor | None, Any]:
    """One call of the model itself: states ``[value batch pos d_model]``, logits, and the cache."""
    kept: dict[tuple[str, int], Tensor] = {}

    def keep(name: str, value: Tensor, view: Any) -> None:
        kept[name, view.layer] = value.detach().cpu()

    with torch.no_grad(), reading(model, {Site(name): partial(keep, name) for name in SITES_READ}):
        out = model.hf(**call, use_cache=use_cache)
    order = [(name, layer) for name in SITES_READ for layer in Site(name).at(model.n_layers)]
    logits = out.logits.float().cpu() if model.sites.unembed is not None else None
    return torch.stack([kept[key] for key in order]), logits, getattr(out, "past_key_values", None)


def takes_positions(model: Model) -> bool:
    """Whether the model's ``forward`` takes position ids."""
    return "position_ids" in inspect.signature(model.hf.forward).parameters


def difference(a: Tensor, b: Tensor) -> Float[Tensor, " row"]:
    """Relative difference of vectors, row by row, in the norm over the last axis."""
    a, b = a.double().flatten(0, -2), b.double().flatten(0, -2)
    return (a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)


def differences(a: Values, b: Values) -> Float[Tensor, " row"]:
    """Of everything two layouts gave, sequence by sequence."""
    pairs = [*zip(a.states, b.states, strict=True), *zip(a.logits, b.logits, strict=True)]
    return torch.cat([difference(x, y) for x, y in pairs])
