"""What tells a verdict without the judge's inside, in the antisymmetric frame: words, lengths, and a control task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from verdictscope.errors import InputError
from verdictscope.probes.pair_tables import PLAIN, effect_row, told_row
from verdictscope.probes.rows import check_rows
from verdictscope.probes.selectivity import DRAWS, FEWEST_TYPES, NullDraws, draw_aurocs, random_directions
from verdictscope.probes.sweep import Sweep
from verdictscope.probes.text import bag_of_words_auroc, position_auroc, tfidf_auroc
from verdictscope.probes.verdict_states import Pairs, mirrored_rows
from verdictscope.stats import Effect

Answers = Mapping[str, tuple[str, str]]
"""Item -> the texts of its answers A and B."""


def pair_baselines(pairs: Pairs, label: ndarray, part: Mapping[str, str], answers: Answers) -> list[Effect]:
    """AUROCs of readers of the two answers, on the same mirrored rows as the probe.

    Every word is told apart by the answer it stands in, so that a reader can weigh the words of one against those of
    the other; on mirrored rows its weights turn round with the sides, as the probe's do.

    Args:
        pairs: the pairs.
        label: 1 where the label names A.
        part: part by item.
        answers: the texts.

    Returns:
        words, TF-IDF of words and pairs of words, and the difference in length.
    """
    rows = mirrored_rows(pairs, label, part)
    given = rows["label"], rows["group"], rows["part"]
    texts = [answers[item] for item in pairs.table["item"]]
    seen = [(a, b) for a, b in texts] + [(b, a) for a, b in texts]
    marked = [" ".join(_marked("one", a) + _marked("two", b)) for a, b in seen]
    longer = [np.log1p(len(a.split())) - np.log1p(len(b.split())) for a, b in seen]
    return [
        bag_of_words_auroc(marked, *given, name="words of the answers"),
        tfidf_auroc(marked, *given, name="TF-IDF of the answers"),
        position_auroc(longer, *given, name="difference in length"),
    ]


def pair_control(
    X: ndarray,
    pairs: Pairs,
    label: ndarray,
    part: Mapping[str, str],
    C: float,
    answers: Answers,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> NullDraws:
    """The same probe trained on a label that means nothing but can be learned: a control task for pairs.

    Every word gets a strength at random; a pair's control label is the answer whose first word that the other does not
    have in its place is the stronger. Words are shared by the parts, so a probe that remembers words learns it; what
    the real label's AUROC has more than this is its selectivity (Hewitt and Liang, EMNLP 2019, whose task gives a
    label to every word type).

    Args:
        X: mirrored states of the chosen layer, ``[2 pairs, d]``.
        pairs: the pairs.
        label: 1 where the real label names A.
        part: part by item.
        C: the chosen penalty.
        answers: the texts.
        draws: random strengths drawn.
        seed: of the draws.

    Raises:
        InputError: too few kinds of words, or none of the test part that occurs in train.
    """
    rows = mirrored_rows(pairs, label, part)
    words = [_parting(*answers[item]) for item in pairs.table["item"]]
    told = np.array([a is not None for a, _ in words])
    n = len(pairs)
    codes, names = pd.factorize(np.array([[a or "", b or ""] for a, b in words], dtype=object).ravel())
    one, two = codes.reshape(n, 2).T
    keep = np.r_[told, told]
    if len(names) < FEWEST_TYPES or not told.any():
        raise InputError(f"the answers part at {len(names)} words: a control task needs at least {FEWEST_TYPES}")
    checked = check_rows(rows, (), "none")
    train = checked.at("train")[:n] & told
    known = set(one[train]) | set(two[train])
    seen = np.array([a in known and b in known for a, b in zip(one, two, strict=True)]) & told
    test = checked.at("test") & np.r_[seen, seen]
    if not test.any():
        raise InputError("no pair of the test part parts at words that occur in train: nothing can be learned")
    strength = np.random.default_rng(seed).normal(size=(draws, len(names)))
    coins = (strength[:, one] > strength[:, two]).astype(int)
    labels = np.concatenate([coins, 1 - coins], axis=1)
    some = rows[keep].reset_index(drop=True)
    weight = np.ones((1, int((checked.at("train") & keep).sum())))
    own = check_rows(some, (), "none")
    observed = draw_aurocs(X[keep], own, own.label[None], C, weight, own.at("test"))
    values = draw_aurocs(X[keep], own, labels[:, keep], C, np.repeat(weight, draws, axis=0), test[keep])
    share = test.sum() / max(1, checked.at("test").sum())
    about = (
        f"the same probe trained on which answer's first own word is the stronger, strengths at random ({len(names)} "
        f"words; {share:.0%} of the test pairs part at words seen in train)"
    )
    return NullDraws("control task by word", float(observed[0]), values, about, seed)


def _marked(side: str, text: str) -> list[str]:
    return [f"{side}_{word}" for word in re.findall(r"\w+", text)]


def _parting(a: str, b: str) -> tuple[str | None, str | None]:
    """The words at the first place where two texts differ."""
    for one, two in zip(a.split(), b.split(), strict=False):
        if one != two:
            return one, two
    return None, None


def pair_nulls(
    pairs: Pairs,
    label: ndarray,
    part: Mapping[str, str],
    swept: Sweep,
    answers: Answers | None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What stands beside an antisymmetric probe, as rows of kind ``control`` and ``baseline``.

    Args:
        pairs: the pairs it is told on.
        label: 1 where the label names A.
        part: part by item.
        swept: the probe.
        answers: the texts, for all but random directions.
        draws: draws of the control task.
        seed: of every draw.
    """
    X = pairs.mirrored(swept.layer)
    found = random_directions(X, mirrored_rows(pairs, label, part), swept.C, seed=seed, **PLAIN)
    made = [_drawn(found)]
    if answers is None:
        return made
    try:
        made.append(_drawn(pair_control(X, pairs, label, part, swept.C, answers, draws=draws, seed=seed)))
    except InputError as error:
        made.append(told_row("control", "control task by word", about=str(error)))
    return made + [
        effect_row("baseline", e, about="fitted on train, told on test")
        for e in pair_baselines(pairs, label, part, answers)
    ]


def _drawn(draws: NullDraws) -> dict[str, Any]:
    return told_row(
        "control",
        draws.name,
        draws.mean,
        draws.low,
        draws.high,
        len(draws.values),
        about=draws.about,
        selectivity=draws.selectivity,
    )
