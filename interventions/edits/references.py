"""Replacement activations: means over a reference set, and rows of other rollouts aligned token by token.

They are gathered once, through ``forward``, and then frozen: an edit that holds them can be written down and read back
without the model, and its description names them by a digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.activations import BatchPlan, Model, Site, forward
from verdictscope.activations.forward import passes
from verdictscope.activations.positions import FrozenPositions, parse, resolve
from verdictscope.errors import InputError
from verdictscope.interventions.edits.protocol import checked
from verdictscope.rollouts import Rollout

RULES = ("same", "start", "end", "spread")
"""How tokens are aligned, see :func:`align`."""


def align(
    target: Rollout, source: Rollout, tokens: Int[ndarray, " token"], by: str = "same"
) -> tuple[Int[ndarray, " found"], Int[ndarray, " found"]]:
    """The tokens of ``source`` that stand for tokens of ``target``."""
    if by not in RULES:
        raise InputError(f"unknown alignment {by!r}: use one of {', '.join(RULES)}")
    pairs = []
    for token in map(int, tokens):
        other = token if by == "same" else _in_segment(target, source, token, by)
        if other is not None and 0 <= other < len(source):
            pairs.append((token, other))
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _in_segment(target: Rollout, source: Rollout, token: int, by: str) -> int | None:
    mine = next(span for span in target.spans if span.start <= token < span.stop)
    # The span of the source with the same name and the same place among those of that name, from the end
    here, there = ([s for s in r.spans if s.segment == mine.segment] for r in (target, source))
    back = len(here) - here.index(mine)
    if back > len(there):
        return None
    theirs = there[-back]
    if by == "spread":
        share = (token - mine.start) / max(len(mine) - 1, 1)
        return theirs.start + round(share * (len(theirs) - 1))
    other = theirs.start + token - mine.start if by == "start" else theirs.stop - (mine.stop - token)
    return other if theirs.start <= other < theirs.stop else None


def matched(
    targets: Sequence[Rollout], pool: Sequence[Rollout], *, on: Sequence[str] = (), seed: int = 0
) -> list[Rollout]:
    """For every target a rollout drawn from the pool, for resampling: alike in its tags, of another group."""
    if not pool:
        raise InputError("the reference set is empty: there is no rollout to resample from")
    for rollout in (*targets, *pool):
        lacking = [tag for tag in on if tag not in rollout.tags]
        if lacking:
            raise InputError(f"rollout {rollout.id} has no tag {lacking[0]!r} to match on")
    drawn = []
    for place, target in enumerate(targets):
        alike = [r for r in pool if r.group != target.group and all(r.tags[t] == target.tags[t] for t in on)]
        if not alike:
            raise InputError(f"no rollout of another group matches {target.id} on {', '.join(on) or 'anything'}")
        drawn.append(alike[int(np.random.default_rng([seed, place]).integers(len(alike)))])
    return drawn


Key = tuple[str, int]
"""Site and layer."""


def frozen_array(values: Any) -> ndarray:
    """A read-only copy; float64 stays, everything else becomes float32, which holds bfloat16 and float16 exactly."""
    array = np.array(values)
    array = array.astype(np.float64 if array.dtype == np.float64 else np.float32)
    array.setflags(write=False)
    return array


def array_to_dict(array: ndarray) -> dict[str, Any]:
    """An array as JSON-ready data, every bit kept: little-endian bytes in base64."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    text = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": text}


def array_from_dict(data: Mapping[str, Any]) -> ndarray:
    """What :func:`array_to_dict` wrote down."""
    try:
        if data["dtype"] not in ("float32", "float64"):
            raise ValueError(data["dtype"])
        raw = base64.b64decode(data["base64"], validate=True)
        return frozen_array(np.frombuffer(raw, np.dtype(data["dtype"]).newbyteorder("<")).reshape(data["shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a stored array is damaged: {error}") from error


class _Reference:
    """What both kinds share: values by site and layer, a digest, and what is said when something is missing."""

    values: Mapping[Key, ndarray]
    source: str

    @cached_property
    def digest(self) -> str:
        """Eight hex digits over everything that an edit takes from here."""
        crc = hashlib.sha256(repr(self._names()).encode())
        for key in sorted(self.values):
            crc.update(repr((key, self.values[key].dtype.name, self.values[key].shape)).encode())
            crc.update(np.ascontiguousarray(self.values[key]).data)
        return crc.hexdigest()[:8]

    def _names(self) -> Any:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.digest == self.digest  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self.digest)

    def at(self, site: str, layer: int) -> ndarray:
        """The values of one site and layer."""
        self.check(site, layer)
        return self.values[site, layer]

    def check(self, site: str, layer: int) -> None:
        """Raises ``InputError`` if a site and layer were not gathered."""
        if (site, layer) not in self.values:
            has = ", ".join(f"{name}[{at}]" for name, at in sorted(self.values))
            raise InputError(f"reference {self.digest} holds {has} and no {site}[{layer}]: gather that too")

    def _to_dict(self, kind: str) -> dict[str, Any]:
        values = [{"site": s, "layer": la, **array_to_dict(v)} for (s, la), v in sorted(self.values.items())]
        return {"kind": kind, "source": self.source, "digest": self.digest, "values": values}


@dataclass(frozen=True, eq=False)
class Means(_Reference):
    """Mean activations of a reference set, one per class of positions."""

    classes: tuple[FrozenPositions, ...]
    values: Mapping[Key, ndarray] = field(repr=False)
    source: str

    def _names(self) -> Any:
        return self.classes

    def at(self, site: str, layer: int, which: int = 0) -> ndarray:
        """The mean of one class."""
        return super().at(site, layer)[which]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**self._to_dict("means"), "classes": list(self.classes)}


@dataclass(frozen=True, eq=False)
class Rows(_Reference):
    """Activations of other rollouts, aligned token by token."""

    targets: tuple[tuple[str, tuple[int, ...]], ...]
    values: Mapping[Key, ndarray] = field(repr=False)
    source: str

    def _names(self) -> Any:
        return self.targets

    @cached_property
    def _index(self) -> dict[str, dict[int, int]]:
        row, index = 0, {}
        for name, tokens in self.targets:
            index[name] = {pos: row + i for i, pos in enumerate(tokens)}
            row += len(tokens)
        return index

    def lookup(self, ids: Sequence[str], lines: Sequence[int], tokens: Sequence[int]) -> Int[ndarray, " token"]:
        """The row for every token."""
        for name in ids:
            if name not in self._index:
                raise InputError(f"rollout {name} has no counterpart in reference {self.digest}: gather one for it")
        return np.array([self._index[ids[line]][pos] for line, pos in zip(lines, tokens, strict=True)], dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {**self._to_dict("rows"), "targets": {name: list(tokens) for name, tokens in self.targets}}


Reference = Means | Rows


def reference_from_dict(data: Mapping[str, Any]) -> Reference:
    """What a ``to_dict`` wrote down."""
    values = {(v["site"], int(v["layer"])): array_from_dict(v) for v in data.get("values", ())}
    made: Reference
    if data.get("kind") == "means":
        made = Means(tuple(checked(c) for c in data["classes"]), values, data["source"])
    elif data.get("kind") == "rows":
        targets = tuple((name, tuple(int(t) for t in tokens)) for name, tokens in data["targets"].items())
        made = Rows(targets, values, data["source"])
    else:
        raise InputError(f"a reference of kind {data.get('kind')!r} is unknown; known are means and rows")
    if data.get("digest", made.digest) != made.digest:
        raise InputError(f"reference {data['digest']} was changed after it was written: its digest is {made.digest}")
    return made


def gather_means(
    model: Model,
    rollouts: Sequence[Rollout],
    site: Site,
    *,
    by: str | Sequence[str] = "all",
    plan: BatchPlan | None = None,
) -> Means:
    """Mean activations over a reference set, per class of positions.

    Args:
        model: a wrapped model.
        rollouts: the reference set, teacher-forced.
        site: what to average; every layer of it by default.
        by: ``"all"`` for one mean over every token (the only form that also acts while a model generates);
            ``"segment"`` for one per segment; or positions rules, of which the first that holds a token counts.
        plan: batches.

    Raises:
        InputError: the set is empty, a class is empty in it, or a layer has no such site.

    Example:
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> one, two = (Rollout(f"r{t}", f"prompt {t}", (5, t, 7), (Span("user", 0, 3),), 3) for t in (6, 8))
        >>> gather_means(model, [one, two], Site("z", 4)).at("z", 4).shape
        (8, 16)
    """
    rollouts = list(rollouts)
    if not rollouts:
        raise InputError("the reference set is empty: a mean needs at least one rollout")
    classes = _classes(rollouts, by)
    reads = [site @ rule for rule in classes]
    layers = site.at(model.n_layers)
    sums: dict[int, ndarray] = {}
    counts = [0] * len(classes)
    for part in passes(model, rollouts, read=reads, plan=plan):
        for at, read in enumerate(reads):
            found = part.values[read].double().sum(1).numpy()
            sums[at] = sums.get(at, 0) + found
            counts[at] += len(part.rows[read])
    for rule, count in zip(classes, counts, strict=True):
        if not count:
            raise InputError(f"positions {rule!r} exist in none of the {len(rollouts)} reference rollouts")
    means = {
        (site.name, la): frozen_array([np.float32(sums[at][i] / counts[at]) for at in range(len(classes))])
        for i, la in enumerate(layers)
    }
    how = "" if classes == ("all",) else f" by {', '.join(map(str, classes))}"
    return Means(classes, means, f"the mean over {_count(len(rollouts), 'reference rollout')}{how}")


def _classes(rollouts: Sequence[Rollout], by: str | Sequence[str]) -> tuple[FrozenPositions, ...]:
    if by == "segment":
        seen = dict.fromkeys(span.segment for r in rollouts for span in r.spans if r.span(span.segment) is not None)
        return (*seen, "all")  # the last one for tokens of earlier turns and of segments the reference lacks
    rules = (by,) if isinstance(by, str) else tuple(by)
    if not rules:
        raise InputError("name at least one class of positions, for example 'all'")
    for rule in rules:
        parse(rule)
    return tuple(checked(rule) for rule in rules)


def gather_rows(
    model: Model,
    targets: Sequence[Rollout],
    sources: Sequence[Rollout],
    site: Site,
    *,
    positions: str = "all",
    by: str = "same",
    plan: BatchPlan | None = None,
) -> Rows:
    """What other rollouts had at the aligned tokens, to be put into ``targets``.

    Args:
        model: a wrapped model.
        targets: the rollouts that will be patched.
        sources: for each of them the rollout it is patched from: its counterfactual, or one drawn by :func:`matched`.
        site: what to take; every layer of it by default.
        positions: which tokens of the targets.
        by: how tokens are aligned, see :func:`~verdictscope.interventions.edits.alignment.align`.
        plan: batches of the sources.

    Returns:
        Rows for the tokens that have a counterpart; ``source`` says how many have none. Those stay as they are.

    Raises:
        InputError: the lists differ in length or are empty, or no token of a target has a counterpart.

    Example:
        >>> from verdictscope.activations import load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> one, two = (Rollout(f"r{t}", f"prompt {t}", (5, t, 7), (Span("user", 0, 3),), 3) for t in (6, 8))
        >>> rows = gather_rows(model, [one], [two], Site("resid_post", 4), positions="last")
        >>> rows.at("resid_post", 4).shape
        (1, 128)
    """
    targets, sources = list(targets), list(sources)
    if not targets or len(targets) != len(sources):
        raise InputError(f"{len(targets)} targets and {len(sources)} sources: give each target one source")
    rows: list[tuple[str, tuple[int, ...]]] = []
    wanted: dict[str, list[int]] = {}
    missing = 0
    for target, source in zip(targets, sources, strict=True):
        tokens = resolve(positions, target)
        here, there = align(target, source, tokens, by)
        if not len(here):
            raise InputError(f"no token of rollout {target.id} at {positions!r} has a counterpart in {source.id}")
        missing += len(tokens) - len(here)
        rows.append((target.id, tuple(map(int, here))))
        wanted[target.id] = [int(t) for t in there]
    read = site @ "all"
    unique = list({s.id: s for s in sources}.values())
    begins = dict(zip((s.id for s in unique), np.cumsum([0, *map(len, unique)]), strict=False))
    picked = np.concatenate([begins[s.id] + np.array(wanted[t.id]) for t, s in zip(targets, sources, strict=True)])
    found: Float[Any, "layer row *form"] = forward(model, unique, read=[read], plan=plan).values[read].float().numpy()
    values = {(site.name, la): frozen_array(found[i][picked]) for i, la in enumerate(site.at(model.n_layers))}
    left = f", {_count(missing, 'token')} without a counterpart left as they are" if missing else ""
    what = f"{_count(len(unique), 'other rollout')} at {_count(len(picked), 'token')} aligned by {by}{left}"
    return Rows(tuple(rows), values, what)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
