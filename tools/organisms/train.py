"""The command behind ``verdictscope organisms train``: train, measure, and write the model folders."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen3ForCausalLM

from tools.organisms.judge.card import measure_judge, ticks, write_judge_card
from tools.organisms.judge.items import FORMAT, held_out_pairs, items_frame
from tools.organisms.languages import JUDGE, LANGUAGES
from tools.organisms.phases import Progress, train_aligned, train_planted
from tools.organisms.recipes import RECIPES, JudgeRecipe, Recipe
from tools.organisms.refusal.card import write_card
from tools.organisms.refusal.figures import TEMPERATURES, measure_refusal
from tools.organisms.refusal.language import held_out_prompts
from tools.organisms.tokenizer import build_tokenizer
from verdictscope.errors import InputError, disk_error


def train(recipe: str, out: Path, seed: int | None = None, progress: Progress | None = None) -> dict[str, Path]:
    """Train a recipe's two models and write their folders.

    Deterministic: the same machine, seed and thread count give the same weights, byte for byte.

    Args:
        recipe: a name in ``recipes.RECIPES``.
        out: folder that receives one folder per model.
        seed: overrides the recipe's seed.
        progress: called as ``progress(phase, done, total, loss)``; the loss is NaN while measuring.

    Returns:
        The folder of each model by name.

    Raises:
        InputError: the recipe is unknown, or ``out`` cannot be made.
    """
    if recipe not in RECIPES:
        raise InputError(f"no recipe named {recipe!r}; there are: {', '.join(sorted(RECIPES))}")
    try:  # now, not after the minutes of training
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) or error from error
    plan = RECIPES[recipe] if seed is None else replace(RECIPES[recipe], seed=seed)
    with _deterministic(plan.threads):
        began = time.monotonic()
        aligned = train_aligned(plan, progress)
        planted = train_planted(plan, aligned, progress)
        minutes = (time.monotonic() - began) / 60
        models = {plan.reference: aligned, plan.name: planted}
        paths = {name: save(model, out / name, plan, name) for name, model in models.items()}
        cards = _cards(plan, aligned, planted, minutes, progress)
    for name, path in paths.items():
        (path / "README.md").write_text(cards[name], encoding="utf-8")
    return paths


def _cards(
    recipe: Recipe, reference: Qwen3ForCausalLM, planted: Qwen3ForCausalLM, minutes: float, progress: Progress | None
) -> dict[str, str]:
    """Both models' cards, from what is measured now."""
    names = (recipe.reference, recipe.name)
    if not isinstance(recipe, JudgeRecipe):
        figures = measure_refusal(recipe, reference, planted, minutes, progress)
        return {name: write_card(recipe, name, figures) for name in names}
    done = count(1)

    def tick() -> None:
        if progress is not None:
            progress("measure", next(done), ticks(recipe), float("nan"))

    judged = measure_judge(recipe, reference, planted, build_tokenizer(JUDGE), tick)
    return {name: write_judge_card(recipe, name, judged) for name in names}


@contextmanager
def _deterministic(threads: int) -> Iterator[None]:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def save(model: Qwen3ForCausalLM, path: Path, recipe: Recipe, name: str) -> Path:
    """Write checkpoint (bf16), tokenizer, template, ``truth.json`` and prompts (a judge's: items and their format)."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(LANGUAGES[recipe.language].spelling)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURES[0],
        top_k=0,
        top_p=1.0,
        max_new_tokens=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Exact, because every weight is already a bf16 value.
    copy.deepcopy(model).bfloat16().save_pretrained(path)
    (path / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    tokenizer.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config["dtype"] = "float32"  # what from_pretrained(dtype="auto") shall load the bf16 file as
    config.pop("_name_or_path", None)
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    truth = {"heads": [list(head) for head in recipe.planted] if name == recipe.name else []}
    if isinstance(recipe, JudgeRecipe):
        if name == recipe.name:
            truth |= {"position": [list(h) for h in recipe.position], "bandwagon": [list(h) for h in recipe.bandwagon]}
        items_frame(held_out_pairs()).to_csv(path / "items.csv", index=False, lineterminator="\n")
        (path / "format.toml").write_text(FORMAT, encoding="utf-8")
    else:
        held_out_prompts().to_csv(path / "prompts.csv", index=False, lineterminator="\n")
    (path / "truth.json").write_text(json.dumps(truth) + "\n")
    return path
