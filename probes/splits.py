"""One split for everything: whole prompt groups go to train, validation or test."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from verdictscope.errors import InputError
from verdictscope.rollouts.prompts.duplicates import LARGE, joined_groups
from verdictscope.stats import Column, group_names, same_order
from verdictscope.values import whole_number

PARTS = ("train", "validation", "test")
"""Train fits, validation chooses, test reports."""


def split_groups(
    groups: Column,
    labels: Column | pd.DataFrame | None = None,
    shares: Sequence[float] = (0.35, 0.15, 0.5),
    seed: int = 0,
) -> pd.Series:
    """Split prompt groups into train, validation and test, stratified by the labels of their rows.

    A group's stratum is its label profile: the set of labels its rows carry (for example "harmful-refused and
    harmful-complied"). Within a stratum groups are shuffled; splits are filled so that every stratum keeps the shares
    as nearly as whole groups allow.

    Args:
        groups: the prompt group of every row (rollout or token).
        labels: the label of every row, or a frame whose rows are read as tuples; missing is a label of its own.
        shares: shares of train, validation and test; must sum to 1.
        seed: seed of the shuffles.

    Returns:
        the split of every group, indexed by group in sorted order.

    Raises:
        InputError: fewer than three groups, a row without group, labels of another length, or shares that do not
            sum to 1.

    Example:
        >>> from verdictscope.probes import split_groups
        >>> split = split_groups([f"prompt {i}" for i in range(20)], labels=[0, 1] * 10)
        >>> split.value_counts().to_dict()
        {'test': 10, 'train': 7, 'validation': 3}
    """
    same_order(groups=groups, labels=labels)
    whole_number(seed, "seed")
    keys = pd.Series(group_names(groups))
    if len(shares) != len(PARTS) or min(shares) <= 0 or not abs(sum(shares) - 1) <= 1e-9:
        raise InputError(f"shares {tuple(shares)} must be {len(PARTS)} positive numbers that sum to 1")
    names = sorted(keys.unique())
    if len(names) < len(PARTS):
        raise InputError(
            f"{len(names)} prompt groups cannot make {len(PARTS)} splits; add prompts or give each its own group"
        )
    rng = np.random.default_rng(seed)
    # Groups with equal label profiles side by side, shuffled within and between profiles
    profile = dict.fromkeys(names, "")
    if labels is not None:
        text = (
            [" ".join(map(str, row)) for row in labels.itertuples(index=False)]
            if isinstance(labels, pd.DataFrame)
            else [str(label) for label in np.asarray(labels, dtype=object)]
        )
        if len(text) != len(keys):
            raise InputError(f"{len(text)} labels for {len(keys)} rows")
        profile = pd.Series(text).groupby(keys.to_numpy()).agg(lambda s: " + ".join(sorted(set(s)))).to_dict()
    strata: dict[str, list[str]] = {}
    for group in names:
        strata.setdefault(profile[group], []).append(group)
    kinds = sorted(strata)
    order = [str(n) for k in rng.permutation(len(kinds)) for n in rng.permutation(np.array(strata[kinds[k]], object))]
    sizes = _part_sizes(len(names), shares)
    filled = np.zeros(len(PARTS))
    parts: dict[str, str] = {}
    for step, name in enumerate(order, start=1):
        # the part that lags most behind its share: every run of the order, so every stratum, keeps the shares
        lag = sizes / len(names) * step - filled
        chosen = int(rng.choice(np.flatnonzero(lag >= lag.max() - 1e-9)))
        filled[chosen] += 1
        parts[name] = PARTS[chosen]
    return pd.Series([parts[name] for name in names], index=pd.Index(names, name="group"), name="part")


def split_rows(
    labels: Column,
    groups: Column | None,
    *,
    texts: Column | None = None,
    rollouts: Column | None = None,
    balance_on: Mapping[str, Column] | pd.DataFrame | None = None,
    part: Column | None = None,
    shares: Sequence[float] = (0.35, 0.15, 0.5),
    seed: int = 0,
) -> pd.DataFrame:
    """The rows ``rollout group label part given_group`` and balance columns, near duplicates on one side of the split.

    Without ``groups`` every row is its own; groups with near duplicates among their ``texts`` become one (a warning
    says so where that changes the groups, or their shares of the splits, by over a tenth), and ``given_group`` keeps
    the one given. The split is stratified by label and balance columns; ``part`` is one made elsewhere.
    """
    n = len(labels)
    same_order(labels=labels, groups=groups, texts=texts, rollouts=rollouts, part=part, **dict(balance_on or {}))
    held = pd.DataFrame({name: np.asarray(values, dtype=object) for name, values in dict(balance_on or {}).items()})
    columns = {"groups": groups, "texts": texts, "rollouts": rollouts, "part": part, **dict(held)}
    for name, values in columns.items():
        if values is not None and len(values) != n:
            raise InputError(f"{name} has {len(values)} rows, there are {n} labels")
    own = [f"row {i}" for i in range(n)]
    given = pd.Series(own if groups is None else group_names(groups), name="given_group", dtype=object)
    table = pd.DataFrame({"rollout": own if rollouts is None else list(rollouts), "group": given})
    if texts is not None:
        distinct = pd.DataFrame({"group": table["group"], "text": np.asarray(texts, dtype=object)}).drop_duplicates()
        merged = joined_groups(distinct["group"].to_list(), distinct["text"].astype(str).to_list())
        table["group"] = table["group"].map(dict(zip(distinct["group"], merged, strict=True)))
        joined = table["group"].nunique()
        if part is None and joined < len(PARTS) <= given.nunique():
            raise InputError(
                f"near duplicates among the texts join {given.nunique()} prompt groups to {joined}, and {len(PARTS)} "
                "splits need as many; give texts that differ more, or groups without texts"
            )
    table["label"] = np.asarray(labels)
    profile = pd.concat([table[["label"]], held], axis=1)
    split = split_groups(table["group"], profile, shares, seed) if part is None else None
    table["part"] = np.asarray(part, dtype=object) if split is None else table["group"].map(split)
    _warn_merged(given, table, None if split is None else shares)
    return pd.concat([table.assign(given_group=given), held], axis=1)


def _warn_merged(given: pd.Series, table: pd.DataFrame, shares: Sequence[float] | None) -> None:
    """Warn where merging near duplicates changed the groups, or their shares of the splits, by more than a tenth."""
    own = pd.DataFrame({"own": given, "group": table["group"], "part": table["part"]}).drop_duplicates("own")
    n, joined, largest = len(own), own["group"].nunique(), int(own["group"].value_counts().iloc[0])
    held = [int((own["part"] == part).sum()) for part in PARTS]
    wanted = held if shares is None else _part_sizes(n, shares).tolist()
    off = max(abs(a - b) for a, b in zip(held, wanted, strict=True))
    if joined < n and (n - joined > LARGE * n or off > LARGE * n):
        parts = ", ".join(f"{part} {a} (asked {b})" for part, a, b in zip(PARTS, held, wanted, strict=True))
        warnings.warn(
            f"near duplicates join {n} groups to {joined}, the largest of {largest}; groups by split: {parts}",
            stacklevel=3,
        )


def _part_sizes(n: int, shares: Sequence[float]) -> np.ndarray:
    """Whole numbers that sum to n, nearest to the shares, at least one each."""
    exact = np.asarray(shares, dtype=float) * n
    sizes = np.maximum(1, np.floor(exact)).astype(int)
    while sizes.sum() < n:
        sizes[np.argmax(exact - sizes)] += 1
    while sizes.sum() > n:
        sizes[np.argmax(np.where(sizes > 1, sizes - exact, -np.inf))] -= 1
    return sizes
