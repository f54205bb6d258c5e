from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import wrapped

from verdictscope.activations import LogOddsReadout, Site, forward, logit_difference
from verdictscope.activations.weights import (
    apply_final_norm,
    final_norm,
    head_output_bias,
    head_output_weight,
    unembedding,
)
from verdictscope.errors import InputError


def test_heads_add_up_to_the_projection(model):
    z = torch.randn(5, model.n_heads, model.d_head)
    for layer, block in enumerate(model.sites.blocks):
        with torch.no_grad():
            wanted = block.o(z.flatten(1))
        parts = torch.einsum("rhd,hdm->rhm", z, head_output_weight(model, layer))
        assert parts.shape == (5, 4, 32)
        assert torch.allclose(parts.sum(1) + head_output_bias(model, layer), wanted, atol=1e-5)


def test_final_norm_pieces_are_the_module_and_linear(model):
    norm = final_norm(model)
    parts = torch.randn(3, 6, 32, dtype=torch.float64) * 2 + 0.3  # part row d_model
    x = parts.sum(0)
    wanted = apply_final_norm(model, x.float()).double()
    assert torch.allclose(norm(x), wanted, atol=1e-5)
    scale = norm.inv_scale(x)
    summed = sum(norm.centre(p) * scale * norm.gain for p in parts)
    assert torch.allclose(summed + (0 if norm.bias is None else norm.bias), norm(x), atol=1e-12)


def test_gemma_gain_is_one_plus_weight():
    model = wrapped("gemma2")
    assert torch.equal(final_norm(model).gain, 1 + model.sites.ln_final.weight)


def test_an_unknown_norm_is_refused(qwen3):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(32))

        def forward(self, x):
            return x * self.weight / x.abs().sum(-1, keepdim=True)

    odd = dataclasses.replace(qwen3, sites=dataclasses.replace(qwen3.sites, ln_final=Odd()))
    with pytest.raises(InputError, match="neither"):
        final_norm(odd)


def test_unembedding_makes_the_logits(model, family, rollouts):
    head = unembedding(model)
    read = Site("final_norm") @ "last"
    out = forward(model, rollouts, [read], logits_at="last")
    mine = out.values[read][0] @ head.weight.T + (0 if head.bias is None else head.bias)
    assert head.capped == (family == "gemma2")
    if head.capped:
        cap = model.hf.config.final_logit_softcapping
        mine = cap * torch.tanh(mine / cap)
    assert torch.allclose(mine, out.logits, rtol=1e-4, atol=1e-4)


def test_parts_of_a_logit_sum_to_it(model, rollouts):
    """DESIGN 3.4: the embedding, every attention and MLP output, through the final norm, add up to the readout."""
    readout = logit_difference(model, LogOddsReadout("d", [5, 6], [9], positions="last"))
    names = ("attn_out", "mlp_out")
    reads = [Site("resid_pre", 0) @ "last", Site("resid_post", -1) @ "last", *(Site(n) @ "last" for n in names)]
    out = forward(model, rollouts, reads, score=[readout])
    x, norm = out.values[reads[1]][0].double(), final_norm(model)
    parts = torch.cat([out.values[r].double() for r in (reads[0], reads[2], reads[3])])
    direction = torch.from_numpy(readout.weight.copy())
    pieces = (norm.centre(parts) * norm.inv_scale(x) * norm.gain.double()) @ direction
    constant = readout.bias + (0.0 if norm.bias is None else float(norm.bias.double() @ direction))
    assert np.allclose(pieces.sum(0) + constant, out.scores["score"], rtol=1e-4, atol=1e-4)


def test_packed_weights_are_refused(qwen3):
    class Packed(torch.nn.Module):
        weight = torch.zeros(10, 3, dtype=torch.uint8)

    blocks = tuple(dataclasses.replace(b, o=Packed()) for b in qwen3.sites.blocks)
    packed = dataclasses.replace(qwen3, sites=dataclasses.replace(qwen3.sites, blocks=blocks))
    with pytest.raises(InputError, match="packed"):
        head_output_weight(packed, 0)
