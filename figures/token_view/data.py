"""From a tidy table of scores to what a page needs: rollouts, runs of one segment, and a column of scores per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from verdictscope.figures.tables import need

Layer = int | None
"""A layer, or ``None`` for a readout of the model's output."""

_COLUMNS = "rollout pos token score"
_LIMIT = 0.98  # share of the scores within the colour scale: one huge score at the first token would whiten the rest
_CENTRE = {"normalised": 0.5}  # 0 reads like complying and 1 like refusing


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one segment: ``start`` to ``stop`` (exclusive) among the rollout's tokens."""

    segment: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class ShownRollout:
    """One rollout for display."""

    name: str
    facts: tuple[str, ...]
    tokens: tuple[str, ...]
    pos: Int[np.ndarray, " token"]
    runs: tuple[Run, ...]
    scores: dict[tuple[str, Layer], Float[np.ndarray, " token"]]

    @property
    def end_of_thinking(self) -> int | None:
        """Place of the token that closes the (last) thinking, ``None`` where none does."""
        return next((run.start for run in reversed(self.runs) if run.segment == "think_end"), None)

    @property
    def label(self) -> str:
        """The rollout's name with its facts."""
        return " · ".join((self.name, *self.facts))


@dataclass(frozen=True)
class ShownReadout:
    """A readout with its colour scale."""

    name: str
    unit: str
    layers: tuple[Layer, ...]
    centre: float
    limit: float


def read_table(table: pd.DataFrame, facts: tuple[str, ...]) -> tuple[list[ShownRollout], list[ShownReadout]]:
    """Rollouts and readouts of a table, both in its order."""
    need(table, "tokens", _COLUMNS)
    rows = _Rows.of(table)
    names = [table["rollout"], *(table[f] for f in facts if f in table.columns)]
    which, keys = _codes(list(zip(*map(_texts, names), strict=True)))
    readouts = [_readout(rows, k) for k in range(len(rows.readouts))]
    return [_rollout(key, rows, np.flatnonzero(which == k)) for k, key in enumerate(keys)], readouts


@dataclass(frozen=True, eq=False)
class _Rows:
    """The columns of the table as plain arrays: pandas' strings hold no lone surrogates, which a model can write."""

    pos: Int[np.ndarray, " row"]
    token: np.ndarray
    segment: np.ndarray
    unit: np.ndarray
    readout: Int[np.ndarray, " row"]
    layer: Float[np.ndarray, " row"]
    score: Float[np.ndarray, " row"]
    readouts: list[Any]

    @classmethod
    def of(cls, table: pd.DataFrame) -> _Rows:
        def texts(name: str, missing: str) -> np.ndarray:
            return _texts(table[name]) if name in table else np.full(len(table), missing, dtype=object)

        def numbers(name: str) -> np.ndarray:
            return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)

        pos = numbers("pos")
        if not (np.isfinite(pos) & (pos == np.floor(pos))).all():
            raise ValueError("the tokens table holds a position that is no whole number: pos counts a rollout's tokens")
        readout, readouts = _codes(texts("readout", "score").tolist())
        return cls(
            pos.astype(np.int64),
            texts("token", ""),
            texts("segment", ""),
            texts("unit", "logit"),
            readout,
            numbers("layer") if "layer" in table else np.full(len(table), np.nan),
            numbers("score"),
            readouts,
        )


def _texts(column: pd.Series) -> np.ndarray:
    """A column as strings, missing values as empty ones."""
    values = column.to_numpy(dtype=object)
    return np.array(["" if gone else str(v) for v, gone in zip(values, pd.isna(values), strict=True)], dtype=object)


def _codes(values: list[Any]) -> tuple[Int[np.ndarray, " row"], list[Any]]:
    """Values as places in the list of different ones, in order of appearance."""
    places: dict[Any, int] = {}
    return np.array([places.setdefault(v, len(places)) for v in values], dtype=np.int64), list(places)


def _layers(values: np.ndarray) -> tuple[Layer, ...]:
    return tuple((None if np.isnan(v) else int(v)) for v in np.unique(values))  # ascending, one NaN at most


def _rollout(key: tuple[str, ...], rows: _Rows, index: Int[np.ndarray, " row"]) -> ShownRollout:
    places, at = np.unique(rows.pos[index], return_inverse=True)
    columns = {}
    for name, given in (("token", rows.token[index]), ("segment", rows.segment[index])):
        column = columns[name] = np.empty(len(places), dtype=object)
        column[at] = given
        if (column[at] != given).any():
            where = places[at[np.flatnonzero(column[at] != given)[0]]]
            raise ValueError(f"rollout {key[0]!r} has two {name}s at position {where}: a token has one")
    scores: dict[tuple[str, Layer], Float[np.ndarray, " token"]] = {}
    for k in np.unique(rows.readout[index]):
        mine = rows.readout[index] == k
        for layer in _layers(rows.layer[index[mine]]):
            layers = rows.layer[index]
            here = np.flatnonzero(mine & (np.isnan(layers) if layer is None else layers == layer))
            if len(np.unique(at[here])) < len(here):
                name = rows.readouts[k]
                raise ValueError(f"rollout {key[0]!r} has two scores of {name!r} at one token: name variant or layer")
            values = scores[rows.readouts[k], layer] = np.full(len(places), np.nan)
            values[at[here]] = rows.score[index[here]]
    facts = tuple(fact for fact in key[1:] if fact)
    return ShownRollout(key[0], facts, tuple(columns["token"]), places, _runs(columns["segment"], places), scores)


def _runs(segments: np.ndarray, pos: np.ndarray) -> tuple[Run, ...]:
    if not len(pos):
        return ()
    new = np.flatnonzero((segments[1:] != segments[:-1]) | (np.diff(pos) != 1)) + 1
    edges = [0, *new.tolist(), len(pos)]
    return tuple(Run(str(segments[a]), a, b) for a, b in zip(edges, edges[1:], strict=False))


def _readout(rows: _Rows, k: int) -> ShownReadout:
    mine = rows.readout == k
    units = list(dict.fromkeys(rows.unit[mine]))
    if len(units) > 1:
        raise ValueError(f"readout {rows.readouts[k]!r} has scores in {units[0]!r} and {units[1]!r}: give it one unit")
    centre = _CENTRE.get(units[0], 0.0)
    away = np.abs(rows.score[mine] - centre)
    away = away[np.isfinite(away)]
    limit = float(f"{np.quantile(away, _LIMIT):.2g}") if len(away) else 0.0
    return ShownReadout(rows.readouts[k], units[0], _layers(rows.layer[mine]), centre, limit if limit > 0 else 1.0)
