"""What an engine is asked and what it gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from verdictscope.rollouts.rollout import Finish, Sampling


@dataclass(frozen=True, slots=True)
class Request:
    """One rollout to draw: its id (which fixes the noise) and the ids it goes on from."""

    id: str
    prompt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote for request number ``index``, the end-of-turn token included."""

    index: int
    ids: tuple[int, ...]
    finish: Finish


@runtime_checkable
class Engine(Protocol):
    """What draws tokens."""

    @property
    def name(self) -> str: ...

    @property
    def independent(self) -> bool: ...

    def describe(self) -> Mapping[str, Any]:
        """Plain data that tells one source of tokens from another: rollouts of two are never mixed in a file."""
        ...

    def write(self, requests: Sequence[Request], sampling: Sampling, eos: frozenset[int]) -> Iterator[list[Written]]:
        """Draw all requests, in any order, as they are done."""
        ...

    def wave(self, sizes: Sequence[int]) -> int:
        """How many of the next requests, of these sizes in tokens, to draw in one go where rollouts are not
        independent: what is killed within one go is drawn again from its beginning."""
        ...
