"""Tiny random models, built from configs: one per way in which families differ."""

from __future__ import annotations

import functools

import torch
import transformers as hf

from verdictscope.activations import Model, wrap
from verdictscope.rollouts.rollout import Rollout, Span

VOCAB = 97
_SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_PLAIN = {k: v for k, v in _SMALL.items() if k != "num_key_value_heads"}


def _opt() -> hf.PretrainedConfig:
    names = {"intermediate_size": "ffn_dim", "initializer_range": "init_std"}
    small = {names.get(k, k): v for k, v in _PLAIN.items()}
    return hf.OPTConfig(word_embed_proj_dim=32, **small)


CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**_SMALL),
    "qwen2": lambda: hf.Qwen2Config(**_SMALL),
    "qwen3": lambda: hf.Qwen3Config(head_dim=12, **_SMALL),  # head_dim is not 32 / 4
    "gemma2": lambda: hf.Gemma2Config(
        head_dim=8, sliding_window=8, attn_logit_softcapping=5.0, final_logit_softcapping=3.0, **_SMALL
    ),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "neox": lambda: hf.GPTNeoXConfig(**_PLAIN),
    "neox_sequential": lambda: hf.GPTNeoXConfig(use_parallel_residual=False, **_PLAIN),
    "granite": lambda: hf.GraniteConfig(
        residual_multiplier=0.22, logits_scaling=4.0, embedding_multiplier=3.0, **_SMALL
    ),
    "opt": _opt,
}
PARALLEL = {"neox"}
_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MORE = {  # only their site map is tested
    "mistral": lambda: hf.MistralConfig(**_SMALL),
    "mistral_windowed": lambda: hf.MistralConfig(sliding_window=8, **_SMALL),
    "mixtral": lambda: hf.MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **_SMALL),
    "olmo2": lambda: hf.Olmo2Config(**_SMALL),  # post-norms only
    "phi3": lambda: hf.Phi3Config(**_SMALL),  # fused qkv
    "gemma3": lambda: hf.Gemma3TextConfig(head_dim=8, sliding_window=8, **_SMALL),
    "glm4": lambda: hf.Glm4Config(head_dim=8, **_SMALL),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(head_dim=8, num_experts=4, **_MOE, **_SMALL),
    "gpt_oss": lambda: hf.GptOssConfig(
        head_dim=8, sliding_window=8, num_local_experts=4, num_experts_per_tok=2, **_SMALL
    ),
    "deepseek_v3": lambda: hf.DeepseekV3Config(  # MLA: a value head is 6 wide
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=6,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        **_MOE,
        **{**_SMALL, "num_key_value_heads": 4},
    ),
    "qwen3_next": lambda: hf.Qwen3NextConfig(  # two of three layers have no softmax attention
        head_dim=8,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_experts=4,
        shared_expert_intermediate_size=16,
        **_MOE,
        **_SMALL,
    ),
    "cohere": lambda: hf.CohereConfig(logit_scale=0.5, **_SMALL),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4
    ),  # the branch adds the stream
    "falcon": lambda: hf.FalconConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4),
}


@functools.cache
def hf_model(family: str, dtype: torch.dtype = torch.float32) -> hf.PreTrainedModel:
    """A random model; biases and norm gains are random too, so that forgetting one shows."""
    torch.manual_seed(sum(map(ord, family)))
    model = hf.AutoModelForCausalLM.from_config((CONFIGS | MORE)[family]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


@functools.cache
def wrapped(family: str, dtype: torch.dtype = torch.float32) -> Model:
    return wrap(hf_model(family, dtype), name=family)


def rollout(name: str, n: int, *, seed: int = 0, answer: int = 3, finish: str = "stop", **tags: object) -> Rollout:
    """A rollout with every segment: system, user, template, thinking, think_end, answer (``n`` tokens in all)."""
    ids = torch.randint(3, VOCAB, (n,), generator=torch.Generator().manual_seed(seed + 1000 * n)).tolist()
    stops = {"system": 2, "user": 5, "template": 6, "thinking": n - answer - 2, "think_end": n - answer, "answer": n}
    spans, at = [], 0
    for segment, stop in stops.items():
        if stop > at:
            spans.append(Span(segment, at, stop))
            at = stop
    return Rollout(name, name.split("/")[0], tuple(ids), tuple(spans), 6, finish, tags=tags)  # type: ignore[arg-type]
