"""What it costs to know that a kept result is of these weights: a digest of all of them against one forward pass.

The floor is memory bandwidth: a forward pass reads every weight once a batch, the digest once a call. No count of
changes could stand in for it, since those made through ``p.data`` or a NumPy view are not counted.
"""

from __future__ import annotations

import torch
import xxhash

from benchmarks.common import Result, interleave
from benchmarks.random_models import parameters, random_model, random_rollouts
from verdictscope.activations import Site, forward
from verdictscope.kept import model_facts
from verdictscope.weights_digest import weights_digest

ROLLOUTS, TOKENS = 16, 256


def run(repeats: int, small: bool = False) -> Result:
    """Times the check of a store and a forward pass over the rollouts in it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_model(device)
    rollouts = random_rollouts(2 if small else ROLLOUTS, 32 if small else TOKENS)
    read = Site("resid_post", model.n_layers - 1) @ "last"
    some = torch.randn(1 << 26).numpy().tobytes()
    timings = interleave(
        {
            "forward": lambda: forward(model, rollouts, [read]),
            "check": lambda: model_facts(model.hf),
            "digest": lambda: weights_digest(model.hf),
            "xxh3": lambda: xxhash.xxh3_128_intdigest(some),
        },
        repeats,
    )
    size = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    tokens = sum(map(len, rollouts))
    setting = {
        "parameters": parameters(model),
        "bytes": size,
        "rollouts": len(rollouts),
        "tokens": tokens,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device,
    }
    rates = {"check": size, "digest": size, "xxh3": len(some)}
    speed = {variant: n / timings.median(variant) / 1e9 for variant, n in rates.items()}
    share = timings.ratio("check", "forward")
    headline = {"check_vs_forward": share, "tokens_for_one_percent": share * tokens / 0.01}
    notes = [
        "check: everything that collect, generate and judge compare before they reuse a file; digest: the "
        "weights alone; xxh3: XXH3-128 over 256 MB in memory, one thread.",
        "tokens_for_one_percent: how many tokens the rollouts must have in all for the check to cost less than 1 %.",
    ]
    return Result(setting, timings.rows("forward", gb_per_s=speed), headline, notes)
