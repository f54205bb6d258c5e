"""Figures of judges against references of others, worked examples and brute force, and what must not change them."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.agreement import agreement_measures
from verdictscope.judgments.metrics.bias import denoised, flip_noise
from verdictscope.judgments.metrics.calibration import (
    calibration_measures,
    expected_calibration_error,
    reliability,
    risk_coverage_area,
)
from verdictscope.judgments.metrics.consistency import (
    conflict_ratio,
    non_transitivity,
    relation_of_orders,
    relation_of_scores,
    triple_kind,
)
from verdictscope.judgments.metrics.measure import contrast, measured, share
from verdictscope.judgments.metrics.panel import (
    combine_judges,
    conjunction,
    fleiss_kappa,
    majority_vote,
    pairwise_kappa,
    panel_measures,
    vote_shares,
)
from verdictscope.judgments.metrics.ranking import corrected_levels, corrected_share, identifiability, rank_candidates
from verdictscope.judgments.metrics.solving import idealised_ranking, ranking_accuracy, solve_to_judge
from verdictscope.judgments.metrics.summary import verdict_metrics
from verdictscope.judgments.verdicts import verdicts_frame

EXACT = {"abs": 1e-9, "rel": 1e-9}


def column(values: list[str | None]) -> np.ndarray:
    return np.array(values, dtype=object)


def estimates(measures: list, n: int) -> dict[str, float]:
    table = measured(measures, [str(k) for k in range(n)], resamples=10)
    return dict(zip(table["name"], table["estimate"], strict=True))


verdicts_and_labels = st.lists(
    st.tuples(st.sampled_from(["A", "B", "tie", None]), st.sampled_from(["A", "B", "tie"])), min_size=3, max_size=60
)


@given(verdicts_and_labels)
@settings(max_examples=25, deadline=None)
def test_agreement_equals_scikit_learn(rows: list[tuple[str | None, str]]) -> None:
    verdict, label = column([v for v, _ in rows]), column([g for _, g in rows])
    found = estimates(agreement_measures(verdict, label, ("A", "B", "tie")), len(rows))
    read = [(v, g) for v, g in rows if v is not None]
    assert found["unread"] == pytest.approx(1 - len(read) / len(rows), **EXACT)
    assert found["accuracy"] == pytest.approx(np.mean([v == g for v, g in rows]), **EXACT)
    if not read:
        assert np.isnan(found["accuracy_read"])
        return
    said, truth = [v for v, _ in read], [g for _, g in read]
    assert found["accuracy_read"] == pytest.approx(sk.accuracy_score(truth, said), **EXACT)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, said, average="macro", zero_division=0)
    for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert found[f"macro_{name}"] == pytest.approx(value, **EXACT)
    if len(set(said) | set(truth)) > 1:
        assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, said), **EXACT)
        whole = sk.cohen_kappa_score([g for _, g in rows], [v or "none" for v, _ in rows])
        assert found["kappa_unread"] == pytest.approx(whole, **EXACT)
    else:
        assert np.isnan(found["kappa"])  # chance alone agrees fully


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=8, max_size=60))
@settings(max_examples=20, deadline=None)
def test_two_way_figures(rows: list[tuple[bool, bool]]) -> None:
    said, truth = [v for v, _ in rows], [g for _, g in rows]
    name = {True: "correct", False: "incorrect"}
    made = agreement_measures(
        column([name[v] for v in said]), column([name[v] for v in truth]), ("correct", "incorrect"), positive="correct"
    )
    found = estimates(made, len(rows))
    pooled = [(np.sum([v == x for v in said]) + np.sum([v == x for v in truth])) / (2 * len(rows)) for x in (0, 1)]
    chance = sum(p**2 for p in pooled)
    if chance < 1:
        observed = np.mean([a == b for a, b in rows])
        assert found["pi"] == pytest.approx((observed - chance) / (1 - chance), **EXACT)
    if 0 < sum(truth) < len(truth):
        tn, fp, fn, tp = sk.confusion_matrix(truth, said, labels=[False, True]).ravel()
        tpr, tnr = tp / (tp + fn), tn / (tn + fp)
        assert found["tpr"] == pytest.approx(tpr, **EXACT)
        assert found["tnr"] == pytest.approx(tnr, **EXACT)
        assert found["p_c"] == pytest.approx(tpr + tnr - 1, **EXACT)
        if found["p_c"] < 1:  # the two numbers give the rates back
            p_c, p_plus = found["p_c"], found["p_plus"]
            assert p_c + (1 - p_c) * p_plus == pytest.approx(tpr, **EXACT)
            assert p_c + (1 - p_c) * (1 - p_plus) == pytest.approx(tnr, **EXACT)
    assert found["score_difference"] == pytest.approx(np.mean(said) - np.mean(truth), **EXACT)
    if any(truth) or any(said):
        assert found["f1"] == pytest.approx(sk.f1_score(truth, said), **EXACT)


def test_worked_examples_of_kappa_and_pi() -> None:
    # 20 both yes, 5 and 10 split, 15 both no: po .7, Cohen's pe .5, Scott's pe .5050
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = estimates(agreement_measures(column(second), column(first), ("yes", "no")), 50)
    assert found["kappa"] == pytest.approx(0.4, **EXACT)
    assert found["pi"] == pytest.approx((0.7 - 0.505) / 0.495, **EXACT)


def test_fleiss_kappa_worked_example() -> None:
    # Fleiss 1971's form of example: 10 subjects, 14 raters, 5 categories; kappa .210 (three digits are published)
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ],
        float,
    )
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_two_raters_fleiss_is_scotts_pi() -> None:
    votes = pd.DataFrame({"a": list("xxyyxyxy"), "b": list("xyyyxxxy")}, dtype=object)
    found = estimates(panel_measures(votes, ["x", "y"]), 8)
    pi = estimates(agreement_measures(column(list(votes["a"])), column(list(votes["b"])), ("x", "y")), 8)["pi"]
    assert found["fleiss_kappa"] == pytest.approx(pi, **EXACT)
    assert found["pairwise_kappa"] == pytest.approx(sk.cohen_kappa_score(votes["a"], votes["b"]), **EXACT)
    assert pairwise_kappa(votes, ["x", "y"])["kappa"][0] == pytest.approx(found["pairwise_kappa"], **EXACT)


def test_votes() -> None:
    votes = pd.DataFrame({"a": ["x", "x", None], "b": ["x", "y", None], "c": ["y", None, "x"]}, dtype=object)
    assert list(majority_vote(votes)) == ["x", None, "x"]
    assert vote_shares(votes, ["x", "y"]).sum(axis=1).to_list() == pytest.approx([1, 1, 1])
    assert vote_shares(votes, ["x", "y"])["unread"].to_list() == pytest.approx([0, 1 / 3, 2 / 3])
    assert list(conjunction(votes, "x", "y")) == ["y", "y", None]


# --- calibration --------------------------------------------------------------------------------------------------

confident = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=2, max_size=7)


@given(confident)
@settings(max_examples=25, deadline=None)
def test_risk_coverage_area_is_the_mean_over_all_orders_of_ties(rows: list[tuple[float, bool]]) -> None:
    areas = set()
    total, count = 0.0, 0
    for order in permutations(range(len(rows))):
        if any(rows[a][0] < rows[b][0] for a, b in zip(order, order[1:], strict=False)):
            continue
        risk = np.cumsum([not rows[k][1] for k in order]) / np.arange(1, len(rows) + 1)
        area = np.trapezoid(risk, np.arange(1, len(rows) + 1) / len(rows))
        areas.add(round(area, 9))
        total, count = total + area, count + 1
    found = risk_coverage_area([c for c, _ in rows], [r for _, r in rows])
    assert found[0] == pytest.approx(total / count, **EXACT)


@given(confident, st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_weights_of_the_area_are_repeats(rows: list[tuple[float, bool]], seed: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 3, len(rows))
    repeated = [row for row, w in zip(rows, weights, strict=True) for _ in range(w)]
    found = risk_coverage_area([c for c, _ in rows], [r for _, r in rows], weights[None].astype(float))
    again = risk_coverage_area([c for c, _ in repeated], [r for _, r in repeated])
    np.testing.assert_allclose(found, again, atol=1e-9)


def test_calibration_by_hand() -> None:
    confidence, right = [0.95, 1.0, 0.85, 0.85, 0.1, 0.8, np.nan], [True, False, True, False, True, False, True]
    # bins [.1,.2): .1, right; [.8,.9): .85 .85 .8, one right; [.9,1]: .95 1., one right
    ece = (abs(0.1 - 1) + abs(2.5 - 1) + abs(1.95 - 1)) / 6
    assert expected_calibration_error(confidence[:6], right[:6]) == pytest.approx(ece, **EXACT)
    found = estimates(calibration_measures(confidence, right, np.ones(7, bool)), 7)
    assert found["ece"] == pytest.approx(ece, **EXACT)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(right[:6], confidence[:6]), **EXACT)
    assert found["wrong_at_0.8"] == pytest.approx(3 / 5)
    assert found["wrong_at_0.9"] == pytest.approx(1 / 2)
    table = reliability(confidence, right)
    assert table["n"].to_list() == [0, 1, 0, 0, 0, 0, 0, 0, 3, 2]
    nobody = estimates(calibration_measures([0.1, 0.2], [True, False], np.ones(2, bool)), 2)
    assert np.isnan(nobody["wrong_at_0.95"])


def test_confidence_on_an_edge_belongs_to_the_bin_above() -> None:
    table = reliability([k / 10 for k in range(11)], [True] * 11)
    assert table["n"].to_list() == [1] * 9 + [2]


# --- repeats and flips --------------------------------------------------------------------------------------------


def test_noise_of_flips() -> None:
    q = 0.1
    agreement = (1 - q) ** 2 + q**2
    assert float(flip_noise(agreement)) == pytest.approx(q, **EXACT)
    assert np.isnan(flip_noise(0.4))
    seen = 0.7 * (1 - q) + 0.3 * q
    assert float(denoised(seen, flip_noise(agreement))) == pytest.approx(0.7, **EXACT)
    assert (seen - (1 - agreement)) / (1 - 2 * (1 - agreement)) == pytest.approx(0.75, abs=1e-12)  # the earlier formula


def test_self_consistency_against_all_pairs_of_runs() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {
            "item": f"i{i}",
            "group": f"i{i}",
            "judge": "j",
            "order": "AB",
            "run": r,
            "label": "A",
            "verdict": rng.choice(np.array(["A", "B", None], dtype=object)),
        }
        for i in range(30)
        for r in range(4)
    ]
    found = verdict_metrics(verdicts_frame(rows), resamples=20)
    by_item = [[v for v in (r["verdict"] for r in rows if r["item"] == f"i{i}") if v is not None] for i in range(30)]
    each = [np.mean([a == b for a, b in combinations(said, 2)]) for said in by_item if len(said) > 1]
    assert found.value("self_consistency") == pytest.approx(np.mean(each), **EXACT)
    assert found.table["name"].iloc[0] == "repeat_flip_rate"  # the floor stands first
    assert found.value("repeat_flip_rate") == pytest.approx(1 - np.mean(each), **EXACT)


# --- pairs, triples, candidates -----------------------------------------------------------------------------------


def test_thirteen_weak_orders() -> None:
    sign = {1: "larger", 0: "equal", -1: "smaller"}
    possible = {
        tuple(sign[int(np.sign(r[a] - r[b]))] for a, b in ((0, 1), (1, 2), (0, 2))) for r in product(range(3), repeat=3)
    }
    assert len(possible) == 13
    for three in product(sign.values(), repeat=3):
        assert (triple_kind(*three) == "ok") == (three in possible)


def test_kind_of_a_contradiction_does_not_depend_on_names() -> None:
    relations = {("x", "y"): "larger", ("y", "z"): "larger", ("x", "z"): "equal"}
    for names in permutations("abc"):
        to = dict(zip("xyz", names, strict=True))
        found = non_transitivity({(to[a], to[b]): r for (a, b), r in relations.items()})
        assert (found.cycles, found.tie_contradictions, found.rate) == (0, 1, 1.0)


@given(
    st.dictionaries(
        st.sampled_from(list(combinations("abcde", 2))),
        st.sampled_from(["larger", "equal", "smaller"]),
        min_size=10,
        max_size=10,
    ),
    st.sampled_from([3, 4, 5]),
)
@settings(max_examples=30, deadline=None)
def test_transitivity_by_brute_force(relations: dict, k: int) -> None:
    def fits(subset: tuple[str, ...]) -> bool:
        for ranks in product(range(len(subset)), repeat=len(subset)):
            value = dict(zip(subset, ranks, strict=True))
            if all(
                {1: "larger", 0: "equal", -1: "smaller"}[int(np.sign(value[a] - value[b]))] == relations[a, b]
                for a, b in combinations(subset, 2)
            ):
                return True
        return False

    subsets = list(combinations("abcde", k))
    assert non_transitivity(relations, k).rate == pytest.approx(np.mean([not fits(s) for s in subsets]), **EXACT)


def test_conflict_ratio_leaves_unread_out() -> None:
    ab, ba = column(["A", "A", "B", "tie", None, "A"]), column(["A", "B", "B", "tie", "A", "A"])
    relation = relation_of_orders(ab, ba)
    assert list(relation) == ["larger", "equal", "smaller", "equal", None, "larger"]
    scores = relation_of_scores([3, 3, 2, 4, 5, np.nan], [3, 3, 5, 4, 1, 1])
    assert list(scores) == ["equal", "equal", "smaller", "equal", "larger", None]
    row = measured([conflict_ratio(relation, scores)], list("abcdef")).iloc[0]
    assert (row["estimate"], row["n"], row["missing"]) == (0.25, 4, 2)


def test_ranking_by_log_probability() -> None:
    chosen, rejected = np.array([-10.0, -30.0, -5.0, np.nan]), np.array([-20.0, -15.0, -5.005, -1.0])
    found = estimates(ranking_accuracy(chosen, rejected, [10, 60, 5, 1], [10, 10, 5, 1], band=0.01), 4)
    assert found["ranking_accuracy"] == pytest.approx(1 / 3)
    assert found["ranking_ties"] == pytest.approx(1 / 3)
    assert found["ranking_per_token_accuracy"] == pytest.approx(2 / 3)
    ideal = estimates([idealised_ranking(chosen[:3], rejected[:3], 0.05)], 3)  # adds log(3) / .05 = 21.97 nats
    assert ideal["ranking_accuracy_ideal"] == pytest.approx(1.0)


def test_solving_and_judging() -> None:
    solved = [True] * 6 + [False] * 3 + [None]
    judged = [True, True, True, True, False, None, True, False, False, True]
    found = solve_to_judge(solved, judged).set_index("name")
    assert found.loc["solve_judge_gap", "estimate"] == pytest.approx(1 / 5)
    assert found.loc["judge_without_solving", "estimate"] == pytest.approx(1 / 3)
    assert (found.loc["solved", "n"], found.loc["solved", "missing"]) == (8, 2)


def test_two_level_correction_gives_the_true_shares_back() -> None:
    theta, tpr, fpr = np.array([0.9, 0.5, 0.2]), 0.8, 0.3
    observed = theta * tpr + (1 - theta) * fpr
    np.testing.assert_allclose(corrected_share(observed, tpr, fpr), theta, atol=1e-12)
    assert np.isnan(corrected_share(0.5, 0.3, 0.3))
    m = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.05, 0.15, 0.8]])
    shares = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(corrected_levels(m.T @ shares, m), shares, atol=1e-6)
    assert identifiability(m) is None
    assert "three" in str(identifiability(None, 3)).lower() or "3 levels" in str(identifiability(None, 3))
    assert "FPR" in str(identifiability(np.array([[0.4, 0.6], [0.5, 0.5]])))


def test_ranking_without_labels_is_refused_from_three_levels_on() -> None:
    with pytest.raises(InputError, match="confusion"):
        rank_candidates(["good", "bad"], ["a", "b"], ["1", "2"], ["good", "fair", "bad"])


def test_ranking_of_candidates() -> None:
    rng = np.random.default_rng(0)
    n, theta = 400, {"a": 0.8, "b": 0.5, "c": 0.3}
    rows = [(c, str(i), rng.random() < t) for c, t in theta.items() for i in range(n)]
    candidate, groups, truth = zip(*rows, strict=True)
    said = [bool(rng.random() < (0.9 if t else 0.4)) for t in truth]
    words = {True: "yes", False: "no"}
    found = rank_candidates(
        [words[s] for s in said], candidate, groups, ["yes", "no"], [words[t] for t in truth], resamples=200
    )
    table = found.to_frame().set_index("candidate")
    assert not found.warnings
    assert table["rank"].to_list() == [1, 2, 3]
    for name in theta:
        true = np.mean([t for c, _, t in rows if c == name])
        assert table.loc[name, "low"] < true < table.loc[name, "high"]
        if name != "a":  # .8 is this judge's fixed point, FPR / (1 - TPR + FPR): there is nothing to correct
            assert abs(table.loc[name, "corrected"] - true) < abs(table.loc[name, "observed"] - true)


def test_labels_are_found_without_labels() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(4000) < 0.6
    rates = {"a": (0.9, 0.8), "b": (0.7, 0.9), "c": (0.8, 0.7), "d": (0.6, 0.75), "constant": (1.0, 0.0)}
    scores = {name: np.where(truth, rng.random(4000) < p, rng.random(4000) > q) * 1.0 for name, (p, q) in rates.items()}
    frame = pd.DataFrame(scores)
    frame["copy"] = frame["a"]
    frame.loc[rng.random(4000) < 0.1, "b"] = np.nan
    found = combine_judges(frame)
    table = found.judges.set_index("judge")
    assert table.index[table["kept"]].to_list() == ["a", "b", "c", "d"]
    assert "says positive" in table.loc["constant", "reason"]
    assert "repeats a" in table.loc["copy", "reason"]
    for name in "abcd":
        assert table.loc[name, ["tpr", "tnr"]].to_list() == pytest.approx(rates[name], abs=0.05)
    assert found.prior == pytest.approx(0.6, abs=0.04)
    combined = np.mean((found.posterior >= 0.5) == truth)
    assert combined >= max(np.mean((frame[c] >= 0.5) == truth) for c in "acd")
    with pytest.raises(InputError, match="three"):
        combine_judges(frame[["a", "b"]])


# --- the engine ---------------------------------------------------------------------------------------------------


def test_contrast_is_paired() -> None:
    rng = np.random.default_rng(2)
    first = rng.random(200) < 0.5
    one = share("one", first, np.ones(200, bool), "")
    row = measured([contrast("gap", one, one, "")], [str(k) for k in range(200)]).iloc[0]
    assert row["estimate"] == 0.0
    assert -0.05 < row["low"] < 0 < row["high"] < 0.05  # every pair alike is no certainty


def test_interval_of_a_share_at_the_end_has_width() -> None:
    row = measured([share("all", [True] * 20, [True] * 20, "")], [str(k) for k in range(20)]).iloc[0]
    assert row["estimate"] == row["high"] == 1.0
    assert 0.8 < row["low"] < 0.9


def test_without_resamples_there_are_numbers_and_no_interval() -> None:
    row = measured([share("half", [True, False] * 5, [True] * 10, "")], list("abcdefghij"), resamples=0).iloc[0]
    assert row["estimate"] == 0.5
    assert np.isnan(row["low"])


def test_groups_are_drawn_whole() -> None:
    hits = np.repeat(np.arange(30) % 2 == 0, 20)
    groups = np.repeat([f"g{k}" for k in range(30)], 20)
    whole = measured([share("x", hits, np.ones(600, bool), "")], groups).iloc[0]
    alone = measured([share("x", hits, np.ones(600, bool), "")], [str(k) for k in range(600)]).iloc[0]
    assert whole["groups"] == 30
    assert (whole["high"] - whole["low"]) > 3 * (alone["high"] - alone["low"])


def test_candidates_ranked_alike() -> None:
    from verdictscope.judgments.metrics.ranking import candidate_measures

    rng = np.random.default_rng(5)
    who = np.array(list("abcdef") * 20, dtype=object)
    label = np.where(rng.random(120) < 0.5, "correct", "incorrect").astype(object)
    said = np.where(rng.random(120) < 0.8, label, "correct").astype(object)
    found = estimates(candidate_measures(said, label, who, "correct"), 120)
    score = lambda x: [np.mean(x[who == c] == "correct") for c in "abcdef"]  # noqa: E731
    assert found["candidate_spearman"] == pytest.approx(stats.spearmanr(score(said), score(label))[0], **EXACT)
    assert found["candidate_kendall"] == pytest.approx(stats.kendalltau(score(said), score(label))[0], **EXACT)
    gap = np.abs(np.array(score(said)) - score(label)).mean()
    assert found["candidate_gap"] == pytest.approx(gap, **EXACT)
