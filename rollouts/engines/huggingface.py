"""Decoding with a stock ``transformers`` model: cached, the batch kept full, finished rows replaced at once.

The model is called like any module (``model(...)`` with keyword arguments), so hooks set around the call act
on the prompt and on every decoding step, and nothing of the model or of torch is patched.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from verdictscope.errors import InputError
from verdictscope.kept import model_facts
from verdictscope.rollouts.engines.caches import Batching, batching
from verdictscope.rollouts.engines.finite import not_finite, strange_weight
from verdictscope.rollouts.engines.limits import check_ids, position_limit
from verdictscope.rollouts.engines.live import LiveBatch, Row, exact
from verdictscope.rollouts.engines.noise import rollout_keys
from verdictscope.rollouts.engines.requests import Request, Written
from verdictscope.rollouts.engines.rope import switch_lengths, written_otherwise
from verdictscope.rollouts.engines.state import bare, evaluating, on_device
from verdictscope.rollouts.rollout import Sampling

# rows are replaced once this share of them is done: seating copies the cache and reading prompts together is
# cheaper than one by one, a finished row costs a step
_LEAVE_SHARE = 0.125


# tokens of one go, in batches' worth, where what is drawn beside a rollout touches it: the batch runs empty at the
# end of each, and a kill costs at most one
_WAVE = 16

WatchIds = Callable[[Sequence[Sequence[str]]], None]


@dataclass(frozen=True)
class HuggingFace:
    """This process draws with a ``transformers`` model."""

    model: PreTrainedModel
    batch_tokens: int = 32_768
    watch: WatchIds | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    name = "huggingface"

    @property
    def independent(self) -> bool:
        """In float32; see :func:`decode`."""
        return exact(self.model)

    def describe(self, like: str | None = None) -> dict[str, Any]:
        """The architecture, its settings, every weight as it is now, and the edits in force."""
        found = model_facts(self.model, described=True, like=like)
        # elsewhere the batches are part of what is drawn
        return found if self.independent else {**found, "batch_tokens": self.batch_tokens}

    def write(self, requests: Sequence[Request], sampling: Sampling, eos: frozenset[int]) -> Iterator[list[Written]]:
        """See :func:`decode`."""
        more: dict[str, Any] = {"watch": self.watch, "tokenizer": self.tokenizer}
        return decode(self.model, requests, sampling, eos, self.batch_tokens, **more)

    def wave(self, sizes: Sequence[int]) -> int:
        """Requests worth sixteen full batches."""
        return max(bisect_right(list(accumulate(sizes)), _WAVE * self.batch_tokens), 1)


def decode(
    model: PreTrainedModel | nn.Module,
    requests: Sequence[Request],
    sampling: Sampling,
    eos: frozenset[int],
    batch_tokens: int,
    refill: bool = True,
    watch: WatchIds | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Iterator[list[Written]]:
    """Draw all requests, the longest prompts first (so that a batch that is too large fails early)."""
    hf: PreTrainedModel = bare(model)  # of what torch.compile or peft put around it
    on_device(hf)
    if strange_weight(hf) is not None:  # attention kernels with a mask make numbers of NaN keys
        raise not_finite(hf, "the logits")
    _check_context(hf, requests, sampling)
    check_ids(hf, ((f"prompt {r.id}", r.prompt) for r in requests), tokenizer)
    longest = max((len(r.prompt) for r in requests), default=0) + sampling.max_new_tokens
    how = batching(hf, longest)
    queue = _Queue(requests, sampling, batch_tokens, how)

    def report(rows: Sequence[Sequence[Row]]) -> None:
        if watch is not None:
            watch([[requests[row.index].id for row in of_one] for of_one in rows])

    quiet = not switch_lengths(hf)
    batch = LiveBatch(hf, sampling, eos, how.refill, report)
    while queue.outstanding or queue.waiting:
        with evaluating(hf):  # for a step, not for all: between two the model is its owner's
            done = _turn(batch, queue, refill and how.refill)
        if done is None:
            batch = LiveBatch(hf, sampling, eos, how.refill, report)
            torch.cuda.empty_cache()
        elif done:
            queue.outstanding -= {row.index for row in done}
            quiet = quiet or _warn_of_switch(hf, done)
            yield [Written(row.index, tuple(row.written), row.finish or "length") for row in done]


def _warn_of_switch(model: PreTrainedModel, rows: Sequence[Row]) -> bool:
    """Says that rollouts were written across a switch of the position embeddings; whether it was said."""
    for row in rows:
        switch = written_otherwise(model, len(row.prompt), len(row.prompt) + len(row.written))
        if switch is not None:
            warnings.warn(
                f"rollouts of more than {switch} tokens were written, as by transformers' generate, from keys with the "
                "position embeddings of a shorter row: one pass over the whole rollout reads them otherwise",
                stacklevel=2,
            )
            return True
    return False


def _turn(batch: LiveBatch, queue: _Queue, refill: bool) -> list[Row] | None:
    """One token for every row, free rows given away before; ``None`` if the device's memory did not hold it, and then
    the rows are waiting again, for a smaller batch: no draw depends on the batch."""
    going = [row for row in batch.rows if row.finish is None]
    free = len(batch.rows) - len(going)
    done: list[Row] = []
    try:
        if not going or free >= _LEAVE_SHARE * len(batch.rows):
            new = queue.take(going) if refill or not going else []
            if new:
                done += batch.join(new)
            elif free:
                batch.leave()
        if batch.going:
            done += batch.step()
        return done
    except torch.cuda.OutOfMemoryError:
        if len(queue.outstanding) == 1:
            raise
    queue.halve()
    return None


class _Queue:
    """Requests that wait, the longest prompts first, and how many of them fit beside the rows that are going."""

    def __init__(self, requests: Sequence[Request], sampling: Sampling, batch_tokens: int, how: Batching) -> None:
        self._requests, self._sampling, self._budget, self._how = requests, sampling, batch_tokens, how
        self._keys = rollout_keys(sampling.seed, [r.id for r in requests])
        self._most = 1 if how.alone else len(requests)
        self.outstanding: set[int] = set()
        self.waiting = self._sorted(range(len(requests)))

    def _sorted(self, indices: Iterable[int]) -> deque[int]:
        return deque(sorted(indices, key=lambda k: (-len(self._requests[k].prompt), k)))

    def take(self, going: Sequence[Row]) -> list[Row]:
        """Rows for the next requests that fit."""
        widest = max((len(row.prompt) for row in going), default=0)
        rows = len(going)
        taken: list[Row] = []
        while self.waiting and rows < self._most:
            prompt = self._requests[self.waiting[0]].prompt
            widest = max(widest, len(prompt))
            full = (rows + 1) * (widest + self._sampling.max_new_tokens) > self._budget
            if rows and (full or (self._how.equal_length and len(prompt) != widest)):
                break
            k = self.waiting.popleft()
            taken.append(Row(k, self._keys[k], prompt))
            rows += 1
        self.outstanding |= {row.index for row in taken}
        return taken

    def halve(self) -> None:
        """Put back what is not done, and take at most half as many rows from now on."""
        self._most = max(len(self.outstanding) // 2, 1)
        self.waiting = self._sorted([*self.outstanding, *self.waiting])
        self.outstanding.clear()


def _check_context(model: PreTrainedModel, requests: Sequence[Request], sampling: Sampling) -> None:
    limit = position_limit(model)
    widest = max(requests, key=lambda r: len(r.prompt), default=None)
    longest = 0 if widest is None else len(widest.prompt)
    if limit is not None and widest is not None and longest + sampling.max_new_tokens > limit:
        raise InputError(
            f"the longest prompt ({widest.id}, {longest} tokens) and max_new_tokens {sampling.max_new_tokens} exceed "
            f"the model's {limit} positions: lower max_new_tokens to {max(limit - longest, 0)} or drop the long prompts"
        )
