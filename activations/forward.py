"""The only place that runs a model on stored token ids.

Capture, edits, scores and moments happen in the same passes. The wanted rows are gathered on the device before they
are copied. Running out of memory splits the batch in the plan and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from verdictscope.activations.attention import Pattern
from verdictscope.activations.batch import Batch, Listener, Where, execute, match
from verdictscope.activations.concat import in_order, placed, sorted_scores
from verdictscope.activations.hooks import BatchView, Tap, WriteFn
from verdictscope.activations.loading import as_model
from verdictscope.activations.model import Model
from verdictscope.activations.plan import TOKEN_BUDGET, BatchPlan
from verdictscope.activations.positions import FrozenPositions, Positions, explicit, resolve
from verdictscope.activations.readouts import LinearReadout, LogOddsReadout, Readout
from verdictscope.activations.scoring import (
    SCORE_COLUMNS,
    LinearGroup,
    Lines,
    ScoredRows,
    linear_groups,
    log_odds_scores,
    readout_key,
)
from verdictscope.activations.sites import Read, Site
from verdictscope.activations.states import described
from verdictscope.activations.transfer import Transfer, out_of_memory, release_memory
from verdictscope.errors import InputError
from verdictscope.rollouts.engines.finite import all_finite, not_finite
from verdictscope.rollouts.engines.limits import check_ids, check_lengths
from verdictscope.rollouts.engines.state import on_device
from verdictscope.rollouts.rollout import Rollout

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, repr=False)
class Pass:
    """What one or several batches gave.

    Attributes:
        rows: per read, the rollout, position, token id and segment of each row.
        values: per read, ``[layer row d_model]`` (``[layer row head d_head]`` for z) in the model's dtype on
            the CPU.
        scores: one line per rollout, position and readout; ``layer`` is missing for log-odds.
        plan: the batches as they were run, splits included.
        batch: the rollouts in it, as indices into the list given.
        logits: ``[row vocab]`` in float32 where ``logits_at`` asked for them.
        logit_rows: the rows of ``logits``.

    Example: see :func:`forward`.
    """

    rows: dict[Read, pd.DataFrame]
    values: dict[Read, Tensor]
    scores: pd.DataFrame
    plan: BatchPlan
    batch: tuple[int, ...]
    logits: Float[Tensor, "row vocab"] | None = None
    logit_rows: pd.DataFrame | None = None

    def __repr__(self) -> str:
        tables = {str(read): rows for read, rows in self.rows.items()}
        parts = [described(tables, {str(read): values for read, values in self.values.items()})]
        parts += (
            [f"{len(self.scores)} scores of {', '.join(self.scores['readout'].unique())}"] if len(self.scores) else []
        )
        parts += [] if self.logits is None else [f"logits: {self.logits.shape[0]} rows x {self.logits.shape[1]}"]
        return f"Pass({'; '.join(filter(None, parts)) or 'nothing requested'})"


@dataclass(frozen=True, eq=False)
class Job:
    """What is computed for every batch, prepared once."""

    model: Model
    reads: Mapping[Read, Read]
    write: Mapping[Site, WriteFn] | None
    score: tuple[Readout, ...]
    logits_at: Positions | FrozenPositions | None
    moments: tuple[Listener, ...]
    budget: int
    groups: list[LinearGroup] = field(init=False)

    def __post_init__(self) -> None:
        linear = [s for s in self.score if isinstance(s, LinearReadout)]
        object.__setattr__(self, "groups", linear_groups(self.model, linear))


@dataclass(eq=False)
class Flight:
    """A batch whose pass was made (on a GPU: queued) and whose rows are on their way to the host."""

    job: Job
    batch: Batch
    transfer: Transfer = field(default_factory=Transfer)
    wheres: dict[Read, Where] = field(default_factory=dict)
    values: dict[Read, Tensor] = field(default_factory=dict)
    scored: list[ScoredRows] = field(default_factory=list)
    lines: Lines = field(default_factory=dict)
    logits: Tensor | None = None
    logit_rows: pd.DataFrame | None = None

    def keep(self, read: Read, layers: Sequence[int], at: int, value: Tensor | Pattern, _: BatchView) -> None:
        """Sends the wanted rows of one layer to the host."""
        where = self.wheres[read]
        on_cpu = value if isinstance(value, Tensor) and value.device.type == "cpu" else None
        rows = where.gather(value) if on_cpu is None else on_cpu
        shape = (len(layers), len(where), *rows.shape[1 if on_cpu is None else 2 :])
        if read not in self.values:
            self.values[read] = self.transfer.room(shape, rows)
        room = self.values[read]
        if room.shape != shape or room.dtype != rows.dtype:
            raise InputError(f"site {read.site}: layers {layers} differ in shape or type; read them one by one")
        if on_cpu is None:
            self.transfer.copy(rows, room[at])
        else:  # straight to where the rows stay
            where.gather_into(on_cpu, room[at])

    def land(self, plan: BatchPlan, indices: tuple[int, ...]) -> Pass:
        """Waits for the rows and gives them. May be called from another thread."""
        self.transfer.wait()
        lines = dict(self.lines)
        for group in self.scored:
            lines |= group.lines(self.batch)
        ordered = [lines[readout_key(s, self.job.model.n_layers)] for s in self.job.score]
        scores = pd.concat(ordered, ignore_index=True) if ordered else pd.DataFrame(columns=SCORE_COLUMNS)
        rows = {read: self.wheres[read].frame(self.batch) for read in self.job.reads}
        self._check_numbers(rows, scores)
        return Pass(rows, self.values, scores, plan, indices, self.logits, self.logit_rows)

    def _check_numbers(self, rows: Mapping[Read, pd.DataFrame], scores: pd.DataFrame) -> None:
        """Refuses results that are no numbers; a token or a label that the model rules out is minus infinity."""
        for read, values in self.values.items():
            # routers rule experts out in the same way
            fine = not values.isnan().any() if read.site.name == "router" else all_finite(values)
            if not fine:
                bad = values.isnan() if read.site.name == "router" else ~values.isfinite()
                layer, row = bad.nonzero()[0, :2].tolist()
                site = f"{read.site.name}[{read.site.at(self.job.model.n_layers)[layer]}]"
                raise not_finite(self.job.model.hf, f"the values of {site} {_at(rows[read], row)}")
        lines = scores["score"].to_numpy(dtype=float)
        wrong = np.isnan(lines) if len(lines) else lines
        if wrong.any():
            line = int(np.argmax(wrong))
            what = f"the scores of {scores['readout'].iloc[line]!r} {_at(scores, line)}"
            raise not_finite(self.job.model.hf, what)
        if self.logits is None or self.logit_rows is None or not len(self.logits):
            return
        wild = ~self.logits.amax(-1).isfinite()
        if wild.any():
            raise not_finite(self.job.model.hf, f"the logits {_at(self.logit_rows, int(wild.nonzero()[0]))}")


def _at(rows: pd.DataFrame, row: int) -> str:
    return f"of rollout {rows['rollout'].iloc[row]} at token {rows['pos'].iloc[row]}"


def launch(job: Job, rollouts: tuple[Rollout, ...]) -> Flight:
    """One pass over one batch; the rows that it yields may still be on their way."""
    model = job.model
    batch = Batch(rollouts, model.device)
    flight = Flight(job, batch)
    taps = []
    for read, explicit_read in job.reads.items():
        flight.wheres[read] = batch.where(explicit_read.positions)
        layers = read.site.at(model.n_layers)
        taps += [Tap(read.site.name, la, partial(flight.keep, read, layers, at)) for at, la in enumerate(layers)]
    for group in job.groups:
        tap, found = group.tap(model, batch.where(group.positions), flight.transfer)
        taps.append(tap)
        flight.scored.append(found)
    for fitter in job.moments:
        taps += fitter.taps(model, batch)
    log_odds = [s for s in job.score if isinstance(s, LogOddsReadout)]
    places = [s.positions for s in log_odds] + ([job.logits_at] if job.logits_at is not None else [])
    where = None
    if places:
        chosen = [np.unique(np.concatenate([resolve(p, r) for p in places])) for r in batch.rollouts]
        rows = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
        where = Where(rows, np.concatenate(chosen).astype(np.int64), batch.device)
    logits = execute(model, batch, taps, job.write, where)
    flight.transfer.seal()
    if logits is not None and where is not None:
        if log_odds:
            flight.lines = log_odds_scores(model, batch, log_odds, where, logits, job.write, job.budget)
        if job.logits_at is not None:
            asked = batch.where(job.logits_at)
            flight.logits, flight.logit_rows = logits[match(where, asked)].float().cpu(), asked.frame(batch)
    return flight


def flights(
    job: Job, rollouts: Sequence[Rollout], plan: BatchPlan, skip: int = 0
) -> Iterator[tuple[Flight, BatchPlan, tuple[int, ...]]]:
    """Launches the plan's batches one after the other: the flight, the plan as it then is, and who is in it."""
    i = skip
    while i < len(plan.batches):
        batch, full = plan.batches[i], False
        try:
            flight = launch(job, tuple(rollouts[j] for j in batch))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            full = True  # handled below: here the traceback still holds the tensors
        if full:
            plan = plan.split(i)
            release_memory()
            continue
        yield flight, plan, batch
        del flight
        i += 1


def prepare(
    model: Model,
    rollouts: Sequence[Rollout],
    read: Sequence[Read],
    write: Mapping[Site, WriteFn] | None,
    score: Sequence[Readout],
    plan: BatchPlan | None,
    logits_at: Positions | None = None,
    moments: Sequence[Listener] = (),
) -> tuple[Job, BatchPlan]:
    """The job and the plan, after everything that can be checked beforehand was checked."""
    check_inputs(model, rollouts, read, score)
    plan = plan or default_plan(model, rollouts)
    plan.check(len(rollouts))
    reads = {r: replace(r, positions=explicit(r.positions, rollouts, model.optional_tokenizer)) for r in read}
    score = tuple(replace(s, positions=explicit(s.positions, rollouts, model.optional_tokenizer)) for s in score)
    at = None if logits_at is None else explicit(logits_at, rollouts, model.optional_tokenizer)
    for fitter in moments:
        fitter.begin(model, rollouts)
    return Job(model, reads, write, score, at, tuple(moments), plan.token_budget), plan


def passes(
    model: Model | Any,
    rollouts: Sequence[Rollout],
    read: Sequence[Read] = (),
    write: Mapping[Site, WriteFn] | None = None,
    score: Sequence[Readout] = (),
    plan: BatchPlan | None = None,
    *,
    logits_at: Positions | None = None,
    moments: Sequence[Listener] = (),
    skip: int = 0,
) -> Iterator[Pass]:
    """Runs a model on rollouts and yields what each batch gave, in the plan's order."""
    model, rollouts = as_model(model), list(rollouts)
    job, plan = prepare(model, rollouts, tuple(read), write, tuple(score), plan, logits_at, moments)
    for flight, plan_then, batch in flights(job, rollouts, plan, skip):
        yield flight.land(plan_then, batch)


def default_plan(model: Model, rollouts: Sequence[Rollout]) -> BatchPlan:
    """The plan used where the caller gives none."""
    return BatchPlan.make([len(r) for r in rollouts], TOKEN_BUDGET.get(model.device.type, TOKEN_BUDGET["cpu"]))


def check_inputs(model: Model, rollouts: Sequence[Rollout], read: Sequence[Read], score: Sequence[Readout]) -> None:
    """Raises ``InputError`` for what can be seen to be wrong before anything runs."""
    if not rollouts:
        raise InputError("there are no rollouts to run")
    if len({r.id for r in rollouts}) != len(rollouts):
        raise InputError("two rollouts have the same id; ids must be unique")
    on_device(model.hf)
    check_lengths(model.hf, ((r.id, len(r)) for r in rollouts))
    check_ids(model.hf, ((f"rollout {r.id}", r.ids) for r in rollouts), model.optional_tokenizer)
    if len(set(read)) != len(read):
        raise InputError("the same read is requested twice")
    if len({readout_key(s, model.n_layers) for s in score}) != len(score):
        raise InputError("two readouts have the same name (and layer)")
    for r in read:
        if not isinstance(r, Read):
            raise InputError(f"read has {r!r}: a read is a site at positions, such as Site('resid_post', 3) @ 'last'")
        for layer in r.site.at(model.n_layers):
            model.sites.hook_point(r.site.name, layer)


def forward(
    model: Model | Any,
    rollouts: Sequence[Rollout],
    read: Sequence[Read] = (),
    write: Mapping[Site, WriteFn] | None = None,
    score: Sequence[Readout] = (),
    plan: BatchPlan | None = None,
    *,
    logits_at: Positions | None = None,
    moments: Sequence[Listener] = (),
    progress: Progress | None = None,
) -> Pass:
    """Runs a model on rollouts: capture, edits, scores and moments in the same passes. Rows come in the rollouts'
    order.

    Args:
        model: the model; also a Hugging Face, TransformerLens or nnsight one, see ``loading.as_model``.
        rollouts: what it is run on; ids must be unique.
        read: sites and positions to return, for example ``[Site("resid_post") @ "thinking:8,think_end"]``.
        write: site to ``fn(value, view) -> new value``, see ``hooks.writing``.
        score: readouts to evaluate; several of one name are distinguished by their layers.
        plan: which rollouts share a batch; made from the lengths if not given.
        logits_at: positions whose full logits are returned.
        moments: listeners that see every batch, such as the fitters of ``moments.py``.
        progress: called with (tokens done, tokens in all) after every batch.

    Raises:
        InputError: the rollouts, sites, readouts or plan do not fit the model or each other.

    Example:
        >>> from verdictscope.activations import Site, forward, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff", device="cpu")
        >>> ids = tuple(model.tokenizer("please tell me how to build the bridge.")["input_ids"])
        >>> rollouts = [Rollout("0", "0", ids, (Span("user", 0, len(ids)),), n_prompt=len(ids))]
        >>> forward(model, rollouts, [Site("resid_post") @ "all", Site("z", 3) @ "last"])
        Pass(resid_post @ all: 6 layers x 9 rows x 128; z[3] @ last: 1 layer x 1 row x 8 x 16, 1 rollout)
    """
    rollouts, done, tokens = list(rollouts), [], 0
    for part in passes(model, rollouts, read, write, score, plan, logits_at=logits_at, moments=moments):
        done.append(part)
        tokens += sum(len(rollouts[i]) for i in part.batch)
        if progress is not None:
            progress(tokens, sum(map(len, rollouts)))
    at = {rollout.id: i for i, rollout in enumerate(rollouts)}
    rows, values = {}, {}
    for r in read:
        rows[r], order = in_order([p.rows[r] for p in done], at)
        values[r] = placed([p.values[r] for p in done], order)
    scores = sorted_scores([p.scores for p in done], at, [readout_key(s, model.n_layers) for s in score])
    merged = Pass(rows, values, scores, done[-1].plan, tuple(at.values()))
    if logits_at is None:
        return merged
    frame, order = in_order([p.logit_rows for p in done if p.logit_rows is not None], at)
    logits = placed([p.logits[None] for p in done if p.logits is not None], order)[0]
    return replace(merged, logits=logits, logit_rows=frame)
