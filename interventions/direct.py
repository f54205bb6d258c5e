"""What a head does directly, and what the layers after it make good: self-repair.

Taken out for real, a head is missed by all later layers, and these may write in its stead. So its total effect is
smaller, or larger, than what its own write was worth where the readout is read. The difference has a sign and an
interval, and a head with a small total effect and a large direct one is a head that was made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
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
from verdictscope.interventions.edits import Head
from verdictscope.interventions.effects import Effects
from verdictscope.rollouts import Rollout
from verdictscope.stats import mean_effect

Reader = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SelfRepair:
    """Direct, total and compensated effect of taking out each head alone, per rollout.

    ``compensated = direct - total``: what later layers took back of the direct effect when the head was really gone.

    What this does not show: which later part compensates; and a head may also act through others, which makes the
    total larger than the direct effect and ``compensated`` the opposite of repair.

    Attributes:
        heads: (layer, head).
        direct: the readout's change when the head's write is taken out of the last stream and nothing else changes.
        total: its change when the head is taken out and everything after it is run again.
        groups: resampling unit of each rollout.
        unit: of the readout.
        seed: of the bootstrap.
    """

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
    """Set the direct effect of every head beside the total one that was measured.

    Args:
        model: a wrapped model.
        rollouts: those of ``swept``, in the same order.
        readout: that of ``swept``.
        swept: effects of zeroing heads one at a time, the first of them those of ``heads`` in order.
        heads: (layer, head) of these effects.
        plan: batches.

    Raises:
        InputError: other rollouts than were swept, or a readout that :func:`direct_effects` cannot take.
    """
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
    """The readout's change when one head's write is taken out of the stream it reads, everything else frozen.

    Exact along this path: the final norm's divisor and the sums over label tokens are those of the changed stream,
    where attribution takes them as they were.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids, each with one such position.
        readout: linear in ``resid_post``, or a log-odds of single-token labels without a soft cap.
        positions: where it is read.
        plan: batches.

    Raises:
        InputError: another readout, a rollout without the position, or a layer whose heads are not known.
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
        written = head_writes(model, layer, done.values[z][layer].double())
        for head in range(written.shape[1]):
            change = read(stream - written[:, head]) - base
            direct[layer, head] = change.cpu().numpy()[order]
    return direct


def head_writes(model: Model, layer: int, z: Float[Tensor, "row head d_head"]) -> Float[Tensor, "row head d_model"]:
    """What each head adds to the residual stream, through post-norm (its divisor as it was) and branch gain.

    Args:
        model: a wrapped model.
        layer: the heads' layer.
        z: their outputs there.
    """
    weight = head_output_weight(model, layer).to(z)
    written = torch.einsum("rhe,hed->rhd", z, weight)
    norm = post_attention_norm(model, layer)
    if norm is not None:
        whole = written.sum(1) + head_output_bias(model, layer).to(z)
        written = norm.centre(written) * norm.inv_scale(whole)[:, None] * norm.gain.to(z)
    return written * attention_gain(model, layer)


def write_norms(
    model: Model, rollouts: Sequence[Rollout], *, positions: str = "before_answer", plan: BatchPlan | None = None
) -> Float[np.ndarray, "layer head"]:
    """Mean norm of what each head adds to the residual stream, over rows."""
    z = Site("z", tuple(range(model.n_layers))) @ positions
    done = forward(model, rollouts, read=[z], plan=plan)
    norms = [head_writes(model, i, done.values[z][i].float()).norm(dim=-1).mean(0) for i in range(model.n_layers)]
    return torch.stack(norms).double().cpu().numpy()


def _reader(model: Model, readout: Readout) -> tuple[Reader, int]:
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
