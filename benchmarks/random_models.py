"""Random models and rollouts for timing: the kernels do the same work whatever the weights are."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from verdictscope.activations.loading import unchecked
from verdictscope.activations.model import Model
from verdictscope.rollouts.rollout import Rollout, Span

SIZES = {
    "cpu": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 12},
    "cuda": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16},
}
"""At least 100 M parameters outside the embeddings. The vocabulary is small: the head is no part of a capture."""


def random_model(device: str, longest: int = 8192) -> Model:
    """A random Llama: float32 on the CPU, bfloat16 on a GPU."""
    config = transformers.LlamaConfig(
        vocab_size=4096, num_key_value_heads=4, max_position_embeddings=longest, **SIZES[device]
    )
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return unchecked(hf.eval(), name="random llama")


def random_rollouts(n: int, tokens: int, vocab: int = 4096) -> list[Rollout]:
    """Rollouts of one length: a prompt of 16 tokens, then thinking."""
    ids = np.random.default_rng(0).integers(3, vocab, (n, tokens))
    spans = (Span("user", 0, 16), Span("thinking", 16, tokens))
    return [Rollout(f"p{i}/0", f"p{i}", tuple(map(int, row)), spans, 16) for i, row in enumerate(ids)]


def parameters(model: Model) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.hf.parameters())
