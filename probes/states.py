"""What `fit_probe` takes: hidden states by layer in any form, and labels brought into the order of their rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from verdictscope.activations.select import reader
from verdictscope.errors import InputError
from verdictscope.probes.rows import prompt_of, to_array
from verdictscope.probes.splits import split_rows
from verdictscope.stats import Column, group_names, index_of, joined, same_order

SHARES = (0.35, 0.15, 0.5)
"""Shares of train, validation and test."""


@dataclass(frozen=True, eq=False)
class Layers:
    """Hidden states of the same rows at several layers, read one layer at a time.

    Attributes:
        keys: the layers (or other candidates), as they were given.
        read_key: layer -> states ``[row d]``.
        site: where in the model, if known.
        names: rollout of every row, if known.
        store: the store they lie in, by whose rows a prepared table is found.
    """

    keys: tuple[Hashable, ...]
    read_key: Callable[[Any], Any]
    site: str = ""
    names: pd.Index | None = None
    store: Any = None

    @classmethod
    def of(cls, states: Any) -> Layers:
        """From a store, an array, or a mapping of layers to arrays."""
        if isinstance(states, Layers):
            return states
        if isinstance(states, tuple) and len(states) == 2 and isinstance(states[1], str):
            return cls._of_store(*states)
        if all(hasattr(states, name) for name in ("rows", "layers", "numpy", "sites")):
            if len(states.sites) > 1:
                raise InputError(f"the states hold the sites {', '.join(states.sites)}: give (states, site)")
            return cls._of_store(states, states.sites[0])
        if not isinstance(states, Mapping):
            if np.ndim(states) not in (2, 3):
                raise InputError(
                    f"states have shape {np.shape(states)}: give [layer, row, d], or [row, d] of one layer"
                )
            states = {0: states} if np.ndim(states) == 2 else dict(enumerate(states))
        if not states:
            raise InputError("there is no layer: give states, or a mapping of at least one layer to them")
        return cls(tuple(states), states.__getitem__, names=index_of(next(iter(states.values()))))

    @classmethod
    def _of_store(cls, store: Any, site: str) -> Layers:
        names = pd.Index(store.rows(site)["rollout"])
        return cls(tuple(store.layers(site)), lambda layer: store.numpy(site, layer), site, names, store)

    def of_rows(self, rows: pd.DataFrame) -> Layers:
        """The states of a table's rows, found by rollout and position where they lie in a store."""
        if self.store is None:
            return self
        return replace(self, read_key=reader(self.store, self.site, rows), names=None, store=None)

    @property
    def codes(self) -> dict[int, Hashable]:
        """A number for every layer, rising as they were given: the layer's own where all are rising numbers."""
        whole = all(isinstance(key, int | np.integer) and not isinstance(key, bool) for key in self.keys)
        own = whole and all(a < b for a, b in zip(self.keys[:-1], self.keys[1:], strict=True))  # type: ignore[operator]
        return dict(zip(self.keys if own else range(len(self.keys)), self.keys, strict=True))  # type: ignore[arg-type]

    def read(self, key: Hashable, n: int, layer: int = 0) -> Float[ndarray, "row d"]:
        """One layer's states, which must be ``n`` finite rows."""
        try:
            return to_array(self.read_key(key), n, layer)
        except InputError as error:
            raise InputError(f"layer {key!r}: {str(error).partition(': ')[2]}") from error


@dataclass(frozen=True, eq=False)
class Prepared:
    """Labels, groups and split in the order of the states' rows."""

    layers: Layers
    rows: pd.DataFrame
    classes: tuple[Any, Any]
    balance_on: tuple[str, ...] = ()
    texts: Column | None = None


def prepare(
    states: Any,
    labels: Any,
    groups: Column | None = None,
    texts: Column | None = None,
    balance_on: Mapping[str, Column] | pd.DataFrame | Sequence[str] = (),
    split: Sequence[float] | Column = SHARES,
    seed: int = 0,
) -> Prepared:
    """Bring labels and columns into the order of the states, and split the rows that have no split."""
    layers = Layers.of(states)
    beside: dict[str, Any] = dict(balance_on) if isinstance(balance_on, Mapping | pd.DataFrame) else {}
    if isinstance(labels, pd.DataFrame):
        # A prepared table; what it lacks of rollout, group and split is made
        missing = [name for name in ("label", *balance_on) if name not in labels]
        if missing:
            raise InputError(f"the table lacks the column {missing[0]!r}; it has {', '.join(map(str, labels.columns))}")
        codes, classes = two_classes(labels["label"])
        rows = labels.assign(label=codes)
        if groups is not None:
            rows["group"] = np.asarray(groups, dtype=object)
        if not {"rollout", "group", "part"} <= set(rows):
            shares = _shares(split)
            rollouts = rows.get("rollout")
            group = rows.get("group", rows.get("prompt"))
            if group is None and rollouts is not None:
                group = pd.Series(prompt_of(rollouts), index=rows.index)
            made = split_rows(
                codes,
                None if group is None else group_names(group),
                texts=texts,
                rollouts=None if rollouts is None else rollouts.to_list(),
                balance_on={name: rows[name].to_numpy() for name in balance_on},
                part=rows["part"].to_numpy() if "part" in rows else None if shares else split,
                shares=shares or SHARES,
                seed=seed,
            )
            if rollouts is None:
                _check_independent(made)
            rows = rows.assign(**{name: made[name].to_numpy() for name in ("rollout", "group", "part", "given_group")})
        return Prepared(layers.of_rows(labels), rows, classes, tuple(balance_on), texts)
    if len(balance_on) and not beside:
        raise InputError("balance_on names columns of a prepared table: give them by name, {'harm': harm}")
    taken = [name for name in beside if name in ("rollout", "group", "label", "part", "given_group")]
    if taken:
        raise InputError(f"a balance column is called {taken[0]!r}, as a column of the rows is: give it another name")
    if isinstance(labels, Mapping):
        labels = pd.Series(dict(labels))
    shares = _shares(split)
    columns = {"labels": labels, "groups": groups, "texts": texts, "split": None if shares else split}
    columns |= {f"balance_on {name}": column for name, column in beside.items()}
    if layers.names is None:
        same_order(beside="states", **columns)
    else:
        columns = {name: joined(column, layers.names, name) for name, column in columns.items()}
    codes, classes = two_classes(columns["labels"])
    rollouts = None if layers.names is None else list(layers.names)
    if columns["groups"] is None and rollouts is not None:
        columns["groups"] = prompt_of(rollouts)
    held = {name: columns[f"balance_on {name}"] for name in beside}
    rows = split_rows(
        codes,
        columns["groups"],
        texts=columns["texts"],
        rollouts=rollouts,
        balance_on=held,
        part=columns["split"],
        shares=shares or SHARES,
        seed=seed,
    )
    if rollouts is None:
        _check_independent(rows)
    return Prepared(layers, rows, classes, tuple(held), columns["texts"])


def align(layers: Layers, labels: Any, groups: Column | None = None) -> pd.DataFrame:
    """``rollout group label`` of a table that is only evaluated, in the order of the states."""
    if isinstance(labels, pd.DataFrame):
        rows = labels.reset_index(drop=True)
    else:
        given = pd.Series(dict(labels)) if isinstance(labels, Mapping) else labels
        if layers.names is None:
            same_order(beside="states", labels=given, groups=groups)
        else:
            given, groups = (joined(column, layers.names, "labels") for column in (given, groups))
        rows = pd.DataFrame({"label": np.asarray(given, dtype=object)})
        if layers.names is not None:
            rows["rollout"] = list(layers.names)
    if rows["label"].isna().any():
        raise InputError(f"{int(rows['label'].isna().sum())} of {len(rows)} labels are missing: drop these rows")
    if groups is not None:
        rows["group"] = np.asarray(groups, dtype=object)
    if "group" not in rows:
        names = [f"row {i}" for i in range(len(rows))]
        rows["group"] = prompt_of(rows["rollout"]) if "rollout" in rows else names
    return rows


def two_classes(labels: Any) -> tuple[ndarray, tuple[Any, Any]]:
    """Labels as 0 and 1, and what they stand for."""
    values = pd.Series(np.asarray(labels, dtype=object))
    if values.isna().any():
        raise InputError(f"{int(values.isna().sum())} of {len(values)} labels are missing; drop or label these rows")
    try:
        names = sorted(values.unique())
    except TypeError as error:
        raise InputError("labels are of unlike types; make them all texts, or all numbers") from error
    if len(names) != 2:
        shown = ", ".join(map(repr, names[:4])) + (", …" if len(names) > 4 else "")
        raise InputError(f"a probe separates two classes and there are {len(names)} labels: {shown or 'none'}")
    return (values == names[1]).to_numpy().astype(int), (names[0], names[1])


def _shares(split: Any) -> tuple[float, ...] | None:
    """Shares of the splits; ``None`` where a split per row was given."""
    given = list(split)
    numbers = len(given) == 3 and all(isinstance(share, int | float) for share in given)
    return tuple(given) if numbers else None


def _check_independent(rows: pd.DataFrame) -> None:
    within = rows.groupby("given_group", sort=False)["label"].agg(["size", "nunique"])
    mixed = within[(within["nunique"] > 1) & (within["size"] > 2)]
    if len(mixed):
        raise InputError(
            f"prompt {mixed.index[0]!r} has {mixed['size'].iloc[0]} rows of both labels: give the labels as a table "
            "with a column rollout, since tokens of one rollout are not independent (range(n) makes every row one)"
        )
