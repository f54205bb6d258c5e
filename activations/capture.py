"""A short random pass whose module inputs and outputs are kept, and the comparison of what must be equal in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from verdictscope.activations.hooks import attach

N_TOKENS = 16
Hookable = tuple[nn.Module, Literal["in", "out"]]
RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest error of an identity relative to the branch it explains, before the rounding of the stream."""


@dataclass(frozen=True, slots=True)
class Check:
    """One identity at one layer.

    Attributes:
        name: which identity.
        site: the site it vouches for.
        layer: the layer, ``None`` for the model as a whole.
        relative: the largest error over tokens, relative to the size of what the site adds or is.
        allowed: the same for the error that rounding explains.
        ok: whether the error is within it at every token.
    """

    name: str
    site: str
    layer: int | None
    relative: float
    allowed: float
    ok: bool


def probe_ids(hf: PreTrainedModel, n: int = N_TOKENS, seed: int = 0) -> Int[Tensor, "1 pos"]:
    """Random token ids, the same on every machine."""
    embedding = embedding_weight(hf)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(embedding.shape[0], (1, n), generator=generator).to(embedding.device)


def embedding_weight(hf: PreTrainedModel) -> Float[Tensor, "vocab d_embed"]:
    """The input embedding's weight: its length is the vocabulary, its device is where inputs go."""
    weight = hf.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


class Values(dict[tuple, Tensor]):
    """Captured values, float64 ``[pos d]`` on the CPU, and the dtypes they had."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[tuple, torch.dtype] = {}

    def keep(self, key: tuple, value: Tensor) -> None:
        """Keeps a copy."""
        self.dtypes[key] = value.dtype
        self[key] = value.detach().reshape(-1, value.shape[-1]).double().cpu()


@contextmanager
def captured(wanted: dict[tuple, Hookable]) -> Iterator[Values]:
    """Values of module inputs and outputs during one pass."""
    values = Values()
    with ExitStack() as stack:
        for key, (module, side) in wanted.items():
            stack.callback(attach(module, side, partial(values.keep, key)).remove)
        yield values


def _rms(x: Tensor) -> Float[Tensor, " pos"]:
    return x.pow(2).mean(-1).sqrt()


def compare(
    name: str, site: str, layer: int | None, parts: Sequence[Tensor], total: Tensor, dtype: torch.dtype
) -> Check:
    """Does ``parts[0] + the rest = total``, token by token, up to rounding in ``dtype``?

    The error is set against what the rest adds, not against the residual stream, in which a small branch
    would drown.
    """
    if any(part.shape != total.shape for part in parts):
        return Check(name, site, layer, float("inf"), 0.0, False)
    error = _rms(sum(parts) - total)
    size = _rms(total - parts[0]) if len(parts) > 1 else _rms(total)
    stream = _rms(total) + _rms(parts[0])
    budget = RELATIVE.get(dtype, 1e-5) * size + 4 * torch.finfo(dtype).eps * stream
    floor = size.clamp(min=torch.finfo(torch.float32).tiny)
    ok = bool((error <= budget).all()) and bool(torch.isfinite(error).all())
    return Check(name, site, layer, float((error / floor).max()), float((budget / floor).max()), ok)
