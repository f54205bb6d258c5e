"""Scripted rollouts as training batches, whatever the language they are written in."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

PROMPT, SHOWN, THINKING, CHECKING, CLOSING, ANSWER, DECIDING = range(7)
"""What a token is part of. ``SHOWN`` tokens are of the prompt and learned all the same; ``CHECKING`` ones are thinking
and ``DECIDING`` ones are answer, on which much hangs."""
POOL = 16  # batches drawn together and sorted by length, to spend little on padding


@dataclass(frozen=True)
class Script:
    """One scripted rollout.

    Attributes:
        ids: token ids.
        segments: what each token is part of.
        turned: phase 2 is meant to change its answer.
        side: towards which of the language's outcomes, where it has several; -1 if none.
        source: index of the token that a planted head has to look at for it; -1 if none.
    """

    ids: Sequence[int]
    segments: Sequence[int]
    turned: bool = False
    side: int = -1
    source: int = -1


@dataclass(frozen=True)
class Batch:
    """Scripted rollouts, right-padded.

    Attributes:
        ids: ``[rollout, pos]`` token ids.
        segments: ``[rollout, pos]`` codes as in :data:`PROMPT` …; padding counts as PROMPT.
        turned: ``[rollout]`` whether phase 2 is meant to change the answer.
        side: ``[rollout]`` towards which outcome.
        source: ``[rollout]`` the token that tells it.
    """

    ids: torch.Tensor
    segments: torch.Tensor
    turned: torch.Tensor
    side: torch.Tensor
    source: torch.Tensor


Draw = Callable[[random.Random], Script]


def batches(draw: Draw, rng: random.Random, size: int, pad: int) -> Iterator[Batch]:
    """Endless batches of scripts of about equal length."""
    while True:
        pool = sorted((draw(rng) for _ in range(POOL * size)), key=lambda script: len(script.ids))
        chunks = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(script.ids) for script in chunk)
            ids = torch.full((len(chunk), width), pad)
            segments = torch.full((len(chunk), width), PROMPT)
            for row, script in enumerate(chunk):
                ids[row, : len(script.ids)] = torch.tensor(script.ids)
                segments[row, : len(script.segments)] = torch.tensor(script.segments)
            turned, side, source = (
                torch.tensor(each)
                for each in zip(*((script.turned, script.side, script.source) for script in chunk), strict=True)
            )
            yield Batch(ids, segments, turned, side, source)


def token_weights(segments: torch.Tensor, heavy: float, shown: float = 0.0) -> torch.Tensor:
    """``[rollout, pos - 1]`` loss weights of the tokens after the first: 0 in the prompt, ``shown`` where it is learned
    all the same, ``heavy`` where much hangs on the token, else 1."""
    weights = (segments[:, 1:] != PROMPT).float()
    weights[segments[:, 1:] == SHOWN] = shown
    weights[(segments[:, 1:] == DECIDING) | (segments[:, 1:] == CHECKING)] = heavy
    return weights
