"""What edits of heads cost while a model generates: under hooks, and baked into the weights.

Plain is ``model.generate`` of the stock model. Under hooks the same call is made inside ``edited``; baked, it is made
with the checkpoint that ``bake`` wrote for the same edit. The edit zeroes 3 % of the heads, as in the refusal-cliff
paper, and three at least; a further variant zeroes one head in every layer, so that every layer is hooked. Decoding is
greedy and of a fixed length, so that all variants make the same number of passes of the same shape.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.common import Result, Timings, interleave, say
from benchmarks.random_models import SIZES
from verdictscope.activations import Model, load_model
from verdictscope.activations.loading import unchecked
from verdictscope.interventions import HeadEdit, bake, edited
from verdictscope.sources import models_folder

ROWS, PROMPT, NEW = 8, 64, 64
SHARE, FEWEST = 0.03, 3
ROUNDS = {"bundled": 4, "random": 1}
"""Rounds for every one asked for: the bundled model's take little time, and are the noisier for it."""
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}


def run(repeats: int, small: bool = False) -> Result:
    """Times generation of both models; the headline is the worse of the two."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    new = 8 if small else NEW
    rows: list[dict[str, Any]] = []
    ratios: dict[str, list[float]] = {"hooks": [], "weights": []}
    setting: dict[str, Any] = {"device": device, "rows": ROWS, "prompt_tokens": PROMPT, "new_tokens": new}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("bundled", "random"):
            source = models_folder() / "cliff" if name == "bundled" else random_checkpoint(Path(folder), device, small)
            timings, about = generate_times(name, source, Path(folder), device, new, repeats * ROUNDS[name])
            setting[name] = about
            rows += [{**row, "name": f"{name} {row['name']}"} for row in timings.rows("plain")]
            for variant, found in ratios.items():
                found.append(timings.ratio(variant, "plain"))
    headline = {f"{variant}_vs_plain": max(found) for variant, found in ratios.items()}
    notes = [
        "Each ratio of the headline is that of the worse of the two models. low and high are quartiles of the ratio "
        "within a round: weights_vs_plain is 1 by construction, and its distance from 1 is this machine's noise.",
        f"hooks and weights: {SHARE:.0%} of the heads (at least {FEWEST}), random, zero-ablated at every token. "
        "every layer: one head of each layer, under hooks.",
    ]
    return Result(setting, rows, headline, notes)


def random_checkpoint(folder: Path, device: str, small: bool) -> Path:
    """A random Llama on disk."""
    sizes = SMALL if small else SIZES[device]
    config = transformers.LlamaConfig(
        vocab_size=4096, num_key_value_heads=4, max_position_embeddings=PROMPT + NEW, **sizes
    )
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder / "random")
    return folder / "random"


def generate_times(
    name: str, source: Path, folder: Path, device: str, new: int, rounds: int
) -> tuple[Timings, dict[str, Any]]:
    """Times the four variants on one model; also its sizes."""
    model = load_model(source, device=device)
    rng = np.random.default_rng(0)
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    drawn = rng.choice(len(every), max(FEWEST, round(SHARE * len(every))), replace=False)
    edit = HeadEdit(tuple(every[i] for i in sorted(drawn)))
    spread = HeadEdit(tuple((layer, int(rng.integers(model.n_heads))) for layer in range(model.n_layers)))
    made = bake(model, folder / f"{name} baked", edit)
    baked = unchecked(transformers.AutoModelForCausalLM.from_pretrained(made.folder, dtype="auto").to(device))
    ids = torch.tensor(rng.integers(3, 200, (ROWS, PROMPT)), device=device)
    plain = partial(generate, model, ids, new)
    variants: dict[str, Callable[[], torch.Tensor]] = {
        "plain": plain,
        "hooks": partial(under, model, edit, plain),
        "every layer": partial(under, model, spread, plain),
        "weights": partial(generate, baked, ids, new),
    }
    same = bool((variants["hooks"]() == variants["weights"]()).all())
    say(f"{name}: hooks and weights write the same tokens: {same}")
    timings = interleave(variants, rounds)
    about = {
        "parameters": sum(p.numel() for p in model.hf.parameters()),
        "layers": model.n_layers,
        "heads": model.n_heads,
        "edited": len(edit.heads),
        "edited_layers": len({layer for layer, _ in edit.heads}),
        "hooks_and_weights_write_the_same_tokens": same,
    }
    del baked
    gc.collect()
    return timings, about


@torch.inference_mode()
def generate(model: Model, ids: torch.Tensor, new: int) -> torch.Tensor:
    """Greedy tokens of a fixed number."""
    return model.hf.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )


def under(model: Model, edit: HeadEdit, call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A call inside ``edited``."""
    with edited(model, edit):
        return call()
