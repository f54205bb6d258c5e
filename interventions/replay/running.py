"""Replay: every edit's readout, exactly, from one clean pass and short passes that start at the edited layer.

What an edit leaves unchanged is not run again: nothing before its layer, nothing behind the readout's layer, and, where
it acts on the last tokens only, nothing before them. Whether a replay equals a whole pass is verified once for every
model and kind of replay, on the rollouts at hand.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.activations import BatchPlan, Model, Readout
from verdictscope.activations.batch import Where, execute
from verdictscope.activations.hooks import Tap
from verdictscope.activations.positions import FrozenPositions, freeze
from verdictscope.activations.transfer import out_of_memory, release_memory
from verdictscope.activations.variants import Layout, Memory, Writes, no_prefix_reason, remember, run_variants
from verdictscope.errors import reason
from verdictscope.interventions.edits.protocol import Edit, compile_edits
from verdictscope.interventions.replay.asked import Asked, lanes_of
from verdictscope.interventions.replay.chunks import chunks, kept_per_token, parts, room_for, rows_for
from verdictscope.rollouts import Rollout

FLOORS = 5
"""A replay may differ by so many noise floors, or by ``LEAST`` where that is more."""
LEAST = 1e-5

_verified: weakref.WeakKeyDictionary[Any, dict[Any, float]] = weakref.WeakKeyDictionary()


class NotReplayed(Exception):
    """Replay differs from a whole pass on this model, or cannot be run on it."""


@dataclass(frozen=True)
class Computed:
    """How effects were computed."""

    method: str
    why: str = ""
    difference: float | None = None

    def __str__(self) -> str:
        words = {
            "replay": "replayed behind a remembered prefix, from the edited layer on",
            "restart": "restarted at the edited layer, over all positions",
            "passes": "one whole forward pass per edit",
        }[self.method]
        checked = "" if self.difference is None else f" (verified against a whole pass: {self.difference:.1e})"
        return words + checked + (f", because {self.why}" if self.why else "")


@dataclass(frozen=True, eq=False)
class Readings:
    """The readout of every rollout, untouched and under every edit, and how it was computed."""

    base: Float[np.ndarray, " rollout"]
    edited: Float[np.ndarray, "edit rollout"]
    computed: Computed


@dataclass(eq=False)
class Job:
    """What is replayed, looked up once."""

    model: Model
    readout: Readout
    edits: Sequence[tuple[Edit, ...]]
    budget: int
    tick: Callable[[int], None]
    writes: list[Writes] = field(init=False)
    starts: list[int] = field(init=False)
    why: str | None = None
    windows: bool = False
    difference: float | None = None

    def __post_init__(self) -> None:
        self.writes = [compile_edits(self.model, group) for group in self.edits]
        n = self.model.n_layers
        self.starts = [min((min(site.at(n)) for site in group), default=n) for group in self.writes]


def replay(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout,
    edits: Sequence[tuple[Edit, ...]],
    plan: BatchPlan,
    progress: Callable[[int, int], None] | None = None,
) -> Readings:
    """The readout of every rollout, untouched and under every edit."""
    done = 0

    def tick(readings: int) -> None:
        nonlocal done
        done += readings
        if progress:
            progress(min(done // len(rollouts), len(edits)), len(edits))

    job = Job(model, readout, edits, plan.token_budget, tick)
    base, edited = np.zeros(len(rollouts)), np.zeros((len(edits), len(rollouts)))
    lanes = lanes_of(model, readout, rollouts)
    tokens = [0] * len(rollouts)
    for lane in lanes:
        tokens[lane.who] += len(lane.rollout)
    kept = kept_per_token(model.n_layers, model.d_model, model.n_heads, model.d_head, model.dtype.itemsize)
    queue = parts(tokens, kept, job.budget)
    while queue:
        part = queue.pop(0)
        full = False
        try:
            one = Batched(job, [rollouts[i] for i in part])
            base[part], edited[:, part] = one.base(), one.edited()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or (len(part) == 1 and job.budget < 2):
                raise
            full = True  # handled below: here the traceback still holds the tensors
        if full:
            release_memory()
            job.budget //= 2
            half = (len(part) + 1) // 2
            queue = [piece for piece in (part[:half], part[half:]) if piece] + queue
    method = "replay" if job.windows and not job.why else "restart"
    return Readings(base, edited, Computed(method, job.why or "", job.difference))


@dataclass(eq=False)
class Batched:
    """Some rollouts, their clean pass and the passes that start from it."""

    job: Job
    rollouts: Sequence[Rollout]

    def __post_init__(self) -> None:
        job = self.job
        self.asked = Asked(job.model, job.readout, lanes_of(job.model, job.readout, self.rollouts))
        self.families = self._families()
        self.memory: Memory | None = None
        asked, top = self.asked, self.asked.top
        begins = sorted({job.starts[i] for members in self.families.values() for i in members})
        keys = range(begins[0], top + 1) if begins and any(any(self._first_of(f)) for f in self.families) else ()

        def run(taps: Sequence[Tap], where: Where | None) -> Tensor | None:
            self.memory, logits = remember(job.model, asked.batch, begins, keys, taps, where)
            return logits

        self.clean = asked.read(run, Where(asked.sequences, asked.tokens, job.model.device))

    def _first_of(self, family: bytes) -> Int[np.ndarray, " sequence"]:
        return np.frombuffer(family, dtype=np.int64).copy()

    def _families(self) -> dict[bytes, list[int]]:
        """Edits by where their windows begin; those that no wanted row depends on are left out."""
        job, wanted, begins = self.job, self.asked.first(), {}
        layers = [s for s in job.starts if s <= self.asked.top]
        reason = no_prefix_reason(job.model, range(min(layers), self.asked.top + 1)) if layers else None
        families: dict[bytes, list[int]] = {}
        for i, group in enumerate(job.edits):
            if job.starts[i] > self.asked.top:
                continue
            rules = tuple(freeze(getattr(edit, "positions", "all")) for edit in group)
            if rules not in begins:
                begins[rules] = np.minimum.reduce([wanted, *(self._first_edited(rule) for rule in rules)])
            first = begins[rules]
            if first.any() and reason:
                job.why, first = reason, np.zeros_like(first)
            job.windows |= bool(first.any())
            families.setdefault(first.astype(np.int64).tobytes(), []).append(i)
        return families

    def _first_edited(self, rule: FrozenPositions) -> Int[np.ndarray, " sequence"]:
        chosen = self.asked.batch.view.select(rule).cpu().numpy()
        return np.where(chosen.any(1), chosen.argmax(1), chosen.shape[1])

    def base(self) -> Float[np.ndarray, " rollout"]:
        """The readout without edits."""
        return self.asked.scores(self.clean)[0]

    def edited(self) -> Float[np.ndarray, "edit rollout"]:
        """The readout under every edit."""
        job = self.job
        found = np.repeat(self.base()[None], len(job.edits), axis=0)
        untouched = len(job.edits) - sum(map(len, self.families.values()))
        job.tick(untouched * len(self.rollouts))
        for family, members in self.families.items():
            first = self._first_of(family)
            width = max(len(r) - s for r, s in zip(self.asked.batch.rollouts, first, strict=True))
            logits = len(self.asked.tokens) * self.asked.vocab
            room = room_for(len(first), int(width), int(first.max()), job.budget, logits)
            job.difference = verify(self, first, members, job.difference)
            for chunk in chunks([job.starts[i] for i in members], self.asked.top, int(width), room):
                chosen = [members[i] for i in chunk.members]
                found[chosen] = self.asked.scores(self.run(first, chunk.layer, [job.writes[i] for i in chosen]))
                job.tick(len(chosen) * len(self.rollouts))
        return found

    def run(
        self, first: Int[np.ndarray, " sequence"], layer: int, variants: Sequence[Writes]
    ) -> Float[Tensor, "row value"]:
        """The wanted rows of some variants, one pass."""
        assert self.memory is not None
        asked, memory = self.asked, self.memory
        width = max(len(r) - s for r, s in zip(asked.batch.rollouts, first, strict=True))
        layout = Layout(memory, first, *rows_for(len(variants), int(width), int(first.max())))
        where = layout.where(asked.sequences, asked.tokens)
        rows = asked.read(lambda taps, at: run_variants(self.job.model, layout, layer, variants, taps, at), where)
        return rows[: len(variants) * len(asked.tokens)]


def verify(
    batched: Batched, first: Int[np.ndarray, " sequence"], edits: Sequence[int], worst: float | None
) -> float | None:
    """No edit must equal the clean pass, and of each kind of edit one drawn at random a whole pass under hooks."""
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
