"""Any direction has writers: how a readout's strongest writer compares with those of directions that mean nothing.

Some head always writes most along a direction, a random one too, and the largest of many numbers is large. So the share
of the strongest head is set beside the same number for random directions and for probes fitted to permuted labels.
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
from verdictscope.interventions.direct import head_writes
from verdictscope.interventions.edits import Head
from verdictscope.rollouts import Rollout
from verdictscope.stats import permutation_of, permutation_p

KINDS = ("random", "permuted")
"""Random directions, and difference-of-means probes fitted to labels exchanged between prompts."""


@dataclass(frozen=True)
class WriterControl:
    """The strongest head's part of all heads' shares, for a readout and for directions that mean nothing.

    What this does not show: that the readout's writers matter. It only says whether writing is more concentrated than
    it is along any direction.

    Attributes:
        head: which head writes most of the readout.
        top: its part: |mean share| over the sum of all heads' |mean share|.
        null: the same number of every null direction, by kind.
        null_heads: which head it is there.
    """

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


def writer_control(
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
) -> WriterControl:
    """Compare a readout's strongest writer with those of null directions. Two passes, whatever the number of draws.

    Args:
        model: a wrapped model.
        rollouts: where the shares are taken.
        readout: linear in ``resid_post``.
        above: rollouts of one label; the permuted probes are fitted on them and ``below``.
        below: rollouts of the other.
        draws: null directions of each kind.
        positions: where.
        plan: batches of ``rollouts``.
        seed: of the draws.

    Raises:
        InputError: another readout, positions that exist nowhere, a rollout of both labels, or labels that no scheme
            can permute (see `permutation_of`).
    """
    if readout.site != "resid_post" or readout.layer is None:
        raise InputError(f"readout {readout.name!r} reads {readout.site}: its writers are known for resid_post")
    both = {r.id for r in above} & {r.id for r in below}
    if both:
        raise InputError(f"rollout {min(both)!r} is given as above and as below: it has one label")
    if draws < 19:
        raise InputError(f"{draws} draws cannot show p <= .05; ask for at least 19")
    top, rng = readout.layer % model.n_layers, np.random.default_rng(seed)
    directions = {
        "readout": _pulled(model, readout)[None],
        "random": rng.normal(size=(draws, model.d_model)),
        "permuted": _permuted(model, [*above, *below], len(above), top, positions, draws, rng),
    }
    heads = [(layer, head) for layer in range(top + 1) for head in range(model.sites.blocks[layer].n_heads)]
    means = np.abs(_mean_shares(model, rollouts, np.concatenate(list(directions.values())), top, positions, plan))
    parts = means / means.sum(axis=1, keepdims=True)
    strongest = [heads[i] for i in parts.argmax(axis=1)]
    cut = {"random": slice(1, 1 + draws), "permuted": slice(1 + draws, None)}
    return WriterControl(
        strongest[0],
        float(parts[0].max()),
        {kind: parts[at].max(axis=1) for kind, at in cut.items()},
        {kind: tuple(strongest[at]) for kind, at in cut.items()},
    )


def _pulled(model: Model, readout: LinearReadout) -> Float[np.ndarray, " d_model"]:
    """The direction in front of the final norm, where the readout has one, short of its divisor."""
    weight = torch.tensor(np.asarray(readout.weight))
    if not readout.final_norm:
        return weight.numpy()
    norm = final_norm(model)
    return norm.centre(weight * norm.gain.to(weight)).numpy()


@torch.no_grad()
def _mean_shares(
    model: Model,
    rollouts: Sequence[Rollout],
    directions: Float[np.ndarray, "direction d_model"],
    top: int,
    positions: str,
    plan: BatchPlan | None,
) -> Float[np.ndarray, "direction head"]:
    z = Site("z", tuple(range(top + 1))) @ positions
    done = forward(model, rollouts, read=[z], plan=plan)
    if done.rows[z].empty:
        raise InputError(f"positions {positions!r} exist in none of the {len(rollouts)} rollouts")
    along = torch.from_numpy(directions)
    written = [head_writes(model, layer, done.values[z][layer].double()).mean(0).cpu() for layer in range(top + 1)]
    return (along @ torch.cat(written).T).numpy()


def _permuted(
    model: Model,
    rollouts: Sequence[Rollout],
    n_above: int,
    layer: int,
    positions: str,
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw d_model"]:
    """Rows of the label's rollouts, and `permuted_directions` of them."""
    resid = Site("resid_post", layer) @ positions
    done = forward(model, rollouts, read=[resid])
    label = {r.id: int(i < n_above) for i, r in enumerate(rollouts)}
    group = {r.id: r.group for r in rollouts}
    of, values = done.rows[resid]["rollout"].to_numpy(dtype=str), done.values[resid][0].double().cpu().numpy()
    return permuted_directions(values, of, label, group, draws, rng)


def permuted_directions(
    values: Float[np.ndarray, "row d_model"],
    rollout: np.ndarray,
    label: Mapping[str, int],
    group: Mapping[str, str],
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw d_model"]:
    """Differences of means along labels permuted as the design of prompt groups allows.

    Args:
        values: states.
        rollout: the rollout of every row.
        label: 0 or 1 by rollout.
        group: prompt group by rollout.
        draws: relabelings drawn.
        rng: what is drawn from.

    Raises:
        InputError: see `permutation_of`.
    """
    known, codes = np.unique(rollout, return_inverse=True)
    plan = permutation_of([label[i] for i in known], [group[i] for i in known], symmetric=True, unit="prompt")
    given = plan.draws(draws, rng)[:, codes].astype(float)
    one, other = given.sum(axis=1)[:, None], (1 - given).sum(axis=1)[:, None]
    return given @ values / one - (1 - given) @ values / other
