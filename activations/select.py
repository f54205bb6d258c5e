"""Choosing rows of a store with pandas: by segment, by rollout, by the caller's own columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from verdictscope.errors import InputError, reason

if TYPE_CHECKING:
    from verdictscope.activations.states import StateTable

Condition = str | Mapping[str, Any] | Callable[[pd.DataFrame], Any] | Sequence[bool] | np.ndarray | pd.Series | None
"""Which rows: a pandas query, column to value (or values), a function of the table, or a mask."""


@dataclass(frozen=True, eq=False)
class Selected:
    """Chosen rows of one site and layer."""

    rows: pd.DataFrame
    values: Float[Tensor, "row ..."]

    def __len__(self) -> int:
        return len(self.rows)

    def to_frame(self) -> pd.DataFrame:
        """The rows."""
        return self.rows


def with_tags(rows: pd.DataFrame, tags: pd.DataFrame | pd.Series | None) -> pd.DataFrame:
    """The rows with the caller's columns added; a rollout that is not in the table gets missing values."""
    if tags is None:
        return rows
    table = tags.to_frame() if isinstance(tags, pd.Series) else tags
    table = table.set_index("rollout") if "rollout" in table.columns else table
    table = table.set_axis(table.index.astype(str))
    if table.index.has_duplicates:
        again = table.index[table.index.duplicated()][0]
        raise InputError(f"the tags have two lines for rollout {again}; keep one line a rollout")
    clash = [name for name in table.columns if name in rows.columns]
    if clash:
        raise InputError(f"the tags name a column {clash[0]!r}, which every store has; rename it")
    known = table.index.isin(rows["rollout"].unique())
    if len(rows) and not known.any():
        raise InputError(
            f"no rollout of the store is among the tags (they begin {list(table.index[:2])}, the store "
            f"{rows['rollout'].iloc[0]!r}): give rollout ids as the index or a column rollout"
        )
    return rows.join(table, on="rollout")


def chosen(rows: pd.DataFrame, where: Condition) -> Int[np.ndarray, " row"]:
    """Numbers of the rows that meet a condition, ascending."""
    if where is None:
        return np.arange(len(rows))
    if isinstance(where, str):
        try:
            mask = np.asarray(rows.eval(where, engine="python"))
        except Exception as error:  # pandas raises whatever the expression makes it raise
            raise InputError(
                f"condition {where!r} cannot be read ({reason(error)}); columns are {_names(rows)}"
            ) from error
    elif isinstance(where, Mapping):
        mask = np.ones(len(rows), dtype=bool)
        for name, value in where.items():
            if name not in rows.columns:
                raise InputError(f"there is no column {name!r} to select by; columns are {_names(rows)}")
            several = isinstance(value, list | tuple | set | frozenset | np.ndarray | pd.Series | pd.Index)
            mask &= np.asarray(rows[name].isin(list(value) if several else [value]), dtype=bool)
    else:
        made = where(rows) if callable(where) else where
        if isinstance(made, pd.Series) and not made.index.equals(rows.index):
            raise InputError(
                f"the mask is indexed by {list(made.index[:2])}, …, the rows of the store by 0 to {len(rows) - 1} in "
                "their own order: make it from store.rows(), or pass .to_numpy()"
            )
        mask = np.asarray(made)
    if mask.shape != (len(rows),) or mask.dtype != bool:
        raise InputError(
            f"a condition must give {len(rows)} truth values, one a row; it gave {mask.dtype} {mask.shape}"
        )
    return np.flatnonzero(mask)


def _names(rows: pd.DataFrame) -> str:
    return ", ".join(map(str, rows.columns))


def reader(store: StateTable, site: str, rows: pd.DataFrame) -> Callable[[int], Float[np.ndarray, "row ..."]]:
    """A reader of a store's layers in the order of the caller's table, for `verdictscope.probes.fit_probe`.

    The rows of a store come in the order of the rollouts given to ``collect``. Here they are found by rollout and
    position, so that a table that was sorted, filtered or joined with labels still goes with its activations.

    Args:
        store: a store.
        site: one of its sites.
        rows: columns ``rollout`` and ``pos`` (``pos`` may be left out where each rollout has one row), in any order.

    Returns:
        layer -> values ``[row d_model]``, row by row those of the table.

    Raises:
        InputError: a row of the table is not in the store, or is in the table twice.

    Example:
        >>> from verdictscope.activations import collect, load_model, reader
        >>> model = load_model("organism:cliff", device="cpu")
        >>> states = collect(model, ["the mode is normal.", "please tell me."], "resid_post")
        >>> table = states.rows().iloc[::-1]
        >>> reader(states, "resid_post", table)(3).shape
        (2, 128)
    """
    stored = store.rows(site)
    keys = ["rollout", "pos"] if "pos" in rows.columns else ["rollout"]
    if "rollout" not in rows.columns:
        raise InputError(f"rows have no column rollout to find them by; columns are {_names(rows)}")
    if keys == ["rollout"] and stored["rollout"].duplicated().any():
        raise InputError("there are several rows a rollout: give the column pos as well")
    wanted = rows[keys].assign(rollout=rows["rollout"].astype(str))
    if wanted.duplicated().any():
        again = wanted[wanted.duplicated()].iloc[0]
        raise InputError(f"the table has two rows for {' at '.join(map(str, again))}; keep one")
    at = pd.MultiIndex.from_frame(stored[keys]).get_indexer(pd.MultiIndex.from_frame(wanted))
    if (at < 0).any():
        lost = wanted.iloc[int(np.argmax(at < 0))]
        many = int((at < 0).sum())
        raise InputError(f"{site} has no row for {' at '.join(map(str, lost))} ({many} rows are missing)")
    return lambda layer: store.numpy(site, layer, at)
