"""When may a kept result be given back: for the same weights as they are now, edits, tokenizer and request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from verdictscope.errors import InputError
from verdictscope.in_force import check_hooks, edits_in_force
from verdictscope.provenance import digest
from verdictscope.weights_digest import settings, weights_digest

Facts = dict[str, Any]

NAMES = {
    "weights": "weights",
    "config": "configuration",
    "dtype": "dtype",
    "attention": "attention kernel",
    "tokenizer": "tokenizer",
    "template": "chat template",
    "edits": "edits in force",
}


def model_facts(model: nn.Module, *, described: bool = False, like: str | None = None) -> Facts:
    """What fixes a model's outputs, read now."""
    if not described:
        check_hooks(model)
    config = getattr(model, "config", None)
    return {
        "kind": type(model).__name__,
        "weights": weights_digest(model, like),
        "config": digest(json.dumps(settings(model), sort_keys=True, default=str)),
        "dtype": str(getattr(model, "dtype", None)).removeprefix("torch."),
        "attention": getattr(config, "_attn_implementation", None),
        "edits": edits_in_force(model),
    }


def describe_model(model: Any, like: str | None = None) -> dict[str, Any]:
    """Identity of a wrapped model: name, revision, digests of weights, configuration and tokenizer, kernel, sizes."""
    return {
        "name": model.name,
        "revision": model.revision,
        "architecture": type(model.hf).__name__,
        "config": digest(json.dumps(settings(model.hf), sort_keys=True, default=str)),
        **tokenizer_facts(model.optional_tokenizer),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "weights": weights_digest(model.hf, like),
        "attention": model.hf.config._attn_implementation,
        "layers": model.n_layers,
        "heads": model.n_heads,
        "kv_heads": model.n_kv_heads,
        "d_model": model.d_model,
        "d_head": model.d_head,
    }


def tokenizer_facts(tokenizer: Any) -> Facts:
    """Digests of a tokenizer (vocabulary, merges, added and special tokens, how text is cut) and of its chat template.

    How it pads and truncates is left out: every call sets that.
    """
    if tokenizer is None:
        return {"tokenizer": None, "template": None}
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is not None:
        text = inner.to_str()
        rules = text[text.index('"added_tokens"') :]
    else:
        values = getattr(tokenizer, "init_kwargs", {})
        rules = json.dumps(
            [
                sorted(tokenizer.get_vocab().items()),
                sorted((k, str(v)) for k, v in values.items() if isinstance(v, bool | int | float | str)),
            ]
        )
    special = {str(k): str(v) for k, v in tokenizer.special_tokens_map.items()}
    extra = [getattr(tokenizer, name, None) for name in ("add_bos_token", "add_eos_token", "add_prefix_space")]
    template = getattr(tokenizer, "chat_template", None)
    return {
        "tokenizer": digest(json.dumps([type(inner or tokenizer).__name__, rules, special, extra])),
        "template": digest(json.dumps(template, sort_keys=True)),
    }


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of what differs between two requests, down to the single settings."""
    names: list[str] = []
    for key in dict.fromkeys([*wanted, *found]):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differing(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


def check_same(what: str, found: Any, wanted: Mapping[str, Any], repair: str) -> None:
    """Refuse a kept result of another request."""
    if not isinstance(found, Mapping):
        raise InputError(f"{what} made by an earlier version, which kept no digest of weights and edits: {repair}")
    if names := differing(found, json.loads(json.dumps(wanted))):
        words = list(dict.fromkeys(NAMES.get(name.rpartition(".")[2], name.replace("_", " ")) for name in names))
        if words == ["configuration", "weights"] or words == ["weights", "configuration"]:
            words = ["weights"]  # the digest of the weights is over the settings too
        listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
        raise InputError(f"{what} made with other {listed}: {repair}")
