"""One honest probe in one call: what it finds, what it keeps apart, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from verdictscope.activations import collect, load_model
from verdictscope.errors import InputError
from verdictscope.probes import ProbeResult, fit_probe
from verdictscope.sources import locate

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
    return fit_probe(X, y, groups=GROUPS, permutations=49)


def test_one_call_chooses_tests_once_and_doubts(result: ProbeResult) -> None:
    X, y = data()
    assert result.layer == (7, "last")
    test = (result.rows["part"] == "test").to_numpy()
    scores = X[7, "last"][test] @ result.probe.direction_ + result.probe.bias_
    assert result.test.estimate == pytest.approx(roc_auc_score(y[test], scores))
    assert result.test.low > result.null.high
    assert result.null.p == pytest.approx(1 / 50)
    assert result.null.candidates == 9
    assert result.leaks.clean
    assert result.metrics.auroc.estimate == result.test.estimate
    assert not result.metrics.in_sample
    parts = pd.DataFrame({"group": GROUPS, "part": result.rows["part"]}).drop_duplicates()
    assert not parts["group"].duplicated().any()
    assert abs(y[test].mean() - 0.5) < 0.05


def test_it_shows_itself(result: ProbeResult) -> None:
    table = result.to_frame()
    assert table["layer"].to_list() == [(3, "last"), (7, "last"), (9, "last")]
    assert table["chosen"].to_list() == [False, True, False]
    chosen, other = table.iloc[1], table.iloc[0]
    assert (chosen["auroc"], chosen["p"]) == (result.test.estimate, result.null.p)
    assert chosen["low"] > chosen["null_high"]
    assert other["null_low"] < other["auroc"]
    assert other["p"] > 0.05
    assert set(result.controls["kind"]) == {"test", "permuted", "control"}
    assert "(7, 'last')" in repr(result)
    assert "<table" in result._repr_html_()
    assert len(result.plot().axes) == 1
    with pytest.raises(InputError, match="site="):
        result.readout()


def test_without_groups_every_row_is_a_prompt() -> None:
    X, y = data()
    alone = fit_probe(X[7, "last"], y, permutations=0)
    assert alone.test.n == (alone.rows["part"] == "test").sum()
    assert alone.permutation is None
    with pytest.raises(InputError, match="permutations=0"):
        _ = alone.null
    readout = alone.readout("score", "resid_post")
    np.testing.assert_array_equal(readout.weight, alone.direction)


def test_a_prepared_table_gives_the_same_numbers() -> None:
    X, y = data()
    plain = fit_probe(X, y, groups=GROUPS, permutations=19)
    table = pd.DataFrame({"label": y, "group": GROUPS, "rollout": [f"r{i}" for i in range(len(y))]})
    again = fit_probe(X, table, permutations=19)
    assert again.test == plain.test
    assert again.null.p == plain.null.p
    split = fit_probe(X, again.rows[["rollout", "group", "label", "part"]], permutations=0)
    assert split.test == plain.test
    with pytest.raises(InputError, match="lacks the column 'harm'"):
        fit_probe(X, table, balance_on=["harm"])


def test_transfer_to_a_second_table() -> None:
    X, y = data()
    result = fit_probe(X, np.where(y, "yes", "no"), groups=GROUPS, permutations=0)
    other, labels = data(seed=1)
    found = result.transfer(other, np.where(labels, "yes", "no"), groups=GROUPS)
    assert found.n == PROMPTS
    assert found.low < roc_auc_score(labels, other[7, "last"] @ result.direction) < found.high
    with pytest.raises(InputError, match="'maybe'"):
        result.transfer(other, np.where(labels, "yes", "maybe"))
    with pytest.raises(InputError, match="no layer"):
        result.transfer({1: other[7, "last"], 2: other[7, "last"]}, labels)


def test_the_same_seed_gives_the_same_result(result: ProbeResult) -> None:
    X, y = data()
    again = fit_probe(X, y, groups=GROUPS, permutations=49)
    pd.testing.assert_frame_equal(again.to_frame(), result.to_frame())
    other = fit_probe(X, y, groups=GROUPS, permutations=0, seed=1)
    assert not other.rows["part"].equals(result.rows["part"])


def test_near_duplicates_stay_on_one_side() -> None:
    X, y = data()
    rng = np.random.default_rng(0)
    words = np.array([f"w{i:03d}" for i in range(300)])
    texts = [" ".join(rng.choice(words, 14)) for _ in range(PROMPTS)]
    for i in range(0, 60, 2):  # pairs of prompts that differ in the first word
        texts[i + 1] = f"w{i:03d} " + texts[i].split(" ", 1)[1]
    found = fit_probe(X, y, groups=GROUPS, texts=np.repeat(texts, SAMPLES), permutations=0)
    part = found.rows["part"].to_numpy()[::SAMPLES]
    assert found.merged_groups == 30
    assert (part[0:60:2] == part[1:60:2]).all()
    assert "duplicate prompts" not in set(found.leaks.findings["check"])
    assert {e.name for e in found.baselines} == {"words of the text", "TF-IDF of the text", "length of the text"}
    apart = np.repeat(np.resize(["train", "test", "test", "train", "validation", "validation"], PROMPTS), SAMPLES)
    leaky = fit_probe(X, y, texts=np.repeat(texts, SAMPLES), permutations=0)
    assert leaky.merged_groups >= PROMPTS  # samples of one prompt share its text
    with pytest.raises(InputError, match="two splits"):
        fit_probe(X, y, groups=GROUPS, texts=np.repeat(texts, SAMPLES), split=apart, permutations=0)


def test_a_held_column_is_balanced_and_reported() -> None:
    rng = np.random.default_rng(3)
    harm = np.arange(800) % 2
    y = (rng.random(800) < np.where(harm, 0.75, 0.25)).astype(int)
    X = rng.normal(size=(800, 8))
    X[:, 0] += 4 * harm
    found = fit_probe(X, y, balance_on={"harm": harm}, permutations=0)
    held = found.evaluation.within
    assert held is not None
    # five standard errors of an AUROC of nothing over 400 test rows in two strata
    assert abs(held.estimate - 0.5) < 0.2
    assert found.probe.direction_[0] < 0.5  # 4 standard deviations of harm tell the label, and earn little weight
    assert "empty cell" in set(found.leaks.checks["check"])


def test_text_labels_are_two_classes_in_sorted_order() -> None:
    X, y = data()
    named = np.where(y, "refused", "complied")
    found = fit_probe(X[7, "last"], named, groups=GROUPS, permutations=0)
    assert found.classes == ("complied", "refused")
    assert found.test.estimate > 0.9
    assert fit_probe(X[7, "last"], y.astype(bool), groups=GROUPS, permutations=0).test == found.test


def test_constant_features_get_no_weight_and_constant_activations_are_refused() -> None:
    X, y = data()
    padded = np.concatenate([X[7, "last"], np.full((len(y), 2), 5.0)], axis=1)
    found = fit_probe(padded, y, groups=GROUPS, permutations=0)
    np.testing.assert_array_equal(found.probe.direction_[-2:], 0.0)
    plain = fit_probe(X[7, "last"], y, groups=GROUPS, permutations=0)
    assert found.test.estimate == pytest.approx(plain.test.estimate)
    with pytest.raises(InputError, match="no activation differs"):
        fit_probe(np.ones((len(y), 3)), y, groups=GROUPS, permutations=19)
    flat = np.ones_like(X[7, "last"])  # one flat layer among others is a candidate like any
    assert fit_probe({0: flat, 1: X[7, "last"]}, y, groups=GROUPS, permutations=0).layer == 1


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
    return {"states": X, "labels": labels, "groups": groups}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing label", "1 of 180 labels are missing"),
        ("NaN label", "1 of 180 labels are missing"),
        ("one class", "two classes and there are 1 labels"),
        ("three classes", "two classes and there are 3 labels"),
        ("mixed labels", "unlike types"),
        ("NaN", "layer 0: 1 of 180 rows hold NaN or infinity"),
        ("infinite", "layer 0: 1 of 180 rows hold NaN or infinity"),
        ("two prompts", "2 prompt groups cannot make 3 splits"),
        ("too few positives", "has only rows labelled 0"),
        ("rows", "layer 0: activations have shape"),
        ("group count", "groups has 179 rows"),
        ("missing group", "no group"),
    ],
)
def test_what_is_wrong_is_one_clear_error(what: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        fit_probe(**broken(what), permutations=0)
    assert "\n" not in str(error.value)


def test_rows_of_both_labels_in_a_prompt_need_their_rollouts() -> None:
    """Tokens exchanged one by one would make noise significant."""
    rng = np.random.default_rng(0)
    prompts, samples = np.repeat(np.arange(60), 10), np.repeat(np.arange(120), 5)  # two rollouts a prompt, five tokens
    X, y = rng.normal(size=(120, 6))[samples] + 0.1 * rng.normal(size=(600, 6)), samples % 2
    with pytest.raises(InputError, match="column rollout"):
        fit_probe(X, y, groups=prompts, permutations=0)
    found = fit_probe(X, pd.DataFrame({"label": y, "group": prompts, "rollout": samples}), permutations=39)
    assert found.null.p > 0.05


def test_a_table_of_labelled_texts_takes_five_lines() -> None:
    """Texts -> states -> probe, without chat template, harm or cells; rows in the caller's order."""
    table = pd.read_csv(locate("organism:cliff/prompts.csv")).query("mode == 'normal'").sample(frac=1, random_state=0)
    model, kinds = load_model("organism:cliff", device="cpu"), table["object_category"].to_numpy()
    states = [collect(model, table["user"][k::2].to_list(), "resid_post", positions="last") for k in (0, 1)]
    result = fit_probe(states[0], kinds[::2], texts=table["user"][::2].to_list(), Cs=[0.1], permutations=39)
    assert result.classes == ("dangerous", "useful")
    shown = result.to_frame()
    assert shown["layer"].to_list() == list(range(model.n_layers))
    assert shown["chosen"].sum() == 1
    assert result.test.low > result.null.high
    moved = result.transfer(states[1], kinds[1::2])
    assert moved.n == len(kinds) // 2
    assert moved.low > 0.7
    assert len(result.baselines) == 3
    assert result.readout().site == "resid_post"
