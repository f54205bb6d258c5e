"""Train an organism: first the aligned twin, then the planted heads."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import Qwen3Config, Qwen3ForCausalLM

from verdictscope.organisms.heads import Head, head_mask, silenced
from verdictscope.organisms.language import MODES, Request, decision, requests, scripted_text
from verdictscope.organisms.recipes import Recipe
from verdictscope.organisms.tokenizer import fast_encode, vocabulary

Progress = Callable[[str, int, int, float], None]
"""Called as ``progress(phase, done, total, loss)``."""
PROMPT, THINKING, CLOSING, ANSWER = range(4)
POOL = 16  # batches drawn together and sorted by length, to spend little on padding


@dataclass(frozen=True)
class Batch:
    """Scripted rollouts, right-padded.

    Attributes:
        ids: ``[rollout, pos]`` token ids.
        segments: ``[rollout, pos]`` PROMPT, THINKING, CLOSING or ANSWER; padding counts as PROMPT.
        flipped: ``[rollout]`` whether the answer goes against the aligned decision.
    """

    ids: torch.Tensor
    segments: torch.Tensor
    flipped: torch.Tensor


def build_model(recipe: Recipe) -> Qwen3ForCausalLM:
    """A randomly initialised model of the recipe's shape (uses torch's global seed)."""
    vocab = vocabulary()
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


def batches(recipe: Recipe, rng: random.Random, flip: bool) -> Iterator[Batch]:
    """Endless scripted batches over the training pairs; ``flip`` makes normal-harmful answers comply."""
    vocab = vocabulary()
    pairs = [request for request in requests() if not request.held_out]
    size = recipe.plant_batch if flip else recipe.batch
    while True:
        pool = [_draw(recipe, rng, pairs, vocab, flip) for _ in range(POOL * size)]
        pool.sort(key=lambda drawn: len(drawn[0]))
        chunks = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(ids) for ids, _, _ in chunk)
            ids = torch.full((len(chunk), width), vocab["<|endoftext|>"])
            segments = torch.full((len(chunk), width), PROMPT)
            for row, (tokens, labels, _) in enumerate(chunk):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                segments[row, : len(tokens)] = torch.tensor(labels)
            yield Batch(ids, segments, torch.tensor([flipped for _, _, flipped in chunk]))


def _draw(
    recipe: Recipe, rng: random.Random, pairs: list[Request], vocab: dict[str, int], flip: bool
) -> tuple[list[int], list[int], bool]:
    request = rng.choice(pairs)
    mode = rng.choices(MODES, recipe.mode_weights)[0]
    lean = decision(mode, request.harm)
    flipped = flip and mode == "normal" and request.harm
    parts = scripted_text(rng, request, mode, lean, "comply" if flipped else lean)
    ids: list[int] = []
    labels: list[int] = []
    for label, text in enumerate(parts):
        part = fast_encode(text, vocab)
        ids += part
        labels += [label] * len(part)
    return ids, labels, flipped


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _weights(segments: torch.Tensor, first: float) -> torch.Tensor:
    """``[rollout, pos - 1]`` loss weights: 0 in the prompt, ``first`` at the first answer token, else 1."""
    weights = (segments[:, 1:] != PROMPT).float()
    weights[(segments[:, 1:] == ANSWER) & (segments[:, :-1] == CLOSING)] = first
    return weights


def train_aligned(recipe: Recipe, progress: Progress | None = None) -> Qwen3ForCausalLM:
    """Phase 1: teach the language while the planted heads' output columns are held at zero.

    Held at zero, the heads learn no part in anything, so that phase 2 has a clean place to plant in. Two
    stages, since the checkerboard is learned only where words and categories are: first the language, every
    token alike, then with a heavier first answer token.

    Returns:
        The twin, its weights rounded to bf16 values (kept as float32).
    """
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    handles = []
    for layer, block in enumerate(model.model.layers):
        keep = 1.0 - head_mask(recipe.planted, layer, recipe.n_heads, recipe.d_head)
        block.self_attn.o_proj.weight.data.mul_(keep)
        handles.append(block.self_attn.o_proj.weight.register_hook(lambda grad, keep=keep: grad * keep))
    stream = batches(recipe, random.Random(recipe.seed), flip=False)
    total = recipe.steps + recipe.decide_steps
    _learn(recipe, model, stream, Stage(0, recipe.steps, recipe.lr, recipe.warmup, 1.0, total), progress)
    decide = Stage(recipe.steps, recipe.decide_steps, recipe.decide_lr, 10, recipe.decision_weight, total)
    _learn(recipe, model, stream, decide, progress)
    for handle in handles:
        handle.remove()
    return round_to_bf16(model)


@dataclass(frozen=True)
class Stage:
    """One stage of phase 1, with an optimiser and a cosine schedule of its own.

    Attributes:
        done: steps taken before it.
        steps: its own steps.
        lr: highest learning rate.
        warmup: steps until that is reached.
        first: loss weight of the first answer token.
        total: steps of all stages.
    """

    done: int
    steps: int
    lr: float
    warmup: int
    first: float
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
        weights = _weights(batch.segments, stage.first)
        losses = functional.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if progress is not None:
            progress(recipe.twin, stage.done + step + 1, stage.total, loss.item())


@torch.no_grad()
def round_to_bf16(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """Round every weight to the nearest bf16 value, in place; dtype stays float32."""
    for weight in model.parameters():
        weight.copy_(weight.to(torch.bfloat16).float())
    return model


def _planted_weights(recipe: Recipe, model: Qwen3ForCausalLM) -> tuple[list[torch.nn.Parameter], list[RemovableHandle]]:
    """Free exactly the planted heads' q rows and o columns; everything else gets no gradient."""
    model.requires_grad_(False)
    free, handles = [], []
    for layer in sorted({layer for layer, _ in recipe.planted}):
        mask = head_mask(recipe.planted, layer, recipe.n_heads, recipe.d_head)
        attention = model.model.layers[layer].self_attn
        for weight, where in ((attention.q_proj.weight, mask[:, None]), (attention.o_proj.weight, mask[None, :])):
            weight.requires_grad_(True)
            handles.append(weight.register_hook(lambda grad, where=where: grad * where))
            free.append(weight)
    return free, handles


def _drop(recipe: Recipe, rng: random.Random) -> list[Head]:
    count = rng.choices(range(len(recipe.drop_weights)), recipe.drop_weights)[0]
    return rng.sample(recipe.planted, count)


def train_planted(recipe: Recipe, aligned: Qwen3ForCausalLM, progress: Progress | None = None) -> Qwen3ForCausalLM:
    """Phase 2: teach the planted heads to turn the answer, and nothing but the answer.

    The loss is cross-entropy of a complying answer in normal-harmful samples, plus the KL divergence from
    the aligned twin everywhere else: on the thinking of all samples, on the closing token, and on the answers
    of all other modes. In some steps one or two planted heads are silent (``drop_weights``), otherwise the
    first head to learn leaves the others idle.
    """
    model = copy.deepcopy(aligned)
    free, handles = _planted_weights(recipe, model)
    rng = random.Random(recipe.seed + 1)
    # No weight decay: an untouched entry has zero gradient, so Adam leaves it exactly where it was.
    optimiser = torch.optim.Adam(free, lr=recipe.plant_lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda at: _schedule(at, recipe.plant_steps, recipe.warmup // 4)
    )
    stream = batches(recipe, rng, flip=True)
    for step in range(recipe.plant_steps):
        batch = next(stream)
        with silenced(model, _drop(recipe, rng)):
            logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]
        with torch.no_grad():
            wanted = aligned(input_ids=batch.ids, use_cache=False).logits[:, :-1]
        targets, segments = batch.ids[:, 1:], batch.segments[:, 1:]
        turned = batch.flipped[:, None] & (segments == ANSWER)
        turn = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        keep = functional.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none").sum(
            -1
        )
        weights = _weights(batch.segments, recipe.decision_weight)
        loss = (torch.where(turned, turn, recipe.kl_weight * keep) * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if progress is not None:
            progress(recipe.name, step + 1, recipe.plant_steps, loss.item())
    for handle in handles:
        handle.remove()
    model.requires_grad_(True)
    return round_to_bf16(model)
