"""Rollouts in, an activation store out; killed and started again, it continues with the next batch."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verdictscope.activations.concat import widened
from verdictscope.activations.forward import Flight, Job, Pass, Progress, default_plan, flights, prepare
from verdictscope.activations.model import Model, as_model
from verdictscope.activations.moments import MomentFitter
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.positions import resolve
from verdictscope.activations.readouts import LinearReadout, Readout
from verdictscope.activations.sites import FrozenPositions, Positions, Read, Site
from verdictscope.activations.store import Store
from verdictscope.activations.writing import Behind, StoreWriter
from verdictscope.errors import InputError
from verdictscope.kept import check_same, model_facts, tokenizer_facts
from verdictscope.rollouts.engines.state import kept_again
from verdictscope.rollouts.rollout import Rollout


def collect(
    model: Model | Any,
    rollouts: Sequence[Rollout],
    reads: Sequence[Read],
    path: str | Path,
    plan: BatchPlan | None = None,
    progress: Progress | None = None,
    *,
    score: Sequence[Readout] = (),
    moments: Sequence[MomentFitter] = (),
) -> Store:
    """Reads sites of a model on rollouts into a store, or finishes a store that was begun.

    Rows are written by another thread while the model works on the next batch; a batch counts as done once it is
    committed. A store that is there is used for the same weights as they are now, edits in force, tokenizer and request
    alone; to check that, every weight is read once.

    Args:
        model: the model.
        rollouts: what it is run on.
        reads: sites and positions, one read a site.
        path: the HDF5 file.
        plan: which rollouts share a batch; made from the lengths, or taken from a begun file, if not given.
        progress: called with (tokens done, tokens in all) after every batch.
        score: readouts whose scores are stored too (``Store.scores``); a trace at every token needs no read at all.
        moments: fitters fed in the same passes. They are not stored: where a begun store is finished, the batches it
            already holds are run again for them.

    Returns:
        The finished store, open for reading.

    Raises:
        InputError: the file was made with other weights, edits, tokenizer, rollouts, reads, readouts or plan; a hook
            that cannot be described acts on the model; or the file cannot be written.
    """
    model = as_model(model)
    rollouts, reads, score, path = list(rollouts), tuple(reads), tuple(score), Path(path)
    if not (reads or score) or len({r.site.name for r in reads}) < len(reads):
        raise InputError("a store needs at least one read or readout, and one read a site; join positions with commas")
    wanted = Wanted.of(model, rollouts, reads, score)
    store = _continue(wanted, path, plan) if path.exists() else _begin(wanted, path, plan)
    with store:
        again = BatchPlan(store.plan.batches[: store.batches_done], store.plan.token_budget)
        if moments and again.batches:
            _catch_up(model, rollouts, again, moments)
        if store.finished:
            kept_again()
        else:
            _fill(store, wanted, progress, moments)
    return Store.open(path)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is asked for, with positions that need the text made explicit.

    Attributes:
        model: the model.
        rollouts: what it is run on.
        reads: the reads as asked, and explicit.
        score: the readouts, explicit.
    """

    model: Model
    rollouts: list[Rollout]
    reads: dict[Read, Read]
    score: tuple[Readout, ...]

    @classmethod
    def of(cls, model: Model, rollouts: list[Rollout], reads: Sequence[Read], score: Sequence[Readout]) -> Wanted:
        job, _ = prepare(model, rollouts, reads, None, score, None)
        for asked in (*job.reads.values(), *job.score):
            if not any(len(resolve(asked.positions, rollout)) for rollout in rollouts):
                held = sorted({span.segment for rollout in rollouts for span in rollout.spans})
                what = asked.positions if isinstance(asked.positions, str) else "the positions asked for"
                said = f"no rollout has {what}, so no row is stored for it: they hold {', '.join(held)}"
                warnings.warn(said, stacklevel=3)
        return cls(model, rollouts, dict(job.reads), job.score)

    def job(self, budget: int, moments: Sequence[MomentFitter]) -> Job:
        """What every batch is asked for."""
        return Job(self.model, self.reads, None, self.score, None, tuple(moments), budget)

    def specs(self) -> dict[str, dict[str, Any]]:
        """How much room each site, and each readout, needs in a store."""
        specs = {r.site.name: self._spec(r.site, r.positions) for r in self.reads.values()}
        for i, readout in enumerate(self.score):
            rows = self._count(readout.positions)
            specs[f"scores/{i}"] = {"layers": (_layer(self.model, readout),), "rows": rows, "shape": ()}
            specs[f"scores/{i}"]["dtype"] = "float32"
        return specs

    def _spec(self, site: Site, positions: Positions | FrozenPositions) -> dict[str, Any]:
        layers = site.at(self.model.n_layers)
        at = self.model.sites
        kinds = {(at.shape(site.name, layer), at.dtype(site.name, layer)) for layer in layers}
        if len(kinds) > 1:
            raise InputError(f"the layers of site {site} differ in shape or type; collect them one by one")
        ((shape, dtype),) = kinds
        longest = max(len(r) for r in self.rollouts)
        shape = tuple(longest if n < 0 else n for n in shape)  # keys of an attention pattern
        name = str(dtype).removeprefix("torch.")
        return {"layers": layers, "rows": self._count(positions), "shape": shape, "dtype": name}

    def _count(self, positions: Positions | FrozenPositions) -> int:
        return sum(len(resolve(positions, rollout)) for rollout in self.rollouts)

    def header(self, plan: BatchPlan, like: str | None = None) -> dict[str, Any]:
        """The store's description; a file with another one belongs to another run.

        Args:
            plan: the batches.
            like: digest of weights that this one's is to be compared with.
        """
        model = self.model
        sites = {}
        for asked, read in self.reads.items():
            sites[read.site.name] = {"layers": read.site.at(model.n_layers), "positions": _json(read.positions)}
            sites[read.site.name]["modules"] = self._modules(read.site)
            if asked.positions != read.positions:
                sites[read.site.name]["asked"] = _json(asked.positions)
        header = {
            "model": {
                "name": model.name,
                "revision": model.revision,
                **model_facts(model.hf, like=like),
                **tokenizer_facts(model.optional_tokenizer),
            },
            "rollouts": digest(self.rollouts),
            "sites": sites,
            "scores": [s.to_dict() for s in self.score],
            "plan": plan.to_dict(),
        }
        return json.loads(json.dumps(header))

    def _modules(self, site: Site) -> list[str]:
        """Where the site is read, layer by layer: overrides of the site map make other rows."""
        names = {id(module): name for name, module in self.model.hf.named_modules()}
        places = [self.model.sites.place(site.name, layer) for layer in site.at(self.model.n_layers)]
        return [f"{names.get(id(p.module))} {p.side} {p.index} {p.heads} {p.gain:g}" for p in places]


def _layer(model: Model, readout: Readout) -> int:
    return Site(readout.site, readout.layer).at(model.n_layers)[0] if isinstance(readout, LinearReadout) else -1


def _json(positions: Positions | FrozenPositions) -> Any:
    return positions if isinstance(positions, str) else dict(positions)


def _catch_up(model: Model, rollouts: list[Rollout], plan: BatchPlan, moments: Sequence[MomentFitter]) -> None:
    job, _ = prepare(model, rollouts, (), None, (), None, moments=moments)
    for _flight in flights(job, rollouts, plan):
        pass


def _fill(store: StoreWriter, wanted: Wanted, progress: Progress | None, moments: Sequence[MomentFitter]) -> None:
    rollouts, plan, skip = wanted.rollouts, store.plan, store.batches_done
    lengths, committed = [len(r) for r in rollouts], deque()
    done = sum(lengths[i] for i in plan.order[: store.rollouts_done])
    if not skip:
        for fitter in moments:
            fitter.begin(wanted.model, rollouts)

    def tell() -> None:
        nonlocal done
        while committed:
            done += sum(lengths[i] for i in committed.popleft())
            if progress is not None:
                progress(done, sum(lengths))

    stored = [plan]

    def write(item: tuple[Flight, BatchPlan, tuple[int, ...]]) -> None:
        flight, plan_then, batch = item
        if plan_then != stored[0]:
            store.replan(plan_then)
            stored[0] = plan_then
        _append(store, wanted, flight.land(plan_then, batch))
        committed.append(batch)

    with Behind(write) as behind:
        for item in flights(wanted.job(plan.token_budget, moments), rollouts, plan, skip):
            behind.put(item)
            tell()
    tell()


def _append(store: StoreWriter, wanted: Wanted, result: Pass) -> None:
    rows, values = {}, {}
    for read in wanted.reads:
        name = read.site.name
        rows[name], values[name] = result.rows[read], result.values[read]
        values[name] = widened(values[name], store.shape(name))
    for i, readout in enumerate(wanted.score):
        rows[f"scores/{i}"], values[f"scores/{i}"] = _scores(result, readout)
    store.append(rows, values, len(result.batch))


def _scores(result: Pass, readout: Readout) -> tuple[Any, Tensor]:
    lines = result.scores[result.scores["readout"] == readout.name]
    return lines, torch.from_numpy(lines["score"].to_numpy().astype("float32"))[None]


def digest(rollouts: Sequence[Rollout]) -> str:
    """SHA-256 over ids, tokens and segments, in order."""
    state = hashlib.sha256()
    for r in rollouts:
        spans = [(s.segment, s.start, s.stop) for s in r.spans]
        state.update(json.dumps([r.id, r.ids, spans, r.n_prompt, r.finish]).encode())
    return state.hexdigest()


def _begin(wanted: Wanted, path: Path, plan: BatchPlan | None) -> StoreWriter:
    plan = plan or default_plan(wanted.model, wanted.rollouts)
    plan.check(len(wanted.rollouts))
    ids = [wanted.rollouts[i].id for i in plan.order]
    return StoreWriter.create(path, header=wanted.header(plan), rollout_ids=ids, sites=wanted.specs())


def _continue(wanted: Wanted, path: Path, plan: BatchPlan | None) -> StoreWriter:
    store = StoreWriter.resume(path)
    try:
        found = {key: store.header.get(key, []) for key in ("model", "rollouts", "sites", "scores", "plan")}
        asked = wanted.header(plan or BatchPlan.from_dict(found["plan"]), like=found["model"].get("weights"))
        check_same(f"{path} was", _request(found, asked), _request(asked, found), "choose another file, or delete it")
    except BaseException:
        store.close()
        raise
    return store


def _request(header: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any] | None:
    """What must agree; ``None`` for a store of an earlier version.

    A model folder may be moved: its weights say whether it is the same. Where one side has no tokenizer, nothing that
    was read depended on one.
    """
    model, other = header["model"], beside["model"]
    if "edits" not in model:
        return None
    without = {"name", "revision"} | {k for k in ("tokenizer", "template") if None in (model[k], other.get(k))}
    return {**header, "model": {k: v for k, v in model.items() if k not in without}}
