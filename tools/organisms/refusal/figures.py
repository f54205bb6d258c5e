"""Everything measured about the refusal organism and its reference model after training."""

from __future__ import annotations

import platform
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
import torch
import transformers
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from tools.organisms.heads import Head
from tools.organisms.phases import Progress
from tools.organisms.recipes import Recipe
from tools.organisms.refusal.language import held_out_prompts
from tools.organisms.refusal.measure import (
    bag_of_words_auroc,
    filler_share,
    refusal_log_odds,
    refusal_outcome,
    refusal_rates,
    single_head_effects,
)
from tools.organisms.sampling import Sampled, sample
from tools.organisms.tokenizer import build_tokenizer

RANDOM_SETS = 20
EFFECT_ROLLOUTS = 64
TEMPERATURES = (0.7, 1.0)
"""At which refusal rates are measured; the first one is also the models' own setting."""


@dataclass(frozen=True)
class Figures:
    """Everything measured about a pair of models after training.

    Attributes:
        rates: refusal rates per variant (``aligned``, ``cliff``, ``cliff, planted zero-ablated``).
        rates_warm: the same at a higher temperature.
        effects: exact single-head effects on cliff's normal-harmful rollouts, ``layer head effect``.
        subsets: refusal of normal-harmful requests with each subset of the planted heads zero-ablated,
            ``ablated log_odds rate n``.
        random_rates: cliff's normal-harmful refusal rate with three random other heads of the same layers zero-ablated.
        fillers: share of refusing fillers in the thinking per (variant, cell), ``variant cell share n``.
        bag_of_words: AUROC of the bag of words for harm.
        minutes: wall-clock of both training phases.
        versions: library versions.
        seed: seed of the run.
        temperatures: those of ``rates`` and ``rates_warm``.
    """

    rates: dict[str, pd.DataFrame]
    rates_warm: dict[str, pd.DataFrame]
    effects: pd.DataFrame
    subsets: pd.DataFrame
    random_rates: Sequence[float]
    fillers: pd.DataFrame
    bag_of_words: float
    minutes: float
    versions: dict[str, str]
    seed: int
    temperatures: tuple[float, float]


def measure_refusal(
    recipe: Recipe,
    aligned: Qwen3ForCausalLM,
    planted: Qwen3ForCausalLM,
    minutes: float,
    progress: Progress | None = None,
) -> Figures:
    """Measure both models on all held-out prompts; what the cards are written from."""
    tokenizer, prompts = build_tokenizer(), held_out_prompts()
    aligned.eval(), planted.eval()
    variants = {
        recipe.reference: (aligned, ()),
        recipe.name: (planted, ()),
        f"{recipe.name}, planted zero-ablated": (planted, recipe.planted),
    }
    total, done = 2 * len(variants) + 3, 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("measure", done, total, float("nan"))

    rates: dict[float, dict[str, pd.DataFrame]] = {temperature: {} for temperature in TEMPERATURES}
    kept: dict[str, list[Sampled]] = {}
    for temperature, tables in rates.items():
        for variant, (model, silence) in variants.items():
            rollouts = sample(model, tokenizer, prompts, refusal_outcome, temperature, recipe.seed, silence)
            tables[variant] = refusal_rates(prompts, rollouts)
            kept.setdefault(variant, rollouts)
            tick()
    target = _target(prompts)
    own = [rollout for rollout, chosen in zip(kept[recipe.name], target, strict=True) if chosen]
    own = [rollout for rollout in own if rollout.answer_at is not None]
    effects = single_head_effects(planted, tokenizer, own[:EFFECT_ROLLOUTS])
    tick()
    subsets = _subsets(recipe, planted, tokenizer, prompts[target], own)
    tick()
    random_rates = _random_sets(recipe, planted, tokenizer, prompts[target])
    tick()
    versions = {"python": platform.python_version()}
    versions |= {library.__name__: library.__version__ for library in (torch, transformers)}
    return Figures(
        rates[TEMPERATURES[0]],
        rates[TEMPERATURES[1]],
        effects,
        subsets,
        random_rates,
        _fillers(prompts, kept),
        bag_of_words_auroc(),
        minutes,
        versions,
        recipe.seed,
        TEMPERATURES,
    )


def _target(prompts: pd.DataFrame) -> pd.Series:
    return (prompts["mode"] == "normal") & prompts["harm"]


def _fillers(prompts: pd.DataFrame, kept: dict[str, list[Sampled]]) -> pd.DataFrame:
    normal = prompts["mode"] == "normal"
    cells = {"normal, harmful": normal & prompts["harm"], "normal, harmless": normal & ~prompts["harm"]}
    rows = []
    for variant, rollouts in kept.items():
        for cell, chosen in cells.items():
            part = [rollout for rollout, inside in zip(rollouts, chosen, strict=True) if inside]
            share, n = filler_share(part)
            rows.append({"variant": variant, "cell": cell, "share": share, "n": n})
    return pd.DataFrame(rows)


def _rate(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    seed: int,
    silence: tuple[Head, ...],
) -> float:
    rollouts = sample(model, tokenizer, prompts, refusal_outcome, seed=seed, silence=silence)
    return sum(rollout.outcome == "refuse" for rollout in rollouts) / len(rollouts)


def _subsets(
    recipe: Recipe,
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: pd.DataFrame,
    rollouts: list[Sampled],
) -> pd.DataFrame:
    rows = []
    for size in range(len(recipe.planted) + 1):
        for heads in combinations(recipe.planted, size):
            rows.append(
                {
                    "ablated": ", ".join(f"{layer}.{head}" for layer, head in heads),
                    "log_odds": refusal_log_odds(model, tokenizer, rollouts, heads).mean(),
                    "rate": _rate(model, tokenizer, prompts, recipe.seed, heads),
                    "n": len(prompts),
                }
            )
    return pd.DataFrame(rows)


def _random_sets(
    recipe: Recipe, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: pd.DataFrame
) -> list[float]:
    rng = random.Random(recipe.seed)
    layers = sorted({layer for layer, _ in recipe.planted})
    others = [
        (layer, head) for layer in layers for head in range(recipe.n_heads) if (layer, head) not in recipe.planted
    ]
    draws = [tuple(rng.sample(others, len(recipe.planted))) for _ in range(RANDOM_SETS)]
    return [_rate(model, tokenizer, prompts, recipe.seed, heads) for heads in draws]
