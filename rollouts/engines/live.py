"""The batch that is being written: rows that each know their own length, joined by new ones, left by those done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from verdictscope.rollouts.engines.caches import splice
from verdictscope.rollouts.engines.draw import Drawn, agree, draw
from verdictscope.rollouts.engines.finite import not_finite
from verdictscope.rollouts.engines.rope import as_alone, reads_again_after
from verdictscope.rollouts.rollout import Finish, Sampling


@dataclass(slots=True)
class Row:
    """A rollout in the batch: its request's number, its noise key, its prompt and what it wrote so far."""

    index: int
    key: int
    prompt: tuple[int, ...]
    written: list[int] = field(default_factory=list)
    finish: Finish | None = None


Watch = Callable[[Sequence[Sequence[Row]]], None]
"""Called before every call of the model with the rollouts that each row is read for: several may share a prompt, and a
row that is done is read for none. Called with an empty list before a call that repeats what was read."""


class LiveBatch:
    """Rows being written together; rows that are done stay, unseen, until the next :meth:`join` or :meth:`leave`."""

    def __init__(
        self, model: PreTrainedModel, sampling: Sampling, eos: frozenset[int], spliced: bool, watch: Watch | None = None
    ) -> None:
        self._call, self._sampling, self._eos, self._spliced = _Call(model), sampling, eos, spliced
        self._watch = watch or (lambda _: None)
        self.device = next(model.get_input_embeddings().parameters()).device
        self._exact = exact(model)
        self._switch = reads_again_after(model)
        self.rows: list[Row] = []
        self._cache: DynamicCache | None = None
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=self.device)

    @property
    def going(self) -> int:
        """Rows that are not done."""
        return sum(row.finish is None for row in self.rows)

    @torch.inference_mode()
    def join(self, new: Sequence[Row]) -> list[Row]:
        """Read the prompts of new rows apart, draw their first tokens, and put them beside the rows that go on."""
        prompts = list(dict.fromkeys(row.prompt for row in new))
        place = {prompt: k for k, prompt in enumerate(prompts)}
        tokens, mask = _left_padded(prompts, self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = self._call.empty_cache()
        self._watch([[row for row in new if row.prompt == prompt] for prompt in prompts])
        logits = self._call(tokens, mask, positions, cache, [len(prompt) for prompt in prompts])
        copies = torch.tensor([place[row.prompt] for row in new], device=self.device)
        done = self._record(new, logits[copies])
        self._seat(list(new), cache, mask, copies)
        return done

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One more token for every row."""
        self._read_again()
        cache = self._cache
        assert cache is not None
        tokens = torch.tensor([[row.written[-1]] for row in self.rows], device=self.device)
        positions = torch.tensor([[len(r.prompt) + len(r.written) - 1] for r in self.rows], device=self.device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._watch([[row] if row.finish is None else [] for row in self.rows])
        lengths = [len(row.prompt) + len(row.written) for row in self.rows]
        return self._record(self.rows, self._call(tokens, self._mask, positions, cache, lengths))

    def _read_again(self) -> None:
        """Rows about to outgrow the length at which the model's own ``generate`` reads the whole row again."""
        kept = [len(row.prompt) + len(row.written) - 1 for row in self.rows]
        going = [k for k, row in enumerate(self.rows) if row.finish is None]
        outgrown = [self.rows[k] for k in going if kept[k] == self._switch]
        if not outgrown:
            return
        tokens, mask = _left_padded([(*row.prompt, *row.written[:-1]) for row in outgrown], self.device)
        cache = self._call.empty_cache()
        self._watch([[row] for row in outgrown])
        self._call(tokens, mask, mask.cumsum(1) - 1, cache, [tokens.shape[1] + 1] * len(outgrown))
        self._seat(outgrown, cache, mask, torch.arange(len(outgrown), device=self.device))

    @torch.inference_mode()
    def leave(self) -> None:
        """Let the rows that are done go."""
        self._seat([], None, None, torch.zeros(0, dtype=torch.long, device=self.device))

    def _record(self, rows: Sequence[Row], logits: Float[Tensor, "row vocab"]) -> list[Row]:
        keys = torch.tensor([row.key for row in rows], device=self.device)
        steps = torch.tensor([len(row.written) for row in rows], device=self.device)
        drawn = draw(logits, keys, steps, self._sampling)
        tokens = self._settled(rows, logits, drawn, keys, steps) if self._exact else drawn.tokens.tolist()
        done = []
        for row, token in zip(rows, tokens, strict=True):
            if row.finish is not None:  # done, and only still in the batch: what it draws is dropped
                continue
            if token < 0:
                raise not_finite(self._call.model, f"the logits behind token {len(row.prompt) + len(row.written) - 1}")
            row.written.append(token)
            if token in self._eos:
                row.finish = "stop"
            elif len(row.written) == self._sampling.max_new_tokens:
                row.finish = "length"
            if row.finish is not None:
                done.append(row)
        return done

    def _settled(
        self, rows: Sequence[Row], logits: Tensor, drawn: Drawn, keys: Int[Tensor, " row"], steps: Int[Tensor, " row"]
    ) -> list[int]:
        """The drawn tokens, the doubtful ones drawn again from a pass of their rollout alone."""
        tokens, doubtful = drawn.tokens.tolist(), drawn.doubtful.tolist()
        for k, row in enumerate(rows):
            if not doubtful[k] or row.finish is not None or tokens[k] < 0:
                continue
            self._watch([])
            alone = self._call.alone((*row.prompt, *row.written), self.device)
            # more than rounding apart: a hook that treats a whole rollout unlike its steps, or an expert that
            # changed; then the batch's own draw is as good as the other
            if agree(alone[0], logits[k].to(alone.device)):
                tokens[k] = int(draw(alone, keys[k : k + 1], steps[k : k + 1], self._sampling).tokens)
        return cast("list[int]", tokens)

    def _seat(
        self, new: list[Row], cache: DynamicCache | None, mask: Tensor | None, copies: Int[Tensor, " row"]
    ) -> None:
        """The rows that go on and the new ones (or old ones that were read again), in one cache."""
        stay = [k for k, row in enumerate(self.rows) if row.finish is None and not any(row is one for one in new)]
        fresh = [k for k, row in enumerate(new) if row.finish is None]
        seats = torch.tensor(stay, dtype=torch.long, device=self.device)
        old, self.rows = self._cache, [*(self.rows[k] for k in stay), *(new[k] for k in fresh)]
        if not self.rows:
            self._cache, self._mask = None, self._mask[:0, :0]
            return
        if not self._spliced:
            self._cache = kept = cache if old is None or not stay else old
            assert kept is not None
            which, seen = (copies[fresh], mask) if kept is cache and mask is not None else (seats, self._mask)
            # not batch_select_indices, which layers with a recurrent state lack
            kept.reorder_cache(cast(torch.LongTensor, which))
            self._mask = seen[which]
            return
        # the cache holds every token but the last one drawn
        columns = max(len(row.prompt) + len(row.written) - 1 for row in self.rows)
        self._cache = splice(old if stay else None, seats, cache if fresh else None, copies[fresh], columns)
        lengths = torch.tensor([len(row.prompt) + len(row.written) - 1 for row in self.rows], device=self.device)
        self._mask = (torch.arange(columns, device=self.device) >= columns - lengths[:, None]).long()


def exact(model: PreTrainedModel) -> bool:
    """Whether rounding is small enough that a rollout can be made wholly independent of its batch: float32 without
    the shortened products a GPU may be set to use."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return dtypes <= {torch.float32, torch.float64} and torch.get_float32_matmul_precision() == "highest"


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
        self.model = model
        names = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in names
        # only the last position's logits are drawn from; a 150,000-word vocabulary makes the rest expensive
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in names else {}

    def empty_cache(self) -> DynamicCache:
        """A cache of this model's kinds of layers."""
        return DynamicCache(config=self.model.config)

    def __call__(
        self,
        tokens: Int[Tensor, "row pos"],
        mask: Int[Tensor, "row key"],
        positions: Int[Tensor, "row pos"],
        cache: DynamicCache,
        lengths: Sequence[int],
    ) -> Float[Tensor, "row vocab"]:
        """Logits of the last position; ``lengths`` are the tokens of every row so far."""
        extra = {**self._extra, "position_ids": positions} if self._takes_positions else self._extra
        with as_alone(self.model, lengths):
            out = self.model(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        return cast(Tensor, out.logits[:, -1].float())

    def alone(self, ids: tuple[int, ...], device: torch.device) -> Float[Tensor, "1 vocab"]:
        """Logits after one row of tokens, without padding or cache: they depend on the tokens and on nothing else."""
        with as_alone(self.model, [len(ids)]):
            out = self.model(input_ids=torch.tensor([ids], device=device), use_cache=False, **self._extra)
        return cast(Tensor, out.logits[:, -1].float())
