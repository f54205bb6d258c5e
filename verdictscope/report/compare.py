"""Two runs side by side: what was asked differently, and how far their numbers lie apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from verdictscope.report.asked import all_labels
from verdictscope.report.origin import differences, told
from verdictscope.report.record import Record
from verdictscope.report.replication import shared_prompts
from verdictscope.report.words import estimate, present
from verdictscope.stats import difference_effect, independent_difference

Number = tuple[float, float, float, int]
"""Estimate, low, high, n."""


@dataclass(frozen=True)
class Row:
    """One headline number of both runs.

    Attributes:
        name: what was estimated.
        unit: its unit.
        values: (estimate, low, high, n) of each run; ``None`` where the run has none.
        difference: second minus first with its interval; ``None`` where it cannot be formed.
        how: how the interval of the difference was made.
    """

    name: str
    unit: str
    values: tuple[Number | None, Number | None]
    difference: tuple[float, float, float] | None
    how: str

    @property
    def texts(self) -> list[str]:
        """Both numbers with intervals and n."""
        return [
            "not measured" if v is None else f"{estimate(*v[:3], self.unit)}, n = {v[3]}" for v in self.values
        ]  # fmt: skip

    @property
    def difference_text(self) -> str:
        """The difference with its interval."""
        return "–" if self.difference is None else estimate(*self.difference, self.unit, signed=True)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """What stands beside the two ladders.

    Attributes:
        names: a name for each run that tells them apart.
        study: (key, first, second) of every key in which the studies differ.
        prompts: in words, how the prompts of the two overlap.
        numbers: the headline numbers.
    """

    names: tuple[str, str]
    study: tuple[tuple[str, str, str], ...]
    prompts: str
    numbers: tuple[Row, ...]


def comparison(first: Record, second: Record) -> Comparison:
    """Compare two runs."""
    one, two, both = shared_prompts(first, second)
    if not one or not two:
        prompts = "One of the runs has no rollouts yet."
    elif not both:
        prompts = f"The runs share no prompt ({one:,} and {two:,}): their numbers are independent."
    else:
        prompts = f"{both:,} prompts stand in both runs (of {one:,} and {two:,})."
    names = _names(first, second)
    study = tuple((key, told(a), told(b)) for key, a, b in differences(first.study, second.study))
    rows = [_row(name, unit, read, (first, second), bool(both)) for name, unit, read in _AGGREGATES]
    rows += [_rate(first, second, arm, kind, bool(both)) for kind in ("target", "control") for arm in _RATE_ARMS]
    return Comparison(names, study, prompts, tuple(row for row in rows if any(row.values)))


def _names(first: Record, second: Record) -> tuple[str, str]:
    a, b = first.folder.resolve(), second.folder.resolve()
    if a.name != b.name:
        return a.name, b.name
    return f"{a.parent.name}/{a.name} (first)", f"{b.parent.name}/{b.name} (second)"


def _probe(run: Record) -> Number | None:
    probe = run.json("probe")
    found = tuple(probe.get(key) for key in ("auroc_test", "auroc_low", "auroc_high", "n"))
    return found if present(found[0]) else None  # type: ignore[return-value]


def _cliff(name: str) -> Callable[[Record], Number | None]:
    def read(run: Record) -> Number | None:
        table = run.table("cliff")
        if table is None:
            return None
        return _effect(table[(table["arm"] == "base") & table["target"] & (table["name"] == name)])

    return read


def _found(run: Record) -> Number | None:
    table = run.table("ablation")
    return None if table is None else _effect(table[table["kind"] == "found"])


def _effect(rows: pd.DataFrame) -> Number | None:
    if rows.empty or not present(rows.iloc[0]["estimate"]):
        return None
    row = rows.iloc[0]
    return float(row["estimate"]), float(row["low"]), float(row["high"]), int(row["n"])


_AGGREGATES: tuple[tuple[str, str, Callable[[Record], Number | None]], ...] = (
    ("AUROC of the probe, test part", "AUROC", _probe),
    ("anchored score at the end of thinking", "anchored", _cliff("anchored_plateau")),
    ("drop of the anchored score", "anchored", _cliff("anchored_drop")),
    ("change of the refusal log-odds, found heads zeroed", "nats", _found),
)
_RATE_ARMS = {"base": "as it is", "ablated": "found heads zeroed"}


def _row(
    name: str, unit: str, read: Callable[[Record], Number | None], runs: tuple[Record, Record], shared: bool
) -> Row:
    one, two = values = (read(runs[0]), read(runs[1]))
    if one is None or two is None:
        return Row(name, unit, values, None, "one of the runs has no such number")
    how = (
        "not paired: probe, anchors and heads are each run's own; interval as if independent"
        if shared
        else "independent"
    )
    return Row(name, unit, values, independent_difference(two[:3], one[:3]), how)


def _rate(first: Record, second: Record, arm: str, kind: str, shared: bool) -> Row:
    """A refusal rate; paired by prompt where both runs read the same prompts in their test parts."""
    name = f"{kind} requests refused, {_RATE_ARMS[arm]}"
    one, two = values = (_stored_rate(first, arm, kind), _stored_rate(second, arm, kind))
    if one is None or two is None:
        return Row(name, "rate", values, None, "one of the runs has no such number")
    a, b = (_read(run, arm, kind) for run in (first, second))
    common = sorted(set(a["text"]) & set(b["text"])) if shared else []
    if len(common) >= 2:
        a, b = a[a["text"].isin(common)], b[b["text"].isin(common)]
        made = difference_effect(
            name, b["refused"], b["text"], a["refused"], a["text"], unit="rate", seed=first.study.seed
        )
        if made.low < made.high:
            return Row(name, "rate", values, (made.estimate, made.low, made.high), f"paired, {len(common)} prompts")
        how = f"{len(common)} prompts in both, all alike: interval as if independent"
    else:
        how = "independent" if not shared else "no prompt in both test parts: independent"
    return Row(name, "rate", values, independent_difference(two[:3], one[:3]), how)


def _stored_rate(run: Record, arm: str, kind: str) -> Number | None:
    table = run.table("generation")
    if table is None:
        return None
    rows = table[(table["arm"] == arm) & (table["cell_kind"] == kind)]
    return _effect(rows.rename(columns={"refused": "estimate"}))


def _read(run: Record, arm: str, kind: str) -> pd.DataFrame:
    """Verdicts of an arm's test rollouts with the text of their prompt."""
    labels, rollouts = all_labels(run), run.table("rollouts")
    if labels is None or rollouts is None:
        return pd.DataFrame({"text": [], "refused": []})
    texts = rollouts.drop_duplicates("prompt").set_index("prompt")["prompt_text"]
    chosen = (labels["arm"] == arm) & (labels["part"] == "test") & labels[kind] & labels["refused"].notna()
    rows = labels[chosen]
    return pd.DataFrame({"text": rows["prompt"].map(texts).to_numpy(), "refused": rows["refused"].astype(float)})
