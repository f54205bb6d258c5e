"""The rows a probe is fitted and tested on: rollout, group, split, label and balance cell of each activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.splits import PARTS
from verdictscope.stats import Column, Permutation, Scheme, group_names, permutation_of
from verdictscope.values import truths


@dataclass(frozen=True)
class Rows:
    """Checked rows.

    Attributes:
        label: 0 or 1 per row.
        part: split of the row.
        group: prompt group.
        rollout: code of the rollout, 0 to ``n_rollouts - 1``.
        held: code of the values of the balance columns (for example harm), all 0 without such columns.
        held_names: those values as text, by code.
        rollout_ids: rollout id by code.
    """

    label: Int[ndarray, " row"]
    part: ndarray
    group: ndarray
    rollout: Int[ndarray, " row"]
    held: Int[ndarray, " row"]
    held_names: tuple[str, ...]
    rollout_ids: ndarray

    def at(self, *parts: str) -> Bool[ndarray, " row"]:
        """Rows of these splits."""
        return np.isin(self.part, parts)

    def weights(
        self, where: Bool[ndarray, " row"], balance: Literal["cells", "none"] = "cells", *, y: ndarray | None = None
    ) -> Float[ndarray, " where"]:
        """Fit weights of the rows ``where``: every rollout counts once, then the cells label x balance columns equally.

        They sum to the number of rollouts, so a probe's C does not depend on how many tokens were drawn; ``y`` are
        labels per row to balance by instead of the real ones.
        """
        rollout = self.rollout[where]
        weight = 1.0 / np.bincount(rollout)[rollout]
        total = weight.sum()
        if balance == "cells":
            cell = (self.label if y is None else y)[where] + 2 * self.held[where]
            weight /= np.bincount(cell, weights=weight)[cell]
        return weight * (total / weight.sum())

    def cell_counts(self, where: Bool[ndarray, " row"]) -> pd.DataFrame:
        """Rollouts per balance value (rows) and label (columns)."""
        first = ~pd.Series(self.rollout[where]).duplicated().to_numpy()
        table = pd.crosstab(self.held[where][first], self.label[where][first])
        table = table.reindex(index=range(len(self.held_names)), columns=[0, 1], fill_value=0)
        return table.set_axis(list(self.held_names), axis=0)


def check_rows(rows: pd.DataFrame, balance_on: Sequence[str] = ()) -> Rows:
    """Check a table ``rollout group label part`` with the columns of ``balance_on``, one row per activation.

    Refused: missing columns or labels, a label that is not 0 or 1, a group in two splits, a split without rows or with
    one class, a rollout with two labels, or an empty cell label x balance columns in train.
    """
    need = ["rollout", "group", "label", "part", *balance_on]
    missing = [c for c in need if c not in rows.columns]
    if missing:
        raise InputError(
            f"rows lack {', '.join(missing)}; a probe needs the prompt group and the split (part, by split_groups) "
            f"of every row, and each column of balance_on={tuple(balance_on)}"
        )
    if len(rows) == 0:
        raise InputError("there are no rows to fit a probe on")
    for column in need:
        if rows[column].isna().any():
            raise InputError(f"{int(rows[column].isna().sum())} rows have no {column}; drop or label them first")
    index = rows.index
    if pd.api.types.is_integer_dtype(index.dtype) and not index.is_monotonic_increasing:
        raise InputError(
            f"the rows were put in another order (their index begins {index[0]}, {index[1]}), and activations come in "
            "that of the store: bring the rows back with sort_index(), or read with reader(store, site, rows)"
        )
    label = truths(rows["label"], "label", gaps=False).to_numpy(dtype=int)
    # The values of several columns as one text per row
    parts = [f"{c}={{}}" for c in balance_on]
    texts = [
        " ".join(p.format(v) for p, v in zip(parts, row, strict=True))
        for row in rows[list(balance_on)].itertuples(index=False)
    ]
    held, held_names = pd.factorize(pd.Series(texts if balance_on else [""] * len(rows), dtype=object), sort=True)
    rollout, rollout_ids = pd.factorize(rows["rollout"].astype(str), sort=True)
    checked = Rows(
        label=label,
        part=rows["part"].astype(str).to_numpy(dtype=object),
        group=group_names(rows["group"]),
        rollout=rollout,
        held=held,
        held_names=tuple(map(str, held_names)),
        rollout_ids=np.asarray(rollout_ids, dtype=object),
    )
    unknown = sorted(set(checked.part) - set(PARTS))
    if unknown:
        raise InputError(f"unknown split {unknown[0]!r}; splits are {', '.join(PARTS)}")
    pairs = pd.DataFrame({"group": checked.group, "part": checked.part}).drop_duplicates()
    twice = pairs["group"][pairs["group"].duplicated()]
    if len(twice):
        raise InputError(
            f"group {twice.iloc[0]!r} stands in two splits: rows of one prompt would be fitted and tested on; use "
            "split_groups"
        )
    for part in PARTS:
        seen = set(checked.label[checked.part == part])
        if seen != {0, 1}:
            what = "no rows" if not seen else f"only rows labelled {seen.pop()}"
            raise InputError(f"split {part} has {what}; add prompts or split with the labels given to split_groups")
    n = len(checked.rollout_ids)
    for name, values in (("label", checked.label), ("group", pd.factorize(checked.group)[0])):
        low, high = np.full(n, np.iinfo(int).max), np.full(n, -1)
        np.minimum.at(low, checked.rollout, values)
        np.maximum.at(high, checked.rollout, values)
        if (low != high).any():
            raise InputError(f"rollout {checked.rollout_ids[np.argmax(low != high)]!r} has rows of two {name}s")
    _check_cells(checked, balance_on)
    return checked


def rollout_permutation(
    rows: pd.DataFrame,
    checked: Rows,
    unit: str,
    within: Sequence[str],
    scheme: Scheme = "auto",
    *,
    label: ndarray | None = None,
    symmetric: bool = True,
) -> Permutation:
    """How the labels of rollouts are permuted, never between splits; in the order of ``checked.rollout_ids``.

    ``rows`` name prompts by a column ``prompt`` or by ``PROMPT/SAMPLE`` rollout ids; ``turned``, where there is such a
    column, marks mirrored rows (`mirrored_rows`). ``label`` are labels by row to permute instead of the real ones.
    """
    missing = [c for c in within if c not in rows.columns]
    if unit not in rows.columns and unit != "prompt":
        missing.append(unit)
    if missing:
        raise InputError(f"rows lack {', '.join(missing)}; name columns of the table")
    _, first = np.unique(checked.rollout, return_index=True)
    names = rows[unit].iloc[first] if unit in rows.columns else prompt_of(checked.rollout_ids)
    stratum = pd.Series(checked.part[first])
    for column in within:
        stratum += "|" + rows[column].iloc[first].astype(str).reset_index(drop=True)
    labels = (checked.label if label is None else label)[first]
    turned = rows["turned"].to_numpy()[first] if "turned" in rows.columns else None
    return permutation_of(
        labels,
        np.asarray(names, dtype=object),
        strata=stratum,
        scheme=scheme,
        turned=turned,
        symmetric=symmetric,
        unit=unit,
    )


def to_array(value: Any, n: int, layer: int, used: Bool[ndarray, " row"] | None = None) -> Float[ndarray, "row d"]:
    """Activations as a float array with one row per row of the table; tensors of any float type are taken.

    Rows that are not ``used`` need not be finite.
    """
    if hasattr(value, "detach"):
        value = value.detach().to("cpu").float().numpy()
    array = np.asarray(value)
    if array.dtype.kind != "f" or array.itemsize < 4:
        array = array.astype(np.float64)
    if array.ndim != 2 or len(array) != n:
        raise InputError(f"layer {layer}: activations have shape {array.shape}, the table has {n} rows; give [row, d]")
    finite = np.isfinite(array if used is None else array[used])
    if not finite.all():
        broken = int((~finite).any(axis=1).sum())
        raise InputError(
            f"layer {layer}: {broken} of {n} rows hold NaN or infinity; drop them or capture again (fp16 overflows on "
            "massive activations)"
        )
    return array


def prompt_of(rollout_ids: Column) -> list[str]:
    """Prompt ids: rollouts are called ``PROMPT/SAMPLE``; an id without a slash is its own prompt."""
    return [str(r).rsplit("/", 1)[0] for r in rollout_ids]


def _check_cells(rows: Rows, balance_on: Sequence[str]) -> None:
    counts = rows.cell_counts(rows.at("train"))
    for value, row in counts.iterrows():
        for label in (0, 1):
            if row[label] == 0:
                raise InputError(
                    f"no train rollout has {value} and label {label}: {' '.join(balance_on)} would predict the label "
                    "there: add such prompts, or leave it out of balance_on"
                )
