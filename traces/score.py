"""Every readout at every token of many rollouts, computed inside the forward pass and kept as one array.

A table with a row per token, layer and readout repeats the same ids for every layer: 32 layers of a thousand rollouts
of 8,000 tokens would be a quarter of a billion rows. Here a token stands once and a readout is a row of numbers, in
memory (`trace_rollouts`) or in a Parquet file written batch by batch (`store_traces`); either gives the tidy table of
the readouts and rollouts one asks for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from verdictscope.activations import BatchPlan, Model, Readout, Site
from verdictscope.activations.batch import segment_names
from verdictscope.activations.forward import Flight, flights, prepare
from verdictscope.activations.hooks import WriteFn
from verdictscope.activations.scoring import readout_key
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout
from verdictscope.traces.landmarks import align

Key = tuple[str, int | None]
"""Name and layer of a readout; log-odds have no layer."""

_IDS = ("rollout", "pos", "segment", "token_id")
_META = b"verdictscope.traces"


@dataclass(frozen=True, eq=False)
class Traces:
    """Scores of rollouts as one array.

    Attributes:
        rollouts: the rollouts, one after the other.
        readouts: name and layer of every row of ``scores``.
        scores: float32, NaN where a readout was not asked for; the tokens of all rollouts joined.
        starts: first token of every rollout, and the number of all tokens at the end.

    Example:
        >>> from verdictscope.rollouts import Rollout, Span
        >>> rollout = Rollout("r0", "prompt 0", (5, 6), (Span("user", 0, 2),), 2)
        >>> traces = Traces((rollout,), (("probe", 3),), np.array([[0.5, 1.5]], np.float32), np.array([0, 2]))
        >>> traces.to_frame()["score"].tolist()
        [0.5, 1.5]
    """

    rollouts: tuple[Rollout, ...]
    readouts: tuple[Key, ...]
    scores: Float[ndarray, "readout token"]
    starts: Int[ndarray, " edge"]

    def of(self, rollout: str, readout: str | None = None, layer: int | None = None) -> Float[ndarray, "readout pos"]:
        """One rollout's scores, a view; of all readouts, or of those with a name and layer."""
        at = next((i for i, r in enumerate(self.rollouts) if r.id == rollout), None)
        if at is None:
            raise InputError(f"rollout {rollout!r} was not traced")
        block = self.scores[:, self.starts[at] : self.starts[at + 1]]
        return block if readout is None and layer is None else block[_wanted(self.readouts, readout, layer)]

    def to_frame(
        self, readout: str | None = None, layer: int | None = None, rollouts: Collection[str] | None = None
    ) -> pd.DataFrame:
        """The tidy table `align` takes: ``rollout pos segment token_id readout layer score``, NaN scores left out."""
        chosen = _members(self.rollouts, rollouts)
        index = _wanted(self.readouts, readout, layer)
        own = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in chosen] or [np.arange(0)])
        ids = _id_columns([self.rollouts[i] for i in chosen])
        return _tidy(pd.DataFrame(ids), [(self.readouts[k], self.scores[k, own]) for k in index])

    def __repr__(self) -> str:
        return (
            f"Traces: {len(self.readouts)} readouts at {self.scores.shape[1]} tokens of {len(self.rollouts)} rollouts, "
            f"{self.scores.nbytes / 1e6:.1f} MB"
        )


@dataclass(frozen=True)
class TraceFile:
    """Traces in a Parquet file: ``rollout pos segment token_id`` and a float32 column per readout and layer."""

    path: Path
    readouts: tuple[Key, ...]
    columns: tuple[str, ...]
    rollouts: tuple[str, ...]

    @classmethod
    def open(cls, path: str | Path) -> TraceFile:
        """Look into a file that `store_traces` wrote."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no trace file {path}: write one with store_traces")
        about = (pq.read_schema(path).metadata or {}).get(_META)
        if about is None:
            raise InputError(f"{path} holds no traces in columns; read a tidy table with pandas")
        about = json.loads(about)
        if "rollouts" not in about:
            raise InputError(f"{path} does not say in which order its rollouts were given: write it with store_traces")
        readouts = about["readouts"]
        keys, columns = tuple((r["name"], r["layer"]) for r in readouts), tuple(r["column"] for r in readouts)
        return cls(path, keys, columns, tuple(about["rollouts"]))

    def to_frame(
        self, readout: str | None = None, layer: int | None = None, rollouts: Collection[str] | None = None
    ) -> pd.DataFrame:
        """The tidy table of some readouts and rollouts; other columns are not read. Arguments as `Traces.to_frame`."""
        index = _wanted(self.readouts, readout, layer)
        columns = [self.columns[k] for k in index]
        chosen = None if rollouts is None else [("rollout", "in", sorted(map(str, rollouts)))]
        wide = pq.read_table(self.path, columns=[*_IDS, *columns], filters=chosen).to_pandas()
        missing = set(map(str, rollouts or ())) - set(wide["rollout"].astype(str))
        if missing:
            raise InputError(f"rollout {min(missing)!r} was not traced")
        place = wide["rollout"].map({name: i for i, name in enumerate(self.rollouts)}).to_numpy(dtype=np.int64)
        if (place[1:] < place[:-1]).any():
            wide = wide.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)
        ids = wide[list(_IDS)].astype({"rollout": object, "segment": object})
        return _tidy(ids, [(self.readouts[k], wide[c].to_numpy()) for k, c in zip(index, columns, strict=True)])

    def batches(self) -> Iterator[tuple[pd.DataFrame, Float[ndarray, "readout token"]]]:
        """Every batch as written, in the plan's order: its tokens' ids, and the scores of all readouts at them."""
        with pq.ParquetFile(self.path) as file:
            for i in range(file.num_row_groups):
                wide = file.read_row_group(i).to_pandas()
                yield wide[list(_IDS)], wide[list(self.columns)].to_numpy().T


def trace(
    model: Model,
    rollouts: Sequence[Rollout],
    readout: Readout | Sequence[Readout],
    *,
    write: Mapping[Site, WriteFn] | None = None,
    plan: BatchPlan | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Score every token by a readout, and say where each token lies in its rollout.

    It runs the model once over the rollouts and stores no hidden states. A trace shows where a readout changes; it does
    not show that the model uses what the readout reads.

    Args:
        model: the model.
        rollouts: what it is run on.
        readout: one readout or several: linear ones (a probe's, `lens_readouts`) or log-odds, each at its positions.
        write: edits during the pass, as `forward` takes them.
        plan: which rollouts share a batch; made from the lengths by default.
        progress: called with (tokens done, tokens in all) after every batch.

    Returns:
        ``rollout pos segment token_id readout layer score`` and the columns of `align` (``group finish n_thinking
        rel_think_end rel_answer ...``); scores in the unit of the readout (logits, or nats for log-odds).

    Raises:
        InputError: there is no readout, or as `forward`.

    Example:
        >>> from verdictscope.activations import LinearReadout, load_model
        >>> from verdictscope.rollouts import Rollout, Span
        >>> model = load_model("organism:cliff")
        >>> rollout = Rollout("r0", "prompt 0", (5, 6, 7, 8), (Span("user", 0, 3), Span("answer", 3, 4)), 3)
        >>> readout = LinearReadout("first", "resid_post", 1, [1.0] + [0.0] * (model.d_model - 1))
        >>> trace(model, [rollout], readout)[["pos", "segment", "rel_answer"]].to_dict("list")
        {'pos': [0, 1, 2, 3], 'segment': ['user', 'user', 'user', 'answer'], 'rel_answer': [-3, -2, -1, 0]}
    """
    readouts = list(readout) if isinstance(readout, Sequence) else [readout]
    scores = trace_rollouts(model, rollouts, readouts, write=write, plan=plan, progress=progress).to_frame()
    return align(scores, rollouts)


def trace_rollouts(
    model: Model,
    rollouts: Sequence[Rollout],
    readouts: Sequence[Readout],
    *,
    write: Mapping[Site, WriteFn] | None = None,
    plan: BatchPlan | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Traces:
    """Score every token by any number of readouts, in one pass over the rollouts. No hidden state is stored."""
    rollouts = tuple(rollouts)
    keys: tuple[Key, ...] = ()
    starts = np.concatenate([[0], np.cumsum([len(r) for r in rollouts])]).astype(np.int64)
    scores = np.empty((0, 0), dtype=np.float32)
    for keys, members, block in _blocks(model, rollouts, readouts, write, plan, progress):
        if not scores.size:
            scores = np.full((len(keys), starts[-1]), np.nan, dtype=np.float32)
        at = 0
        for i in members:
            scores[:, starts[i] : starts[i + 1]] = block[:, at : at + len(rollouts[i])]
            at += len(rollouts[i])
    return Traces(rollouts, keys, scores, starts)


def store_traces(
    path: str | Path,
    model: Model,
    rollouts: Sequence[Rollout],
    readouts: Sequence[Readout],
    *,
    write: Mapping[Site, WriteFn] | None = None,
    plan: BatchPlan | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TraceFile:
    """`trace_rollouts` into a Parquet file, one row group a batch: memory holds one batch, however many there are."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer: pq.ParquetWriter | None = None
    try:
        for keys, members, block in _blocks(model, tuple(rollouts), readouts, write, plan, progress):
            names = [_column(key) for key in keys]
            data = {**_id_columns([rollouts[i] for i in members]), **dict(zip(names, block, strict=True))}
            if writer is None:
                clash = {n for n in names if n in _IDS or list(names).count(n) > 1}
                if clash:
                    raise InputError(f"a readout may not be called {min(clash)!r}; give it another name")
                about = [{"name": n, "layer": layer, "column": c} for (n, layer), c in zip(keys, names, strict=True)]
                ids = [
                    ("rollout", pa.string()),
                    ("pos", pa.int32()),
                    ("segment", pa.string()),
                    ("token_id", pa.int32()),
                ]
                described = json.dumps({"readouts": about, "rollouts": [r.id for r in rollouts]})
                schema = pa.schema([*ids, *((name, pa.float32()) for name in names)], {_META: described})
                # scores are as good as noise to a compressor
                packed = {name: "zstd" if name in _IDS else "none" for name in schema.names}
                writer = pq.ParquetWriter(part, schema, compression=packed, use_dictionary=["rollout", "segment"])
            writer.write_table(pa.table(data, schema=writer.schema), row_group_size=block.shape[1])
        if writer is not None:
            writer.close()
            part.replace(path)
    finally:
        if writer is not None and writer.is_open:
            writer.close()
        part.unlink(missing_ok=True)
    return TraceFile.open(path)


def _blocks(
    model: Model,
    rollouts: tuple[Rollout, ...],
    readouts: Sequence[Readout],
    write: Mapping[Site, WriteFn] | None,
    plan: BatchPlan | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[tuple[Key, ...], tuple[int, ...], Float[ndarray, "readout token"]]]:
    """Per batch the readouts' keys, the rollouts in it and their scores, token after token."""
    if not readouts:
        raise InputError("no readout is given: nothing would be traced")
    job, plan = prepare(model, rollouts, (), write, tuple(readouts), plan)
    keys = tuple(readout_key(r, model.n_layers) for r in job.score)
    done, tokens = 0, sum(map(len, rollouts))
    for flight, _, members in flights(job, rollouts, plan):
        block = _landed(flight, keys, members, rollouts)
        done += block.shape[1]
        yield keys, members, block
        if progress is not None:
            progress(done, tokens)


def _landed(
    flight: Flight, keys: tuple[Key, ...], members: tuple[int, ...], rollouts: tuple[Rollout, ...]
) -> Float[ndarray, "readout token"]:
    """What a batch scored, without a table in between."""
    flight.transfer.wait()
    lengths = [len(rollouts[i]) for i in members]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    block = np.full((len(keys), starts[-1]), np.nan, dtype=np.float32)
    row_of = {key: k for k, key in enumerate(keys)}
    for found in flight.scored:
        assert found.scores is not None
        at = starts[found.where.rows] + found.where.tokens
        rows = [row_of[r.name, found.group.layer] for r in found.group.readouts]
        block[np.array(rows)[:, None], at[None]] = found.scores.numpy().T
    first = {rollouts[i].id: int(start) for i, start in zip(members, starts[:-1], strict=True)}
    for key, lines in flight.lines.items():
        at = lines["rollout"].map(first).to_numpy(dtype=np.int64) + lines["pos"].to_numpy(dtype=np.int64)
        block[row_of[key], at] = lines["score"].to_numpy(dtype=np.float32)
    return block


def _id_columns(rollouts: Sequence[Rollout]) -> dict[str, ndarray]:
    lengths = [len(r) for r in rollouts]
    empty = np.array([], dtype=object)
    return {
        "rollout": np.repeat(np.array([r.id for r in rollouts], dtype=object), lengths),
        "pos": np.concatenate([np.arange(n) for n in lengths] or [np.arange(0)]),
        "segment": np.concatenate([segment_names(r) for r in rollouts] or [empty]),
        "token_id": np.concatenate([np.asarray(r.ids, dtype=np.int64) for r in rollouts] or [np.arange(0)]),
    }


def _tidy(ids: pd.DataFrame, columns: Sequence[tuple[Key, ndarray]]) -> pd.DataFrame:
    parts = []
    for (name, layer), scores in columns:
        there = np.isfinite(scores)
        part = ids[there].assign(readout=name, layer=pd.array([layer] * int(there.sum()), dtype="Int64"))
        parts.append(part.assign(score=scores[there].astype(float)))
    return pd.concat(parts, ignore_index=True)


def _wanted(readouts: Sequence[Key], name: str | None, layer: int | None) -> list[int]:
    found = [k for k, (n, at) in enumerate(readouts) if name in (None, n) and layer in (None, at)]
    if not found:
        known = ", ".join(sorted({n for n, _ in readouts}))
        raise InputError(f"readout {name!r} was not traced at layer {layer}; traced are {known}")
    return found


def _members(rollouts: Sequence[Rollout], ids: Collection[str] | None) -> list[int]:
    if ids is None:
        return list(range(len(rollouts)))
    wanted = set(map(str, ids))
    missing = wanted - {r.id for r in rollouts}
    if missing:
        raise InputError(f"rollout {min(missing)!r} was not traced")
    return [i for i, r in enumerate(rollouts) if r.id in wanted]


def _column(key: Key) -> str:
    name, layer = key
    return name if layer is None else f"{name}@{layer}"
