"""The protocol in one call: what it finds, what it keeps apart, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from verdictscope.errors import InputError
from verdictscope.probes import ProbeResult, protocol

PROMPTS, SAMPLES = 90, 2
GROUPS = np.repeat([f"p{i}" for i in range(PROMPTS)], SAMPLES)


def data(seed: int = 0, signal: float = 3.0, d: int = 10) -> tuple[dict[Any, np.ndarray], np.ndarray]:
    """Three candidates, the label in the second; a label per prompt."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.permutation(np.arange(PROMPTS) % 2), SAMPLES)
    X = {key: rng.normal(size=(len(y), d)) for key in ((3, "last"), (7, "last"), (9, "last"))}
    X[7, "last"][:, 2] += signal * y
    return X, y


@pytest.fixture(scope="module")
def result() -> ProbeResult:
    X, y = data()
    return protocol(X, y, groups=GROUPS, refits=49)


def test_one_call_chooses_tests_once_and_doubts(result: ProbeResult) -> None:
    X, y = data()
    assert result.key == (7, "last")
    test = (result.part == "test").to_numpy()
    scores = X[7, "last"][test] @ result.probe.direction_ + result.probe.bias_
    assert result.test.estimate == pytest.approx(roc_auc_score(y[test], scores))
    assert result.test.low > result.permuted.high
    assert result.permuted.p == pytest.approx(1 / 50)
    assert result.permuted.candidates == 9
    assert result.leaks.clean
    assert result.classification_metrics.auroc.estimate == result.test.estimate
    assert not result.classification_metrics.in_sample
    parts = pd.DataFrame({"group": GROUPS, "part": result.part}).drop_duplicates()
    assert not parts["group"].duplicated().any()
    assert abs(y[test].mean() - 0.5) < 0.05


def test_it_shows_itself(result: ProbeResult) -> None:
    table = result.to_frame()
    assert list(table.columns) == ["kind", "name", "estimate", "low", "high", "n", "p"]
    assert set(table["kind"]) == {"test", "permuted", "control"}
    assert "(7, 'last')" in repr(result)
    html = result._repr_html_()
    assert "<table" in html
    assert "not that the model uses it" in html
    assert len(result.plot().axes) == 1


def test_groups_cannot_be_forgotten_but_can_be_declined() -> None:
    X, y = data()
    with pytest.raises(InputError, match="both sides of a split.*groups=None"):
        protocol(X, y)
    alone = protocol(X[7, "last"], y, groups=None, refits=0)
    assert alone.test.n == (alone.part == "test").sum()
    assert alone.permuted is None


def test_the_same_seed_gives_the_same_result(result: ProbeResult) -> None:
    X, y = data()
    again = protocol(X, y, groups=GROUPS, refits=49)
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    other = protocol(X, y, groups=GROUPS, refits=0, seed=1)
    assert not other.part.equals(result.part)


def test_near_duplicates_stay_on_one_side() -> None:
    X, y = data()
    rng = np.random.default_rng(0)
    words = np.array([f"w{i:03d}" for i in range(300)])
    texts = [" ".join(rng.choice(words, 14)) for _ in range(PROMPTS)]
    for i in range(0, 60, 2):  # pairs of prompts that differ in the first word
        texts[i + 1] = f"w{i:03d} " + texts[i].split(" ", 1)[1]
    found = protocol(X, y, groups=GROUPS, texts=np.repeat(texts, SAMPLES), refits=0)
    part = found.part.to_numpy()[::SAMPLES]
    assert found.joined == 30
    assert (part[0:60:2] == part[1:60:2]).all()
    assert "duplicate prompts" not in set(found.leaks.findings["check"])
    assert {e.name for e in found.baselines} == {"words of the text", "TF-IDF of the text", "length of the text"}
    apart = np.repeat(np.resize(["train", "test", "test", "train", "validation", "validation"], PROMPTS), SAMPLES)
    leaky = protocol(X, y, groups=None, texts=np.repeat(texts, SAMPLES), refits=0)
    assert leaky.joined >= PROMPTS  # samples of one prompt share its text
    with pytest.raises(InputError, match="two parts"):
        protocol(X, y, groups=GROUPS, texts=np.repeat(texts, SAMPLES), part=apart, refits=0)


def test_a_held_column_is_balanced_and_reported() -> None:
    rng = np.random.default_rng(3)
    harm = np.arange(800) % 2
    y = (rng.random(800) < np.where(harm, 0.75, 0.25)).astype(int)
    X = rng.normal(size=(800, 8))
    X[:, 0] += 4 * harm
    found = protocol(X, y, groups=None, hold={"harm": harm}, refits=0)
    held = found.sweep.evaluation.held
    assert held is not None
    # five standard errors of an AUROC of nothing over 400 test rows in two strata
    assert abs(held.estimate - 0.5) < 0.2
    assert found.probe.direction_[0] < 0.5  # 4 standard deviations of harm tell the label, and earn little weight
    assert "empty cell" in set(found.leaks.checks["check"])


def test_text_labels_are_two_classes_in_sorted_order() -> None:
    X, y = data()
    named = np.where(y, "refused", "complied")
    found = protocol(X[7, "last"], named, groups=GROUPS, refits=0)
    assert found.classes == ("complied", "refused")
    assert found.test.estimate > 0.9
    assert protocol(X[7, "last"], y.astype(bool), groups=GROUPS, refits=0).test == found.test


def test_constant_features_get_no_weight_and_constant_activations_are_refused() -> None:
    X, y = data()
    padded = np.concatenate([X[7, "last"], np.full((len(y), 2), 5.0)], axis=1)
    found = protocol(padded, y, groups=GROUPS, refits=0)
    np.testing.assert_array_equal(found.probe.direction_[-2:], 0.0)
    plain = protocol(X[7, "last"], y, groups=GROUPS, refits=0)
    assert found.test.estimate == pytest.approx(plain.test.estimate)
    with pytest.raises(InputError, match="no activation differs"):
        protocol(np.ones((len(y), 3)), y, groups=GROUPS, refits=19)
    flat = np.ones_like(X[7, "last"])  # one flat layer among others is a candidate like any
    assert protocol({0: flat, 1: X[7, "last"]}, y, groups=GROUPS, refits=0).key == 1


def broken(what: str) -> dict[str, Any]:
    X, y = data()
    labels, X, groups = y.astype(object), X[7, "last"].copy(), GROUPS
    if what == "missing label":
        labels[3] = None
    elif what == "NaN label":
        labels[3] = float("nan")
    elif what == "one class":
        labels[:] = 1
    elif what == "three classes":
        labels[:4] = 2
    elif what == "mixed labels":
        labels[:4] = "yes"
    elif what == "NaN":
        X[5, 2] = np.nan
    elif what == "infinite":
        X[5, 2] = np.inf
    elif what == "two prompts":
        groups = np.where(np.arange(len(y)) % 2, "a", "b")
    elif what == "too few positives":
        labels = (np.arange(len(y)) < 2).astype(object)
    elif what == "rows":
        X = X[:-1]
    elif what == "group count":
        groups = GROUPS[:-1]
    elif what == "missing group":
        groups = groups.astype(object)
        groups[0] = None
    return {"X": X, "y": labels, "groups": groups}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing label", "1 of 180 labels are missing"),
        ("NaN label", "1 of 180 labels are missing"),
        ("one class", "two classes and these labels hold 1"),
        ("three classes", "two classes and these labels hold 3"),
        ("mixed labels", "unlike types"),
        ("NaN", "candidate 0: 1 of 180 rows hold NaN or infinity"),
        ("infinite", "candidate 0: 1 of 180 rows hold NaN or infinity"),
        ("two prompts", "2 prompt groups cannot make 3 parts"),
        ("too few positives", "has only rows labelled 0"),
        ("rows", "candidate 0: activations have shape"),
        ("group count", "groups has 179 rows"),
        ("missing group", "no group"),
    ],
)
def test_what_is_wrong_is_one_clear_error(what: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        protocol(**broken(what), refits=0)
    assert "\n" not in str(error.value)


def test_rows_of_both_labels_in_a_prompt_need_their_rollouts() -> None:
    """Tokens exchanged one by one would make noise significant."""
    rng = np.random.default_rng(0)
    prompts, samples = np.repeat(np.arange(60), 10), np.repeat(np.arange(120), 5)  # two rollouts a prompt, five tokens
    X, y = rng.normal(size=(120, 6))[samples] + 0.1 * rng.normal(size=(600, 6)), samples % 2
    with pytest.raises(InputError, match="rollouts="):
        protocol(X, y, groups=prompts, refits=0)
    found = protocol(X, y, groups=prompts, rollouts=samples, refits=39)
    assert found.permuted is not None
    assert found.permuted.p > 0.05
