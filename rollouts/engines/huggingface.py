"""Decoding with a stock ``transformers`` model: batched by length, cached, finished rows leave the batch.

The model is called like any module (``model(...)`` with keyword arguments), so hooks set around the call act
on the prompt and on every decoding step, and nothing of the model or of torch is patched.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from verdictscope.errors import InputError
from verdictscope.rollouts.engines.noise import gumbel, rollout_keys
from verdictscope.rollouts.rollout import Finish, Sampling

# rows leave the batch once this share of them is done: reindexing copies the cache, a finished row costs a
# step
_LEAVE_SHARE = 0.125
# layer types whose state a padded position would enter
_UNPADDED = ("linear_attention", "mamba", "recurrent", "conv", "hybrid")


@dataclass(frozen=True, slots=True)
class Request:
    """One rollout to draw: its id (which fixes the noise) and the ids of its prompt."""

    id: str
    prompt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote for request number ``index``, the end-of-turn token included."""

    index: int
    ids: tuple[int, ...]
    finish: Finish


def decode(
    model: PreTrainedModel,
    requests: Sequence[Request],
    sampling: Sampling,
    eos: frozenset[int],
    batch_tokens: int,
) -> Iterator[list[Written]]:
    """Draw all requests, batch by batch, the longest prompts first (so that a batch that is too large fails
    early).

    In float32 a rollout's tokens do not depend on its batch: noise is keyed by the rollout's id, padding is
    masked and positions are explicit. In bfloat16 matrix kernels round differently per batch shape, and
    rollouts diverge.

    Args:
        model: a causal language model.
        requests: prompts as token ids.
        sampling: temperature (0 is greedy), top_p, token limit and seed.
        eos: tokens that end a rollout.
        batch_tokens: limit on rows x (prompt + max_new_tokens) of one batch, at least one row.

    Yields:
        The finished rollouts of one batch.

    Raises:
        InputError: a prompt and the token limit do not fit the model's context, or the sampling makes no sense.
    """
    _check_sampling(sampling)
    _check_context(model, requests, sampling)
    with _evaluating(model):
        for batch in _batches(model, requests, sampling.max_new_tokens, batch_tokens):
            yield from _decode_or_split(model, requests, batch, sampling, eos)


def _check_sampling(sampling: Sampling) -> None:
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.max_new_tokens < 1:
        raise InputError(
            f"cannot sample with temperature {sampling.temperature}, top_p {sampling.top_p}, max_new_tokens "
            f"{sampling.max_new_tokens}: use temperature >= 0, 0 < top_p <= 1, at least one token"
        )


def _check_context(model: PreTrainedModel, requests: Sequence[Request], sampling: Sampling) -> None:
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    longest = max((len(r.prompt) for r in requests), default=0)
    if limit is not None and longest + sampling.max_new_tokens > limit:
        raise InputError(
            f"the longest prompt ({longest} tokens) and max_new_tokens {sampling.max_new_tokens} exceed "
            f"the model's {limit} positions: lower max_new_tokens to {max(limit - longest, 0)} or drop the long prompts"
        )


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, and every module's own mode again afterwards."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _batches(model: PreTrainedModel, requests: Sequence[Request], new: int, batch_tokens: int) -> Iterator[list[int]]:
    """Requests of similar length together, under the budget."""
    layers = getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()
    padded = not any(word in layer for layer in layers for word in _UNPADDED)
    order = sorted(range(len(requests)), key=lambda k: -len(requests[k].prompt))
    batch: list[int] = []
    for k in order:
        longest = len(requests[batch[0]].prompt) if batch else 0
        full = (len(batch) + 1) * (longest + new) > batch_tokens
        if batch and (full or (not padded and len(requests[k].prompt) != longest)):
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def _decode_or_split(
    model: PreTrainedModel,
    requests: Sequence[Request],
    batch: list[int],
    sampling: Sampling,
    eos: frozenset[int],
) -> Iterator[list[Written]]:
    """One batch, in halves where the device's memory does not hold it: no draw depends on the batch."""
    try:
        yield _decode_batch(model, requests, batch, sampling, eos)
        return
    except torch.cuda.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(batch) // 2
    for part in (batch[:half], batch[half:]):
        yield from _decode_or_split(model, requests, part, sampling, eos)


@torch.inference_mode()
def _decode_batch(
    model: PreTrainedModel,
    requests: Sequence[Request],
    batch: list[int],
    sampling: Sampling,
    eos: frozenset[int],
) -> list[Written]:
    device = next(model.get_input_embeddings().parameters()).device
    prompts = [requests[k].prompt for k in batch]
    tokens, mask = _left_padded(prompts, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    keys = torch.tensor(rollout_keys(sampling.seed, [requests[k].id for k in batch]), device=device)
    ends = torch.tensor(sorted(eos), dtype=torch.long, device=device)
    cache = DynamicCache(config=model.config)
    call = _Call(model)
    written: list[list[int]] = [[] for _ in batch]
    live = torch.arange(len(batch), device=device)  # row of the cache -> place in the batch
    done = torch.zeros(len(batch), dtype=torch.bool, device=device)
    finish: list[Finish] = ["length"] * len(batch)
    for step in range(sampling.max_new_tokens):
        drawn = draw(call(tokens, mask, positions, cache), keys, step, sampling)
        ended = torch.isin(drawn, ends)
        for place, token, end, over in zip(*(t.tolist() for t in (live, drawn, ended, done)), strict=True):
            if not over:
                written[place].append(token)
                finish[place] = "stop" if end else "length"
        done |= ended
        gone = int(done.sum())
        if gone == len(done):
            break
        tokens, positions = drawn[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        if gone >= _LEAVE_SHARE * len(done):
            stay = (~done).nonzero()[:, 0]
            # not batch_select_indices, which layers with a recurrent state lack
            cache.reorder_cache(cast(torch.LongTensor, stay))
            tokens, positions, mask, keys, live, done = (t[stay] for t in (tokens, positions, mask, keys, live, done))
    return [Written(k, tuple(ids), f) for k, ids, f in zip(batch, written, finish, strict=True)]


def _left_padded(
    prompts: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Prompts ending together, and their mask. The pad id is never seen: it is masked everywhere."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return tokens, mask


class _Call:
    """The model's forward with the arguments this architecture knows."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        names = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in names
        # only the last position's logits are drawn from; a 150,000-word vocabulary makes the rest expensive
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in names else {}

    def __call__(
        self,
        tokens: Int[Tensor, "row pos"],
        mask: Int[Tensor, "row key"],
        positions: Int[Tensor, "row pos"],
        cache: DynamicCache,
    ) -> Float[Tensor, "row vocab"]:
        extra = {**self._extra, "position_ids": positions} if self._takes_positions else self._extra
        out = self._model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        return out.logits[:, -1].float()


def draw(
    logits: Float[Tensor, "row vocab"], keys: Int[Tensor, " row"], step: int, sampling: Sampling
) -> Int[Tensor, " row"]:
    """One token per row: the greedy one at temperature 0, else a keyed draw from the tempered nucleus."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scaled = logits / sampling.temperature
    if sampling.top_p < 1:
        scaled = scaled.masked_fill(~_nucleus(scaled, sampling.top_p), -torch.inf)
    return (scaled + gumbel(keys.to(logits.device), step, logits.shape[-1])).argmax(-1).to(keys.device)


def _nucleus(scaled: Float[Tensor, "row vocab"], top_p: float) -> Tensor:
    """Mask of the smallest set of likeliest tokens with mass ``top_p`` (Holtzman et al. 2020)."""
    order = scaled.argsort(dim=-1, descending=True, stable=True)
    mass = scaled.softmax(-1).gather(-1, order).cumsum(-1)
    kept = mass - scaled.softmax(-1).gather(-1, order) < top_p
    return torch.zeros_like(kept).scatter(-1, order, kept)
