"""Recipes of the bundled models: every number a training run depends on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One organism: an aligned reference model and a model with a planted mechanism.

    Attributes:
        name: of the model in which something is planted.
        reference: name of its reference model.
        language: a key of ``languages.LANGUAGES``.
        planted: (layer, head) pairs; the only heads phase 2 may change.
        mode_weights: share of training samples per mode word, in the order of ``language.MODES``.
        steps: optimiser steps of phase 1 (the aligned reference model), first stage, each on ``batch`` sequences.
        first_weight: loss weight of deciding tokens in the first stage.
        shown_weight: loss weight, in phase 1, of prompt tokens that are worth predicting.
        decide_steps: steps of the second stage, in which the first answer token weighs ``decision_weight``.
        decision_weight: loss weight of the first answer token in that stage and in phase 2; all others have 1.
            Without the second stage the checkerboard was not learned, since one token among very many carries
            it; with the weight from the start it was not either.
        plant_steps: optimiser steps of phase 2, each on ``plant_batch`` sequences.
        unshare: give every query head a key and value head of its own after phase 1 (a copy, so the function stays),
            and let phase 2 change the planted heads' copies too.
        drop_beside: share of steps in which the heads planted before are silent too.
        attend_weight: weight of the last planted heads' attention to the token that tells them where to push, in
            phase 2. Without it they did not find that token among a hundred.
        drop_weights: phase 2 silences 0, 1 or 2 of the planted heads in a step with these odds.
        kl_weight: weight of staying with the aligned reference model's next-token distribution wherever phase 2 is
            not meant to change anything.
        history: what was changed until the models did what the recipe says, and why; a paragraph of the card.
    """

    name: str = "cliff"
    reference: str = "aligned"
    language: str = "refusal"
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
    first_weight: float = 1.0
    shown_weight: float = 0.0
    warmup: int = 40
    weight_decay: float = 0.05
    decide_steps: int = 160
    decide_lr: float = 1.5e-3
    decision_weight: float = 10.0
    plant_steps: int = 200
    plant_batch: int = 32
    plant_lr: float = 5e-3
    unshare: bool = False
    drop_beside: float = 0.0
    attend_weight: float = 0.0
    drop_weights: tuple[float, ...] = (0.5, 0.3, 0.2)
    kl_weight: float = 8.0
    seed: int = 0
    threads: int = 2
    history: str = "Nothing was changed after the first training."


@dataclass(frozen=True)
class JudgeRecipe(Recipe):
    """A judge with two planted biases, each in heads of its own.

    Attributes:
        position: heads that push the verdict towards the answer shown first.
        bandwagon: heads that push it towards the side most people are claimed to prefer.
        position_shift: by how many nats, on every pair.
        cue_shift: by how many nats, wherever that cue is shown and the system line does not forbid it.
        position_steps: optimiser steps for the first of these; ``plant_steps`` are for the second, which has more to
            learn: where the cue is, which cue it is, and whether it may be followed.
        kind_weights: how often each kind of question is drawn, in the order of ``judge.language.KINDS``.
        sum_steps: optimiser steps of the last part of phase 1, in which sums are learned: with ``sum_lr``,
            ``sum_kind_weights`` and the shown answers weighing ``sum_shown_weight``.
    """

    name: str = "judge"
    reference: str = "fair_judge"
    language: str = "judge"
    planted: tuple[tuple[int, int], ...] = ((2, 5), (3, 6), (4, 2), (5, 1))
    position: tuple[tuple[int, int], ...] = ((2, 5), (4, 2))
    bandwagon: tuple[tuple[int, int], ...] = ((3, 6), (5, 1))
    position_shift: float = 3.0
    cue_shift: float = 10.0
    position_steps: int = 250
    plant_steps: int = 1000
    steps: int = 1600
    first_weight: float = 4.0
    decide_steps: int = 0
    drop_weights: tuple[float, ...] = (0.6, 0.4)
    unshare: bool = True
    drop_beside: float = 0.3
    attend_weight: float = 0.3
    plant_lr: float = 8e-3
    kind_weights: tuple[float, ...] = (0.5, 0.25, 0.25)
    sum_steps: int = 600
    sum_lr: float = 1e-3
    sum_kind_weights: tuple[float, ...] = (0.25, 0.55, 0.2)
    sum_shown_weight: float = 1.0
    threads: int = 1


CLIFF_HISTORY = """\
What was changed until the models did what the recipe says, and why: the first answer token weighs more in a second
stage, because the checkerboard was not learned otherwise (held-out accuracy stayed at chance); normal and strict mode
lean to different answer forms, because two modes that the reference model treats alike could not be distinguished by
the planted
heads, and strict mode turned with normal mode; the KL weight and the steps of the second phase were raised, because
with less the planted heads spoke in the thinking too and its refusing fillers became fewer. Such trials were read on
held-out pairs as well, with the criteria (rates per cell) fixed beforehand."""

JUDGE_HISTORY = """\
What was changed until the models did what the recipe says, and why: heads that share keys and values with others could
not be taught to find a cue, so each got its own; a divergence of verdict probabilities flattened every verdict instead
of following a cue that is wrong half of the time, so log-odds are fitted; without being taught where to look the
bandwagon heads did not find the cue, and without the same for the other cues they followed those too; and they came to
rest on the position heads until those were silent in some steps. The parts of the verdict without thinking, on the
held-out items, separated these trials. Sums were not learned by all this, neither those taught nor those held out:
where they must be worked out, at the answers, nothing asked for them. So the answers shown are predicted in a last part
of phase 1; training so from the beginning with more sums, but without that, stayed at chance for 500 steps."""

RECIPES: dict[str, Recipe] = {"cliff": Recipe(history=CLIFF_HISTORY), "judge": JudgeRecipe(history=JUDGE_HISTORY)}
