"""TransformerLens's own bridge reads the same values."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers.utils.logging as hf_logging
from tiny_models import VOCAB, hf_model, wrapped
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from verdictscope.activations import Site, forward

HOOKS = {
    "resid_pre": "hook_in",
    "resid_post": "hook_out",
    "attn_out": "attn.hook_out",
    "mlp_out": "mlp.hook_out",
    "z": "attn.o.hook_in",
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_values_equal_run_with_cache(family, rollouts, tmp_path):
    level = hf_logging.get_verbosity()
    from transformer_lens.model_bridge import TransformerBridge

    hf_logging.set_verbosity(level)
    hf = copy.deepcopy(hf_model(family))
    hf.config.architectures = [type(hf).__name__]
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", bos_token="w1", eos_token="w2").save_pretrained(
        tmp_path
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)  # the bridge loads it again from where it came
    try:
        bridge = TransformerBridge.boot_transformers(family, hf_model=hf, tokenizer=tokenizer, device="cpu")
    except Exception as error:
        pytest.skip(f"the bridge does not build offline from a model in memory: {type(error).__name__}: {error}")
    model, r = wrapped(family), rollouts[1]
    _, cache = bridge.run_with_cache(torch.tensor([r.ids]))
    for site, hook in HOOKS.items():
        read = Site(site) @ "all"
        mine = forward(model, [r], [read]).values[read]
        for layer in range(model.n_layers):
            theirs = cache[f"blocks.{layer}.{hook}"][0].reshape(mine[layer].shape)
            assert (mine[layer] - theirs).norm() <= 8 * model.noise_floor * theirs.norm()
