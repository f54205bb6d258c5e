"""What was asked, and what came back: the study in words, the cells, the unread, one example of each cell."""

from __future__ import annotations

from typing import Any

import pandas as pd

from verdictscope.report.record import Record
from verdictscope.report.shown import VARIANTS, Example, Table
from verdictscope.report.words import clip, some

CELLS = ("harmful_complied", "harmful_refused", "harmless_complied", "harmless_refused", "unread")


def facts(run: Record) -> list[tuple[str, str]]:
    """The study as terms and their values."""
    study = run.study
    sampling = study.sampling
    rows = [
        ("Model", _revision(study.model, study.revision)),
        ("Reference", _revision(study.reference, study.reference_revision) if study.reference else "none"),
        ("Prompts", study.data.prompts.name + _how_many(run)),
        ("Target requests", _where(study.data.prompts.target)),
        ("Control requests", _where(study.data.prompts.control)),
        (
            "Sampling",
            f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, at most "
            f"{sampling.max_new_tokens:,} tokens, {some(study.data.prompts.samples, 'rollout')} a prompt, "
            f"seed {study.seed}",
        ),
        (
            "Split",
            "train, validation, test "
            + ", ".join(f"{s:g}" for s in study.split.shares)
            + " of the prompt groups; the last part reports",
        ),
    ]
    return rows


def _revision(name: str, revision: str | None) -> str:
    return f"{name} at {revision}" if revision else name


def _where(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {str(v).lower() if isinstance(v, bool) else v}" for key, v in values.items())


def _how_many(run: Record) -> str:
    labels = run.table("labels")
    if labels is None:
        return ""
    base = labels[labels["variant"] == "base"]
    return f": {some(base['prompt'].nunique(), 'prompt')} in {some(base['group'].nunique(), 'group')}"


def all_labels(run: Record) -> pd.DataFrame | None:
    """Labels of every variant, each variant once: those of the ablated variants cover the test part alone."""
    labels, more = run.table("labels"), run.table("labels_ablated")
    if labels is None or more is None:
        return labels
    return pd.concat([labels, more[~more["variant"].isin(labels["variant"])]], ignore_index=True)


def tables(run: Record) -> list[Table]:
    """The cells, and what could not be read."""
    return [table for table in (cell_table(run), unread_table(run)) if table is not None]


def prompts(run: Record) -> set[str]:
    """The distinct requests that were shown."""
    rollouts = run.table("rollouts")
    return set() if rollouts is None else set(rollouts["prompt_text"])


def cell_table(run: Record) -> Table | None:
    """Rollouts by cell and variant."""
    labels = all_labels(run)
    if labels is None:
        return None
    variants = [variant for variant in labels["variant"].unique() if not str(variant).startswith("random_")]
    counts = labels.groupby(["cell", "variant"]).size()
    rows = tuple(
        (cell.replace("_", " requests, "), *(f"{int(counts.get((cell, variant), 0)):,}" for variant in variants))
        for cell in CELLS
    )
    return Table(
        "Rollouts by what was asked and what the model did (found heads zeroed: test part only).",
        ("Cell", *(VARIANTS.get(variant, str(variant)) for variant in variants)),
        rows,
    )


def unread_table(run: Record) -> Table | None:
    """Rollouts that were cut off or could not be read, by variant: counted apart, never as complying."""
    labels = all_labels(run)
    if labels is None:
        return None
    groups: dict[str, pd.DataFrame] = {}
    for variant, of_variant in labels.groupby("variant", sort=False):
        name = "random sets" if str(variant).startswith("random_") else VARIANTS.get(str(variant), str(variant))
        groups[name] = pd.concat([groups[name], of_variant]) if name in groups else of_variant
    told = "cut_off" in labels.columns  # runs of earlier releases do not say where
    rows = tuple(
        (
            name,
            f"{len(t):,}",
            *(_count(t["cut_off"].eq("thinking")) for _ in range(told)),
            _count(t["finish"].eq("length")),
            _count(t["refused"].isna()),
        )
        for name, t in groups.items()
    )
    return Table(
        "Rollouts that were cut off at the token limit, and answers that could not be read. They are a third outcome.",
        ("Variant", "rollouts", *["cut off in thinking"] * told, "cut off", "unread"),
        rows,
    )


def _count(rows: pd.Series) -> str:
    return f"{int(rows.sum()):,}"


def examples(run: Record) -> list[Example]:
    """The first test rollout of each cell of the model under study that thinks, or the first where none does."""
    labels, rollouts = run.table("labels"), run.table("rollouts")
    if labels is None or rollouts is None:
        return []
    base = labels[(labels["variant"] == "base") & (labels["part"] == "test")]
    texts = rollouts[rollouts["variant"] == "base"].drop_duplicates("rollout").set_index("rollout")
    thinks = base["rollout"].map(texts["thinking_text"]).fillna("").astype(str).str.strip().ne("")
    first = base.assign(silent=~thinks).sort_values("silent", kind="stable").drop_duplicates("cell")
    firsts = first.set_index("cell")["rollout"]
    found = []
    for cell in CELLS:
        if cell in firsts.index and firsts[cell] in texts.index:
            row = texts.loc[firsts[cell]]
            written = (row[f"{part}_text"] for part in ("prompt", "thinking", "answer"))
            shown = (clip(text) if isinstance(text, str) else "" for text in written)  # no thinking is NaN
            parts = tuple(zip(("Shown", "Thinking", "Answer"), shown, strict=True))
            found.append(Example(cell.replace("_", " request, "), clip(firsts[cell], 120), parts))
    return found
