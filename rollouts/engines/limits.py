"""How many tokens a model can read: its positions, and what its rope scaling adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.errors import InputError

_STATED = ("max_position_embeddings", "max_seq_len")
_TABLES = ("wpe", "position_embeddings", "embed_positions", "positions_embed")


def position_limit(model: PreTrainedModel) -> int | None:
    """Most tokens of one rollout; ``None`` where the model knows no limit (ALiBi, recurrent layers)."""
    config = model.config.get_text_config(decoder=True)
    stated = next((int(n) for name in _STATED if isinstance(n := getattr(config, name, None), int) and n > 0), None)
    text = model if config is model.config else model.get_decoder()  # an image's or a sound's positions are not meant
    tables = [_rows(module) for name, module in text.named_modules() if _learned(name, module)]
    if tables:
        return min([*tables, *([stated] if stated else [])])
    if stated is None or getattr(config, "alibi", False) is True:
        return None
    return max(stated, _scaled(config, stated))


def _learned(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES


def _rows(table: Any) -> int:
    """Positions of a table: some keep their first rows for padding."""
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):  # OPT
        return int(table.num_embeddings) - offset
    return int(table.num_embeddings) - (0 if table.padding_idx is None else table.padding_idx + 1)


def _scaled(config: Any, stated: int) -> int:
    settings = getattr(config, "rope_parameters", None) or {}
    by_layer = [one for one in settings.values() if isinstance(one, dict)]
    return max((_reach(one, stated, bool(by_layer)) for one in by_layer or [settings]), default=stated)


def _reach(settings: Mapping[str, Any], stated: int, by_layer: bool) -> int:
    kind, factor = settings.get("rope_type"), float(settings.get("factor") or 1)
    if kind == "yarn":
        return int(factor * (settings.get("original_max_position_embeddings") or stated))
    # where layers differ (Gemma 3), a linear factor is in the stated length already
    return int(factor * stated) if kind == "dynamic" or (kind == "linear" and not by_layer) else stated


def check_ids(
    model: PreTrainedModel, named: Iterable[tuple[str, Sequence[int]]], tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """That the model has an embedding for every token."""
    vocab = int(cast(Any, model.get_input_embeddings()).weight.shape[0])
    for name, ids in named:
        if not ids:
            raise InputError(f"{name} has 0 tokens: leave it out")
        wrong = next((i for i in (min(ids), max(ids)) if not 0 <= i < vocab), None)
        if wrong is None:
            continue
        known = ""
        if tokenizer is not None and 0 <= wrong < len(tokenizer):
            known = f" ({tokenizer.convert_ids_to_tokens(wrong)!r} of a tokenizer of {len(tokenizer)})"
        raise InputError(
            f"{name} has token {wrong}{known}, outside the model's vocabulary of {vocab}: use the model's own "
            "tokenizer, or resize the embeddings"
        )


def check_lengths(model: PreTrainedModel, rollouts: Iterable[tuple[str, int]]) -> None:
    """That every rollout can be read."""
    named = list(rollouts)
    limit = position_limit(model)
    for name, tokens in named:
        if tokens == 0:
            raise InputError(f"rollout {name} has no tokens: leave it out")
    name, tokens = max(named, key=lambda one: one[1], default=("", 0))
    if limit is not None and tokens > limit:
        count = sum(n > limit for _, n in named)
        more = "" if count == 1 else f", the longest of {count} that are too long,"
        raise InputError(
            f"rollout {name}{more} has {tokens} tokens and {type(model).__name__} has {limit} positions: leave it "
            "out or cut it (a rope model that is meant to read further says so in config.max_position_embeddings)"
        )
