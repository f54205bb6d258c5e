"""What every layer would say next: its states through the model's own final norm and unembedding.

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
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from verdictscope.activations import LinearReadout, LogOddsReadout, Model, Site, logit_difference
from verdictscope.activations.batch import head_logits
from verdictscope.activations.forward import passes
from verdictscope.activations.weights import apply_final_norm
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout
from verdictscope.values import number

if TYPE_CHECKING:
    from verdictscope.activations import BatchPlan

_CHUNK = 512  # rows whose logits over the whole vocabulary are held at once


@dataclass(frozen=True, eq=False)
class LensLogits:
    """Logits of some tokens at every layer.

    Attributes:
        logits: ``[layer row token]``.
        rows: ``rollout pos token_id segment`` of each row.
        layers: the layers.
        tokens: the token ids, in the order of the last axis.
        final_norm: whether states passed through the final norm first.
    """

    logits: Float[ndarray, "layer row token"]
    rows: pd.DataFrame
    layers: tuple[int, ...]
    tokens: tuple[int, ...]
    final_norm: bool

    def log_odds(self, positive: Iterable[int], negative: Iterable[int]) -> Float[ndarray, "layer row"]:
        """``log Σ p(positive) - log Σ p(negative)`` of the next token, as each layer would have it.

        Args:
            positive: token ids of one side.
            negative: of the other.

        Raises:
            InputError: a token that was not read, or an empty side.
        """
        sides = [self._at(side) for side in (positive, negative)]
        return logsumexp(self.logits[..., sides[0]], axis=-1) - logsumexp(self.logits[..., sides[1]], axis=-1)

    def expected(
        self, values: Sequence[float | int] | ndarray, weight: Float[ndarray, " layer"] | None = None
    ) -> Float[ndarray, "*layer row"]:
        """Mean value under the softmax over the tokens alone: a judge's expected score.

        Args:
            values: the value each token stands for, in the order of ``tokens``.
            weight: weights of the layers, from `weigh_layers`; without them every layer's own ``[layer row]``.
        """
        values = np.asarray(values, dtype=float)
        if values.shape != (len(self.tokens),):
            raise InputError(f"{values.size} values for {len(self.tokens)} tokens; give one each")
        logits = self.logits if weight is None else np.tensordot(weight, self.logits, axes=1)
        return softmax(logits, axis=-1) @ values

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

    Raises:
        InputError: no tokens, tokens outside the vocabulary, or as `forward`.
    """
    tokens = tuple(dict.fromkeys(int(t) for t in tokens))
    vocab = int(model.hf.get_input_embeddings().weight.shape[0])
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

    All have one name and are told apart by their layers; `forward` scores them in its own pass. With one token on each
    side they are the log-odds of a logit lens.

    Args:
        model: the model.
        log_odds: two sets of labels.
        layers: layers to read; by default all.

    Raises:
        InputError: as `logit_difference`, or no such layer.
    """
    last = logit_difference(model, log_odds)
    wanted = Site("resid_post", None if layers is None else tuple(layers)).at(model.n_layers)
    return [replace(last, name=f"{log_odds.name}_lens", layer=layer) for layer in wanted]


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of the layers that make the expected score fit given scores.

    Attributes:
        weight: one per layer, positive, summing to 1.
        layers: the layers.
        values: what each token stands for.
        loss: of the fit.
        even: loss with every layer weighed alike.
        last: loss of the last layer alone.
        mix: share of the cross-entropy in the loss.
    """

    weight: Float[ndarray, " layer"]
    layers: tuple[int, ...]
    values: tuple[float, ...]
    loss: float
    even: float
    last: float
    mix: float

    def expected(self, lens: LensLogits) -> Float[ndarray, " row"]:
        """Expected score of other rows.

        Raises:
            InputError: other layers than those weighed.
        """
        if lens.layers != self.layers:
            raise InputError(f"weights of layers {self.layers} do not fit logits of layers {lens.layers}")
        return lens.expected(self.values, self.weight)

    def to_frame(self) -> pd.DataFrame:
        """``layer weight``."""
        return pd.DataFrame({"layer": self.layers, "weight": self.weight})

    def __repr__(self) -> str:
        top = int(np.argmax(self.weight))
        return (
            f"LayerWeights: layer {self.layers[top]} weighs most ({self.weight[top]:.2f}); loss {self.loss:.4f} where "
            f"it was fitted, even weights {self.even:.4f}, last layer {self.last:.4f}. Judge it on other prompts."
        )


def weigh_layers(
    lens: LensLogits,
    target: Int[ndarray, " row"] | Sequence[int],
    values: Sequence[float | int],
    *,
    mix: float | int = 0.5,
    penalty: float | int = 1e-3,
) -> LayerWeights:
    """Weigh layers so that the softmax of their weighted logits gives the wanted scores, after LAGER.

    ``p = softmax(Σ w_l logits_l)`` with ``w = softmax(θ)`` minimises ``mix · cross-entropy + (1 - mix) · squared error
    of Σ v p``. LAGER (arXiv 2508.03550) learns the mix as well, and then it drifts to whichever loss is smaller; here
    it is fixed, and a small penalty on θ keeps weights that no row speaks for near even.

    Args:
        lens: logits of the score tokens, one row per judgment.
        target: index of the wanted token of each row.
        values: the value each token stands for.
        mix: share of the cross-entropy, 0 to 1.
        penalty: on half the squared θ.

    Raises:
        InputError: shapes that do not fit, a value that is not finite, a mix outside 0 to 1, or a negative penalty.
    """
    y, v = np.asarray(target), np.asarray(values, dtype=float)
    n, k = lens.logits.shape[1:]
    if y.shape != (n,) or v.shape != (k,) or not np.isin(y, np.arange(k)).all():
        raise InputError(f"give one target from 0 to {k - 1} for each of {n} rows and {k} values")
    number(mix, "mix", 0, 1), number(penalty, "penalty", 0)
    if not np.isfinite(v).all():
        raise InputError("a value is NaN or infinite: give a number for every token")

    def loss(w: ndarray) -> tuple[float, ndarray]:
        """Of layer weights, with its gradient."""
        logits = np.tensordot(w, lens.logits, axes=1)
        logp, p = log_softmax(logits, axis=-1), softmax(logits, axis=-1)
        mean = p @ v
        off = mean - v[y]
        value = -mix * logp[np.arange(n), y].mean() + (1 - mix) * np.square(off).mean()
        by_logit = mix * (p - (np.arange(k) == y[:, None])) + (1 - mix) * 2 * off[:, None] * p * (v - mean[:, None])
        return float(value), np.einsum("nk,lnk->l", by_logit, lens.logits) / n

    def of(theta: ndarray) -> tuple[float, ndarray]:
        w = softmax(theta)
        value, slope = loss(w)
        return value + penalty / 2 * float(theta @ theta), w * (slope - w @ slope) + penalty * theta

    count = len(lens.layers)
    found = minimize(of, np.zeros(count), jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-8})
    weight = softmax(found.x)
    ends = [loss(w)[0] for w in (weight, np.full(count, 1 / count), np.eye(count)[-1])]
    return LayerWeights(weight, lens.layers, tuple(map(float, v)), *ends, float(mix))
