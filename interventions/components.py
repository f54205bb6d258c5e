"""Components below a readout and their attribution, computed where the values pass.

A direction is pulled back through the final norm, a branch's gain, its post-norm and the output projection to where a
component's value is read; there the attribution is one product. So nothing as wide as the model leaves the device.

What enters the first layer is measured, never listed by family: Gemma scales the embedding by the root of its width,
Granite by a number, GPT-2 and OPT add a vector per position, Bloom norms it. Where the stream is not one number times
the embedding plus something that the position alone decides, the embedding stays one component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations import Model, Site, forward
from verdictscope.activations.batch import Batch, Where
from verdictscope.activations.capture import RELATIVE, probe_ids
from verdictscope.activations.hooks import BatchView, Tap
from verdictscope.activations.positions import FrozenPositions, Positions, explicit
from verdictscope.activations.weights import (
    FinalNorm,
    attention_gain,
    final_norm,
    head_output_bias,
    head_output_weight,
    post_attention_norm,
)
from verdictscope.errors import InputError
from verdictscope.interventions.linear_forms import LinearForm
from verdictscope.rollouts import Rollout, Span

N_TOKENS = 12


@dataclass(frozen=True, eq=False)
class EmbeddingParts:
    """How the first layer's input is made."""

    model: Model
    scale: float | None
    split: bool

    def tokens(self, ids: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row d_model"]:
        """The token part of the stream at each row."""
        assert self.scale is not None
        known, at = np.unique(ids, return_inverse=True)
        return self.scale * _embedded(self.model, torch.from_numpy(known)).double().cpu().numpy()[at]


def embedding_parts(model: Model) -> EmbeddingParts:
    """Finds out how the stream begins, in one pass over two short random sequences that ends before the first layer."""
    ids = [probe_ids(model.hf, N_TOKENS, seed)[0].tolist() for seed in (2, 3)]
    pair = [Rollout(f"e{i}", "0", tuple(s), (Span("user", 0, len(s)),), len(s)) for i, s in enumerate(ids)]
    read = Site("resid_pre", 0) @ "all"
    stream = forward(model, pair, [read]).values[read][0].double().reshape(2, N_TOKENS, -1)
    table = torch.stack([_embedded(model, torch.tensor(s)).double().cpu() for s in ids])
    if table.shape != stream.shape:
        return EmbeddingParts(model, None, False)
    apart, moved = table[0] - table[1], stream[0] - stream[1]
    scale = float((apart * moved).sum() / apart.pow(2).sum())
    allowed = RELATIVE.get(model.dtype, 1e-5)
    if not (moved - scale * apart).norm() <= allowed * moved.norm():
        return EmbeddingParts(model, None, False)
    rest = stream - scale * table
    return EmbeddingParts(model, scale, bool(rest.norm() > allowed * stream.norm()))


def _embedded(model: Model, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
    with torch.no_grad():
        # ``forward`` and not a call: the module may carry hooks, which this is no part of.
        return model.hf.get_input_embeddings().forward(ids[None].to(model.device))[0]


Component: TypeAlias = tuple[str, int, int]
"""Component, layer, head; -1 where there is none."""

CHUNK = 2048
"""Rows that are widened to float64 at a time."""


@dataclass(frozen=True, eq=False)
class HeadMap:
    """What a layer's heads at ``z`` are multiplied with to give their shares."""

    weight: Float[Tensor, "head d_head target"]
    bias: Float[Tensor, " target"] | None
    constant: Float[Tensor, " target"] | None
    post: tuple[FinalNorm, Tensor, Tensor] | None

    def factor(self, z: Float[Tensor, "row head d_head"]) -> Float[Tensor, "row 1 1"]:
        """One over the size of the whole branch, which a post-norm divides by; ones without one."""
        if self.post is None:
            return z.new_ones(len(z), 1, 1)
        norm, weight, bias = self.post
        out = einsum(z, weight.to(z), "row head d_head, head d_head d_model -> row d_model") + bias.to(z)
        return norm.inv_scale(out)[:, :, None]


def pulled(norm: FinalNorm, direction: Float[Tensor, "d_model target"]) -> Float[Tensor, "d_model target"]:
    """A direction behind a norm as one in front of it, short of the norm's divisor."""
    return norm.centre((direction * norm.gain.to(direction)[:, None]).T).T


def head_map(model: Model, layer: int, direction: Float[Tensor, "d_model target"]) -> HeadMap:
    """How the heads of a layer write along a direction of the residual stream."""
    weight, bias = head_output_weight(model, layer), head_output_bias(model, layer)
    norm = post_attention_norm(model, layer)
    direction = direction.to(weight.device) * attention_gain(model, layer)
    constant = None if norm is None or norm.bias is None else norm.bias.to(direction) @ direction
    inner = direction if norm is None else pulled(norm, direction)
    written = einsum(weight.to(inner.dtype), inner, "head d_head d_model, d_model target -> head d_head target")
    silent = constant is None and not bias.any()
    own = None if silent else bias.to(inner) @ inner
    return HeadMap(written, own, constant, None if norm is None else (norm, weight, bias))


@dataclass(eq=False)
class Components:
    """The parts below a readout, and their shares batch by batch; handed to ``passes`` as a listener."""

    model: Model
    form: LinearForm
    positions: Positions | FrozenPositions
    notes: list[str] = field(default_factory=list)
    where: Where | None = None

    def __post_init__(self) -> None:
        form, model = self.form, self.model
        self.wide = torch.float32 if model.device.type == "mps" else torch.float64
        self.norm = final_norm(model) if form.through_norm else None
        weight = torch.tensor(form.weight, dtype=self.wide)
        norm = self.norm
        self.direction = weight if norm is None else pulled(_moved(norm, weight.device), weight)
        self.maps: dict[int, HeadMap] = {}
        self.embedding: EmbeddingParts | None = None
        self._shares: dict[Component, Tensor] = {}
        self._factor: Tensor | None = None
        self._on: dict[torch.device, Tensor] = {}
        self._jobs = list(self._list_jobs())

    def begin(self, model: Model, rollouts: Sequence[Rollout]) -> None:
        """Called once by the run that feeds this."""
        self._where = explicit(self.positions, rollouts, model.optional_tokenizer)

    def taps(self, model: Model, batch: Batch) -> list[Tap]:
        """The hooks of one batch; what the batch before left is forgotten."""
        self._shares, self._factor = {}, None
        self.where = where = batch.where(self._where)
        return [Tap(site, layer, partial(self._see, fn, where)) for site, layer, fn in self._jobs]

    def _see(self, fn: Callable[[slice, Tensor], None], where: Where, value: Tensor, _: BatchView) -> None:
        for part in where.parts(CHUNK):
            fn(part, where.gather(value, part).to(self.wide))

    # -- what is read where
    # --------------------------------------------------------------------------------------------------------------

    def _list_jobs(self) -> Iterator[tuple[str, int, Callable[[slice, Tensor], None]]]:
        """(site, layer, what is done with its rows), for every component below the readout."""
        site, top = self.form.site, self.form.layer
        if site == "z":
            yield "z", top, self._own_heads
            return
        if site in ("attn_out", "mlp_out"):
            yield from self._attention(top) if site == "attn_out" else self._mlp(top)
            return
        self.embedding = embedding_parts(self.model)
        yield "resid_pre", 0, partial(self._whole, ("embed", -1, -1))
        for layer in range(top + (site == "resid_post")):
            yield from self._attention(layer)
            yield from self._mlp(layer)
            if not self.model.sites.blocks[layer].whole:
                yield "resid_pre", layer, partial(self._rest, layer, -1)
                yield "resid_post", layer, partial(self._rest, layer, 1)
                self.notes.append(f"layer {layer}: what its branches add is not all known; what they leave is `rest`")
        if site == "resid_mid":
            yield from self._attention(top)
        if self.norm is not None:
            yield site, top, self._size

    def _attention(self, layer: int) -> Iterator[tuple[str, int, Callable[[slice, Tensor], None]]]:
        block = self.model.sites.blocks[layer]
        if block.attn is None:
            return
        if block.o is not None:
            try:
                self.maps[layer] = head_map(self.model, layer, self.direction)
            except InputError as error:
                self.notes.append(f"layer {layer}: attention is one part, without heads: {error}")
            else:
                yield "z", layer, partial(self._heads, layer)
                return
        yield "attn_out", layer, partial(self._whole, ("attn", layer, -1))

    def _mlp(self, layer: int) -> Iterator[tuple[str, int, Callable[[slice, Tensor], None]]]:
        if self.model.sites.blocks[layer].mlp is not None:
            yield "mlp_out", layer, partial(self._whole, ("mlp", layer, -1))

    # -- what is done with it
    # --------------------------------------------------------------------------------------------------------------

    def _at(self, device: torch.device) -> Tensor:
        if device not in self._on:
            self._on[device] = self.direction.to(device)
        return self._on[device]

    def _put(self, part: Component, rows: slice, shares: Float[Tensor, "row target"]) -> None:
        assert self.where is not None
        if part not in self._shares:
            self._shares[part] = torch.zeros(len(self.where), shares.shape[1], dtype=self.wide, device=shares.device)
        self._shares[part][rows] += shares

    def _whole(self, part: Component, rows: slice, value: Float[Tensor, "row d_model"]) -> None:
        self._put(part, rows, value @ self._at(value.device))

    def _rest(self, layer: int, sign: int, rows: slice, value: Float[Tensor, "row d_model"]) -> None:
        self._put(("rest", layer, -1), rows, sign * (value @ self._at(value.device)))

    def _size(self, rows: slice, value: Float[Tensor, "row d_model"]) -> None:
        assert self.where is not None
        assert self.norm is not None
        if self._factor is None:
            self._factor = torch.zeros(len(self.where), dtype=self.wide, device=value.device)
        self._factor[rows] = _moved(self.norm, value.device).inv_scale(value)[:, 0]

    def _heads(self, layer: int, rows: slice, z: Float[Tensor, "row head d_head"]) -> None:
        found = self.maps[layer]
        factor = found.factor(z)
        shares = einsum(z, found.weight, "row head d_head, head d_head target -> head row target") * factor[:, 0][None]
        for head, share in enumerate(shares):
            self._put(("head", layer, head), rows, share)
        if found.bias is not None:
            constant = 0 if found.constant is None else found.constant
            self._put(("attn_bias", layer, -1), rows, found.bias * factor[:, 0] + constant)

    def _own_heads(self, rows: slice, z: Float[Tensor, "row head d_head"]) -> None:
        weight = rearrange(self._at(z.device), "(head d_head) target -> head d_head target", head=z.shape[1])
        for head, share in enumerate(einsum(z, weight, "row head d_head, head d_head target -> head row target")):
            self._put(("head", self.form.layer, head), rows, share)

    # -- what a batch gave
    # --------------------------------------------------------------------------------------------------------------

    def scale(self) -> Float[np.ndarray, " row"]:
        """What the final norm multiplies each row with; ones without a norm."""
        assert self.where is not None
        return np.ones(len(self.where)) if self._factor is None else self._factor.double().cpu().numpy()

    def result(self, rows: pd.DataFrame) -> dict[Component, Float[np.ndarray, "row target"]]:
        """Shares of the batch just run, biases included, in the order of the forward pass."""
        found = {part: share.double().cpu().numpy() for part, share in self._shares.items()}
        for layer in {part[1] for part in found if part[0] == "rest"}:
            known = [share for part, share in found.items() if part[1] == layer and part[0] != "rest"]
            found["rest", layer, -1] = found["rest", layer, -1] - sum(known)
        if self.embedding is not None and self.embedding.split:
            token = self.embedding.tokens(rows["token_id"].to_numpy()) @ self.direction.double().cpu().numpy()
            whole = found["embed", -1, -1]
            found = {("embed", -1, -1): token, ("pos_embed", -1, -1): whole - token} | {
                part: share for part, share in found.items() if part[0] != "embed"
            }
        scale = self.scale()[:, None]
        found = {part: share * scale for part, share in found.items()}
        if self.norm is not None and self.norm.bias is not None:
            offset = self.norm.bias.double().cpu().numpy() @ self.form.weight
            found["norm_bias", -1, -1] = np.tile(offset, (len(rows), 1))
        if self.form.bias.any():
            found["bias", -1, -1] = np.tile(self.form.bias, (len(rows), 1))
        return found


def _moved(norm: FinalNorm, device: torch.device) -> FinalNorm:
    if norm.gain.device == device:
        return norm
    bias = None if norm.bias is None else norm.bias.to(device)
    return FinalNorm(norm.gain.to(device), bias, norm.eps, norm.centred)
