"""Tiny random models of every decoder family that TransformerLens has an adapter for and transformers can build.

Sizes are found by shrinking each family's own default config: whatever is called like a width, a count of heads or a
number of layers is made small. What then still cannot be built is listed with its reason.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers as hf
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "num_hidden_layers": 3,
    "n_layer": 3,
    "n_layers": 3,
    "num_layers": 3,
    "decoder_layers": 3,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "attention_heads": 4,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "max_seq_len": 256,
    "initializer_range": 0.2,
    "init_std": 0.2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "moe_k": 2,
    "num_experts_per_token": 2,
    "num_experts_per_tok": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "sliding_window": 8,
    "head_dim": 8,
    "rotary_dim": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "word_embed_proj_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_ssm": 64,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "lru_width": 32,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 64,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "RecurrentGemmaForCausalLM": {"attention_window_size": 16, "block_types": ["recurrent", "attention", "recurrent"]},
    "Qwen3NextForCausalLM": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "Qwen3_5ForCausalLM": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "Qwen3_5MoeForCausalLM": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 8},
    "DeepseekV2ForCausalLM": {"num_experts_per_tok": 2, "topk_group": 1, "n_group": 1},
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
    "Zamba2ForCausalLM": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention"]},
    "BertLMHeadModel": {"is_decoder": True},
    "NemotronForCausalLM": {"head_dim": 8, "num_key_value_heads": 2},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "GraniteForCausalLM": {"residual_multiplier": 0.22, "logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "GraniteMoeForCausalLM": {"residual_multiplier": 0.22, "logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "Gemma2ForCausalLM": {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "XGLMForCausalLM": {"d_model": 32},
}


def listed() -> list[str]:
    """Causal language models with both an adapter in TransformerLens and a class in transformers, by name."""
    from other_libraries import import_transformer_lens

    with import_transformer_lens():
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES as known
    return sorted(name for name in set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) if name in known)


SWITCH = 40
"""Where the scaled models below change their position embeddings."""


def build(name: str) -> hf.PreTrainedModel:
    """A tiny model of the family; norms, gains and biases random too."""
    return _built(name, small_config(getattr(hf, name).config_class, SPECIAL.get(name, {})))


def build_scaled(name: str, kind: str) -> hf.PreTrainedModel | None:
    """The same with a rope scaling that depends on the length, ``longrope`` or ``dynamic``; ``None`` where the family
    has no rope that ``transformers`` could scale so. What it builds and cannot run raises its own errors."""
    plain = build(name)
    rotary = next((m for m in plain.modules() if hasattr(m, "rope_type") and hasattr(m, "config")), None)
    config = copy.deepcopy(plain.config)
    if rotary is None or not getattr(config, "rope_parameters", None):
        return None
    by_layer = {k: v for k, v in config.rope_parameters.items() if isinstance(v, dict)}
    for layer_type, settings in by_layer.items() or {"": config.rope_parameters}.items():
        frequencies = getattr(rotary, f"{layer_type}_inv_freq" if layer_type else "inv_freq", None)
        if frequencies is None:  # a kind of layer that this small model does not have
            continue
        width = frequencies.shape[-1]
        settings |= {"rope_type": kind, "factor": 4.0}
        if kind == "longrope":
            ways = {"short_factor": [1.0] * width, "long_factor": [4.0] * width}
            settings |= ways | {"original_max_position_embeddings": SWITCH}
        elif width < 2:  # the formula divides by the width of what is turned, less 2
            settings["partial_rotary_factor"] = 1.0
    if kind == "dynamic":
        config.max_position_embeddings = SWITCH
    elif hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = SWITCH
    if config.to_dict().get("head_dim", 0) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    scaled = _built(name, config)
    with torch.no_grad():
        scaled(input_ids=torch.ones(1, SWITCH + 1, dtype=torch.long), use_cache=False)
    return scaled


def _built(name: str, config: hf.PretrainedConfig) -> hf.PreTrainedModel:
    torch.manual_seed(sum(map(ord, name)))
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1 and not key.endswith(("A_log", "dt_bias")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def small_config(kind: type[hf.PretrainedConfig], special: dict[str, Any]) -> hf.PretrainedConfig:
    """A family's own default config, shrunk; the configs inside it (text, vision, audio) too."""
    given = _small(kind, special)
    try:
        return kind(**given)
    except AttributeError as error:  # some derive the kinds of their layers from other keys
        if "no setter" not in str(error):
            raise
        return kind(**{key: value for key, value in given.items() if not key.startswith("layer")})


def _small(kind: type[hf.PretrainedConfig], special: dict[str, Any]) -> dict[str, Any]:
    inner = {key: part for key, part in (getattr(kind, "sub_configs", None) or {}).items() if isinstance(part, type)}
    parts = {key: small_config(part, {}) for key, part in inner.items() if part is not hf.AutoConfig}
    default = kind()
    names = {old: new for new, old in (getattr(kind, "attribute_map", None) or {}).items()}
    known = set(copy.deepcopy(default).to_dict()) | set(names)
    given = {key: value for key, value in SIZES.items() if key in known}
    given = {k: v for k, v in given.items() if _default(default, k) is not None or k in ("pad_token_id",)}
    if "kv_lora_rank" in known:  # latent attention: keys are made per query head, and a head is two parts
        given |= {"num_key_value_heads": 4} if "num_key_value_heads" in known else {}
        given |= {"head_dim": SIZES["qk_rope_head_dim"]} if "head_dim" in given else {}
    types = getattr(default, "layer_types", None)
    if isinstance(types, list) and "layers_block_type" not in special:
        picked = list(dict.fromkeys(types))
        given["layer_types"] = (picked * 3)[:3]
    return given | parts | special


def _default(config: hf.PretrainedConfig, key: str) -> Any:
    try:
        return getattr(config, key, None)
    except Exception:  # a key that differs between layers and says so
        return True
