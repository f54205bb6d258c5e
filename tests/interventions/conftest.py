"""Tiny random models: wide enough to have every part, small enough to run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

from verdictscope.activations import Model, wrap
from verdictscope.rollouts import Rollout, Span

VOCAB = 61
COMMON = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
GQA = COMMON | {"num_attention_heads": 4, "num_key_value_heads": 2}

CONFIGS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**GQA, attention_bias=True),
    "qwen2": lambda: transformers.Qwen2Config(**GQA),
    "qwen3": lambda: transformers.Qwen3Config(**GQA, head_dim=12),
    "gemma2": lambda: transformers.Gemma2Config(**GQA, head_dim=12, query_pre_attn_scalar=12, sliding_window=8),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**COMMON, num_attention_heads=4),
    "granite": lambda: transformers.GraniteConfig(**GQA, residual_multiplier=0.22, logits_scaling=3.0),
}


def build(name: str, seed: int = 0) -> Model:
    """A random model with weights large enough that every head matters."""
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for key, value in hf.named_parameters():
            if value.ndim > 1:
                value.mul_(6.0 if "embed" not in key else 3.0)
            elif key.endswith("bias"):
                value.normal_(0, 0.2)
            else:
                value.add_(torch.randn_like(value) * 0.1)
    return wrap(hf, name=name)


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest) -> Model:
    return build(request.param)


@pytest.fixture(scope="session")
def qwen3() -> Model:
    return build("qwen3")


@pytest.fixture
def rollouts() -> list[Rollout]:
    """Rollouts of unequal length with a prompt, thinking, closing tokens and an answer."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for i, thinking in enumerate((5, 9, 2, 14)):
        cuts = (3, 5, 5 + thinking, 7 + thinking, 10 + thinking)
        ids = torch.randint(0, VOCAB, (cuts[-1],), generator=generator).tolist()
        names = ("user", "template", "thinking", "think_end", "answer")
        spans = tuple(Span(n, a, b) for n, a, b in zip(names, (0, *cuts[:-1]), cuts, strict=True))
        made.append(Rollout(f"p{i}/0", f"g{i // 2}", tuple(ids), spans, n_prompt=5, finish="stop"))
    return made
