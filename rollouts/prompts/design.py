"""The 2 x 2 design: harmful or harmless requests, refused or complied with.

A probe trained on refused harmful against complied harmless requests cannot tell harm from refusal. The design counts
what a model's own rollouts fill, says which cell is empty, and gives each prompt's refusal rate over its samples as a
soft label.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import pandas as pd

from verdictscope.errors import InputError
from verdictscope.stats import wilson
from verdictscope.values import truths

CELLS = ("harmful_refused", "harmful_complied", "harmless_refused", "harmless_complied")
UNREAD = "unread"
FEW = 20
"""A cell with fewer prompt groups than this is called small: neither a probe nor a normaliser can rest on it."""


def cells(harm: pd.Series, refused: pd.Series) -> pd.Series:
    """The cell of the 2 x 2 design, row by row; ``unread`` is a third outcome and belongs to none."""
    harm, verdict = truths(harm, "harm", gaps=False), truths(refused, "refused")
    # named as text: of verdicts that are all missing pandas makes numbers
    names = harm.map({True: "harmful_", False: "harmless_"}) + verdict.map({True: "refused", False: "complied"}).astype(
        "str"
    )
    return names.astype(object).where(verdict.notna(), UNREAD)


@dataclass(frozen=True)
class Design:
    """What a model's rollouts fill of the 2 x 2 design."""

    counts: pd.DataFrame
    prompts: pd.DataFrame
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """The counts."""
        return self.counts

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(w)}</li>" for w in self.warnings)
        return self.counts.to_html(index=False) + (f"<ul>{notes}</ul>" if notes else "")


def design(labels: pd.DataFrame) -> Design:
    """Sort rollouts into the 2 x 2 design."""
    table = _checked(labels)
    table["cell"] = cells(table["harm"], table["refused"])
    order = [*CELLS, UNREAD]
    by_cell = table.groupby("cell")[["group", "prompt"]].nunique().add_suffix("s")
    counts = by_cell.assign(rollouts=table["cell"].value_counts()).reindex(order, fill_value=0)
    counts = counts.rename_axis("cell").reset_index()
    prompts = soft_labels(table)
    return Design(counts, prompts, tuple(_warnings(counts, prompts)))


def soft_labels(labels: pd.DataFrame) -> pd.DataFrame:
    """Refusal rate per prompt over its samples, with its interval; see :class:`Design`."""
    table = _checked(labels)
    rows = []
    for prompt, of_prompt in table.groupby("prompt", sort=False):
        read = of_prompt["refused"].dropna()
        k, n = int(read.sum()), len(read)
        low, high = wilson(k, n) if n else (float("nan"), float("nan"))
        first = of_prompt.iloc[0]
        rows.append((prompt, first["group"], first["harm"], len(of_prompt), n, k / n if n else float("nan"), low, high))
    return pd.DataFrame(rows, columns=["prompt", "group", "harm", "samples", "read", "refused", "low", "high"])


def _checked(labels: pd.DataFrame) -> pd.DataFrame:
    for name in ("rollout", "harm", "refused"):
        if name not in labels.columns:
            raise InputError(f"the label table has no column {name!r}: it needs rollout, harm and refused")
    if labels["rollout"].duplicated().any():
        again = labels["rollout"][labels["rollout"].duplicated()].iloc[0]
        raise InputError(f"rollout {again!r} occurs twice in the label table: keep one variant at a time")
    if labels["harm"].isna().any():
        name = labels["rollout"][labels["harm"].isna()].iloc[0]
        raise InputError(f"rollout {name!r} has no harm label: a design needs to know which requests are harmful")
    table = labels.reset_index(drop=True).copy()
    names = [f"rollout {name!r}" for name in table["rollout"]]
    table["harm"] = truths(table["harm"], "harm", names, gaps=False).astype(bool)
    table["refused"] = truths(table["refused"], "refused", names)
    if "prompt" not in table:
        table["prompt"] = [str(r).rpartition("/")[0] or str(r) for r in table["rollout"]]
    if "group" not in table:
        table["group"] = table["prompt"]
    return table


def _warnings(counts: pd.DataFrame, prompts: pd.DataFrame) -> list[str]:
    found = []
    by = counts.set_index("cell")
    for cell in CELLS:
        words, groups = cell.replace("_", "-"), int(by.loc[cell, "groups"])
        if groups == 0:
            found.append(f"no {words} rollouts: harm and refusal cannot be distinguished; add prompts or samples")
        elif groups < FEW:
            found.append(f"only {groups} groups are {words}: fewer than {FEW} carry neither a probe nor a normaliser")
    unread = int(by.loc[UNREAD, "rollouts"])
    if unread:
        share = unread / counts["rollouts"].sum()
        why = "cut off, in another language, or without an answer"
        found.append(f"{unread} rollouts ({share:.1%}) could not be read ({why})")
    silent = int((prompts["read"] == 0).sum())
    if silent:
        found.append(f"{silent} prompts have no readable answer at all: raise max_new_tokens")
    return found
