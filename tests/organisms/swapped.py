"""Bundled models with other head numbers: what a method finds must move with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from verdictscope.sources import models_folder


def swapped(name: str, folder: Path) -> Path:
    """A copy in which neighbouring heads (0 and 1, 2 and 3, …) are exchanged: the same function.

    Heads that share keys and values change places within their group; heads with keys and values of their own take
    them along.
    """
    shutil.copytree(models_folder() / name, folder)
    config = json.loads((folder / "config.json").read_text())
    width, heads, groups = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    assert heads == groups or heads // groups % 2 == 0
    order = torch.arange(heads * width).reshape(heads // 2, 2, width).flip(1).reshape(-1)
    moved = ("q_proj", "k_proj", "v_proj") if heads == groups else ("q_proj",)
    weights = load_file(folder / "model.safetensors")
    for key in weights:
        if key.endswith("o_proj.weight"):
            weights[key] = weights[key][:, order].contiguous()
        elif any(key.endswith(f"{part}.{end}") for part in moved for end in ("weight", "bias")):
            weights[key] = weights[key][order].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def swapped_cliff(folder: Path) -> Path:
    """The cliff model with the two query heads of every KV group exchanged."""
    return swapped("cliff", folder)
