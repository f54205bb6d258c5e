"""Single attention heads of a bundled model: where their weights lie and how to silence them.

A deliberately small reference model of the ``interventions`` room: training and the card must not depend on the code
that the card's ground truth is used to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import Qwen3ForCausalLM

Head = tuple[int, int]


def head_mask(heads: Iterable[Head], layer: int, n_heads: int, d_head: int) -> torch.Tensor:
    """``[head * d_head]`` of 0 and 1: rows of q_proj, and columns of o_proj, of the heads in ``layer``."""
    mask = torch.zeros(n_heads * d_head)
    for at, head in heads:
        if at == layer:
            mask[head * d_head : (head + 1) * d_head] = 1.0
    return mask


@contextmanager
def silenced(model: Qwen3ForCausalLM, heads: Iterable[Head]) -> Iterator[None]:
    """Zero the heads' z (the input of the output projection) at every position while the block runs."""
    heads = tuple(heads)
    config = model.config
    handles = []
    try:
        for layer in sorted({layer for layer, _ in heads}):
            keep = 1.0 - head_mask(heads, layer, config.num_attention_heads, config.head_dim)

            def drop(_module: nn.Module, args: tuple[torch.Tensor, ...], keep: torch.Tensor = keep) -> tuple:
                return (args[0] * keep, *args[1:])

            handles.append(model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(drop))
        yield
    finally:
        for handle in handles:
            handle.remove()
