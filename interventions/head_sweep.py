"""The exact effect of every single head on a readout, and of whole sublayers beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.interventions.edits import Edit, Head, HeadEdit, SublayerEdit
from verdictscope.interventions.effects import effects
from verdictscope.interventions.many_heads import HeadSweep
from verdictscope.rollouts import Rollout


def sweep_heads(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    *,
    heads: Sequence[Head] | None = None,
    sublayers: Sequence[str] = (),
    positions: str = "all",
    delta: float | None = None,
    plan: BatchPlan | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HeadSweep:
    """Zero each head alone and read the readout again: one forward pass per head, nothing approximated.

    Args:
        model: a wrapped model.
        rollouts: teacher-forced ids.
        readout: for example the refusal log-odds before the answer.
        heads: which heads; all by default.
        sublayers: sites that are zeroed as a whole too, layer by layer: ``attn_out``, ``mlp_out``.
        positions: where to zero them.
        delta: smallest effect that counts, for example 5 % of :func:`readout_gap`; without it nothing is tested.
        plan: batches.
        seed: of the bootstrap.
        progress: called with (heads done, heads in all).

    Returns:
        the change of the readout when each head is zeroed, with its interval and, where ``delta`` is given, the test
        of all heads. A head that *suppresses* what the readout measures has a positive effect.
    """
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    chosen = list(heads) if heads is not None else every
    edits: list[Edit] = [HeadEdit((head,), positions=positions) for head in chosen]
    whole = [(site, layer) for site in sublayers for layer in range(model.n_layers)]
    edits += [SublayerEdit(site, (layer,), positions=positions) for site, layer in whole]
    parts = [("head", layer, head) for layer, head in chosen]
    parts += [(site.removesuffix("_out"), layer, -1) for site, layer in whole]
    swept = effects(model, rollouts, readout, edits, plan=plan, seed=seed, progress=progress)
    return HeadSweep(tuple(parts), swept, delta)
