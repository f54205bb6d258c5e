"""Baselines and controls of the probe: text, length, position, token, control tasks and random directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from verdictscope.probes import ProbeResult, check_leakage
from verdictscope.probes.controls import FEWEST_TYPES, control_task, effect_row
from verdictscope.probes.fit_probe import CONTROL_COLUMNS
from verdictscope.probes.text import bag_of_words_auroc, length_auroc, position_auroc, tfidf_auroc, token_auroc
from verdictscope.rollouts import Rollout
from verdictscope.rollouts.segments import thinking_text
from verdictscope.stats import Effect
from verdictscope.study.folder import RunFolder
from verdictscope.study.tasks.outcome import outcome_task

WORDS = {
    "bag_of_words_refusal": "words of the prompt",
    "bag_of_words_thinking": "words of prompt and thinking",
    "tfidf_refusal": "TF-IDF of the prompt",
    "tfidf_thinking": "TF-IDF of prompt and thinking",
}
"""Text baselines of refusing: their keys in ``probe.json`` and their names in ``probe_nulls.parquet``."""

MOST_TYPES = 3
"""Columns of the prompts by which control tasks are drawn, at most."""


def text_baselines(run: RunFolder) -> dict[str, Effect]:
    """Text baselines: the factor from the request, the outcome from the whole prompt, and from the thinking as well."""
    labels = _read_labels(run)
    prompts = run.prompts().set_index("id").loc[labels["prompt"]]
    rollouts, tokenizer = run.rollouts(), run.model().tokenizer
    system = prompts["system"].fillna("") if "system" in prompts else ""
    shown = (system + "\n" + prompts["user"]).to_list()
    read = [
        f"{text}\n{thinking_text(rollouts[i], tokenizer)}" for text, i in zip(shown, labels["rollout"], strict=True)
    ]
    asked = {
        "bag_of_words": (bag_of_words_auroc, prompts["user"].to_list(), labels["factor"]),
        "bag_of_words_refusal": (bag_of_words_auroc, shown, labels["outcome"]),
        "bag_of_words_thinking": (bag_of_words_auroc, read, labels["outcome"]),
        "tfidf_refusal": (tfidf_auroc, shown, labels["outcome"]),
        "tfidf_thinking": (tfidf_auroc, read, labels["outcome"]),
    }
    return {
        key: baseline(texts, label.astype(int), labels["group"], labels["part"], name=WORDS.get(key, key))
        for key, (baseline, texts, label) in asked.items()
    }


def null_table(run: RunFolder, result: ProbeResult, X: np.ndarray, words: dict[str, Effect]) -> pd.DataFrame:
    """The table ``probe_nulls``: null, control tasks, random directions, and baselines (`text_baselines` among them).

    ``X`` are the activations of the selected layer, a row per row of the probe.
    """
    typed, columns = _with_types(run, result.rows)
    given: dict[str, Any] = {"balance_on": result.selection.balance_on, "seed": run.study.seed}
    tasks = [control_task(X, typed, result.C, by=by, **given).row() for by in columns]
    effects = [*(words[key] for key in WORDS), *_plain_baselines(run, result.rows)]
    baselines = [effect_row("baseline", effect, about="fitted on train, evaluated on test") for effect in effects]
    rows = [result.null.row(), *tasks, result.random.row(), *baselines]
    return pd.DataFrame(rows, columns=list(CONTROL_COLUMNS))


def leak_table(run: RunFolder, rows: pd.DataFrame, choice: pd.DataFrame) -> pd.DataFrame:
    """The table ``leaks``: what the linter found in the probe's rows.

    Args:
        run: the run.
        rows: the probe's rows.
        choice: the table of layers and penalties.
    """
    prompts = run.prompts().set_index("id").loc[rows["prompt"]]
    rollouts = run.rollouts()
    thinking = {i: _thinking_length(rollouts[i]) for i in rows["rollout"].unique()}
    source = next((prompts[c].astype(str).to_numpy() for c in ("set", "source") if c in prompts), None)
    words = [text.strip() for text in outcome_task(run.study).words(run.study)]
    return check_leakage(
        rows["label"],
        rows["group"],
        rows["part"],
        texts=prompts["user"].to_numpy(),
        held=rows["factor"],
        lengths=rows["rollout"].map(thinking),
        positions=rows["pos"],
        source=source,
        label_words=words,
        chosen_on=rows.loc[rows["part"] != "test", "group"],
        choice=choice,
        seed=run.study.seed,
    ).to_frame()


def _thinking_length(rollout: Rollout) -> int:
    return sum(span.stop - span.start for span in rollout.spans if span.segment == "thinking")


def _plain_baselines(run: RunFolder, rows: pd.DataFrame) -> list[Effect]:
    """Refusal from lengths (a row per rollout), and from token and position (a row per token)."""
    labels = _read_labels(run)
    rollouts = run.rollouts()
    given = labels["outcome"].astype(int), labels["group"], labels["part"]
    prompt = [rollouts[i].n_prompt for i in labels["rollout"]]
    thinking = [_thinking_length(rollouts[i]) for i in labels["rollout"]]
    by_row = rows["label"], rows["group"], rows["part"]
    return [
        length_auroc(prompt, *given, name="length of the prompt"),
        length_auroc(thinking, *given, name="length of the thinking"),
        position_auroc(rows["pos"], *by_row, name="position of the token"),
        token_auroc(rows["token_id"], *by_row, name="identity of the token"),
    ]


def _with_types(run: RunFolder, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows with the prompts' own columns, and those of them that name kinds of prompts shared by the parts."""
    prompts = run.prompts().set_index("id")
    kinds = prompts.drop(
        columns=[c for c in ("user", "system", "group", outcome_task(run.study).factor) if c in prompts]
    ).astype(str)
    typed = rows.assign(**{c: kinds[c].loc[rows["prompt"]].to_numpy() for c in kinds if c not in rows})
    test, train = (typed[typed["part"] == part] for part in ("test", "train"))
    shared = [
        c
        for c in kinds
        if c not in rows and typed[c].nunique() >= FEWEST_TYPES and test[c].isin(train[c].unique()).mean() > 0.5
    ]
    return typed, ["token_id", *sorted(shared, key=lambda c: -typed[c].nunique())[:MOST_TYPES]]


def _read_labels(run: RunFolder) -> pd.DataFrame:
    labels = run.labels()
    return labels[labels["outcome"].notna()].reset_index(drop=True)
