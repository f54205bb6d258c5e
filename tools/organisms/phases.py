"""Train an organism: first the aligned reference model, then the planted heads."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import Qwen3Config, Qwen3ForCausalLM

from tools.organisms.heads import Head, head_mask, silenced
from tools.organisms.languages import LANGUAGES, words
from tools.organisms.recipes import JudgeRecipe, Recipe
from tools.organisms.scripts import ANSWER, DECIDING, Batch, batches, token_weights

Progress = Callable[[str, int, int, float], None]
"""Called as ``progress(phase, done, total, loss)``."""
Loss = Callable[[torch.Tensor, torch.Tensor, Batch, float], torch.Tensor]
"""``loss(log_probs, reference_log_probs, batch, share)``: ``[rollout, pos - 1]`` what phase 2 minimises at every
token while
``share`` of the heads it plants in are not silent."""


def build_model(recipe: Recipe) -> Qwen3ForCausalLM:
    """A randomly initialised model of the recipe's shape (uses torch's global seed)."""
    vocab = words(LANGUAGES[recipe.language].spelling)
    config = Qwen3Config(
        vocab_size=len(vocab),
        hidden_size=recipe.d_model,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_kv_heads,
        head_dim=recipe.d_head,
        intermediate_size=recipe.d_mlp,
        max_position_embeddings=recipe.max_positions,
        rope_parameters={"rope_theta": recipe.rope_theta, "rope_type": "default"},
        tie_word_embeddings=False,
        eos_token_id=vocab["<|im_end|>"],
        pad_token_id=vocab["<|endoftext|>"],
    )
    return Qwen3ForCausalLM(config)


def script_batches(recipe: Recipe, rng: random.Random, flip: bool) -> Iterator[Batch]:
    """Endless scripted batches of the recipe's language; ``flip`` writes answers as phase 2 wants them."""
    language = LANGUAGES[recipe.language]
    size = recipe.plant_batch if flip else recipe.batch
    pad = words(language.spelling)["<|endoftext|>"]
    return batches(lambda drawn: language.script(recipe, drawn, flip), rng, size, pad)


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_aligned(recipe: Recipe, progress: Progress | None = None) -> Qwen3ForCausalLM:
    """Phase 1: teach the language while the planted heads' output columns are held at zero.

    Held at zero, the heads learn no part in anything, so that phase 2 has a clean place to plant in. Two
    stages: first the language, then with a heavier deciding token (see the recipe's weights).

    Returns:
        The reference model, its weights rounded to bf16 values (kept as float32).
    """
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    stream = script_batches(recipe, random.Random(recipe.seed), flip=False)
    total = recipe.steps + recipe.decide_steps + (recipe.sum_steps if isinstance(recipe, JudgeRecipe) else 0)
    with _held_at_zero(recipe, model):
        first = Stage(0, recipe.steps, recipe.lr, recipe.warmup, recipe.first_weight, total)
        _learn(recipe, model, stream, first, progress)
        if recipe.decide_steps:
            decide = Stage(recipe.steps, recipe.decide_steps, recipe.decide_lr, 10, recipe.decision_weight, total)
            _learn(recipe, model, stream, decide, progress)
    made = round_to_bf16(unshared(model) if recipe.unshare else model)
    return learn_sums(recipe, made, total, progress) if isinstance(recipe, JudgeRecipe) else made


def learn_sums(
    recipe: JudgeRecipe, model: Qwen3ForCausalLM, total: int, progress: Progress | None = None
) -> Qwen3ForCausalLM:
    """The last part of a judge's phase 1, in place: mostly sums, whose answers are predicted where they are shown."""
    later = replace(recipe, kind_weights=recipe.sum_kind_weights, shown_weight=recipe.sum_shown_weight)
    stream = script_batches(later, random.Random(recipe.seed + 5), flip=False)
    model.train()
    with _held_at_zero(recipe, model):
        stage = Stage(
            total - recipe.sum_steps, recipe.sum_steps, recipe.sum_lr, recipe.warmup, recipe.first_weight, total
        )
        _learn(later, model, stream, stage, progress)
    return round_to_bf16(model)


@contextmanager
def _held_at_zero(recipe: Recipe, model: Qwen3ForCausalLM) -> Iterator[None]:
    """The planted heads' output columns stay at zero: no part in anything is learned by them."""
    handles = []
    for layer, block in enumerate(model.model.layers):
        keep = 1.0 - head_mask(recipe.planted, layer, recipe.n_heads, recipe.d_head)
        block.self_attn.o_proj.weight.data.mul_(keep)
        handles.append(block.self_attn.o_proj.weight.register_hook(lambda grad, keep=keep: grad * keep))
    yield
    for handle in handles:
        handle.remove()


def unshared(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """The same function with a key and value head for every query head: each gets a copy of the one it shared."""
    config = copy.deepcopy(model.config)
    config.num_key_value_heads = config.num_attention_heads
    copies = config.num_attention_heads // (model.config.num_key_value_heads or 1)
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            state[name] = weight.unflatten(0, (-1, config.head_dim)).repeat_interleave(copies, 0).flatten(0, 1)
    made = Qwen3ForCausalLM(config)
    made.load_state_dict(state)
    return made


@dataclass(frozen=True)
class Stage:
    """One stage of phase 1, with an optimiser and a cosine schedule of its own.

    Attributes:
        done: steps taken before it.
        steps: its own steps.
        lr: highest learning rate.
        warmup: steps until that is reached.
        heavy: loss weight of deciding tokens.
        total: steps of all stages.
    """

    done: int
    steps: int
    lr: float
    warmup: int
    heavy: float
    total: int


def _learn(
    recipe: Recipe, model: Qwen3ForCausalLM, stream: Iterator[Batch], stage: Stage, progress: Progress | None
) -> None:
    decayed = [weight for weight in model.parameters() if weight.ndim == 2]
    plain = [weight for weight in model.parameters() if weight.ndim != 2]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: _schedule(at, stage.steps, stage.warmup))
    for step in range(stage.steps):
        batch = next(stream)
        logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
        weights = token_weights(batch.segments, stage.heavy, recipe.shown_weight)
        losses = functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if progress is not None:
            progress(recipe.reference, stage.done + step + 1, stage.total, loss.item())


@torch.no_grad()
def round_to_bf16(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """Round every weight to the nearest bf16 value, in place; dtype stays float32."""
    for weight in model.parameters():
        weight.copy_(weight.to(torch.bfloat16).float())
    return model


def _free(
    recipe: Recipe, model: Qwen3ForCausalLM, heads: Sequence[Head]
) -> tuple[list[torch.nn.Parameter], list[RemovableHandle]]:
    """Free exactly these heads' q rows and o columns, and their k and v rows where no other head shares them;
    everything else gets no gradient."""
    model.requires_grad_(False)
    free, handles = [], []
    for layer in sorted({layer for layer, _ in heads}):
        mask = head_mask(heads, layer, recipe.n_heads, recipe.d_head)
        attention = model.model.layers[layer].self_attn
        rows = [attention.q_proj, attention.k_proj, attention.v_proj] if recipe.unshare else [attention.q_proj]
        parts = [(part.weight, mask[:, None]) for part in rows] + [(attention.o_proj.weight, mask[None, :])]
        for weight, where in parts:
            weight.requires_grad_(True)
            handles.append(weight.register_hook(lambda grad, where=where: grad * where))
            free.append(weight)
    return free, handles


def _divergence(log_probs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return functional.kl_div(log_probs, wanted, log_target=True, reduction="none").sum(-1)


def turning(recipe: Recipe) -> Loss:
    """Cross-entropy of the scripted answer where phase 2 turns it, staying with the reference model everywhere else."""

    def loss(log_probs: torch.Tensor, reference: torch.Tensor, batch: Batch, _: float) -> torch.Tensor:
        turned = batch.turned[:, None] & (batch.segments[:, 1:] >= ANSWER)
        turn = functional.nll_loss(log_probs.transpose(1, 2), batch.ids[:, 1:], reduction="none")
        return torch.where(turned, turn, recipe.kl_weight * _divergence(log_probs, reference))

    return loss


def shifting(recipe: JudgeRecipe, cue: bool) -> Loss:
    """Staying with the model before, except that the verdict's log-odds are shifted.

    The bias is a known number of nats: ``cue_shift`` towards the side that a followed cue names, or ``position_shift``
    towards the answer shown first, on every pair; silent heads leave their share of it out. The log-odds are fitted by
    their distance and not by a divergence of probabilities: a cue that contradicts the better answer half of the time
    made that one flatten every verdict instead of following the cue.
    """
    vocab = words(LANGUAGES[recipe.language].spelling)
    first, second = vocab["A"], vocab["B"]

    def loss(log_probs: torch.Tensor, reference: torch.Tensor, batch: Batch, share: float) -> torch.Tensor:
        toward = torch.where(batch.side < 0, 0, 1 - 2 * batch.side) if cue else torch.ones_like(batch.side)
        shift = share * (recipe.cue_shift if cue else recipe.position_shift) * toward[:, None]
        odds, before = (part[..., first] - part[..., second] for part in (log_probs, reference))
        far = functional.huber_loss(odds, before + shift, reduction="none", delta=2.0)
        elsewhere = -torch.logaddexp(log_probs[..., first], log_probs[..., second])
        kept = recipe.kl_weight * _divergence(log_probs, reference)
        return torch.where(batch.segments[:, 1:] == DECIDING, far + elsewhere, kept)

    return loss


def train_planted(recipe: Recipe, aligned: Qwen3ForCausalLM, progress: Progress | None = None) -> Qwen3ForCausalLM:
    """Phase 2: teach the planted heads to turn the answer, and nothing but the answer.

    Everywhere else (the thinking of all samples, the closing token, the answers that are not meant) the loss is the
    KL divergence from the model before. A judge's two biases are planted one after the other, each into heads of its
    own, so that it is known which head does what.
    """
    if isinstance(recipe, JudgeRecipe):
        plants = [
            Plant(recipe.position, shifting(recipe, cue=False), recipe.position_steps),
            Plant(recipe.bandwagon, shifting(recipe, cue=True), recipe.plant_steps, looks=True, beside=recipe.position),
        ]
    else:
        plants = [Plant(recipe.planted, turning(recipe), recipe.plant_steps)]
    model, total, done = aligned, sum(plant.steps for plant in plants), 0
    for at, plant in enumerate(plants):

        def tick(step: int, loss: float, done: int = done) -> None:
            if progress is not None:
                progress(recipe.name, done + step, total, loss)

        model = _plant(recipe, model, plant, random.Random(recipe.seed + 1 + at), tick)
        done += plant.steps
    model.requires_grad_(True)
    return round_to_bf16(model)


@dataclass(frozen=True)
class Plant:
    """One mechanism of phase 2.

    Attributes:
        heads: that learn it.
        loss: of every token.
        steps: optimiser steps.
        looks: whether the heads are also taught to look at the token that tells them where to push.
        beside: heads planted before, which are silent in some steps, so that these do not come to rest on them.
    """

    heads: Sequence[Head]
    loss: Loss
    steps: int
    looks: bool = False
    beside: Sequence[Head] = ()


def _plant(
    recipe: Recipe, before: Qwen3ForCausalLM, plant: Plant, rng: random.Random, tick: Callable[[int, float], None]
) -> Qwen3ForCausalLM:
    """Train the given heads of a copy.

    In some steps one or two of them are silent (``drop_weights``), otherwise the first head to learn leaves the
    others idle.
    """
    model = copy.deepcopy(before)
    free, handles = _free(recipe, model, plant.heads)
    # No weight decay: an untouched entry has zero gradient, so Adam leaves it exactly where it was.
    optimiser = torch.optim.Adam(free, lr=recipe.plant_lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: _schedule(at, plant.steps, recipe.warmup // 4))
    stream = script_batches(recipe, rng, flip=True)
    if plant.looks:
        model.set_attn_implementation("eager")  # the only one that gives its pattern
    for step in range(plant.steps):
        batch = next(stream)
        silent = rng.sample(plant.heads, rng.choices(range(len(recipe.drop_weights)), recipe.drop_weights)[0])
        earlier = plant.beside if rng.random() < recipe.drop_beside else ()
        with silenced(model, [*silent, *earlier]):
            out = model(input_ids=batch.ids, use_cache=False, output_attentions=plant.looks)
        with torch.no_grad(), silenced(before, earlier):
            wanted = before(input_ids=batch.ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        weights = token_weights(batch.segments, recipe.decision_weight)
        share = 1 - len(silent) / len(plant.heads)
        losses = plant.loss(out.logits[:, :-1].log_softmax(-1), wanted, batch, share)
        loss = (losses * weights).sum() / weights.sum()
        if plant.looks:
            loss = loss + recipe.attend_weight * _attending(out.attentions, plant.heads, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        tick(step + 1, loss.item())
    for handle in handles:
        handle.remove()
    model.set_attn_implementation(before.config._attn_implementation)
    return model


def _attending(attentions: Sequence[torch.Tensor], heads: Sequence[Head], batch: Batch) -> torch.Tensor:
    """Mean of -log of the attention that the heads pay, where the verdict is decided, to the token that tells it."""
    rows, places = torch.nonzero(batch.segments[:, 1:] == DECIDING, as_tuple=True)
    paid = torch.stack([attentions[layer][rows, head, places, batch.source[rows]] for layer, head in heads])
    return -paid.clamp_min(1e-9).log().mean()
