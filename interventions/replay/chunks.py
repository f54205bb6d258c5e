"""Which rollouts share a clean pass, and which variants a pass: those of one layer, or of a few where that is cheaper.

Plain arithmetic, so that a plan can count passes before a model is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from verdictscope.activations import BatchPlan

LAUNCH = 64
"""What it costs to start a layer, in tokens: its weights are read whether 8 tokens go through or 800."""
COPY = 25
"""What it costs to copy a token's keys and values, in attention weights of one token (measured on two CPU cores)."""
MASKS = 2**27
"""Most entries of a mask."""
LOGITS = 2**28
"""Most logits made at once."""
KEPT = 2**31
"""Most bytes of a clean pass that are kept, one rollout apart."""


@dataclass(frozen=True)
class Chunk:
    """Variants that share a pass."""

    layer: int
    members: tuple[int, ...]


def chunks(starts: Sequence[int], top: int, tokens: int, room: int) -> list[Chunk]:
    """The cheapest way to share passes, variants taken in the order of their layers."""
    order = sorted(range(len(starts)), key=lambda i: starts[i])
    pieces: list[tuple[int, list[int]]] = []
    for i in order:
        if not pieces or pieces[-1][0] != starts[i] or len(pieces[-1][1]) == room:
            pieces.append((starts[i], []))
        pieces[-1][1].append(i)
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(pieces) + 1):
        options, held = [], 0
        for begin in range(end - 1, -1, -1):
            held += len(pieces[begin][1])
            if held > room and begin < end - 1:
                break
            cost = (top + 1 - pieces[begin][0]) * (LAUNCH + held * tokens)
            options.append((best[begin][0] + cost, begin))
        best.append(min(options))
    found: list[Chunk] = []
    end = len(pieces)
    while end:
        begin = best[end][1]
        members = tuple(i for _, piece in pieces[begin:end] for i in piece)
        found.insert(0, Chunk(pieces[begin][0], members))
        end = begin
    return found


def rows_for(variants: int, width: int, prefix: int) -> tuple[int, int]:
    """Rows a sequence, and variants in a row."""
    most = max(1, round(sqrt(COPY * prefix) / width))
    rows = ceil(variants / most)
    return rows, ceil(variants / rows)


def room_for(sequences: int, width: int, prefix: int, budget: int, logits: int = 0) -> int:
    """Most variants in a pass, one at least: so many tokens, and masks and logits of bounded size."""
    room = budget // (sequences * width)
    if prefix:
        room = min(room, MASKS // (sequences * width * (prefix + width)))
    if logits:
        room = min(room, LOGITS // logits)
    return max(1, room)


def parts(tokens: Sequence[int], per_token: int, budget: int) -> list[list[int]]:
    """Rollouts that share a clean pass: of similar length, and no more than can be kept."""
    return [list(batch) for batch in BatchPlan.make(tokens, max(1, min(budget, KEPT // per_token))).batches]


def kept_per_token(n_layers: int, d_model: int, n_heads: int, d_head: int, itemsize: int) -> int:
    """Bytes that are kept of a token: the input of every block, keys and values."""
    return n_layers * (d_model + 2 * n_heads * max(d_head, 1)) * itemsize
