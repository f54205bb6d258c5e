"""Which floating type a CPU is fast in: 16-bit numbers are not, on most, and then a hundred times slower."""

from __future__ import annotations

import time
import warnings
from functools import cache

import torch

SLOW = 4.0
"""So many times the time of float32 is slow: a CPU with bfloat16 units needs less than once the time."""

HALVES = (torch.bfloat16, torch.float16)


@cache
def slowdown(dtype: torch.dtype) -> float:
    """Time of a matrix product on this CPU over that in float32: the best of a few small ones, a few milliseconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is measured is the arithmetic, not how busy the other cores are
    try:
        best = {}
        for kind in (torch.float32, dtype):
            rows, weight = torch.ones(32, 256, dtype=kind), torch.ones(256, 256, dtype=kind)
            torch.mm(rows, weight)
            best[kind] = min(_seconds(rows, weight) for _ in range(5))
    finally:
        torch.set_num_threads(threads)
    return best[dtype] / best[torch.float32]


def _seconds(rows: torch.Tensor, weight: torch.Tensor) -> float:
    begin = time.perf_counter()
    torch.mm(rows, weight)
    return time.perf_counter() - begin


def dtype_here(asked: str | torch.dtype, stored: torch.dtype | None, device: torch.device) -> str | torch.dtype:
    """The floating type to load in; a type that is slow here gives a warning."""
    wanted = stored if asked == "auto" else getattr(torch, asked) if isinstance(asked, str) else asked
    if device.type != "cpu" or wanted not in HALVES or (ratio := slowdown(wanted)) < SLOW:
        return asked
    name = str(wanted).removeprefix("torch.")
    measured = f"{name} products take {ratio:.0f} times as long as float32 on this CPU (measured)"
    if asked == "auto":
        warnings.warn(f"{measured}: dtype 'auto' loads the model in float32", stacklevel=4)
        return torch.float32
    warnings.warn(f"{measured}: ask for float32, or for dtype 'auto'", stacklevel=4)
    return asked
