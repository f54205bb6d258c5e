"""Direct effects of heads: how much of them later layers compensate, and how concentrated they are on one head.

*Self-repair*: when a head is ablated, all later layers run without it and may compensate. So its total effect differs
from its direct effect on the readout; the difference has a sign and an interval.

*Concentration*: some head always has the largest direct logit attribution, along a random direction too, and the
largest of many numbers is large. So the strongest head's share of all heads' |attribution| is compared with that of
random directions and of probes fitted to permuted labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations import BatchPlan, LinearReadout, Model, Readout, Site, forward
from verdictscope.activations.scoring import check_vocabulary
from verdictscope.activations.weights import (
    attention_gain,
    final_norm,
    head_output_bias,
    head_output_weight,
    post_attention_norm,
    unembedding,
)
from verdictscope.errors import InputError
from verdictscope.interventions.edits.protocol import Head
from verdictscope.interventions.effects import Effects
from verdictscope.rollouts import Rollout
from verdictscope.stats import mean_effect, permutation_of, permutation_p


@dataclass(frozen=True)
class SelfRepair:
    """Per rollout and zero-ablated head: the direct effect (the head removed from the last residual stream, all else
    frozen), the total effect, and their difference, which is negative for a head that acts through others."""

    heads: tuple[Head, ...]
    direct: Float[np.ndarray, "head rollout"]
    total: Float[np.ndarray, "head rollout"]
    groups: tuple[str, ...]
    unit: str = "nats"
    seed: int = 0

    @property
    def compensated(self) -> Float[np.ndarray, "head rollout"]:
        """Direct minus total."""
        return self.direct - self.total

    def to_frame(self) -> pd.DataFrame:
        """One row per head: ``layer head``, then estimate, ``_low`` and ``_high`` of the three, and ``n``."""
        rows = []
        for i, (layer, head) in enumerate(self.heads):
            row: dict[str, float | int] = {"layer": layer, "head": head}
            for name in ("direct", "total", "compensated"):
                effect = mean_effect(name, getattr(self, name)[i], self.groups, unit=self.unit, seed=self.seed)
                row |= {name: effect.estimate, f"{name}_low": effect.low, f"{name}_high": effect.high, "n": effect.n}
            rows.append(row)
        return pd.DataFrame(rows)


def self_repair(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    swept: Effects,
    heads: Sequence[Head],
    *,
    plan: BatchPlan | None = None,
) -> SelfRepair:
    """Direct and compensated effects of the ``heads`` whose total effects, in order, are the first of ``swept``."""
    if tuple(r.id for r in rollouts) != swept.rollouts:
        raise InputError("self-repair compares the same rollouts: give those that were swept, in their order")
    direct = direct_effects(model, rollouts, readout, plan=plan)
    chosen = np.array([direct[head] for head in heads])
    return SelfRepair(tuple(heads), chosen, swept.change[: len(heads)], swept.groups, swept.unit, swept.seed)


@torch.no_grad()
def direct_effects(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    *,
    positions: str = "before_answer",
    plan: BatchPlan | None = None,
) -> dict[Head, Float[np.ndarray, " rollout"]]:
    """The readout's change when one head's output is removed from the stream it reads, everything else frozen.

    Exact along this path: the final norm's divisor and the sums over label tokens are those of the changed stream,
    where attribution takes them as they were.
    """
    read, top = _reader(model, readout)
    z, resid = Site("z", tuple(range(top + 1))) @ positions, Site("resid_post", top) @ positions
    done = forward(model, rollouts, read=[z, resid], plan=plan)
    found = done.rows[resid]["rollout"].tolist()
    if sorted(found) != sorted(r.id for r in rollouts):
        raise InputError(f"positions {positions!r} are not one token in every rollout: the direct effect needs one")
    order = pd.Index(found).get_indexer([r.id for r in rollouts])
    stream = done.values[resid][0].double()
    base = read(stream)
    direct = {}
    for layer in range(top + 1):
        outputs = head_outputs(model, layer, done.values[z][layer].double())
        for head in range(outputs.shape[1]):
            change = read(stream - outputs[:, head]) - base
            direct[layer, head] = change.cpu().numpy()[order]
    return direct


def head_outputs(model: Model, layer: int, z: Float[Tensor, "row head d_head"]) -> Float[Tensor, "row head d_model"]:
    """What each head adds to the residual stream, through post-norm (its divisor as it was) and branch gain."""
    weight = head_output_weight(model, layer).to(z)
    outputs = einsum(z, weight, "row head d_head, head d_head d_model -> row head d_model")
    norm = post_attention_norm(model, layer)
    if norm is not None:
        whole = outputs.sum(1) + head_output_bias(model, layer).to(z)
        outputs = norm.centre(outputs) * norm.inv_scale(whole)[:, None] * norm.gain.to(z)
    return outputs * attention_gain(model, layer)


def output_norms(
    model: Model, rollouts: Sequence[Rollout], *, positions: str = "before_answer", plan: BatchPlan | None = None
) -> Float[np.ndarray, "layer head"]:
    """Mean norm of what each head adds to the residual stream, over rows."""
    z = Site("z", tuple(range(model.n_layers))) @ positions
    done = forward(model, rollouts, read=[z], plan=plan)
    norms = [head_outputs(model, i, done.values[z][i].float()).norm(dim=-1).mean(0) for i in range(model.n_layers)]
    return torch.stack(norms).double().cpu().numpy()


def _reader(model: Model, readout: Readout) -> tuple[Callable[[Tensor], Tensor], int]:
    """The readout as a function of the residual stream after a layer, and that layer."""
    if isinstance(readout, LinearReadout):
        if readout.site != "resid_post" or readout.layer is None:
            raise InputError(f"readout {readout.name!r} reads {readout.site}: the direct path needs resid_post")
        weight = torch.tensor(np.asarray(readout.weight))
        norm = final_norm(model) if readout.final_norm else None
        bias, layer = readout.bias, readout.layer % model.n_layers
        return (lambda x: (x if norm is None else norm(x)) @ weight.to(x) + bias), layer
    if any(len(string) > 1 for string in readout.strings):
        raise InputError(f"readout {readout.name!r} has labels of several tokens: the direct path is known for one")
    head, norm = unembedding(model), final_norm(model)
    if head.capped:
        raise InputError("the logits are soft-capped: the direct path is not computed through a cap")
    check_vocabulary(readout, len(head.weight), readout.strings)
    ids, n = [string[0] for string in readout.strings], len(readout.positive)
    rows, offset = head.weight[ids].double(), None if head.bias is None else head.bias[ids].double()

    def read(x: Tensor) -> Tensor:
        logits = norm(x) @ rows.to(x).T
        logits = logits if offset is None else logits + offset.to(x)
        return logits[:, :n].logsumexp(-1) - logits[:, n:].logsumexp(-1)

    return read, model.n_layers - 1


@dataclass(frozen=True)
class ConcentrationNull:
    """The strongest head's share of all heads' |attribution|, for a readout and for null directions."""

    head: Head
    top: float
    null: dict[str, Float[np.ndarray, " draw"]]
    null_heads: dict[str, tuple[Head, ...]]

    def to_frame(self) -> pd.DataFrame:
        """One row per kind: ``kind n top null_mean null_low null_high p same_head``; low and high are the range."""
        rows = []
        for kind, tops in self.null.items():
            same = float(np.mean([head == self.head for head in self.null_heads[kind]]))
            rows.append(
                {
                    "kind": kind,
                    "n": len(tops),
                    "top": self.top,
                    "null_mean": float(tops.mean()),
                    "null_low": float(tops.min()),
                    "null_high": float(tops.max()),
                    "p": permutation_p(self.top, tops),
                    "same_head": same,
                }
            )
        return pd.DataFrame(rows)


@torch.no_grad()
def concentration_null(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: LinearReadout,
    above: Sequence[Rollout],
    below: Sequence[Rollout],
    *,
    draws: int = 200,
    positions: str = "before_answer",
    plan: BatchPlan | None = None,
    seed: int = 0,
) -> ConcentrationNull:
    """Compare a readout's strongest head with those of null directions: random ones, and probes fitted to ``above``
    against ``below`` with permuted labels. Two passes, whatever the number of draws."""
    if readout.site != "resid_post" or readout.layer is None:
        raise InputError(f"readout {readout.name!r} reads {readout.site}: heads are compared at resid_post")
    both = {r.id for r in above} & {r.id for r in below}
    if both:
        raise InputError(f"rollout {min(both)!r} is given as above and as below: it has one label")
    if draws < 19:
        raise InputError(f"{draws} draws cannot show p <= .05; ask for at least 19")
    top, rng = readout.layer % model.n_layers, np.random.default_rng(seed)
    own = torch.tensor(np.asarray(readout.weight))
    if readout.final_norm:  # the direction in front of the norm, short of its divisor
        norm = final_norm(model)
        own = norm.centre(own * norm.gain.to(own))
    random = rng.normal(size=(draws, model.d_model))
    labelled = [*above, *below]
    resid = Site("resid_post", top) @ positions
    done = forward(model, labelled, read=[resid])
    permuted = permuted_directions(
        done.values[resid][0].double().cpu().numpy(),
        done.rows[resid]["rollout"].to_numpy(dtype=str),
        {r.id: int(i < len(above)) for i, r in enumerate(labelled)},
        {r.id: r.group for r in labelled},
        draws,
        rng,
    )
    z = Site("z", tuple(range(top + 1))) @ positions
    done = forward(model, rollouts, read=[z], plan=plan)
    if done.rows[z].empty:
        raise InputError(f"positions {positions!r} exist in none of the {len(rollouts)} rollouts")
    outputs = [head_outputs(model, layer, done.values[z][layer].double()).mean(0).cpu() for layer in range(top + 1)]
    directions = torch.from_numpy(np.concatenate([own.numpy()[None], random, permuted]))
    means = np.abs((directions @ torch.cat(outputs).T).numpy())
    shares = means / means.sum(axis=1, keepdims=True)
    heads = [(layer, head) for layer in range(top + 1) for head in range(model.sites.blocks[layer].n_heads)]
    strongest = [heads[i] for i in shares.argmax(axis=1)]
    cut = {"random": slice(1, 1 + draws), "permuted": slice(1 + draws, None)}
    return ConcentrationNull(
        strongest[0],
        float(shares[0].max()),
        {kind: shares[at].max(axis=1) for kind, at in cut.items()},
        {kind: tuple(strongest[at]) for kind, at in cut.items()},
    )


def permuted_directions(
    values: Float[np.ndarray, "row d_model"],
    rollout: np.ndarray,
    label: Mapping[str, int],
    group: Mapping[str, str],
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw d_model"]:
    """Differences of means along labels permuted as the design of prompt groups allows."""
    known, codes = np.unique(rollout, return_inverse=True)
    plan = permutation_of([label[i] for i in known], [group[i] for i in known], symmetric=True, unit="prompt")
    given = plan.draws(draws, rng)[:, codes].astype(float)
    one, other = given.sum(axis=1)[:, None], (1 - given).sum(axis=1)[:, None]
    return given @ values / one - (1 - given) @ values / other
