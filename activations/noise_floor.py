"""The noise floor of a model: what padding and batch mates change through rounding alone."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from verdictscope.activations.batch import Batch, Where, execute
from verdictscope.activations.capture import probe_ids
from verdictscope.activations.hooks import BatchView, Tap
from verdictscope.rollouts.rollout import Rollout, Span

if TYPE_CHECKING:
    from verdictscope.activations.model import Model

LENGTHS = (19, 48, 11, 30, 24)
"""Tokens of the sequences that share a batch: several, since a kernel may pick another order of summation at one
length and not at the next."""


def measure_noise_floor(model: Model) -> float:
    """Largest relative change of hidden states and logits when sequences of several lengths share a batch."""
    ids = probe_ids(model.hf, max(LENGTHS), seed=1)[0].tolist()
    mates = [Rollout(f"m{n}", "0", tuple(ids[-n:]), (Span("user", 0, n),), n) for n in LENGTHS]
    together, alone = _values(model, mates), [_values(model, [mate]) for mate in mates]
    worst = torch.finfo(model.dtype).eps
    for key, whole in together.items():
        parts = torch.cat([values[key] for values in alone])
        worst = max(worst, float(((parts - whole).norm(dim=-1) / parts.norm(dim=-1)).max()))
    return worst


def _values(model: Model, rollouts: list[Rollout]) -> dict[tuple[str, int], Tensor]:
    """``[token d]`` of every real token in one batch: the residual stream after each layer, final norm and logits."""
    batch, kept = Batch(tuple(rollouts), model.device), {}
    lengths = [len(r) for r in rollouts]
    rows = np.repeat(np.arange(len(rollouts)), lengths)
    where = Where(rows, np.concatenate([np.arange(n) for n in lengths]), batch.device)

    def keep(name: str, value: Tensor, view: BatchView) -> None:
        kept[name, view.layer] = where.gather(value).double().cpu()

    last = model.n_layers - 1
    taps = [Tap("resid_post", layer, partial(keep, "resid_post")) for layer in range(model.n_layers)]
    taps.append(Tap("final_norm", last, partial(keep, "final_norm")))
    logits = execute(model, batch, taps, None, where if model.sites.unembed is not None else None)
    if logits is not None:
        kept["logits", last] = logits.double().cpu()
    return kept
