"""What it costs to score every token by a probe of every layer, against the bare forward pass over one long rollout.

The rivals are what one writes first: ``output_hidden_states`` and a matrix product at the end, and states stored by
layer that a loop scores afterwards. All give the same numbers, which is checked before anything is timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Result, interleave, say
from benchmarks.memory import reset_peak, taken_at_peak
from benchmarks.random_models import parameters, random_model, random_rollouts
from verdictscope.activations import BatchPlan, LinearReadout, Site, collect
from verdictscope.traces.score import trace_rollouts

TOKENS = {"cpu": 1024, "cuda": 8192}
"""Tokens of the rollout that is timed."""
SMALL = 256
MEMORY_TOKENS = 8192
MEMORY_TRIES = 3
VARIANTS = ("forward", "trace", "output_hidden_states + matmul", "stored states + loop")


def run(repeats: int, small: bool = False) -> Result:
    """Times the variants and measures peak memory, each variant of that in a fresh process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens, memory_tokens = (SMALL, 2 * SMALL) if small else (TOKENS[device], MEMORY_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(device, tokens, Path(folder))
        work.check()
        timings = interleave({name: work.variant(name) for name in VARIANTS}, repeats)
    # Noise of the allocator only adds (a bare pass took 361 to 506 MB): the smallest of a few processes is reported.
    tries = 1 if small else MEMORY_TRIES
    memory = {variant: min(in_new_process(variant, memory_tokens) for _ in range(tries)) for variant in VARIANTS}
    setting = {
        "parameters": parameters(work.model),
        "tokens": tokens,
        "memory_tokens": memory_tokens,
        "layers": work.model.n_layers,
        "d_model": work.model.d_model,
        "readouts": work.model.n_layers,
        "dtype": str(work.model.dtype).removeprefix("torch."),
        "attention": work.model.hf.config._attn_implementation,
    }
    headline = {
        "trace_vs_forward": timings.ratio("trace", "forward"),
        "peak_memory_vs_forward": memory["trace"] / memory["forward"],
    }
    notes = [
        "forward: the decoder without the head; trace: a probe at every layer and token, in one such pass.",
        "peak memory: what a pass over memory_tokens tokens adds to the loaded model, the least of a few processes.",
    ]
    return Result(setting, timings.rows("forward", peak_bytes=memory), headline, notes)


class Work:
    """The model, one rollout, a probe a layer, and one function a variant."""

    def __init__(self, device: str, tokens: int, folder: Path) -> None:
        self.model, self.folder = random_model(device), folder
        rng = np.random.default_rng(0)
        self.weight = rng.normal(size=(self.model.n_layers, self.model.d_model)) / self.model.d_model**0.5
        self.readouts = [LinearReadout("probe", "resid_post", k, w) for k, w in enumerate(self.weight)]
        self.direction = torch.from_numpy(self.weight).float().to(self.model.device)
        self.take(tokens)

    def take(self, tokens: int) -> None:
        """Another length."""
        self.rollouts = random_rollouts(1, tokens)
        self.plan = BatchPlan(((0,),), tokens)
        self.ids = torch.tensor([self.rollouts[0].ids], device=self.model.device)

    def variant(self, name: str) -> Callable[[], Any]:
        """A variant's function; each but the bare pass gives scores ``[layer token]``."""
        return dict(zip(VARIANTS, (self.bare, self.ours, self.hidden_states, self.stored), strict=True))[name]

    @torch.no_grad()
    def bare(self) -> None:
        """Hugging Face's forward pass without the head."""
        self.model.hf.base_model(input_ids=self.ids, use_cache=False)

    def ours(self) -> np.ndarray:
        """Scores inside the pass."""
        return trace_rollouts(self.model, self.rollouts, self.readouts, plan=self.plan).scores

    @torch.no_grad()
    def hidden_states(self) -> np.ndarray:
        """Every state kept on the device, then a product a layer; the last one before the final norm."""
        kept: list[torch.Tensor] = []
        last = self.model.hf.base_model.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        try:
            out = self.model.hf.base_model(input_ids=self.ids, use_cache=False, output_hidden_states=True)
        finally:
            last.remove()
        states = [*out.hidden_states[1:-1], kept[0]]
        rows = [h[0].float() @ w for h, w in zip(states, self.direction, strict=True)]
        return torch.stack(rows).cpu().numpy()

    def stored(self) -> np.ndarray:
        """Every state on disk, then read layer by layer."""
        path = self.folder / "states.h5"
        read = Site("resid_post") @ "all"
        with collect(self.model, self.rollouts, [read], path=path, plan=self.plan) as store:
            scores = [store.read(read.site.name, k).float().numpy() @ w for k, w in enumerate(self.weight)]
        path.unlink()
        return np.stack(scores)

    def check(self) -> None:
        """A variant that reads something else is no comparison."""
        mine = self.ours()
        for other in VARIANTS[2:]:
            theirs = self.variant(other)()
            error = float(np.abs(mine - theirs).max() / np.abs(mine).max())
            if error > (1e-4 if self.model.dtype == torch.float32 else 3e-2):
                raise RuntimeError(f"{other} gives other scores (relative difference {error:.1e})")


def in_new_process(variant: str, tokens: int) -> int:
    """Bytes that one pass of a variant adds at its peak."""
    command = [sys.executable, "-m", "benchmarks.trace", variant, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the memory of {variant} could not be measured: {done.stderr.strip()[-500:]}")
    found = int(json.loads(done.stdout.strip().splitlines()[-1]))
    say(f"peak memory of {variant}: {found / 1e6:.0f} MB beyond the model")
    return found


def measure(variant: str, tokens: int) -> int:
    """The same, in this process; a short pass first loads whatever is loaded late."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        work = Work(device, 128, Path(folder))
        work.variant(variant)()
        work.take(tokens)
        before = reset_peak(device)
        kept = work.variant(variant)()
        del kept
        return taken_at_peak(device) - before


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
