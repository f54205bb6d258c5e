"""The linter is silent on clean data and names each leak that was planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.evidence import write_evidence
from verdictscope.errors import InputError
from verdictscope.probes import check_leakage, split_groups
from verdictscope.probes.leakage import ALPHA, LeakageReport

STARTS = ("ba", "ce", "di", "fo", "gu", "ky", "lo", "mi", "nu", "pe", "ra", "so")
ENDS = ("rin", "tal", "mon", "vex", "dar", "lup", "gan", "sho", "wem", "zit", "cor", "byn", "fel", "jad", "kop")
WORDS = [start + end for start in STARTS for end in ENDS]
WORDED = {"label_words": ("refuse", "sorry")}


def clean(rng: np.random.Generator) -> dict[str, Any]:
    """Rows of prompts whose label nothing tells: 40 to 160 prompts, up to 6 rows each, a third of them harmful."""
    prompts = int(rng.integers(40, 161))
    size = rng.integers(1, 7, prompts) if rng.random() < 0.5 else np.full(prompts, int(rng.integers(1, 7)))
    held = np.where(np.arange(prompts) % 3 == 0, "harmful", "harmless")
    label = (np.arange(prompts) // 3 + np.arange(prompts) % 3) % 2  # as many of either in both, but for one
    texts = [" ".join(rng.choice(WORDS, int(rng.integers(10, 30)))) for _ in range(prompts)]
    texts = [text + (" sorry" if rng.random() < 0.2 else "") for text in texts]
    row = np.repeat(np.arange(prompts), size)
    names = np.array([f"g{i}" for i in range(prompts)])
    by = pd.DataFrame({"label": label, "held": held})
    part = split_groups(names, by, seed=int(rng.integers(1 << 30)))
    return {
        "labels": label[row],
        "groups": names[row],
        "part": part[names].to_numpy()[row],
        "texts": np.array(texts, dtype=object)[row],
        "source": rng.choice(["a", "b", "c", "d"], prompts)[row],
        "positions": rng.integers(0, 50, row.size),
        "held": held[row],
        "chosen_on": names[part[names].to_numpy() != "test"],
    }


def duplicates(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """One test prompt is a train prompt with one word exchanged, under another name."""
    texts = data["texts"].copy()
    train, test = (rng.choice(data["groups"][data["part"] == p]) for p in ("train", "test"))
    words = texts[data["groups"] == train][0].split()
    words[int(rng.integers(len(words)))] = str(rng.choice(WORDS))
    texts[data["groups"] == test] = " ".join(words)
    return data | {"texts": texts}


def by_prompt(data: dict[str, Any], value: Callable[[int], Any]) -> np.ndarray:
    """A value for every prompt, from its label."""
    first = dict(zip(data["groups"], data["labels"], strict=True))
    of = {group: value(int(label)) for group, label in first.items()}
    return np.array([of[group] for group in data["groups"]], dtype=object)


def label_word(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """Six of ten positive prompts say it."""
    said = by_prompt(data, lambda y: " refuse" if y and rng.random() < 0.6 else "")
    return data | {"texts": data["texts"] + said}


def length(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """Positive prompts are longer by one and a half standard deviations."""
    return data | {"lengths": by_prompt(data, lambda y: float(rng.normal(100 + 30 * y, 20)))}


def middling(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """Positive prompts are of middling length, negative ones short or long."""
    draw = {1: lambda: rng.normal(100, 5), 0: lambda: 100 + rng.choice([-1, 1]) * rng.normal(30, 10)}
    return data | {"lengths": by_prompt(data, lambda y: float(draw[y]()))}


def source(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """Positives come from one source in 85 of a hundred cases, negatives in 15."""
    return data | {"source": by_prompt(data, lambda y: "a" if rng.random() < (0.85 if y else 0.15) else "b")}


def position(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """Rows of positives stand later by one and a half standard deviations."""
    return data | {"positions": rng.normal(50 + 15 * data["labels"], 10)}


def weak_length(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """Positive prompts are longer by half a standard deviation."""
    return data | {"lengths": by_prompt(data, lambda y: float(rng.normal(100 + 10 * y, 20)))}


def weak_source(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """Positives come from one source in sixty of a hundred cases, negatives in forty."""
    return data | {"source": by_prompt(data, lambda y: "a" if rng.random() < (0.6 if y else 0.4) else "b")}


def empty_cell(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """No harmful prompt of the train part has label 1."""
    gone = (data["part"] == "train") & (data["held"] == "harmful") & (data["labels"] == 1)
    kept = {k: np.asarray(v)[~gone] if k != "chosen_on" else v for k, v in data.items()}
    return kept


def test_part(rng: np.random.Generator, data: dict[str, Any]) -> dict[str, Any]:
    """The choice was made on all prompts."""
    return data | {"chosen_on": np.unique(data["groups"])}


test_part.__test__ = False  # type: ignore[attr-defined]

PLANTED = {
    "duplicate prompts": [duplicates],
    "label words": [label_word],
    "length": [length, middling],
    "source": [source],
    "position": [position],
    "empty cell": [empty_cell],
    "selection on test": [test_part],
}


WEAK = {"length": [weak_length], "source": [weak_source]}
"""Tendencies so slight that some data sets do not show them: how often they are found is told, not asked for."""


def named(data: dict[str, Any], seed: int) -> list[str]:
    return list(check_leakage(**data, **WORDED, seed=seed).findings["check"])


@pytest.mark.parametrize(("check", "plant"), [(c, p) for c, plants in PLANTED.items() for p in plants])
def test_each_leak_is_named(check: str, plant: Callable) -> None:
    rng = np.random.default_rng(3)
    assert check in named(plant(rng, clean(rng)), 0)


def test_clean_data_is_silent_and_everything_was_looked_for() -> None:
    data = clean(np.random.default_rng(0))
    leaks = check_leakage(**data, **WORDED)
    assert leaks.clean, leaks
    assert not leaks.skipped
    assert set(PLANTED) <= set(leaks.checks["check"])
    assert "none found" in repr(leaks)
    assert "none found" in leaks._repr_html_()
    bare = check_leakage(data["labels"], data["groups"], data["part"])
    assert set(bare.skipped) == set(PLANTED)


def test_findings_are_a_table_with_names_and_numbers() -> None:
    rng = np.random.default_rng(1)
    leaks = check_leakage(**length(rng, duplicates(rng, clean(rng))), **WORDED)
    assert isinstance(leaks, LeakageReport)
    table = leaks.to_frame().set_index("check")
    assert table.loc["duplicate prompts", "severity"] == "leak"
    assert (
        " (train) and " in table.loc["duplicate prompts", "what"]
        or " (test) and " in table.loc["duplicate prompts", "what"]
    )
    assert table.loc["length", "severity"] == "confounded"
    assert table.loc["length", "value"] > 0.7
    assert table.loc["length", "p_adjusted"] <= ALPHA
    assert table["n"].gt(0).all()
    assert "length" in repr(leaks)
    assert "<table" in leaks._repr_html_()


def test_a_prompt_in_two_parts_is_named() -> None:
    data = clean(np.random.default_rng(2))
    part = data["part"].copy()
    at = np.flatnonzero(part == "train")[0]
    data["part"] = np.where(np.arange(len(part)) == at, "test", part)
    grouped = dict(zip(*np.unique(data["groups"], return_counts=True), strict=True))
    if grouped[data["groups"][at]] == 1:
        pytest.skip("this prompt has one row")
    assert "groups over parts" in named(data, 0)


def test_a_choice_that_validation_did_not_make_is_named() -> None:
    data = clean(np.random.default_rng(4))
    choice = pd.DataFrame({"layer": [0, 1], "C": 1.0, "auroc_validation": [0.9, 0.6], "se": 0.01})
    right = check_leakage(**data, choice=choice.assign(chosen=[True, False]))
    wrong = check_leakage(**data, choice=choice.assign(chosen=[False, True]))
    assert right.clean
    assert list(wrong.findings["check"]) == ["choice by validation"]


def test_many_rows_of_a_prompt_are_one_prompt() -> None:
    # ten prompts with 200 rows each: by row anything is significant, by prompt nothing
    rng = np.random.default_rng(5)
    row = np.repeat(np.arange(10), 200)
    part = np.array(["train"] * 4 + ["validation"] * 2 + ["test"] * 4)[row]
    lengths = rng.normal(size=10)[row]
    assert check_leakage((row % 2), row.astype(str), part, lengths=lengths, seed=1).clean


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["x"]}, "label of"),
        ({"part": ["dev"]}, "unknown part"),
        ({"texts": ["a", "b"]}, "texts has 2"),
        ({"groups": ["a", "b"]}, "1 labels, 2 groups"),
    ],
)
def test_wrong_input(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_leakage(**({"labels": [1], "groups": ["a"], "part": ["test"]} | change))


def planted(check: str, plant: Callable, data_sets: int) -> dict[str, Any]:
    """How often a planted leak is named, and how often another is beside it."""
    hits = others = 0
    for i in range(data_sets):
        rng = np.random.default_rng([12, i])
        found = named(plant(rng, clean(rng)), i)
        hits += check in found
        others += bool(set(found) - {check})
    return {"check": check, "planted": (plant.__doc__ or "").strip(), "data_sets": data_sets} | {
        "found": hits / data_sets,
        "named_another_as_well": others / data_sets,
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_false_alarm_and_no_miss() -> None:
    data_sets, per_plant = 1000, 500
    alarms: Counter[str] = Counter()
    loud = 0
    for i in range(data_sets):
        found = named(clean(np.random.default_rng([11, i])), i)
        alarms.update(found)
        loud += bool(found)
    rows = [planted(check, plant, per_plant) for check, plants in PLANTED.items() for plant in plants]
    weak = [planted(check, plant, per_plant) for check, plants in WEAK.items() for plant in plants]
    about = {"data_sets": data_sets, "alarms": loud, "rate": loud / data_sets, "by_check": dict(alarms)}
    write_evidence("probes_linter", {"alpha": ALPHA, "clean": about, "planted": rows, "weak": weak})
    # at most alpha of clean data sets, up to three binomial standard errors
    assert loud / data_sets <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / data_sets)
    assert all(row["found"] >= 0.99 for row in rows), rows
