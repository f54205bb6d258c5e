"""Controls of an antisymmetric probe: baselines of words and lengths, and a control task for pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.controls import DRAWS, FEWEST_TYPES, NullDraws, draw_aurocs, effect_row, table_row
from verdictscope.probes.fit_probe import ProbeResult
from verdictscope.probes.rows import check_rows
from verdictscope.probes.splits import PARTS
from verdictscope.probes.text import bag_of_words_auroc, position_auroc, tfidf_auroc
from verdictscope.probes.verdict_states import Pairs
from verdictscope.stats import Effect

Answers = Mapping[str, tuple[str, str]]
"""Item -> the texts of its answers A and B."""


def check_sides(rows: pd.DataFrame, what: str) -> None:
    """Refuse mirrored rows with a split in which the items' own labels are all one: there is nothing to separate."""
    own = rows[: len(rows) // 2]
    for part in PARTS:
        here = own.loc[own["part"] == part, "label"]
        if here.nunique() < 2:
            found = "there is none" if here.empty else f"all are {'BA'[int(here.iloc[0])]}"
            raise InputError(f"{what} in split {part}: {found}; a probe needs some for A and some for B")


def pair_controls(
    pairs: Pairs, rows: pd.DataFrame, result: ProbeResult, answers: Answers | None, *, draws: int = DRAWS, seed: int = 0
) -> list[dict[str, Any]]:
    """Controls of an antisymmetric probe as rows of kind ``control`` and ``baseline``.

    ``rows`` are the mirrored rows of ``pairs`` with the label that is predicted; without the ``answers``' texts there
    are random directions alone.
    """
    if answers is None:
        return []
    X = pairs.mirrored(result.selection.layer)
    try:
        made = [pair_control_task(X, pairs, rows, result.C, answers, draws=draws, seed=seed).row()]
    except InputError as error:
        made = [table_row("control", "control task by word", about=str(error))]
    baselines = pair_baselines(pairs, rows, answers)
    return made + [effect_row("baseline", e, about="fitted on train, evaluated on test") for e in baselines]


def pair_baselines(pairs: Pairs, rows: pd.DataFrame, answers: Answers) -> list[Effect]:
    """AUROCs of words, TF-IDF and difference in length of the two answers, on the same mirrored rows as the probe.

    Every word is marked by the answer it is in, so that words of one can be weighed against those of the other; on
    mirrored rows its weights change sign with the sides, as the probe's do.
    """
    given = rows["label"], rows["group"], rows["part"]
    texts = [answers[item] for item in pairs.table["item"]]
    sides = [(a, b) for a, b in texts] + [(b, a) for a, b in texts]
    marked = [
        " ".join([*(f"one_{w}" for w in re.findall(r"\w+", one)), *(f"two_{w}" for w in re.findall(r"\w+", two))])
        for one, two in sides
    ]
    longer = [np.log1p(len(a.split())) - np.log1p(len(b.split())) for a, b in sides]
    return [
        bag_of_words_auroc(marked, *given, name="words of the answers"),
        tfidf_auroc(marked, *given, name="TF-IDF of the answers"),
        position_auroc(longer, *given, name="difference in length"),
    ]


def pair_control_task(
    X: ndarray, pairs: Pairs, rows: pd.DataFrame, C: float | int, answers: Answers, *, draws: int = DRAWS, seed: int = 0
) -> NullDraws:
    """The same probe trained on an arbitrary label that can be learned: a control task for pairs.

    Every word gets a random strength; a pair's control label is the answer whose word is the stronger at the first
    place where the two differ. Words are shared by the splits, so a probe that memorises words learns it; the real
    label's AUROC less this one is its selectivity (Hewitt and Liang, EMNLP 2019, whose task labels every word type).
    """
    words = [
        next(((one, two) for one, two in zip(a.split(), b.split(), strict=False) if one != two), ("", ""))
        for a, b in (answers[item] for item in pairs.table["item"])
    ]
    differ, n = np.array([a != "" for a, _ in words]), len(pairs)
    codes, names = pd.factorize(np.array(words, dtype=object).ravel())
    one, two = codes.reshape(n, 2).T
    keep = np.r_[differ, differ]
    if len(names) < FEWEST_TYPES or not differ.any():
        raise InputError(f"the answers differ at {len(names)} words: a control task needs at least {FEWEST_TYPES}")
    checked = check_rows(rows)
    train = checked.at("train")[:n] & differ
    known = set(one[train]) | set(two[train])
    seen = np.array([a in known and b in known for a, b in zip(one, two, strict=True)]) & differ
    test = checked.at("test") & np.r_[seen, seen]
    if not test.any():
        raise InputError("no pair of the test split differs at words that occur in train: nothing can be learned")
    strength = np.random.default_rng(seed).normal(size=(draws, len(names)))
    coins = (strength[:, one] > strength[:, two]).astype(int)
    labels = np.concatenate([coins, 1 - coins], axis=1)
    weight = np.ones((1, int((checked.at("train") & keep).sum())))
    own = check_rows(rows[keep].reset_index(drop=True))
    observed = draw_aurocs(X[keep], own, own.label[None], C, weight, own.at("test"))
    values = draw_aurocs(X[keep], own, labels[:, keep], C, np.repeat(weight, draws, axis=0), test[keep])
    share = test.sum() / max(1, checked.at("test").sum())
    about = (
        f"the same probe trained on which answer's first own word is the stronger, with random strengths ({len(names)} "
        f"words; {share:.0%} of the test pairs differ at words that occur in train)"
    )
    return NullDraws("control task by word", float(observed[0]), values, about, seed)
