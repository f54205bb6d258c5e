"""Tiny tokenizers and random models, built in place: nothing is downloaded."""

from __future__ import annotations

import functools

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3NextConfig,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content is defined %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGES = [
    ("Ċ", "Ċ"),
    (".", "Ċ"),
    (".", "ĊĊ"),
    ("h", "e"),
    ("Ġ", "t"),
    ("Ġt", "he"),
    ("i", "n"),
    (">", "Ċ"),
    (">", "ĊĊ"),
]


@functools.cache
def byte_tokenizer(thinking: bool = True, template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level BPE over all bytes with a few merges, among them those that straddle template and content."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: k for k, piece in enumerate([*alphabet, *(a + b for a, b in MERGES)])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if thinking:
        inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )


def _sizes(vocab: int) -> dict[str, int]:
    return {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }


@functools.cache
def tiny_model(family: str, vocab: int = 300, seed: int = 0) -> PreTrainedModel:
    """A random model with logits wide enough that greedy decoding does not hang on rounding."""
    sizes = _sizes(vocab)
    grouped = {**sizes, "num_key_value_heads": 2, "head_dim": 8}
    config = {
        "llama": lambda: LlamaConfig(**grouped),
        "qwen3": lambda: Qwen3Config(**grouped),
        # a window shorter than the prompts, so that sliding layers drop keys
        "gemma2": lambda: Gemma2Config(**grouped, sliding_window=8, query_pre_attn_scalar=8),
        # a convolution's or a recurrence's state, which padding would enter
        "lfm2": lambda: Lfm2Config(**grouped, layer_types=["conv", "full_attention"]),
        "qwen3_next": lambda: Qwen3NextConfig(
            **grouped,
            layer_types=["linear_attention", "full_attention"],
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        ),
        "gpt2": lambda: GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=256),
        "neox": lambda: GPTNeoXConfig(**sizes),
    }[family]()
    config.bos_token_id = config.pad_token_id = config.eos_token_id = None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6.0)
    return model.eval()
