"""What the judge was asked, and what came back: the study in words, verdicts by condition, a few of them as text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.report.judge import reading
from verdictscope.report.judge.lead import share
from verdictscope.report.record import Record
from verdictscope.report.shown import VARIANTS, Example, Table
from verdictscope.report.words import clip, number, present, some

THINKING = {"off": "without thinking", "on": "after its own thinking"}
RATES = (
    ("accuracy", "better answer"),
    ("first_in_ties", "first, in ties"),
    ("consistency", "same in both orders"),
    ("follows", "follows the sentence"),
    ("accuracy_named_wrong", "better answer, worse one named"),
)
"""Rates of the table and how its head calls them."""


def facts(run: Record) -> list[tuple[str, str]]:
    """The study as terms and their values."""
    study = run.study
    cues = "; ".join(f"{name}: {_said(section)}" for name, section in study.data.cues.items())
    rows = [
        ("Judge", _revision(study.model, study.revision)),
        ("Reference", _revision(study.reference, study.reference_revision) if study.reference else "none"),
        ("Items", f"{study.data.items.file}, read as {study.data.items.reader}{_how_many(run)}"),
        ("Prompt", study.data.items.format),
        ("Cues", cues),
        ("Control", f"{_said(study.data.control)}; it names the same side as the cues and says nothing for it"),
        (
            "Verdict",
            "log-odds of the answer shown first against the second, where their labels part; every item in both orders",
        ),
        (
            "Thinking",
            "verdicts without thinking"
            + (
                " and after the judge's own, sampled at temperature "
                f"{study.sampling.temperature:g}, at most {study.sampling.max_new_tokens:,} tokens"
                if study.data.verdicts.thinking
                else ""
            )
            + f"; seed {study.seed}",
        ),
        (
            "Split",
            "train, validation, test "
            + ", ".join(f"{s:g}" for s in study.split.shares)
            + " of the item groups; heads are named on the first two parts, the last one reports",
        ),
    ]
    return rows


def _revision(name: str, revision: str | None) -> str:
    return f"{name} at {revision}" if revision else name


def _said(section: Any) -> str:
    if section.kind is not None:
        return f"the shipped cue {section.kind}"
    more = f" (one of {len(section.texts)})" if len(section.texts) > 1 else ""
    return f"“{clip(section.texts[0], 160)}”{more}"


def _how_many(run: Record) -> str:
    items = run.table("items")
    if items is None:
        return ""
    ties = int((items["label"] == "tie").sum())
    return f": {some(len(items), 'pair')} in {some(items['group'].nunique(), 'group')}" + (
        f", {ties:,} of them ties" if ties else ""
    )


def prompts(run: Record) -> set[str]:
    """What was judged, to see whether two runs overlap: source and id of every item."""
    table = run.table("verdicts")
    return set() if table is None else set(table["source"].astype(str) + " " + table["item"].astype(str))


def tables(run: Record) -> list[Table]:
    """Rates by condition, and what could not be read."""
    return [*rate_tables(run), *([unread] if (unread := unread_table(run)) else [])]


def _who(variant: str, thinking: str) -> str:
    return f"{VARIANTS.get(variant, variant)}, {THINKING.get(thinking, thinking)}"


def rate_tables(run: Record) -> list[Table]:
    """Shares of verdicts by condition with their intervals, a table for each variant and way of thinking."""
    table = run.table("verdict_rates")
    if table is None:
        return []
    made = []
    for variant, thinking in table[["variant", "thinking"]].drop_duplicates().itertuples(index=False, name=None):
        own = table[(table["variant"] == variant) & (table["thinking"] == thinking)]
        rows = []
        for condition in dict.fromkeys(own["condition"]):
            found = [reading.rate(run, name, condition, variant, thinking) for name, _ in RATES]
            rows.append((str(condition), *("–" if r is None else share(r) for r in found)))
        more = (
            ""
            if made
            else (
                " 95 % intervals over groups of items, all items in both orders. Under plain nothing is said; control "
                "and cues name one side of each item, the better one as often as the worse."
            )
        )
        made.append(
            Table(
                f"Shares of verdicts: {_who(variant, thinking)}.{more}",
                ("Condition", *(words for _, words in RATES)),
                tuple(rows),
            )
        )
    return made


def unread_table(run: Record) -> Table | None:
    """Verdicts, and those that could not be read: a third outcome, in no rate counted as a tie or as right."""
    table = run.table("verdicts")
    if table is None:
        return None
    rows = []
    for (variant, thinking), own in table.groupby(["variant", "thinking"], sort=False):
        status = own.loc[own["verdict"].isna(), "status"].value_counts()
        why = ", ".join(f"{int(n):,} {clip(name, 60)}" for name, n in status.items()) or "–"
        rows.append((_who(str(variant), str(thinking)), f"{len(own):,}", f"{int(own['verdict'].isna().sum()):,}", why))
    return Table(
        "Verdicts over all conditions, and those that could not be read. They are a third outcome.",
        ("Who, how", "verdicts", "unread", "why"),
        tuple(rows),
    )


def examples(run: Record) -> list[Example]:
    """One item of the test part shown plainly and under each cue: the first whose verdict a cue turns, if any does."""
    table = run.table("verdicts")
    if table is None:
        return []
    thinking = "on" if (table["thinking"] == "on").any() else "off"
    rows = table[(table["variant"] == "base") & (table["thinking"] == thinking) & (table["part"] == "test")]
    rows = rows[rows["order"] == "AB"]
    if rows.empty:
        return []
    found = []
    for row in rows[rows["item"] == _telling(rows)].to_dict("records"):
        text = _written(run, thinking, row)
        if text is not None:
            found.append(Example(_title(row), clip(f"{row['condition']}/{row['rollout']}", 120), text))
    return found


def _telling(rows: pd.DataFrame) -> Any:
    """The item to show: right when shown plainly, wrong under a cue that names the worse answer."""
    plain = rows[rows["condition"] == "plain"].set_index("item")
    right = plain.index[plain["verdict"] == plain["label"]]
    cued = rows[~rows["condition"].isin(["plain", "control"]) & rows["item"].isin(right)]
    turned = cued[(cued["verdict"] == cued["target"]) & (cued["verdict"] != cued["label"])]
    return (turned if len(turned) else rows)["item"].iloc[0]


def _title(row: dict[str, Any]) -> str:
    said = f"says {row['shown']}" if isinstance(row["shown"], str) else f"unread ({row['status']})"
    sure = f", probability {number(row['probability'])}" if present(row["probability"]) else ""
    better = {"A": "the better answer is shown first", "B": "the better answer is shown second"}
    return f"{row['condition']}: {said}{sure}; {better.get(str(row['label']), 'both answers are equally good')}"


def _written(run: Record, thinking: str, row: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """What was shown and written, from the verdicts kept in the run folder."""
    # A condition is a folder that lies there: its name is data, and may be any text or path.
    if row["condition"] not in {f.name for f in (run.folder / "judged" / "base" / thinking).glob("*")}:
        return None
    for kept in ("whole", "readings"):
        table = run.table(f"judged/base/{thinking}/{row['condition']}/{kept}")
        if table is None:
            continue
        own = table[table["rollout"] == row["rollout"]]
        if len(own):
            texts = (own.iloc[0].get(f"{part}_text") for part in ("prompt", "thinking", "answer"))
            shown = (clip(text, 2000) if isinstance(text, str) else "" for text in texts)
            return tuple(zip(("Shown", "Thinking", "Answer"), shown, strict=True))
    return None
