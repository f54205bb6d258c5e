"""Is a replay what a whole pass is? Asked once for every model and kind of replay, on the rollouts at hand."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations.batch import Where, execute
from verdictscope.activations.transfer import out_of_memory

if TYPE_CHECKING:
    from verdictscope.interventions.replay.replay import Batched

FLOORS = 5
"""A replay may differ by so many noise floors, or by ``LEAST`` where that is more."""
LEAST = 1e-5

_verified: weakref.WeakKeyDictionary[Any, dict[Any, float]] = weakref.WeakKeyDictionary()


class NotReplayed(Exception):
    """Replay differs from a whole pass on this model, or cannot be run on it."""


def verify(batched: Batched, first: Int[np.ndarray, " sequence"], edit: int, worst: float | None) -> float:
    """Nothing edited must equal the clean pass, and one edit a whole pass under hooks.

    Args:
        batched: the rollouts and their clean pass.
        first: where the windows begin.
        edit: the edit tried.
        worst: the largest difference so far.

    Returns:
        The largest relative difference of the rows read, this one included.

    Raises:
        NotReplayed: it exceeds the noise floor.
    """
    known = _verified.setdefault(batched.job.model.hf, {})
    key = _kind(batched, first, edit)
    if key not in known:
        try:
            known[key] = _difference(batched, first, edit)
        except Exception as error:  # a model's own code may fail in any way when it is started in the middle
            if out_of_memory(error):
                raise
            raise NotReplayed(f"it could not be restarted ({type(error).__name__}: {str(error)[:200]})") from error
    if not known[key] <= LEAST and not known[key] <= (allowed := FLOORS * batched.job.model.noise_floor):
        raise NotReplayed(f"replay differs from a whole pass by {known[key]:.1e} (allowed is {allowed:.1e})")
    return max(known[key], worst or 0.0)


def _kind(batched: Batched, first: Int[np.ndarray, " sequence"], edit: int) -> tuple:
    """What tells replays of one model apart: sites, prefix or not, which layers were masked how, what is read."""
    job, memory = batched.job, batched.memory
    assert memory is not None
    masks = tuple(kept.mask is None for kept in memory.kept.values())
    sites = tuple(sorted({site.name for site in job.writes[edit]}))
    kernel = job.model.hf.config._attn_implementation
    return sites, bool(first.any()), len(first) > 1, masks, type(job.readout).__name__, batched.asked.top, kernel


def _difference(batched: Batched, first: Int[np.ndarray, " sequence"], edit: int) -> float:
    job, asked = batched.job, batched.asked
    writes = job.writes[edit]
    rows = batched.run(first, job.starts[edit], [{}, writes])
    idle, edited = rows.chunk(2)
    where = Where(asked.sequences, asked.tokens, job.model.device)
    whole = asked.read(lambda taps, at: execute(job.model, asked.batch, taps, writes, at), where)
    return max(_apart(idle, batched.clean), _apart(edited, whole))


def _apart(a: Float[Tensor, "row value"], b: Float[Tensor, "row value"]) -> float:
    """The largest difference of a row, relative to its size."""
    a, b = a.double(), b.double()
    size = b.norm(dim=-1).clamp(min=1e-30)
    return float(((a - b).norm(dim=-1) / size).max())
