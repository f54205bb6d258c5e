"""The headline numbers of a refusal study, in two runs side by side."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from verdictscope.report.numbers import Number, Row, aggregate, first_effect
from verdictscope.report.record import Record
from verdictscope.report.refusal.asked import all_labels
from verdictscope.report.words import present
from verdictscope.stats import difference_effect, independent_difference


def numbers(first: Record, second: Record, shared: bool) -> list[Row]:
    """Probe, cliff, ablation and refusal rates of two runs.

    Args:
        first: a run.
        second: another.
        shared: whether prompts stand in both.
    """
    rows = [aggregate(name, unit, read, (first, second), shared) for name, unit, read in _AGGREGATES]
    return rows + [
        _rate(first, second, variant, kind, shared) for kind in ("target", "control") for variant in _RATE_VARIANTS
    ]


def _probe(run: Record) -> Number | None:
    probe = run.json("probe")
    found = tuple(probe.get(key) for key in ("auroc_test", "auroc_low", "auroc_high", "n"))
    return found if present(found[0]) else None  # type: ignore[return-value]


def _cliff(name: str) -> Callable[[Record], Number | None]:
    def read(run: Record) -> Number | None:
        table = run.table("cliff", edited=True)
        if table is None:
            return None
        return first_effect(table[(table["variant"] == "base") & table["target"] & (table["name"] == name)])

    return read


def _found(run: Record) -> Number | None:
    table = run.table("ablation")
    return None if table is None else first_effect(table[table["kind"] == "found"])


_AGGREGATES: tuple[tuple[str, str, Callable[[Record], Number | None]], ...] = (
    ("AUROC of the probe, test part", "AUROC", _probe),
    ("normalised score at the end of thinking", "normalised", _cliff("normalised_plateau")),
    ("drop of the normalised score", "normalised", _cliff("normalised_drop")),
    ("change of the refusal log-odds, found heads zeroed", "nats", _found),
)
_RATE_VARIANTS = {"base": "as it is", "ablated": "found heads zeroed"}


def _rate(first: Record, second: Record, variant: str, kind: str, shared: bool) -> Row:
    """A refusal rate; paired by prompt where both runs read the same prompts in their test parts."""
    name = f"{kind} requests refused, {_RATE_VARIANTS[variant]}"
    one, two = values = (_stored_rate(first, variant, kind), _stored_rate(second, variant, kind))
    if one is None or two is None:
        return Row(name, "rate", values, None, "one of the runs has no such number")
    a, b = (_read(run, variant, kind) for run in (first, second))
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


def _stored_rate(run: Record, variant: str, kind: str) -> Number | None:
    table = run.table("generation")
    if table is None:
        return None
    rows = table[(table["variant"] == variant) & (table["cell_kind"] == kind)]
    return first_effect(rows.rename(columns={"refused": "estimate"}))


def _read(run: Record, variant: str, kind: str) -> pd.DataFrame:
    """Verdicts of a variant's test rollouts with the text of their prompt."""
    labels, rollouts = all_labels(run), run.table("rollouts")
    if labels is None or rollouts is None:
        return pd.DataFrame({"text": [], "refused": []})
    texts = rollouts.drop_duplicates("prompt").set_index("prompt")["prompt_text"]
    chosen = (labels["variant"] == variant) & (labels["part"] == "test") & labels[kind] & labels["refused"].notna()
    rows = labels[chosen]
    return pd.DataFrame({"text": rows["prompt"].map(texts).to_numpy(), "refused": rows["refused"].astype(float)})
