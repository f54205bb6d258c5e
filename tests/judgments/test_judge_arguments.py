"""What an argument asks is done or refused: no value that is silently taken for another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.judgments import load_items
from verdictscope.judgments.metrics.agreement import agreement_measures
from verdictscope.judgments.metrics.bias import denoised, flip_noise, order_measures, repeat_measures
from verdictscope.judgments.metrics.calibration import expected_calibration_error, reliability, risk_coverage_area
from verdictscope.judgments.metrics.consistency import conflict_ratio, relation_of_orders
from verdictscope.judgments.metrics.cues import Cued, cue_measures
from verdictscope.judgments.metrics.panel import combine_judges, conjunction, pairwise_kappa, panel_measures
from verdictscope.judgments.metrics.ranking import corrected_share, rank_candidates
from verdictscope.judgments.metrics.solving import idealised_ranking, ranking_accuracy, solve_to_judge
from verdictscope.judgments.metrics.summary import verdict_metrics
from verdictscope.judgments.readouts import first_tokens
from verdictscope.judgments.scores import likelihood_aware
from verdictscope.judgments.verdicts import paired, verdicts_frame
from verdictscope.probes.splits import split_rows
from verdictscope.rollouts import Rollout, Sampling, Span, load_prompts
from verdictscope.rollouts.prompts.duplicates import merge_groups, near_duplicates, without_duplicates
from verdictscope.rollouts.prompts.sets import join_prompts

PERCENT, LOGPROBS = [87.5, 50.0], [-0.2, -1.1]
SCORES = pd.DataFrame({name: [0.0, 1.0, 1.0, 0.0] for name in "abc"})
TABLE = verdicts_frame(
    [
        {
            "item": f"i{k}",
            "group": "g",
            "judge": "j",
            "order": "AB",
            "run": 0,
            "verdict": "A",
            "label": "AB"[k % 2],
            "probability": 0.9,
            "status": "ok",
        }
        for k in range(4)
    ]
)
SINGLE, CUED = TABLE.assign(order=""), TABLE.assign(variant=["control", "cued"] * 2, item=["i0", "i0", "i1", "i1"])
UPPER, LOWER = np.array(["A", "B"], dtype=object), np.array(["a", "b"], dtype=object)
VOTES = pd.DataFrame({"x": UPPER, "y": LOWER})
PAIRS = [{"id": 3, "question": "q", "answer_a": "a", "answer_b": "b"}]


def rollout(name: str) -> Rollout:
    return Rollout(name, name, (1, 2, 3), (Span("user", 0, 2), Span("answer", 2, 3)), 2)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: expected_calibration_error(PERCENT, [True, False]), "confidence of row 1"),
    (lambda: expected_calibration_error(LOGPROBS, [True, False]), "confidence of row 1"),
    (lambda: expected_calibration_error([0.5, 0.5], ["True", "maybe"]), "right of row 2"),
    (lambda: expected_calibration_error([0.5, 0.5], [True]), "2 probabilities and 1"),
    (lambda: expected_calibration_error([0.5, np.nan], [True, False]), "confidence of row 2"),
    (lambda: expected_calibration_error([0.5, 0.5], [None, False]), "right of row 1"),
    (lambda: reliability([0.5], [True], bins=0), "bins"),
    (lambda: risk_coverage_area([0.5, np.inf], [True, False]), "confidence of row 2"),
    (lambda: risk_coverage_area([np.nan, 0.5], [True, False]), "confidence of row 1"),
    (lambda: risk_coverage_area([0.5], [True, False]), "1 confidences and 2"),
    (lambda: risk_coverage_area([0.5, 0.4], [True, False], np.ones((1, 3))), "weights"),
    (lambda: verdict_metrics(TABLE.assign(verdict="a")), "verdict of row 1 is 'a'"),
    (lambda: verdict_metrics(TABLE.assign(label="A>B")), "label of row 1 is 'A>B'"),
    (lambda: verdict_metrics(TABLE.assign(verdict=["A", "nan", "A", "B"])), "verdict of row 2 is the text 'nan'"),
    (lambda: verdict_metrics(TABLE.assign(verdict=["A", "A ", "A", "B"])), "verdict of row 2"),
    (lambda: verdict_metrics(TABLE, categories=["A", "tie"]), "label of row 2 is 'B'"),
    (lambda: verdict_metrics(SINGLE.assign(verdict="good", label="correct")), "no verdict is ever a label"),
    (lambda: verdict_metrics(SINGLE.assign(verdict="Correct", label="correct")), "case alone"),
    (lambda: verdict_metrics(TABLE.assign(probability=["0.5", "0.5", "90%", "0.5"])), "probability of row 3"),
    (lambda: verdict_metrics(CUED.assign(label="A>B")), "label of row 1 is 'A>B'"),
    (lambda: verdict_metrics(CUED.assign(verdict="None")), "verdict of row 1"),
    (lambda: verdict_metrics(CUED, resamples=-1), "resamples"),
    (lambda: agreement_measures(LOWER, UPPER, ("A", "B")), "verdict of row 1 is 'a'"),
    (lambda: order_measures(paired(TABLE.assign(label="B>A"))), "label of row 1 is 'B>A'"),
    (lambda: repeat_measures(TABLE.assign(verdict="a")), "case alone"),
    (lambda: cue_measures(Cued(UPPER, UPPER, UPPER, LOWER, UPPER)), "case alone"),
    (lambda: relation_of_orders(UPPER, LOWER), "verdict (BA) of row 1 is 'a'"),
    (lambda: conflict_ratio(UPPER, UPPER), "by_pair of row 1"),
    (lambda: pairwise_kappa(VOTES, ["A", "B"]), "vote of judge 'y' of row 1 is 'a'"),
    (lambda: panel_measures(VOTES, ["A", "B"]), "vote of judge 'y'"),
    (lambda: conjunction(VOTES, "A", "B"), "vote of judge 'y'"),
    (lambda: reliability([0.5], [True], bins=True), "bins"),
    (lambda: risk_coverage_area([0.5, 0.4], ["yes", "perhaps"]), "right of row 2"),
    (lambda: verdict_metrics(TABLE.assign(probability=90.0)), "probability of row 1"),
    (lambda: verdict_metrics(TABLE.assign(verdict=[1, 2, 1, 2])), "verdict of row 1"),
    (lambda: verdict_metrics(TABLE.assign(label=[True] * 4)), "label of row 1"),
    (lambda: verdict_metrics(TABLE.assign(item=[1.0, 2.0, 3.0, 4.0])), "item of row 1"),
    (lambda: verdict_metrics(TABLE.assign(run=0.5)), "run of row 1"),
    (lambda: verdict_metrics(TABLE, positive="C"), "'C'"),
    (lambda: verdict_metrics(TABLE, categories=[]), "categories"),
    (lambda: verdict_metrics(TABLE, resamples=-1), "resamples"),
    (lambda: flip_noise(90.0), "agreement"),
    (lambda: denoised(90.0, 0.1), "accuracy"),
    (lambda: denoised(0.9, 10.0), "q of row 1"),
    (lambda: corrected_share(60.0, 0.9, 0.1), "observed"),
    (lambda: corrected_share(0.6, 90.0, 10.0), "tpr"),
    (lambda: likelihood_aware({"A": 0.9}, {"B": 0.9}), "'A'"),
    (lambda: likelihood_aware({"first": 90.0}, {"first": 10.0}), "ab of row 1"),
    (lambda: likelihood_aware({"first": 0.9}, {"first": 0.1}, tolerance=-1.0), "tolerance"),
    (lambda: combine_judges(SCORES, threshold=50.0), "threshold"),
    (lambda: combine_judges(SCORES, extreme=2.0), "extreme"),
    (lambda: combine_judges(SCORES, iterations=0), "iterations"),
    (lambda: combine_judges(SCORES.replace(1.0, np.inf)), "'a'"),
    (lambda: rank_candidates(["x", "y"], ["c", "d"], ["g", "h"], ["good", "bad"]), "'x'"),
    (lambda: rank_candidates(["good"], ["c"], ["g"], ["good", "bad"], ["fine"]), "'fine'"),
    (lambda: rank_candidates(["good"], ["c"], ["g"], ["good", "bad"], values=[1.0]), "levels"),
    (lambda: rank_candidates(["good"], ["c"], ["g"], []), "levels"),
    (lambda: rank_candidates(["good"], ["c", "d"], ["g"], ["good", "bad"]), "unlike lengths"),
    (lambda: solve_to_judge([True, "perhaps"], [True, False]), "solved of row 2"),
    (lambda: solve_to_judge([True], [True, False]), "1 answers and 2"),
    (lambda: ranking_accuracy([-1.0], [-2.0], band=-1.0), "band"),
    (lambda: ranking_accuracy([-1.0], [-2.0], [3]), "one side alone"),
    (lambda: idealised_ranking([-1.0], [-2.0], 0.1, 75.0), "preferred"),
    (lambda: idealised_ranking([-1.0], [-2.0], 0.0), "beta"),
    (lambda: first_tokens([rollout("a")], {"a": "maybe"}), "'a'"),
    (lambda: first_tokens([rollout("a")], {"a": True}, length=0), "length"),
    (lambda: load_items(PAIRS, "pairs", limit=0), "limit"),
    (lambda: load_items(PAIRS, "pairs", limit=-1), "limit"),
    (lambda: Sampling(temperature=-0.1), "temperature"),
    (lambda: Sampling(temperature=float("nan")), "temperature"),
    (lambda: Sampling(temperature=float("inf")), "temperature"),
    (lambda: Sampling(top_p=0.0), "top_p"),
    (lambda: Sampling(top_p=90.0), "top_p"),
    (lambda: Sampling(max_new_tokens=0), "max_new_tokens"),
    (lambda: Sampling(max_new_tokens=True), "max_new_tokens"),
    (lambda: Sampling(seed=-1), "seed"),
    (lambda: near_duplicates(["a", "b"], 70.0), "threshold"),
    (lambda: near_duplicates(["a", "b"], 0), "threshold"),
    (lambda: merge_groups(["g"], ["a", "b"]), "1 groups for 2 texts"),
    (lambda: join_prompts([]), "no prompt tables"),
]


@pytest.mark.parametrize("k", range(len(REFUSED)))
def test_values_out_of_range_are_errors(k: int) -> None:
    call, names = REFUSED[k]
    with pytest.raises(InputError) as caught:
        call()
    assert names in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_groups_that_duplicates_join_are_reported() -> None:
    texts = [f"Write a python function that returns the {x} of a list of numbers please" for x in ("sum", "mean")] * 10
    with pytest.warns(UserWarning, match="20 groups became 1: 19"):
        assert len(set(merge_groups([f"g{k}" for k in range(20)], texts))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merge_groups(["a", "b"], ["how to bake bread", "why is the sky blue"]) == ["a", "b"]


def test_a_judge_wrong_throughout_is_wrong_not_misread() -> None:
    for verdict, label in (("A", "B"), ("correct", "incorrect"), ("7", "8"), ("D", "A"), ("refusal", "compliance")):
        table = verdict_metrics(SINGLE.assign(verdict=verdict, label=label), resamples=0).table.set_index("name")
        assert table.loc["accuracy", ["estimate", "n"]].tolist() == [0.0, 4]
    blank = verdict_metrics(TABLE.assign(verdict=["A", "", " ", None]), resamples=0).table.set_index("name")
    assert blank.loc["unread", "estimate"] == 0.75


def test_words_and_gaps_are_read_as_truth_values() -> None:
    assert expected_calibration_error([1.0, 0.0], ["True", "False"]) == 0.0
    assert reliability([1.0, 0.0, 0.7, None], ["yes", 0, None, True])["n"].sum() == 2
    table = solve_to_judge(["True", "False", None], [1, "yes", True], resamples=10).set_index("name")
    assert table.loc["solved", ["estimate", "n"]].tolist() == [0.5, 2]
    beginnings = first_tokens([rollout("a"), rollout("b")], {"a": "False", "b": None})
    assert beginnings["refused"].tolist() == [False]


def test_ids_and_labels_of_pairs() -> None:
    rows = [
        {**PAIRS[0], "group": 7, "label": "A"},
        {**PAIRS[0], "id": "x", "label": 0},
        {**PAIRS[0], "id": 1.0},
        {**PAIRS[0], "id": True},
        {**PAIRS[0], "id": "y", "group": ["z"]},
        {**PAIRS[0], "id": "z", "answer_a": 3},
        {**PAIRS[0], "id": "w", "source": 3},
    ]
    found = load_items(rows, "pairs")
    assert [(i.id, i.group, i.label) for i in found.items] == [("3", "7", "A"), ("x", "x", None)]
    kinds = list(zip(found.problems["place"], found.problems["kind"], strict=True))
    assert kinds == [("record 2", "unknown_label"), *((f"record {k}", "malformed") for k in range(3, 8))]


def test_harm_is_set_or_refused(tmp_path: Any) -> None:
    file = tmp_path / "p.csv"
    file.write_text("id,user\na,x\nb,y\n")
    assert load_prompts(file, harm=True)["harm"].tolist() == [True, True]
    assert load_prompts(file, harm=False)["harm"].tolist() == [False, False]
    assert load_prompts(file)["harm"].isna().all()
    file.write_text("id,user,harm\na,x,yes\nb,y,no\n")
    assert load_prompts(file)["harm"].tolist() == [True, False]
    with pytest.raises(InputError, match="'b'"):
        load_prompts(file, harm=True)
    with pytest.raises(InputError, match="part="):
        load_prompts(file, "test")
    known = tmp_path / "x.csv"
    known.write_text("goal,target\nDo it,Sure\n")
    assert load_prompts(known)["harm"].tolist() == [True]
    with pytest.raises(InputError, match="advbench"):
        load_prompts(known, harm=False)


def test_large_effects_of_cleaning_are_told() -> None:
    words = ["alpha", "bravo", "carol", "delta", "eagle", "fancy", "giant", "hotel", "india", "jolly"]
    apart = [" ".join(np.roll(words, k % 10)[: 4 + k // 10]) + f" number {k * 7919}" for k in range(20)]
    crowd = [f"Tell me in plain words how one would build the thing called x{k % 10}" for k in range(40)]
    texts = apart + crowd
    groups = [f"g{k}" for k in range(60)]
    with pytest.warns(UserWarning, match="join 60 groups to 21.*train 7 .asked 21.*validation 3 .asked 9.*test 50"):
        split_rows([k % 2 for k in range(60)], groups, texts=texts)
    prompts = pd.DataFrame({"id": groups, "user": texts})
    with pytest.warns(UserWarning, match="of 60 prompts"):
        without_duplicates(prompts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without_duplicates(prompts.head(20), threshold=1.0)
        split_rows([k % 2 for k in range(20)], groups[:20])
