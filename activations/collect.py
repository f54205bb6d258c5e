"""Rollouts or texts in, hidden states out: in memory, or in a store that continues after a kill with the next batch."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from verdictscope.activations.concat import widened
from verdictscope.activations.forward import Flight, Job, Progress, default_plan, flights, forward, prepare
from verdictscope.activations.loading import as_model
from verdictscope.activations.model import Model
from verdictscope.activations.moments import MomentFitter
from verdictscope.activations.plan import BatchPlan
from verdictscope.activations.positions import FrozenPositions, Positions, resolve
from verdictscope.activations.readouts import LinearReadout, Readout
from verdictscope.activations.sites import Read, Site
from verdictscope.activations.states import States
from verdictscope.activations.store import Store
from verdictscope.activations.writing import BackgroundWriter, StoreWriter
from verdictscope.errors import InputError
from verdictscope.kept import check_same, model_facts, tokenizer_facts
from verdictscope.rollouts.engines.state import kept_again
from verdictscope.rollouts.rollout import Rollout, Span


@overload
def collect(
    model: Model | Any,
    rollouts: Sequence[Rollout] | Sequence[str],
    sites: Site | Read | str | Sequence[Site | Read | str],
    positions: Positions = "last",
    *,
    path: None = None,
    score: Sequence[Readout] = (),
    moments: Sequence[MomentFitter] = (),
    plan: BatchPlan | None = None,
    progress: Progress | None = None,
) -> States: ...
@overload
def collect(
    model: Model | Any,
    rollouts: Sequence[Rollout] | Sequence[str],
    sites: Site | Read | str | Sequence[Site | Read | str],
    positions: Positions = "last",
    *,
    path: str | Path,
    score: Sequence[Readout] = (),
    moments: Sequence[MomentFitter] = (),
    plan: BatchPlan | None = None,
    progress: Progress | None = None,
) -> Store: ...
def collect(
    model: Model | Any,
    rollouts: Sequence[Rollout] | Sequence[str],
    sites: Site | Read | str | Sequence[Site | Read | str],
    positions: Positions = "last",
    *,
    path: str | Path | None = None,
    score: Sequence[Readout] = (),
    moments: Sequence[MomentFitter] = (),
    plan: BatchPlan | None = None,
    progress: Progress | None = None,
) -> Store | States:
    """Reads hidden states of a model on rollouts or texts, into memory or into a store on disk.

    Into a store, rows are written by another thread while the model works on the next batch; a batch counts as done
    once it is committed, and a store that was begun is finished. A store that exists is used only for the same weights
    (as they are now), edits in force, tokenizer and request; to check that, every weight is read once.

    Args:
        model: the model.
        rollouts: what it is run on. Texts are tokenised without a chat template; their ids are "0", "1", ….
        sites: where in the model: ``"resid_post"``, ``Site("z", layers=(3, 4))``, or ``Site @ positions``, which has
            its own positions; each site once.
        positions: where in a rollout; the grammar is in ``positions.py``.
        path: an HDF5 file; without one the states stay in memory.
        score: readouts whose scores are kept too (``scores()``); a trace at every token needs no site at all.
        moments: fitters fed in the same passes. They are not stored: where a begun store is finished, the batches it
            already holds are run again for them.
        plan: which rollouts share a batch; made from the lengths, or taken from a begun file, if not given.
        progress: called with (tokens done, tokens in all) after every batch.

    Returns:
        The states: a finished :class:`Store`, open for reading, where a path was given, else :class:`States`. Both have
        ``rows()``, ``layers(site)`` and ``numpy(site, layer)``, with rows in the order of ``rollouts``.

    Raises:
        InputError: a site or position does not exist; the file was made with other weights, edits, tokenizer,
            rollouts, sites, readouts or plan; a hook that cannot be described acts on the model; or the file cannot be
            written.

    Example:
        >>> from verdictscope.activations import collect, load_model
        >>> model = load_model("organism:cliff", device="cpu")
        >>> collect(model, ["please tell me how to build the bridge.", "the mode is normal."], ["resid_post", "z"])
        States(organism:cliff: resid_post: 6 layers x 2 rows x 128; z: 6 layers x 2 rows x 8 x 16, 2 rollouts)
    """
    model, score = as_model(model), tuple(score)
    rollouts = as_rollouts(model, rollouts)
    asked = [sites] if isinstance(sites, Site | Read | str) else sites
    reads = tuple(s if isinstance(s, Read) else (Site(s) if isinstance(s, str) else s) @ positions for s in asked)
    if not (reads or score) or len({r.site.name for r in reads}) < len(reads):
        raise InputError(
            "collect needs at least one site or readout, and each site once; join positions with commas, and give "
            "several layers together, as in Site('resid_post', (0, 3))"
        )
    wanted = Wanted.of(model, rollouts, reads, score)
    if path is None:
        done = forward(model, rollouts, reads, score=score, plan=plan, moments=moments, progress=progress)
        return States(
            model=model.name,
            tables={read.site.name: done.rows[read] for read in reads},
            values={read.site.name: done.values[read] for read in reads},
            layer_numbers={read.site.name: read.site.at(model.n_layers) for read in reads},
            scored=done.scores,
        )
    path = Path(path)
    if path.exists():
        store = StoreWriter.resume(path)
        try:
            found = {key: store.header.get(key, []) for key in ("model", "rollouts", "sites", "scores", "plan")}
            now = wanted.header(plan or BatchPlan.from_dict(found["plan"]), like=found["model"].get("weights"))
            check_same(f"{path} was", _request(found, now), _request(now, found), "choose another file, or delete it")
        except BaseException:
            store.close()
            raise
    else:
        plan = plan or default_plan(model, rollouts)
        plan.check(len(rollouts))
        ids = [rollouts[i].id for i in plan.order]
        store = StoreWriter.create(path, header=wanted.header(plan), rollout_ids=ids, sites=wanted.specs())
    with store:
        again = BatchPlan(store.plan.batches[: store.batches_done], store.plan.token_budget)
        if moments and again.batches:
            job, _ = prepare(model, rollouts, (), None, (), None, moments=moments)
            for _flight in flights(job, rollouts, again):
                pass
        if store.finished:
            kept_again()
        else:
            _fill(store, wanted, progress, moments)
    return Store.open(path)


def as_rollouts(model: Model, given: Sequence[Rollout] | Sequence[str]) -> list[Rollout]:
    """Rollouts as they are; texts tokenised without a chat template, each a group of its own."""
    if isinstance(given, str):
        raise InputError("rollouts is one text: give a list of texts")
    texts = [text for text in given if isinstance(text, str)]
    if not texts:
        return [rollout for rollout in given if isinstance(rollout, Rollout)]
    if len(texts) < len(given):
        raise InputError("rollouts holds texts and rollouts: give one kind")
    rollouts = []
    for i, ids in enumerate(model.tokenizer(texts, padding=False, truncation=False)["input_ids"]):
        if not ids:
            raise InputError(f"text {i} has no tokens: leave it out")
        rollouts.append(Rollout(str(i), str(i), tuple(ids), (Span("user", 0, len(ids)),), len(ids)))
    return rollouts


@dataclass(frozen=True, eq=False)
class Wanted:
    """The request, with positions that need the text made explicit."""

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
                message = f"no rollout has {what}, so no row is stored for it: they hold {', '.join(held)}"
                warnings.warn(message, stacklevel=3)
        return cls(model, rollouts, dict(job.reads), job.score)

    def job(self, budget: int, moments: Sequence[MomentFitter]) -> Job:
        """The job of every batch."""
        return Job(self.model, self.reads, None, self.score, None, tuple(moments), budget)

    def specs(self) -> dict[str, dict[str, Any]]:
        """How much room each site, and each readout, needs in a store."""
        specs = {r.site.name: self._spec(r.site, r.positions) for r in self.reads.values()}
        for i, readout in enumerate(self.score):
            layers: tuple[int, ...] = (-1,)
            if isinstance(readout, LinearReadout):
                layers = Site(readout.site, readout.layer).at(self.model.n_layers)
            rows = self._count(readout.positions)
            specs[f"scores/{i}"] = {"layers": layers, "rows": rows, "shape": (), "dtype": "float32"}
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
        """The store's description; a file with another one belongs to another run."""
        model = self.model
        sites = {}
        for asked, read in self.reads.items():
            sites[read.site.name] = {"layers": read.site.at(model.n_layers), "positions": _json(read.positions)}
            sites[read.site.name]["modules"] = self._modules(read.site)
            if asked.positions != read.positions:
                sites[read.site.name]["requested"] = _json(asked.positions)
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
        places = [self.model.sites.hook_point(site.name, layer) for layer in site.at(self.model.n_layers)]
        return [f"{names.get(id(p.module))} {p.side} {p.index} {p.heads} {p.gain:g}" for p in places]


def _json(positions: Positions | FrozenPositions) -> Any:
    return positions if isinstance(positions, str) else dict(positions)


def _fill(store: StoreWriter, wanted: Wanted, progress: Progress | None, moments: Sequence[MomentFitter]) -> None:
    rollouts, plan, skip = wanted.rollouts, store.plan, store.batches_done
    lengths, committed = [len(r) for r in rollouts], deque[tuple[int, ...]]()
    done = sum(lengths[i] for i in plan.order[: store.rollouts_done])
    stored = plan
    if not skip:
        for fitter in moments:
            fitter.begin(wanted.model, rollouts)

    def report() -> None:
        nonlocal done
        while committed:
            done += sum(lengths[i] for i in committed.popleft())
            if progress is not None:
                progress(done, sum(lengths))

    def write(item: tuple[Flight, BatchPlan, tuple[int, ...]]) -> None:
        nonlocal stored
        flight, plan_then, batch = item
        if plan_then != stored:
            store.replan(plan_then)
            stored = plan_then
        result = flight.land(plan_then, batch)
        rows = {read.site.name: result.rows[read] for read in wanted.reads}
        values = {r.site.name: widened(result.values[r], store.shape(r.site.name)) for r in wanted.reads}
        for i, readout in enumerate(wanted.score):
            lines = result.scores[result.scores["readout"] == readout.name]
            rows[f"scores/{i}"] = lines
            values[f"scores/{i}"] = torch.from_numpy(lines["score"].to_numpy().astype("float32"))[None]
        store.append(rows, values, len(result.batch))
        committed.append(batch)

    with BackgroundWriter(write) as writer:
        for item in flights(wanted.job(plan.token_budget, moments), rollouts, plan, skip):
            writer.put(item)
            report()
    report()


def digest(rollouts: Sequence[Rollout]) -> str:
    """SHA-256 over ids, tokens and segments, in order."""
    state = hashlib.sha256()
    for r in rollouts:
        spans = [(s.segment, s.start, s.stop) for s in r.spans]
        state.update(json.dumps([r.id, r.ids, spans, r.n_prompt, r.finish]).encode())
    return state.hexdigest()


def _request(header: dict[str, Any], beside: dict[str, Any]) -> Any:
    """What must agree; ``None`` for a store of an earlier version.

    A model folder may be moved: its weights say whether it is the same. Where one side has no tokenizer, nothing that
    was read depended on one.
    """
    model, other = header["model"], beside["model"]
    if "edits" not in model:
        return None
    without = {"name", "revision"} | {k for k in ("tokenizer", "template") if None in (model[k], other.get(k))}
    return {**header, "model": {k: v for k, v in model.items() if k not in without}}
