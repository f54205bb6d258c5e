"""A readout as linear functions of the residual stream, and what is not linear in it, said and kept apart.

A probe is one linear function. A log-odds of two single tokens is the difference of two logits, so one too. With
several labels on a side it is a difference of logs of sums of exponentials. For the labels' logits ``l`` at one row
and their own probabilities ``p = softmax(l)`` there, ``log Σ exp(l) = Σ p l + H(p)`` holds exactly, so a row's parts
are those of the weighted logits and the two entropies are a part of their own. A soft cap is no linear function
either: the parts are of the logits before it, and what it takes off is a part of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.special import logsumexp, softmax

from verdictscope.activations import LogOddsReadout, Model, Readout
from verdictscope.activations.batch import head_logits
from verdictscope.activations.scoring import check_vocabulary
from verdictscope.activations.weights import unembedding
from verdictscope.errors import InputError

DIVISIBLE = ("resid_pre", "resid_mid", "resid_post", "final_norm", "attn_out", "mlp_out", "z")
"""Sites whose readouts are taken apart: the residual stream, and what is added to it."""


@dataclass(frozen=True, eq=False)
class LinearForm:
    """A readout's linear functions, side by side."""

    name: str
    site: str
    layer: int
    weight: Float[ndarray, "value target"]
    bias: Float[ndarray, " target"]
    through_norm: bool
    n_positive: int | None = None
    cap: float | None = None

    @property
    def several(self) -> bool:
        """Whether a side has several labels."""
        return self.n_positive is not None and self.weight.shape[1] > 2

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not linear, in words; empty for a linear readout."""
        said = []
        if self.several:
            said.append(
                "several labels on a side: the log of a sum of exponentials is not linear; each row's parts weigh the "
                "labels by their own probabilities there, and the difference of the two entropies is the part labels"
            )
        if self.cap is not None:
            said.append(
                f"the logits are soft-capped at {self.cap:g}, which is not linear: the parts are of the logits before "
                "the cap, and what it takes off is the part softcap"
            )
        return tuple(said)

    def mix(
        self, logits: Float[ndarray, "row target"]
    ) -> tuple[Float[ndarray, "row target"], dict[str, Float[ndarray, " row"]]]:
        """How a row's functions are summed, and the parts that are no linear function."""
        if self.n_positive is None:
            return np.ones_like(logits), {}
        sides = (logits[:, : self.n_positive], logits[:, self.n_positive :])
        shares = [softmax(side, axis=1) for side in sides]
        weights = np.concatenate([shares[0], -shares[1]], axis=1)
        odds, extra = _odds(sides), {}
        if self.several:
            extra["labels"] = odds - (weights * logits).sum(axis=1)
        if self.cap is not None:
            extra["softcap"] = _odds([self.cap * np.tanh(side / self.cap) for side in sides]) - odds
        return weights, extra


def _odds(sides: Sequence[Float[ndarray, "row _"]]) -> Float[ndarray, " row"]:
    return np.asarray(logsumexp(sides[0], axis=1) - logsumexp(sides[1], axis=1))


def linear_form(model: Model, readout: Readout) -> LinearForm:
    """The linear functions of a readout."""
    if isinstance(readout, LogOddsReadout):
        longer = next((s for s in readout.strings if len(s) > 1), None)
        if longer is not None:
            raise InputError(
                f"readout {readout.name!r}: label {list(longer)} has several tokens, and the later ones are read at "
                "later positions; give labels of one token, or logit_difference(model, readout) of the first ones"
            )
        head, tokens = unembedding(model), [s[0] for s in readout.strings]
        check_vocabulary(readout, len(head.weight), readout.strings)
        weight = head.weight[tokens].double().cpu().numpy().T
        bias = np.zeros(len(tokens)) if head.bias is None else head.bias[tokens].double().cpu().numpy()
        cap, n = soft_cap(model) if head.capped else None, len(readout.positive)
        normed, last = model.sites.ln_final is not None, model.n_layers - 1
        if cap is None and len(tokens) == 2:
            return LinearForm(
                readout.name, "resid_post", last, weight[:, :1] - weight[:, 1:], bias[:1] - bias[1:], normed
            )
        return LinearForm(readout.name, "resid_post", last, weight, bias, normed, n, cap)
    if readout.site not in DIVISIBLE:
        raise InputError(
            f"readout {readout.name!r} reads {readout.site}, which is no sum of what components add; "
            f"attribution takes {', '.join(DIVISIBLE)}"
        )
    last = model.n_layers - 1
    layer = last if readout.layer is None else readout.layer % model.n_layers
    weight = np.asarray(readout.weight, dtype=np.float64).reshape(-1, 1)
    behind = readout.site == "final_norm"
    site, normed = ("resid_post", model.sites.ln_final is not None) if behind else (readout.site, readout.final_norm)
    return LinearForm(readout.name, site, layer, weight, np.array([readout.bias]), normed)


def soft_cap(model: Model) -> float:
    """The size ``c`` of a soft cap ``c tanh(x / c)`` on the logits, measured by running the stock head."""
    head = unembedding(model)
    weight = head.weight.float()
    away = torch.randn(4, model.d_model, generator=torch.Generator().manual_seed(0)).to(weight)
    # So far out that tanh is 1 to rounding: the largest logit is the cap.
    cap = float(head_logits(model, away * (1e4 / float(weight.norm(dim=1).mean()))).float().abs().max())
    near = away * (0.5 * cap / float((away @ weight.T).std()))
    plain = near.double() @ weight.double().T + (0 if head.bias is None else head.bias.double())
    stock, wanted = head_logits(model, near).double(), cap * torch.tanh(plain / cap)
    if not (stock - wanted).norm() <= 50 * torch.finfo(model.dtype).eps * wanted.norm():
        raise InputError("what follows the unembedding is no soft cap of the form c tanh(x / c); no exact parts")
    return cap
