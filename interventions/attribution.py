"""The exact shares of a linear readout's logit: embedding, every head, every MLP and the biases sum to it.

The residual stream is a sum of what the components added, and a readout of it is linear once the divisor of the final
norm is taken as the one it had. So ``logit = Σ_c <γ ⊙ w, c> / rms(h) + bias`` holds to rounding. Earlier code left out
γ and the divisor, although the probe's direction lived behind the final norm and the heads' outputs in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray

from verdictscope.activations import BatchPlan, LinearReadout, Model, Pass, Read, Site, forward
from verdictscope.activations.weights import FinalNorm as Norm
from verdictscope.activations.weights import (
    attention_gain,
    final_norm,
    head_output_bias,
    head_output_weight,
    post_attention_norm,
)
from verdictscope.errors import InputError
from verdictscope.rollouts import Rollout
from verdictscope.stats import effects_frame, mean_effect

Part = tuple[str, int, int]
"""Component, layer, head; -1 where there is none."""


@dataclass(frozen=True)
class Attribution:
    """What each component adds to a readout's logit.

    What this does not show: that a component matters. A share is a *direct* effect; what a head does through later
    heads and MLPs is not in it, and a gate may have no share at all. Zero the head to see (:func:`sweep_heads`).

    Attributes:
        readout: its name.
        parts: (component, layer, head) of every row of ``shares``.
        shares: logit units.
        logit: the readout as the model's own forward pass gave it.
        groups: resampling unit of every row.
        rows: rollout and position of every column.
        seed: of the bootstrap.
    """

    readout: str
    parts: tuple[Part, ...]
    shares: Float[ndarray, "part row"]
    logit: Float[ndarray, " row"]
    groups: tuple[str, ...]
    rows: pd.DataFrame
    seed: int = 0

    @property
    def residual(self) -> Float[ndarray, " row"]:
        """What the parts leave unexplained: rounding, or a fault."""
        return self.logit - self.shares.sum(axis=0)

    @property
    def relative_residual(self) -> float:
        """Largest residual over the largest sum of absolute shares."""
        return float(np.abs(self.residual).max() / np.abs(self.shares).sum(axis=0).max())

    def to_frame(self) -> pd.DataFrame:
        """Mean share per component with a cluster-bootstrap interval, then the logit itself and the residual."""
        every = [*zip(self.parts, self.shares, strict=True)]
        every += [(("logit", -1, -1), self.logit), (("residual", -1, -1), self.residual)]
        effects = [mean_effect(_name(p), values, self.groups, unit="logit", seed=self.seed) for p, values in every]
        table = effects_frame(effects)[["estimate", "low", "high", "n"]]
        keys = pd.DataFrame([p for p, _ in every], columns=["component", "layer", "head"])
        return pd.concat([keys, table], axis=1)


def attribute(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: LinearReadout,
    *,
    positions: str = "before_answer",
    plan: BatchPlan | None = None,
    seed: int = 0,
) -> Attribution:
    """Take a linear readout's logit apart, exactly.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        readout: linear in the residual stream (``resid_post``), through the final norm or not.
        positions: where.
        plan: batches.
        seed: of the bootstrap.

    Raises:
        InputError: the readout does not read ``resid_post``, or the positions exist in no rollout.
    """
    if readout.site != "resid_post" or readout.layer is None:
        raise InputError(f"readout {readout.name!r} reads {readout.site}: attribution needs one that reads resid_post")
    top = readout.layer % model.n_layers
    below = tuple(range(top + 1))
    sites = {"embed": Site("resid_pre", 0), "z": Site("z", below), "mlp": Site("mlp_out", below)}
    sites["resid"] = Site("resid_post", top)
    reads = {name: site @ positions for name, site in sites.items()}
    done = forward(model, rollouts, read=list(reads.values()), plan=plan)
    rows = done.rows[reads["embed"]]
    if rows.empty:
        raise InputError(f"positions {positions!r} exist in none of the {len(rollouts)} rollouts")
    values = {name: _numpy(done, read) for name, read in reads.items()}
    direction, factor, constant = _pull_back(model, readout, values["resid"][0])
    parts: list[Part] = [("embed", -1, -1)]
    shares = [values["embed"][0] @ direction]
    for layer in below:
        head_shares, bias_share = _attention_shares(model, layer, values["z"][layer], direction)
        parts += [("head", layer, head) for head in range(head_shares.shape[0])] + [("attn_bias", layer, -1)]
        shares += [*head_shares, bias_share]
        parts.append(("mlp", layer, -1))
        shares.append(values["mlp"][layer] @ direction)
    table = np.array(shares) * factor
    parts.append(("bias", -1, -1))
    table = np.vstack([table, np.full((1, table.shape[1]), constant)])
    group_of = {r.id: r.group for r in rollouts}
    return Attribution(
        readout=readout.name,
        parts=tuple(parts),
        shares=table,
        logit=_read(model, rollouts, readout, rows, plan),
        groups=tuple(group_of[i] for i in rows["rollout"]),
        rows=rows[["rollout", "pos"]].reset_index(drop=True),
        seed=seed,
    )


def _pull_back(
    model: Model, readout: LinearReadout, resid: Float[ndarray, "row d_model"]
) -> tuple[Float[ndarray, " d_model"], Float[ndarray, " row"], float]:
    """Direction, factor and constant such that ``logit = resid · direction * factor + constant``."""
    weight = np.asarray(readout.weight, dtype=np.float64)
    if not readout.final_norm:
        return weight, np.ones(len(resid)), readout.bias
    return _through(final_norm(model), weight, resid, readout.bias)


def _through(
    norm: Norm, weight: Float[ndarray, " d_model"], x: Float[ndarray, "row d_model"], bias: float = 0.0
) -> tuple[Float[ndarray, " d_model"], Float[ndarray, " row"], float]:
    """A direction behind a norm as one in front of it: ``norm(x) · weight + bias = x · direction * factor + constant``.

    Centring is symmetric (it projects out the all-ones direction), so it acts on the direction as it acts on x.
    """
    scaled = torch.from_numpy(weight * norm.gain.double().cpu().numpy())
    factor = norm.inv_scale(torch.from_numpy(x))[:, 0].numpy()
    constant = bias if norm.bias is None else bias + float(norm.bias.double().cpu().numpy() @ weight)
    return norm.centre(scaled).numpy(), factor, constant


def _attention_shares(
    model: Model, layer: int, z: Float[ndarray, "row head d_head"], direction: Float[ndarray, " d_model"]
) -> tuple[Float[ndarray, "head row"], Float[ndarray, " row"]]:
    """Shares of one attention layer's heads and of its biases, before the final norm's factor."""
    weight = head_output_weight(model, layer).double().cpu().numpy()
    bias = head_output_bias(model, layer).double().cpu().numpy()
    post = post_attention_norm(model, layer)
    direction = direction * attention_gain(model, layer)
    factor, constant = np.ones(len(z)), 0.0
    if post is not None:
        # A post-norm divides the summed output by its own size: linear once that size is taken as it was.
        out = np.einsum("rhe,hed->rd", z, weight, optimize=True) + bias
        direction, factor, constant = _through(post, direction, out)
    heads = np.einsum("rhe,hed,d->hr", z, weight, direction, optimize=True) * factor
    return heads, bias @ direction * factor + constant


def _numpy(done: Pass, read: Read) -> ndarray:
    return done.values[read].double().numpy()


def _read(
    model: Model, rollouts: Sequence[Rollout], readout: LinearReadout, rows: pd.DataFrame, plan: BatchPlan | None
) -> Float[ndarray, " row"]:
    """The logit by the ordinary scoring path, so that the residual is a check and not an identity."""
    scores = forward(model, rollouts, score=[readout], plan=plan).scores
    by_token = scores.set_index(["rollout", "pos"])["score"]
    return by_token.loc[pd.MultiIndex.from_frame(rows[["rollout", "pos"]])].to_numpy(dtype=np.float64)


def _name(part: Part) -> str:
    component, layer, head = part
    return f"L{layer}H{head}" if component == "head" else component if layer < 0 else f"{component} {layer}"
