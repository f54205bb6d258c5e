"""Peak memory of a pass over one long rollout, beyond the loaded model, each variant in a fresh process.

On a GPU the allocator's own peak; on the CPU the kernel's peak of resident memory, reset once the model is loaded and a
short pass has loaded whatever is loaded late.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.common import say
from benchmarks.random_models import random_model, random_rollouts

VARIANTS = ("forward", "capture")


def peaks(tokens: int) -> dict[str, int]:
    """Bytes that each variant adds at its peak."""
    found = {}
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks.memory", variant, str(tokens)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the memory of {variant} could not be measured: {done.stderr.strip()[-500:]}")
        found[variant] = int(json.loads(done.stdout.strip().splitlines()[-1]))
        say(f"peak memory of {variant}: {found[variant] / 1e6:.0f} MB beyond the model")
    return found


def measure(variant: str, tokens: int) -> int:
    """Bytes that one pass adds at its peak, in this process."""
    from benchmarks.capture import POSITIONS
    from verdictscope.activations import Site, collect

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_model(device)

    def once(n: int, path: Path) -> None:
        rollouts = random_rollouts(1, n)
        ids = torch.tensor([rollouts[0].ids], device=model.device)
        if variant == "capture":
            collect(model, rollouts, [Site("resid_post") @ POSITIONS], path=path).close()
        else:
            with torch.no_grad():
                model.hf.base_model(input_ids=ids, use_cache=False)

    with tempfile.TemporaryDirectory() as folder:
        once(128, Path(folder) / "short.h5")
        before = reset_peak(device)
        once(tokens, Path(folder) / "long.h5")
        return taken_at_peak(device) - before


def reset_peak(device: str) -> int:
    """Restarts counting; what is in use now, in bytes."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets the peak to what is resident now
    return _status("VmRSS")


def taken_at_peak(device: str) -> int:
    """The most that was in use since, in bytes."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
