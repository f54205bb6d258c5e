"""What enters the first layer, as the token's embedding and the position's: measured, never listed by family.

Gemma scales the embedding by the root of its width, Granite by a number, GPT-2 and OPT add a vector a position, Bloom
norms it. So it is tried on two sequences whether the stream is one number times the embedding plus something that the
position alone decides; where it is not, the embedding stays one part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations import Model, Site, forward
from verdictscope.activations.capture import RELATIVE, probe_ids
from verdictscope.rollouts import Rollout, Span

N_TOKENS = 12


@dataclass(frozen=True, eq=False)
class EmbeddingParts:
    """How the first layer's input is made."""

    model: Model
    scale: float | None
    split: bool

    def tokens(self, ids: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row d_model"]:
        """The token part of the stream at each row."""
        assert self.scale is not None
        known, at = np.unique(ids, return_inverse=True)
        return self.scale * _embedded(self.model, torch.from_numpy(known)).double().cpu().numpy()[at]


def embedding_parts(model: Model) -> EmbeddingParts:
    """Finds out how the stream begins, in one pass over two short random sequences that ends before the first layer."""
    ids = [probe_ids(model.hf, N_TOKENS, seed)[0].tolist() for seed in (2, 3)]
    pair = [Rollout(f"e{i}", "0", tuple(s), (Span("user", 0, len(s)),), len(s)) for i, s in enumerate(ids)]
    read = Site("resid_pre", 0) @ "all"
    stream = forward(model, pair, [read]).values[read][0].double().reshape(2, N_TOKENS, -1)
    table = torch.stack([_embedded(model, torch.tensor(s)).double().cpu() for s in ids])
    if table.shape != stream.shape:
        return EmbeddingParts(model, None, False)
    apart, moved = table[0] - table[1], stream[0] - stream[1]
    scale = float((apart * moved).sum() / apart.pow(2).sum())
    allowed = RELATIVE.get(model.dtype, 1e-5)
    if not (moved - scale * apart).norm() <= allowed * moved.norm():
        return EmbeddingParts(model, None, False)
    rest = stream - scale * table
    return EmbeddingParts(model, scale, bool(rest.norm() > allowed * stream.norm()))


def _embedded(model: Model, ids: Int[Tensor, " row"]) -> Float[Tensor, "row d_embed"]:
    with torch.no_grad():
        # ``forward`` and not a call: the module may carry hooks, which this is no part of.
        return model.hf.get_input_embeddings().forward(ids[None].to(model.device))[0]
