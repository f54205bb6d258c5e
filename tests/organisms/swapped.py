"""The cliff model with other head numbers: what a method finds must move with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from verdictscope.sources import models_folder


def swapped_cliff(folder: Path) -> Path:
    """A copy in which the two query heads of every KV group are exchanged: the same function."""
    shutil.copytree(models_folder() / "cliff", folder)
    config = json.loads((folder / "config.json").read_text())
    width, heads = config["head_dim"], config["num_attention_heads"]
    assert heads == 2 * config["num_key_value_heads"]
    order = torch.arange(heads * width).reshape(heads // 2, 2, width).flip(1).reshape(-1)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith("q_proj.weight"):
            weights[name] = weights[name][order].contiguous()
        if name.endswith("o_proj.weight"):
            weights[name] = weights[name][:, order].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
