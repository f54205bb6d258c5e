"""TransformerLens's own bridge reads the same values."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import hf_model, wrapped

from verdictscope.activations import Site, forward


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_values_equal_run_with_cache(family, rollouts):
    from transformer_lens.model_bridge import TransformerBridge

    hf = copy.deepcopy(hf_model(family))
    try:
        bridge = TransformerBridge.boot_transformers(family, hf_model=hf, tokenizer=None, device="cpu")
    except Exception as error:
        pytest.skip(f"the bridge does not build offline from a model in memory: {type(error).__name__}: {error}")
    model, r = wrapped(family), rollouts[1]
    _, cache = bridge.run_with_cache(torch.tensor([r.ids]))
    names = {
        "resid_pre": "hook_in",
        "resid_post": "hook_out",
        "attn_out": "attn.hook_out",
        "mlp_out": "mlp.hook_out",
        "z": "attn.o.hook_in",
    }
    for site, hook in names.items():
        read = Site(site) @ "all"
        mine = forward(model, [r], [read]).values[read]
        for layer in range(model.n_layers):
            theirs = cache[f"blocks.{layer}.{hook}"][0].reshape(mine[layer].shape)
            assert (mine[layer] - theirs).norm() <= 8 * model.noise_floor * theirs.norm()
