"""Gumbel noise as a pure function of (seed, rollout, step, token), so that batching cannot touch a draw.

A counter-based generator: SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators", finaliser of Stafford's variant 13) of a per-rollout key, the step and the token id, on the
model's own device. No generator object is advanced, and torch's global one is left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _signed(value: int) -> int:
    """A 64-bit pattern as torch's int64 holds it."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _MIX1, _MIX2 = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def rollout_keys(seed: int, ids: Sequence[str]) -> list[int]:
    """One 64-bit key per rollout id, the same on every machine."""
    return [
        int.from_bytes(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), "big", signed=True)
        for name in ids
    ]


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift right: torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def gumbel(keys: Int[Tensor, " row"], step: int | Int[Tensor, " row"], vocab: int) -> Float[Tensor, "row vocab"]:
    """Standard Gumbel noise for one decoding step."""
    # products of int64 wrap around, as the generator's 64-bit arithmetic does
    offset = _signed((step + 1) * _GOLDEN) if isinstance(step, int) else (step + 1) * _GOLDEN
    base = _mix(keys + offset)[:, None]
    bits = _mix(base + torch.arange(1, vocab + 1, device=keys.device) * _GOLDEN)
    # u in (0, 1) is read from the fine end: small u are the large draws, and floats are dense near 0
    u = (_shift(bits, 11).to(torch.float32) + 0.5) * 2.0**-53
    return -torch.log(-torch.log1p(-u.clamp_(max=1 - 2.0**-24)))
