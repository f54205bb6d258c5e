"""Tiny models whose position embeddings depend on a row's length, and some whose embeddings are scaled once for all."""

from __future__ import annotations

import functools

import torch
import transformers as hf

SWITCH = 48
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "factor": 8.0,
    "original_max_position_embeddings": SWITCH,
}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": SWITCH}
_LLAMA3 = {**_YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def _small(**more: object) -> dict[str, object]:
    return {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | more


def _gemma3() -> hf.PretrainedConfig:
    kinds = ["sliding_attention", "full_attention"]
    ropes = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": dict(_DYNAMIC)}
    small = _small(max_position_embeddings=SWITCH, head_dim=8, sliding_window=16)
    return hf.Gemma3TextConfig(**small, layer_types=kinds, rope_parameters=ropes)


def _phimoe() -> hf.PretrainedConfig:
    rope = _LONG | {"short_mscale": 1.1, "long_mscale": 1.4}
    small = _small(num_local_experts=2, num_experts_per_tok=1)
    return hf.PhimoeConfig(**small, original_max_position_embeddings=SWITCH, rope_parameters=rope)


CHANGING = {
    "phi3": lambda: hf.Phi3Config(
        **_small(), original_max_position_embeddings=SWITCH, rope_parameters=dict(_LONG), sliding_window=40
    ),
    "phimoe": _phimoe,
    "llama longrope": lambda: hf.LlamaConfig(**_small(), rope_parameters=dict(_LONG)),
    "llama dynamic": lambda: hf.LlamaConfig(**_small(max_position_embeddings=SWITCH), rope_parameters=dict(_DYNAMIC)),
    "gemma3 dynamic": _gemma3,
}
FIXED = {
    "llama yarn": lambda: hf.LlamaConfig(**_small(), rope_parameters=dict(_YARN)),
    "llama linear": lambda: hf.LlamaConfig(**_small(), rope_parameters=_DYNAMIC | {"rope_type": "linear"}),
    "llama llama3": lambda: hf.LlamaConfig(**_small(), rope_parameters=dict(_LLAMA3)),
}


def fresh(name: str) -> hf.PreTrainedModel:
    """A model that nothing was read with."""
    torch.manual_seed(3)
    model = hf.AutoModelForCausalLM.from_config((CHANGING | FIXED)[name](), dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


shared = functools.cache(fresh)


def scaled(kind: str, vocab: int, switch: int) -> hf.PreTrainedModel:
    """A Llama of a given vocabulary that switches at a given length, by ``longrope`` or ``dynamic``; it reads eight
    times as far, or four."""
    rope = dict(_DYNAMIC) if kind == "dynamic" else _LONG | {"original_max_position_embeddings": switch}
    longest = switch if kind == "dynamic" else 8 * switch
    config = hf.LlamaConfig(**_small(vocab_size=vocab, max_position_embeddings=longest), rope_parameters=rope)
    torch.manual_seed(5)
    return hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def tokens(n: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    return torch.randint(3, 95, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
