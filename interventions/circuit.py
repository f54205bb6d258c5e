"""A head's output as tokens: on average, and the directions its value and output matrices can write at all.

A vector of the residual stream is read through the final norm's gain (and centring) and the unembedding; logits are
shown less their mean over the vocabulary, since softmax does not see that. The value matrix is measured by feeding the
attention module unit vectors, so fused projections and shared values need no table of families.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations import BatchPlan, Model, Site, Tap, final_norm, forward, hooked, unembedding
from verdictscope.activations.batch import still
from verdictscope.activations.capture import probe_ids
from verdictscope.activations.hooks import BatchView, Stop, attach
from verdictscope.activations.positions import FrozenPositions, Positions
from verdictscope.activations.weights import (
    FinalNorm,
    attention_gain,
    head_output_bias,
    head_output_weight,
    post_attention_norm,
)
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout

CHUNK = 256
"""Unit vectors that are fed as one sequence."""


def logit_weights(model: Model, vectors: Float[Tensor, "vector d_model"]) -> Float[np.ndarray, "vector vocab"]:
    """Vectors of the residual stream as logits, before the final norm's divisor and any soft cap, less their mean."""
    weight = unembedding(model).weight
    if model.sites.ln_final is not None:
        norm = final_norm(model)
        vectors = norm.centre(vectors) * norm.gain.to(vectors)
    logits = (vectors.to(weight.device, torch.float32) @ weight.float().T).double().cpu().numpy()
    return logits - logits.mean(axis=1, keepdims=True)


def mean_output(
    model: Model,
    rollouts: Sequence[Rollout],
    head: tuple[int, int],
    positions: Positions | FrozenPositions,
    plan: BatchPlan | None = None,
) -> Float[Tensor, " d_model"]:
    """What a head adds to the residual stream, through post-norm and gain and over the final norm's divisor of each
    row, averaged over rows."""
    layer, h = head
    reads = [Site("z", layer) @ positions, Site("resid_post", -1) @ positions]
    done = forward(model, rollouts, reads, plan=plan)
    z, last = (done.values[r][0].double() for r in reads)
    if not len(z):
        raise InputError(f"positions {positions!r} exist in none of the {len(rollouts)} rollouts")
    weight = head_output_weight(model, layer).double().cpu()
    output = einsum(z[:, h], weight[h], "row d_head, d_head d_model -> row d_model")
    post = post_attention_norm(model, layer)
    if post is not None:
        post = _on_cpu(post)
        out = (
            einsum(z, weight, "row head d_head, head d_head d_model -> row d_model")
            + head_output_bias(model, layer).double().cpu()
        )
        output = post.centre(output) * post.inv_scale(out) * post.gain.double()
    output = output * attention_gain(model, layer)
    if model.sites.ln_final is not None:
        output = output * _on_cpu(final_norm(model)).inv_scale(last)
    return output.mean(0)


def _on_cpu(norm: FinalNorm) -> FinalNorm:
    return FinalNorm(norm.gain.cpu(), None if norm.bias is None else norm.bias.cpu(), norm.eps, norm.centred)


def value_weight(model: Model, layer: int, head: int) -> Float[Tensor, "d_in d_head"]:
    """The matrix from what a layer's attention reads (behind its norm) to a query head's values, measured."""
    place = model.sites.place("v", layer)
    width = model.d_model
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, width, generator=rng) for _ in range(2))
    tests = _values(model, layer, torch.cat([torch.zeros(1, width), x, y, x + 2 * y]))
    moved = tests - tests[:1]
    wanted = moved[1] + 2 * moved[2]
    if not (moved[3] - wanted).norm() <= 1e3 * torch.finfo(model.dtype).eps * wanted.norm():
        raise InputError(f"layer {layer}: values are no linear function of what attention reads, so there is no W_V")
    rows = [_values(model, layer, part) for part in torch.eye(width).split(CHUNK)]
    assert place.attention is not None
    group = place.attention.n_heads // tests.shape[1]
    return (torch.cat(rows) - tests[:1])[:, head // group]


def _values(model: Model, layer: int, inputs: Float[Tensor, "token d_in"]) -> Float[Tensor, "token kv_head d_v"]:
    """The values a layer makes of given inputs of its attention module."""
    module = model.sites.place("v", layer).module
    found: list[Tensor] = []
    n = len(inputs)
    ids = probe_ids(model.hf, n)
    view = BatchView(0, None, torch.arange(n, device=model.device)[None], torch.ones(1, n, dtype=torch.bool))
    handle = attach(module, "in", lambda old: inputs[None].to(old) if old.shape[-1] == inputs.shape[-1] else None)
    try:
        with suppress(Stop), still(model.hf), hooked(model, [Tap("v", layer, partial(_take, found))], view=view):
            (model.hf.base_model or model.hf)(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return found[0]


def _take(found: list[Tensor], value: Tensor, _: BatchView) -> None:
    found.append(value[0].double().cpu())
    raise Stop


def ov_directions(
    model: Model, head: tuple[int, int], output: Float[Tensor, " d_model"], k: int = 3
) -> tuple[Float[Tensor, "k d_model"], Float[np.ndarray, " k"]]:
    """The ``k`` strongest output directions of a head's OV matrix (its right singular vectors times their singular
    values), each turned to the side on which the head writes on average, and their shares of the squared size."""
    layer, h = head
    values = value_weight(model, layer, h)
    out = head_output_weight(model, layer)[h].double().cpu()
    post = post_attention_norm(model, layer)
    if post is not None:
        out = _on_cpu(post).centre(out) * post.gain.double().cpu()
    q, r = torch.linalg.qr(values[:, : len(out)])
    _, size, right = torch.linalg.svd(r @ out * attention_gain(model, layer), full_matrices=False)
    vectors = right[:k] * size[:k, None]
    side = torch.where(vectors @ output < 0, -1.0, 1.0).to(vectors)
    return vectors * side[:, None], (size[:k] ** 2 / (size**2).sum()).numpy()


def token_frame(
    what: Sequence[str], logits: Float[np.ndarray, "vector vocab"], spell: Sequence[str], top: int
) -> pd.DataFrame:
    """``what side rank token_id token logit``: the tokens each vector promotes and suppresses most."""
    lines = []
    for name, row in zip(what, logits, strict=True):
        order: Int[np.ndarray, " vocab"] = np.argsort(row, kind="stable")
        for side, ids in (("promoted", order[::-1][:top]), ("suppressed", order[:top])):
            lines += [(name, side, rank, int(i), spell[int(i)], float(row[i])) for rank, i in enumerate(ids)]
    return pd.DataFrame(lines, columns=["what", "side", "rank", "token_id", "token", "logit"])
