"""Is a replay what a whole pass is? Asked once for every model and kind of replay, on the rollouts at hand."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations.batch import Where, execute
from verdictscope.activations.transfer import out_of_memory
from verdictscope.errors import reason

if TYPE_CHECKING:
    from verdictscope.interventions.replay.running import Batched

FLOORS = 5
"""A replay may differ by so many noise floors, or by ``LEAST`` where that is more."""
LEAST = 1e-5

_verified: weakref.WeakKeyDictionary[Any, dict[Any, float]] = weakref.WeakKeyDictionary()


class NotReplayed(Exception):
    """Replay differs from a whole pass on this model, or cannot be run on it."""


def verify(
    batched: Batched, first: Int[np.ndarray, " sequence"], edits: Sequence[int], worst: float | None
) -> float | None:
    """Nothing edited must equal the clean pass, and of each kind of edit one drawn at random a whole pass under hooks.

    Args:
        batched: the rollouts and their clean pass.
        first: where the windows begin.
        edits: which edits are to be replayed.
        worst: the largest difference so far.

    Returns:
        The largest relative difference of the rows read, these included.

    Raises:
        NotReplayed: it exceeds the noise floor.
    """
    model = batched.job.model
    known = _verified.setdefault(model.hf, {})
    lowest = min(batched.job.starts[i] for i in edits)
    drawn = [edits[i] for i in np.random.default_rng(0).permutation(len(edits))]
    drawn.sort(key=lambda i: batched.job.starts[i] > lowest)  # the last of a kind counts: one that passes blocks by
    for kind, edit in {_kind(batched, first, i): i for i in drawn}.items():
        if kind not in known:
            try:
                known[kind] = _difference(batched, first, edit, lowest)
            except Exception as error:  # a model's own code may fail in any way when it is started in the middle
                if out_of_memory(error):
                    raise
                raise NotReplayed(f"it could not be started there ({reason(error)})") from error
        if not known[kind] <= LEAST and not known[kind] <= (allowed := FLOORS * model.noise_floor):
            raise NotReplayed(f"replay differs from a whole pass by {known[kind]:.1e} (allowed is {allowed:.1e})")
        worst = max(known[kind], worst or 0.0)
    return worst


def _kind(batched: Batched, first: Int[np.ndarray, " sequence"], edit: int) -> tuple:
    """What tells replays of one model apart: sites, prefix or not, masks given or not, what is read, the kernel."""
    job, memory = batched.job, batched.memory
    assert memory is not None
    masks = tuple(sorted({kept.mask is None for kept in memory.kept.values()})) if first.any() else ()
    sites = tuple(sorted({site.name for site in job.writes[edit]}))
    return sites, bool(first.any()), masks, type(job.readout).__name__, job.model.hf.config._attn_implementation


def _difference(batched: Batched, first: Int[np.ndarray, " sequence"], edit: int, lowest: int) -> float:
    """Three passes: nothing edited from the lowest layer on; nothing and the edit beside each other from the edit's
    own layer on, as only then does the mask between variants matter; and the whole one."""
    job, asked = batched.job, batched.asked
    writes = job.writes[edit]
    alone = batched.run(first, lowest, [{}])
    idle, edited = batched.run(first, job.starts[edit], [{}, writes]).chunk(2)
    where = Where(asked.sequences, asked.tokens, job.model.device)
    whole = asked.read(lambda taps, at: execute(job.model, asked.batch, taps, writes, at), where)
    return max(_apart(alone, batched.clean), _apart(idle, batched.clean), _apart(edited, whole))


def _apart(a: Float[Tensor, "row value"], b: Float[Tensor, "row value"]) -> float:
    """The largest difference of a row, relative to its size."""
    a, b = a.double(), b.double()
    size = b.norm(dim=-1).clamp(min=1e-30)
    return float(((a - b).norm(dim=-1) / size).max())
