"""Null distribution of attribution concentration: how much of a readout comes from its strongest head.

Some head always has the largest direct logit attribution, along a random direction too, and the largest of many
numbers is large. So the strongest head's share of all heads' |attribution| is compared with that of random directions
and of probes fitted to permuted labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from verdictscope.activations import BatchPlan, LinearReadout, Model, Site, forward
from verdictscope.activations.weights import final_norm
from verdictscope.errors import InputError
from verdictscope.interventions.direct import head_outputs
from verdictscope.interventions.edits.protocol import Head
from verdictscope.rollouts import Rollout
from verdictscope.stats import permutation_of, permutation_p


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
