"""What every benchmark shares: interleaved repeats, medians, and one form of output.

A benchmark is a file of this folder with a function ``run(repeats) -> Result``; its name is the file's. Every ratio
comes from medians of repeats taken in turns in one process, so that a busy machine slows all variants alike.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verdictscope.provenance import commit, machine, versions

Variant = Callable[[], Any]


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        setting: sizes: what was run.
        rows: one mapping a variant, with ``name`` and ``seconds`` first; further columns as the benchmark needs.
        headline: the ratios that are quoted.
        notes: what a reader must know to read the ratios fairly (floors, variants that could not be run).
    """

    setting: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    headline: Mapping[str, float | None]
    notes: Sequence[str] = field(default=())

    def to_dict(self, name: str) -> dict[str, Any]:
        """The JSON object a benchmark prints."""
        return {
            "benchmark": name,
            "machine": {**machine(), "load": round(os.getloadavg()[0], 2), "commit": commit(), "versions": versions()},
            "setting": dict(self.setting),
            "rows": [dict(row) for row in self.rows],
            "headline": dict(self.headline),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Timings:
    """Seconds of every variant in every round.

    Attributes:
        seconds: variant to its seconds, round by round.
    """

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, variant: str) -> float:
        """Median seconds of a variant."""
        return float(np.median(self.seconds[variant]))

    def ratio(self, variant: str, against: str) -> float:
        """Median of one variant over the median of another."""
        return self.median(variant) / self.median(against)

    def spread(self, variant: str, against: str) -> tuple[float, float]:
        """Quartiles of the ratio within a round: how far the ratio can be trusted on this machine."""
        ratios = np.divide(self.seconds[variant], self.seconds[against])
        low, high = np.quantile(ratios, [0.25, 0.75])
        return float(low), float(high)

    def rows(self, against: str | None = None, **columns: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row a variant: median, fastest, slowest, and the ratio to a variant with its quartiles.

        Args:
            against: the variant the others are compared with.
            columns: further columns, each a mapping of variant to value.
        """
        lines = []
        for variant, seconds in self.seconds.items():
            line = {"name": variant, "seconds": self.median(variant), "fastest": min(seconds), "slowest": max(seconds)}
            line["repeats"] = len(seconds)
            if against is not None:
                low, high = self.spread(variant, against)
                line |= {f"vs_{against}": self.ratio(variant, against), "low": low, "high": high}
            line |= {name: values[variant] for name, values in columns.items() if variant in values}
            lines.append(line)
        return lines


def interleave(variants: Mapping[str, Variant], repeats: int = 5, warmup: int = 1) -> Timings:
    """Runs the variants in turns, each round in another order, and times them.

    Args:
        variants: name to a function without arguments; what it returns is dropped outside the timed part.
        repeats: timed rounds.
        warmup: rounds before that, not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), np.random.default_rng(0)
    for turn in range(warmup + repeats):
        for name in order:
            gc.collect()
            taken = timed(variants[name])
            if turn >= warmup:
                seconds[name].append(taken)
        shuffle.shuffle(order)
        say(f"round {turn + 1} of {warmup + repeats} done")
    return Timings({name: tuple(found) for name, found in seconds.items()})


def timed(variant: Variant) -> float:
    """Seconds of one call, the device's queue emptied before and after."""
    synchronise()
    begin = time.perf_counter()
    kept = variant()
    synchronise()
    taken = time.perf_counter() - begin
    del kept
    return taken


def synchronise() -> None:
    """Waits for the GPU, if there is one and it was used."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
