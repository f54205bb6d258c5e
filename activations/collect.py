"""Rollouts in, an activation store out; killed and started again, it continues with the next batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from verdictscope.activations.forward import check_inputs, default_plan, passes
from verdictscope.activations.model import Model
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.positions import resolve
from verdictscope.activations.sites import Read
from verdictscope.activations.store import Store
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout

Progress = Callable[[int, int], None]


def collect(
    model: Model,
    rollouts: Sequence[Rollout],
    reads: Sequence[Read],
    path: str | Path,
    plan: BatchPlan | None = None,
    progress: Progress | None = None,
) -> Store:
    """Reads sites of a model on rollouts into a store, or finishes a store that was begun.

    Args:
        model: the model.
        rollouts: what it is run on.
        reads: sites and positions, one read a site.
        path: the HDF5 file.
        plan: which rollouts share a batch; made from the lengths, or taken from a begun file, if not given.
        progress: called with (tokens done, tokens in all) after every batch.

    Returns:
        The finished store, open for reading.

    Raises:
        InputError: the file belongs to another model, other rollouts, reads or plan, or cannot be written.
    """
    rollouts, reads, path = list(rollouts), tuple(reads), Path(path)
    check_inputs(model, rollouts, reads, ())
    if not reads or len({r.site.name for r in reads}) < len(reads):
        raise InputError("a store needs at least one read and one read a site; join positions with commas")
    store = (
        _continue(model, rollouts, reads, path, plan) if path.exists() else _begin(model, rollouts, reads, path, plan)
    )
    if not store.finished:
        with store:
            _fill(store, model, rollouts, reads, progress)
        return Store.open(path)
    store.close()
    return Store.open(path)


def _fill(
    store: Store, model: Model, rollouts: Sequence[Rollout], reads: Sequence[Read], progress: Progress | None
) -> None:
    planned = BatchPlan.from_dict(store.header["plan"])
    skip = store.batches_done
    plan = store.plan
    total = sum(len(r) for r in rollouts)
    done = sum(len(rollouts[i]) for i in planned.order[: store.rollouts_done])
    for result in passes(model, rollouts, reads, plan=plan, skip=skip):
        rows = {r.site.name: result.rows[r] for r in reads}
        store.append(rows, {r.site.name: result.values[r] for r in reads}, len(result.batch))
        done += sum(len(rollouts[i]) for i in result.batch)
        if progress is not None:
            progress(done, total)


def _header(model: Model, rollouts: Sequence[Rollout], reads: Sequence[Read], plan: BatchPlan) -> dict[str, Any]:
    positions = {r.site.name: r.positions if isinstance(r.positions, str) else dict(r.positions) for r in reads}
    sites = {r.site.name: {"layers": r.site.at(model.n_layers), "positions": positions[r.site.name]} for r in reads}
    header = {
        "model": {
            "name": model.name,
            "revision": model.revision,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": model.fingerprint,
            "attention": getattr(model.hf.config, "_attn_implementation", None),
        },
        "rollouts": digest(rollouts),
        "sites": sites,
        "plan": plan.to_dict(),
    }
    return json.loads(json.dumps(header))


def digest(rollouts: Sequence[Rollout]) -> str:
    """SHA-256 over ids, tokens and segments, in order."""
    state = hashlib.sha256()
    for r in rollouts:
        spans = [(s.segment, s.start, s.stop) for s in r.spans]
        state.update(json.dumps([r.id, r.ids, spans, r.n_prompt, r.finish]).encode())
    return state.hexdigest()


def _begin(
    model: Model, rollouts: Sequence[Rollout], reads: Sequence[Read], path: Path, plan: BatchPlan | None
) -> Store:
    plan = plan or default_plan(model, rollouts)
    plan.check(len(rollouts))
    dtype = str(model.dtype).removeprefix("torch.")
    sites = {
        r.site.name: {
            "layers": r.site.at(model.n_layers),
            "rows": sum(len(resolve(r.positions, rollout)) for rollout in rollouts),
            "shape": (model.n_heads, model.d_head) if r.site.name == "z" else (model.d_model,),
            "dtype": dtype,
        }
        for r in reads
    }
    ids = [rollouts[i].id for i in plan.order]
    return Store.create(path, header=_header(model, rollouts, reads, plan), rollout_ids=ids, sites=sites)


def _continue(
    model: Model, rollouts: Sequence[Rollout], reads: Sequence[Read], path: Path, plan: BatchPlan | None
) -> Store:
    store = Store.open_for_append(path)
    found = {key: store.header[key] for key in ("model", "rollouts", "sites", "plan")}
    stored_plan = BatchPlan.from_dict(found["plan"])
    wanted = _header(model, rollouts, reads, plan or stored_plan)
    # A model folder may be moved; its weights say whether it is the same.
    differ = [key for key in wanted if _same(found[key]) != _same(wanted[key])]
    if differ:
        store.close()
        raise InputError(f"{path} was made with another {' and '.join(differ)}; choose another file or delete it")
    return store


def _same(value: Any) -> Any:
    return {k: v for k, v in value.items() if k != "name"} if isinstance(value, dict) and "weights" in value else value
