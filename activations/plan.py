"""Which rollouts share a batch: decided once from the lengths, stored with the run, handed out in whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verdictscope.errors import InputError

TOKEN_BUDGET = {"cpu": 4096, "cuda": 16384}
"""Padded tokens per batch where the caller names none, by device type."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """A partition of the rollouts into batches.

    Attributes:
        batches: indices into the list of rollouts, one tuple a batch.
        token_budget: most padded tokens in a batch (a single longer rollout is a batch of its own).

    Example:
        >>> from verdictscope.activations import BatchPlan
        >>> BatchPlan.make([12, 40, 38, 7], token_budget=80).batches
        ((1, 2), (0, 3))
    """

    batches: tuple[tuple[int, ...], ...]
    token_budget: int

    @classmethod
    def make(cls, lengths: Sequence[int], token_budget: int = TOKEN_BUDGET["cpu"]) -> BatchPlan:
        """Batches of similar length, the longest first, so that running out of memory shows at once.

        Args:
            lengths: tokens of each rollout.
            token_budget: most padded tokens in a batch.

        Raises:
            InputError: the budget is not positive.
        """
        if token_budget < 1:
            raise InputError(f"token_budget is {token_budget}; it must be at least 1")
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        batches: list[list[int]] = []
        for i in order:
            # Right padding: a batch costs its longest, which came first, times its size.
            if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= token_budget:
                batches[-1].append(i)
            else:
                batches.append([i])
        return cls(tuple(tuple(batch) for batch in batches), token_budget)

    @property
    def order(self) -> tuple[int, ...]:
        """The rollouts in the order in which the batches take them."""
        return tuple(i for batch in self.batches for i in batch)

    def check(self, n: int) -> None:
        """Raises ``InputError`` unless the plan holds each of ``n`` rollouts exactly once."""
        if sorted(self.order) != list(range(n)):
            raise InputError(f"the batch plan does not hold each of the {n} rollouts once; make a new one")

    def split(self, i: int) -> BatchPlan:
        """The plan with batch ``i`` cut in two halves, the order unchanged."""
        batch = self.batches[i]
        if len(batch) < 2:
            raise InputError(
                "out of memory with a single rollout in the batch; use a smaller model or shorter rollouts"
            )
        half = (len(batch) + 1) // 2
        return BatchPlan((*self.batches[:i], batch[:half], batch[half:], *self.batches[i + 1 :]), self.token_budget)

    def to_dict(self) -> dict[str, Any]:
        """As plain lists and numbers, for JSON."""
        return {"batches": [list(batch) for batch in self.batches], "token_budget": self.token_budget}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BatchPlan:
        """The inverse of ``to_dict``."""
        return cls(tuple(tuple(int(i) for i in batch) for batch in data["batches"]), int(data["token_budget"]))
