"""The next token: tempered, cut to the nucleus, drawn with the rollout's own noise, and how sure that draw is.

The same rollout in another batch gives logits that differ by rounding, because matrix kernels sum in another order
for another shape. A draw is *doubtful* when rounding of that size could have changed it. Those few draws are made
again from a forward pass of the rollout alone, whose shape no batch-mate can touch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verdictscope.rollouts.engines.noise import gumbel
from verdictscope.rollouts.rollout import Sampling

ROUNDING = 2.0**-15
"""Largest difference, relative to the largest logit, that float32 rounding is granted between two batches."""

# what summing 100,000 probabilities in another order may change of a nucleus' mass
_MASS = 1e-4


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token per row."""

    tokens: Int[Tensor, " row"]
    doubtful: Bool[Tensor, " row"]


def draw(
    logits: Float[Tensor, "row vocab"], keys: Int[Tensor, " row"], step: int | Int[Tensor, " row"], sampling: Sampling
) -> Drawn:
    """The greedy token at temperature 0, else a keyed draw from the tempered nucleus (Gumbel-max)."""
    keys = keys.to(logits.device)
    scaled = logits if sampling.temperature == 0 else logits / sampling.temperature
    score = scaled if sampling.temperature == 0 else scaled + gumbel(keys, step, logits.shape[-1])
    slack = 2 * ROUNDING * scaled.abs().masked_fill(scaled.isinf(), 0).amax(-1)
    cut = sampling.top_p < 1 and sampling.temperature > 0
    inside = nucleus(scaled, sampling.top_p) if cut else None
    kept = score if inside is None else score.masked_fill(~inside, -torch.inf)
    tokens = kept.argmax(-1)
    # marked on the device: whoever fetches the tokens sees it, and no step waits for it
    marked = tokens.masked_fill(~logits.amax(-1).isfinite(), -1)
    if logits.shape[-1] == 1:
        return Drawn(marked, torch.zeros_like(tokens, dtype=torch.bool))
    best = kept.topk(2, -1).values
    doubtful = ~(best[:, 0] - best[:, 1] > slack)  # not <=: logits that are no numbers are doubtful too
    if inside is not None:
        doubtful |= _edge_in_doubt(scaled, score, inside, tokens, slack, sampling.top_p)
    return Drawn(marked, doubtful)


def agree(one: Float[Tensor, " vocab"], other: Float[Tensor, " vocab"]) -> bool:
    """Whether two rows of logits differ by no more than rounding."""
    finite = one.isfinite() & other.isfinite()
    if not finite.any():
        return False
    size = one[finite].abs().max()
    return bool(((one - other)[finite].abs() <= ROUNDING * size).all())


def nucleus(scaled: Float[Tensor, "row vocab"], top_p: float) -> Bool[Tensor, "row vocab"]:
    """Mask of the smallest set of likeliest tokens with mass ``top_p`` (Holtzman et al. 2020)."""
    order = scaled.argsort(dim=-1, descending=True, stable=True)
    mass = scaled.softmax(-1).gather(-1, order)
    kept = mass.cumsum(-1) - mass < top_p
    return torch.zeros_like(kept).scatter(-1, order, kept)


def _edge_in_doubt(
    scaled: Float[Tensor, "row vocab"],
    score: Float[Tensor, "row vocab"],
    inside: Bool[Tensor, "row vocab"],
    tokens: Int[Tensor, " row"],
    slack: Float[Tensor, " row"],
    top_p: float,
) -> Bool[Tensor, " row"]:
    """Whether rounding could throw the drawn token out of the nucleus, or let one in that would have been drawn.

    A token is in the nucleus while the mass of the tokens before it is below ``top_p``; which tokens those are is
    itself uncertain within the slack. Of the tokens outside that score high enough the likeliest gets in first.
    """
    mass, edge = scaled.softmax(-1), _MASS + slack
    column = tokens[:, None]
    at, wide = scaled.gather(-1, column), slack[:, None]
    before = (mass * (scaled > at - wide)).sum(-1) - mass.gather(-1, column)[:, 0]
    leaves = before > top_p - edge
    rivals = ~inside & (score >= score.gather(-1, column) - wide)
    nearest = scaled.masked_fill(~rivals, -torch.inf).amax(-1, keepdim=True)
    ahead = (mass * (scaled > nearest + wide)).sum(-1)
    return leaves | (rivals.any(-1) & (ahead < top_p + edge))
