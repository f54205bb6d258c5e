"""The logit lens: every layer's states through the model's own final norm and unembedding.

A logit lens reads each layer in the last layer's terms. Where a layer does not yet write in those terms, it shows
nothing, although a probe may: a flat lens is no evidence that a layer knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.special import logsumexp, softmax

from verdictscope.activations import LinearReadout, LogOddsReadout, Model, Site, logit_difference
from verdictscope.activations.batch import head_logits
from verdictscope.activations.forward import passes
from verdictscope.activations.weights import apply_final_norm
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout

if TYPE_CHECKING:
    from verdictscope.activations import BatchPlan

_CHUNK = 512  # rows whose logits over the whole vocabulary are held at once


@dataclass(frozen=True, eq=False)
class LensLogits:
    """Logits of some tokens at every layer."""

    logits: Float[ndarray, "layer row token"]
    rows: pd.DataFrame
    layers: tuple[int, ...]
    tokens: tuple[int, ...]
    final_norm: bool

    def log_odds(self, positive: Iterable[int], negative: Iterable[int]) -> Float[ndarray, "layer row"]:
        """``log Σ p(positive) - log Σ p(negative)`` of the next token, as each layer would have it."""
        sides = [self._at(side) for side in (positive, negative)]
        return logsumexp(self.logits[..., sides[0]], axis=-1) - logsumexp(self.logits[..., sides[1]], axis=-1)

    def expected(self, values: Sequence[float | int] | ndarray) -> Float[ndarray, "layer row"]:
        """Mean value under the softmax over the tokens alone: a judge's expected score, as each layer would have it."""
        values = np.asarray(values, dtype=float)
        if values.shape != (len(self.tokens),):
            raise InputError(f"{values.size} values for {len(self.tokens)} tokens; give one each")
        return softmax(self.logits, axis=-1) @ values

    def to_frame(self) -> pd.DataFrame:
        """One line per layer, row and token: the columns of ``rows``, ``layer token logit``."""
        index = pd.MultiIndex.from_product([self.layers, range(len(self.rows)), self.tokens])
        flat = pd.DataFrame(index.to_list(), columns=["layer", "row", "token"]).assign(logit=self.logits.ravel())
        return self.rows.reset_index(names="row").merge(flat, on="row").drop(columns="row")

    def _at(self, tokens: Iterable[int]) -> list[int]:
        found = [int(t) for t in tokens]
        missing = [t for t in found if t not in self.tokens]
        if missing or not found:
            raise InputError(f"token {missing[0]} was not read" if missing else "both sides need at least one token")
        return [self.tokens.index(t) for t in found]

    def __repr__(self) -> str:
        through = "through" if self.final_norm else "without"
        return (
            f"LensLogits: {len(self.tokens)} tokens at {len(self.layers)} layers and {len(self.rows)} rows, {through} "
            "the final norm. A flat lens does not show that a layer knows nothing."
        )


def lens_logits(
    model: Model,
    rollouts: Sequence[Rollout],
    tokens: Iterable[int],
    positions: Any = "before_answer",
    *,
    layers: Sequence[int] | None = None,
    final_norm: bool = True,
    plan: BatchPlan | None = None,
) -> LensLogits:
    """Logits of some tokens at every layer, by the model's own norm and head (logit scales and soft caps included).

    Args:
        model: the model.
        rollouts: what it is run on.
        tokens: token ids to keep.
        positions: where in a rollout; the token that would come after each is read.
        layers: layers to read; by default all.
        final_norm: pass states through the final norm. LAGER's code (arXiv 2508.03550) does not.
        plan: which rollouts share a batch.

    Returns:
        logits by layer, row and token, with ``log_odds(positive, negative)``, ``expected(values)`` and ``to_frame()``.

    Raises:
        InputError: no tokens, tokens outside the vocabulary, or as `forward`.

    Example:
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 3), Span("answer", 3, 4)), 3)
        >>> lens = lens_logits(model, [rollout], [8, 9], "last")
        >>> lens.logits.shape == (model.n_layers, 1, 2)
        True
    """
    tokens = tuple(dict.fromkeys(int(t) for t in tokens))
    embedding: Any = model.hf.get_input_embeddings()
    vocab = int(embedding.weight.shape[0])
    if not tokens or not all(0 <= t < vocab for t in tokens):
        raise InputError(f"give token ids from 0 to {vocab - 1}, at least one")
    read = Site("resid_post", None if layers is None else tuple(layers)) @ positions
    found = list(passes(model, list(rollouts), read=[read], plan=plan))
    frames = [part.rows[read] for part in found]
    parts = [_logits(model, part.values[read], list(tokens), final_norm) for part in found]
    rows = pd.concat(frames, ignore_index=True)
    order = {r.id: i for i, r in enumerate(rollouts)}
    place = np.lexsort([rows["pos"], rows["rollout"].map(order)])
    logits = np.concatenate(parts, axis=1)[:, place]
    return LensLogits(logits, rows.iloc[place].reset_index(drop=True), read.site.at(model.n_layers), tokens, final_norm)


def _logits(model: Model, values: torch.Tensor, tokens: list[int], final_norm: bool) -> ndarray:
    flat = values.flatten(0, 1)
    out = torch.empty(len(flat), len(tokens), dtype=torch.float64)
    for start in range(0, len(flat), _CHUNK):
        x = flat[start : start + _CHUNK].to(model.device)
        x = apply_final_norm(model, x) if final_norm else x
        out[start : start + _CHUNK] = head_logits(model, x)[:, tokens].double().cpu()
    return out.reshape(*values.shape[:2], -1).numpy()


def lens_readouts(model: Model, log_odds: LogOddsReadout, layers: Sequence[int] | None = None) -> list[LinearReadout]:
    """The linear readout nearest to a log-odds at every layer: mean logit of one side's first tokens less the other's.

    All have one name and differ in their layers; `forward` scores them in its own pass. With one token on each
    side they are the log-odds of a logit lens.

    Args:
        model: the model.
        log_odds: two sets of labels.
        layers: layers to read; by default all.

    Raises:
        InputError: as `logit_difference`, or no such layer.

    Example:
        >>> from verdictscope.activations import LogOddsReadout, load_model
        >>> model = load_model("organism:cliff")
        >>> [r.layer for r in lens_readouts(model, LogOddsReadout("choice", [8], [9]), layers=[0, 2])]
        [0, 2]
    """
    last = logit_difference(model, log_odds)
    wanted = Site("resid_post", None if layers is None else tuple(layers)).at(model.n_layers)
    return [replace(last, name=f"{log_odds.name}_lens", layer=layer) for layer in wanted]
