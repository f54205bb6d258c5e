"""How fast a device is: a stated assumption, or a measurement on this machine. Hours follow from it, nothing else."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from verdictscope.errors import InputError, reason

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from verdictscope.study.planning.jobs import Job


@dataclass(frozen=True)
class Rates:
    """What a device does in a second.

    Attributes:
        name: of the device.
        half, single: peak operations a second in 16-bit and in 32-bit numbers.
        bandwidth: peak bytes a second from the device's memory.
        memory: bytes of it, ``None`` where unknown.
        computes: share of the peak that long passes reach.
        reads: share of the bandwidth that decoding reaches.
        launch: seconds a call spends in each layer whatever it computes: Python, hooks, kernel launches.
        source: where the numbers come from.
    """

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float | None
    computes: float = 0.4
    reads: float = 0.6
    launch: float = 0.6e-3
    source: str = "NVIDIA's data sheet, without sparsity"

    def seconds(self, job: Job, layers: int, itemsize: int) -> float:
        """What a job takes: the slower of computing and reading memory, and what every call costs."""
        peak = self.half if itemsize <= 2 else self.single
        computing, reading = job.flops / (peak * self.computes), job.moved / (self.bandwidth * self.reads)
        return max(computing, reading) + job.passes * layers * self.launch


ASSUMED = {
    "h100": Rates("H100 SXM", 989e12, 67e12, 3.35e12, 80e9),
    "h200": Rates("H200 SXM", 989e12, 67e12, 4.8e12, 141e9),
    "a100": Rates("A100 SXM 80 GB", 312e12, 19.5e12, 2.039e12, 80e9),
    "l40s": Rates("L40S", 362e12, 91.6e12, 864e9, 48e9),
    "rtx4090": Rates("RTX 4090", 165e12, 82.6e12, 1.008e12, 24e9),
    "cpu": Rates("two CPU cores", 0.05e12, 0.1e12, 20e9, None, 0.5, 0.5, 0.25e-3, "a guess: use --measure"),
}
"""Devices by the name that ``--device`` takes."""


def assumed(device: str, tflops: float | None = None) -> Rates:
    """The stated rates of a device.

    Args:
        device: a key of :data:`ASSUMED`.
        tflops: what it reaches in long passes, in 10¹² operations a second, in place of the peak and its share.

    Raises:
        InputError: an unknown device, or a rate that is not positive.
    """
    if device not in ASSUMED:
        raise InputError(f"no device {device!r}: known are {', '.join(ASSUMED)}; or give --tflops, or --measure")
    found = ASSUMED[device]
    if tflops is None:
        return found
    if not tflops > 0:
        raise InputError(f"--tflops is {tflops:g}: give what the device reaches, in 10^12 operations a second")
    return replace(found, half=tflops * 1e12, single=tflops * 1e12, computes=1.0, source="--tflops")


def measure(config: PretrainedConfig, dtype: str, device: str, trust_remote_code: bool = False) -> Rates:
    """The rates of this machine, on layers of this very architecture with random weights: one and three of them, so
    that what belongs to no layer falls out.

    Args:
        config: the model's.
        dtype: floating type it will run in.
        device: torch device.
        trust_remote_code: as for loading.

    Raises:
        InputError: no model of so few layers can be built from the config, or the device cannot be used.
    """
    import torch

    try:
        few = {n: _thin(config, n, dtype, device, trust_remote_code) for n in (1, 3)}
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, KeyError) as error:
        why = f"nothing can be measured on {device}: {reason(error)}"
        raise InputError(f"{why}; plan with --device or --tflops") from error
    width = min(512, int(getattr(config.get_text_config(), "max_position_embeddings", None) or 512))
    long = {n: _timed(lambda m=m: m(_ids(m, width), use_cache=False), device) for n, m in few.items()}
    short = {n: _timed(lambda m=m: m(_ids(m, 1), use_cache=False), device) for n, m in few.items()}
    a_layer = sum(p.numel() for p in few[3].parameters()) - sum(p.numel() for p in few[1].parameters())
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    block = torch.ones(1 << 26, dtype=torch.uint8, device=device)
    bandwidth = 2 * block.numel() / _timed(block.clone, device)
    launch = max(0.0, (short[3] - short[1]) / 2 - a_layer / 2 * size / bandwidth)
    computing = max((long[3] - long[1]) / 2 - launch, 1e-9)
    flops = a_layer / 2 * 2 * width / computing
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{torch.get_num_threads()} CPU threads"
    memory = torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else None
    how = f"measured here, on 1 and 3 layers of this architecture with random weights, {width} tokens"
    return Rates(name, flops, flops, bandwidth, memory, 1.0, 1.0, launch, how)


def _thin(config: PretrainedConfig, layers: int, dtype: str, device: str, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    thin = copy.deepcopy(config)
    text = thin.get_text_config(decoder=True)
    text.num_hidden_layers, text.vocab_size = layers, 256
    if getattr(text, "layer_types", None):
        text.layer_types = (list(text.layer_types) * layers)[:layers]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(text, name, None)
    with torch.device(device):
        made = AutoModelForCausalLM.from_config(thin, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code)
    return made.eval().base_model


def _ids(model: Any, width: int) -> Any:
    import torch

    return torch.zeros(1, width, dtype=torch.long, device=model.device)


def _timed(call: Any, device: str, repeats: int = 7) -> float:
    """Median seconds of a call, after two to warm up."""
    import torch

    taken = []
    with torch.no_grad():
        for number in range(repeats + 2):
            begin = time.perf_counter()
            call()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if number >= 2:
                taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
