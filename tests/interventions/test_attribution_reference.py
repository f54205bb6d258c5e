"""TransformerLens's own stack of head results gives the same shares, once the final norm's gain is put to it."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.utils.logging as hf_logging
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

sys.path.append(str(Path(__file__).resolve().parents[1] / "activations"))
from tiny_models import VOCAB, hf_model, rollout, wrapped

from verdictscope.activations import LogOddsReadout
from verdictscope.interventions import attribute


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shares_equal_stacked_head_results(family: str, tmp_path: Path) -> None:
    level = hf_logging.get_verbosity()
    from transformer_lens.model_bridge import TransformerBridge

    hf_logging.set_verbosity(level)
    hf = copy.deepcopy(hf_model(family))
    hf.config.architectures = [type(hf).__name__]
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", bos_token="w1", eos_token="w2").save_pretrained(
        tmp_path
    )
    try:
        bridge = TransformerBridge.boot_transformers(
            family, hf_model=hf, tokenizer=AutoTokenizer.from_pretrained(tmp_path), device="cpu"
        )
    except Exception as error:
        pytest.skip(f"the bridge does not build offline from a model in memory: {type(error).__name__}: {error}")
    model, r = wrapped(family), rollout("a/0", 23, seed=1)
    result = attribute(model, [r], LogOddsReadout("pair", (5,), (9,)))
    mine = np.array([s[0] for p, s in zip(result.components, result.values, strict=True) if p[0] == "head"])
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.tensor([r.ids]))
        stack = cache.stack_head_results(layer=-1, pos_slice=int(result.rows["pos"][0]), apply_ln=True)[:, 0]
        unembed = model.sites.unembed.weight
        # Its ``logit_attrs`` multiplies this with the unembedding alone: right where the gain was folded into that,
        # which the bridge does not do.
        theirs = (stack * model.sites.ln_final.weight) @ (unembed[5] - unembed[9])
    assert np.allclose(mine, theirs.numpy(), atol=1e-5 * np.abs(mine).max())
