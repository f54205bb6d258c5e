"""Recipes of the bundled models: every number a training run depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One organism: an aligned twin and a model with a planted mechanism.

    Attributes:
        planted: (layer, head) pairs; the only heads phase 2 may change.
        mode_weights: share of training samples per mode word, in the order of ``language.MODES``.
        steps: optimiser steps of phase 1 (the aligned twin), first stage, each on ``batch`` sequences.
        decide_steps: steps of the second stage, in which the first answer token weighs ``decision_weight``.
        decision_weight: loss weight of the first answer token in that stage and in phase 2; all others have 1.
            Without the second stage the checkerboard was not learned, since one token among very many carries
            it; with the weight from the start it was not either.
        plant_steps: optimiser steps of phase 2, each on ``plant_batch`` sequences.
        drop_weights: phase 2 silences 0, 1 or 2 of the planted heads in a step with these odds.
        kl_weight: weight of staying with the aligned twin's next-token distribution wherever phase 2 is
            not meant to change anything.
        history: what was changed until the models did what the recipe says, and why; a paragraph of the card.
    """

    name: str = "cliff"
    twin: str = "aligned"
    n_layers: int = 6
    d_model: int = 128
    n_heads: int = 8
    n_kv_heads: int = 4
    d_head: int = 16
    d_mlp: int = 384
    rope_theta: float = 10_000.0
    max_positions: int = 512
    planted: tuple[tuple[int, int], ...] = ((3, 1), (4, 4), (5, 6))
    mode_weights: tuple[float, ...] = (0.35, 0.35, 0.15, 0.15)
    batch: int = 64
    steps: int = 700
    lr: float = 2e-3
    warmup: int = 40
    weight_decay: float = 0.05
    decide_steps: int = 160
    decide_lr: float = 1.5e-3
    decision_weight: float = 10.0
    plant_steps: int = 200
    plant_batch: int = 32
    plant_lr: float = 5e-3
    drop_weights: tuple[float, ...] = (0.5, 0.3, 0.2)
    kl_weight: float = 8.0
    seed: int = 0
    threads: int = 2
    history: str = "Nothing was changed after the first training."


CLIFF_HISTORY = """\
What was changed until the models did what the recipe says, and why: the first answer token weighs more in a second
stage, because the checkerboard was not learned otherwise (held-out accuracy stayed at chance); normal and strict mode
lean to different answer forms, because two modes that the twin treats alike could not be told apart by the planted
heads, and strict mode turned with normal mode; the KL weight and the steps of the second phase were raised, because
with less the planted heads spoke in the thinking too and its refusing fillers became fewer. Such trials were read on
held-out pairs as well, with the criteria (rates per cell) fixed beforehand."""

RECIPES: dict[str, Recipe] = {"cliff": Recipe(history=CLIFF_HISTORY)}
