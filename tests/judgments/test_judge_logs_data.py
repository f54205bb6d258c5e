"""Metrics of public logs against references computed here from the raw files, by other means."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from tests.public_data import DATA, best, some, whole
from verdictscope.judgments.metrics.logs.read import read_log
from verdictscope.judgments.metrics.summary import JudgeMetrics, log_metrics

EXACT = {"abs": 1e-9, "rel": 1e-9}
FEW = {"resamples": 50}
JUDGEBENCH = DATA / "judgebench" / "outputs_gpt-4o__arena_hard__o1-mini.jsonl"
TRIVIA = DATA / "judging_the_judges" / "TriviaQA_Judges_w_HumanJudgement_V1.csv"
PANDALM, XSTEST = best("pandalm"), best("xstest")


def table_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def figures(found: JudgeMetrics, judge: str, part: str) -> dict[str, float]:
    rows = found.table[(found.table["judge"] == judge) & (found.table["part"] == part)]
    return dict(zip(rows["name"], rows["estimate"], strict=True))


# --- JudgeBench ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judgebench() -> JudgeMetrics:
    return log_metrics(whole(f"judgebench/{JUDGEBENCH.name}"), "judgebench", **FEW)


@pytest.mark.parametrize("part", ["all", "mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench"])
def test_judgebench_by_its_own_rule(judgebench: JudgeMetrics, part: str) -> None:
    rows = [json.loads(line) for line in JUDGEBENCH.read_text(encoding="utf-8").splitlines()]
    rows = [r for r in rows if part == "all" or r["source"].startswith(part)]
    turned = {"A>B": "B>A", "B>A": "A>B"}
    sums, both, consistent, first = [], 0, 0, 0
    truth, said = [], []
    for row in rows:
        one, two = (game["decision"] for game in row["judgments"])
        first += (one == "A>B") + (two == "A>B")
        two = turned.get(two, two)
        wrong = turned[row["label"]]
        sums.append(sum((d == row["label"]) - (d == wrong) for d in (one, two)))
        both += one == two == row["label"]
        consistent += one == two
        truth += [row["label"]] * 2
        said += [one, two]
    n = len(rows)
    found = figures(judgebench, "arena_hard/o1-mini-2024-09-12", part)
    assert found["two_order_score"] == pytest.approx(np.mean([s > 0 for s in sums]), **EXACT)
    assert found["two_order_wrong"] == pytest.approx(np.mean([s < 0 for s in sums]), **EXACT)
    assert found["consistent_accuracy"] == pytest.approx(both / n, **EXACT)
    assert found["consistency"] == pytest.approx(consistent / n, **EXACT)
    assert found["flip_rate"] == pytest.approx(1 - consistent / n, **EXACT)
    assert found["first_preference"] == pytest.approx(first / (2 * n), **EXACT)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, said), **EXACT)
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, said), **EXACT)
    scores = sk.precision_recall_fscore_support(truth, said, average="macro", zero_division=0)[:3]
    assert [found[f"macro_{k}"] for k in ("precision", "recall", "f1")] == pytest.approx(scores, **EXACT)
    assert found["kappa_orders"] == pytest.approx(sk.cohen_kappa_score(said[0::2], said[1::2]), **EXACT)


def test_judgebench_published_score(judgebench: JudgeMetrics) -> None:
    # o1-mini on the GPT-4o pairs, JudgeBench (2410.12784), table of arena-hard judges: 65.71 overall
    assert round(100 * judgebench.value("two_order_score", part="all"), 2) == 65.71


# --- Judging the Judges -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trivia() -> JudgeMetrics:
    return log_metrics(whole(f"judging_the_judges/{TRIVIA.name}"), "judging_the_judges", **FEW)


JUDGES = (
    "Mistral-7B",
    "Llama-7B",
    "Llama-13B",
    "Llama3-8B",
    "Gemma-2B",
    "Llama-70B",
    "EM",
    "Llama3-70B",
    "GPT-4",
    "JudgeLM",
    "Contains",
)


@pytest.mark.parametrize("judge", JUDGES)
def test_judging_the_judges(trivia: JudgeMetrics, judge: str) -> None:
    rows = table_rows(TRIVIA)
    read = [r for r in rows if r[judge]]
    said, truth = ([r[c] == "True" for r in read] for c in (judge, "HumanJudgement"))
    found = figures(trivia, judge, "all")
    assert found["unread"] == pytest.approx(1 - len(read) / 3600, **EXACT)
    assert found["accuracy"] == pytest.approx(np.sum(np.equal(said, truth)) / 3600, **EXACT)
    assert found["accuracy_read"] == pytest.approx(sk.accuracy_score(truth, said), **EXACT)
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, said), **EXACT)
    pooled = (np.mean(said) + np.mean(truth)) / 2
    chance = pooled**2 + (1 - pooled) ** 2
    assert found["pi"] == pytest.approx((found["accuracy_read"] - chance) / (1 - chance), **EXACT)
    tpr, tnr = sk.recall_score(truth, said), sk.recall_score(truth, said, pos_label=False)
    rates = [tpr, tnr, tpr + tnr - 1, (tpr - (tpr + tnr - 1)) / (2 - tpr - tnr)]
    assert [found[k] for k in ("tpr", "tnr", "p_c", "p_plus")] == pytest.approx(rates, **EXACT)
    assert found["precision"] == pytest.approx(sk.precision_score(truth, said), **EXACT)
    assert found["f1"] == pytest.approx(sk.f1_score(truth, said), **EXACT)
    assert found["score_difference"] == pytest.approx(np.mean(said) - np.mean(truth), **EXACT)
    takers = sorted({r["model"] for r in rows})
    scores = [
        [np.mean([r[c] == "True" for r in read if r["model"] == m]) for m in takers] for c in (judge, "HumanJudgement")
    ]
    assert found["candidate_spearman"] == pytest.approx(stats.spearmanr(*scores)[0], **EXACT)
    assert found["candidate_kendall"] == pytest.approx(stats.kendalltau(*scores)[0], **EXACT)
    assert found["candidate_gap"] == pytest.approx(np.abs(np.subtract(*scores)).mean(), **EXACT)


def test_judging_the_judges_together(trivia: JudgeMetrics) -> None:
    rows = table_rows(TRIVIA)
    whole = [[r[j] for j in JUDGES] for r in rows if all(r[j] for j in JUDGES)]
    panel = figures(trivia, "(panel)", "all")
    assert panel["unanimous"] == pytest.approx(np.mean([len(set(v)) == 1 for v in whole]), **EXACT)
    kappas = []
    for i, one in enumerate(JUDGES):
        for two in JUDGES[i + 1 :]:
            pairs = [(r[one], r[two]) for r in rows if r[one] and r[two]]
            kappas.append(sk.cohen_kappa_score(*zip(*pairs, strict=True)))
    assert panel["pairwise_kappa"] == pytest.approx(np.mean(kappas), **EXACT)
    counts = np.array([[v.count("True"), v.count("False")] for v in whole], dtype=float)
    agree = (counts * (counts - 1)).sum(axis=1) / (11 * 10)
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    assert panel["fleiss_kappa"] == pytest.approx((agree.mean() - chance) / (1 - chance), **EXACT)
    votes = [Counter(r[j] for j in JUDGES if r[j]) for r in rows]
    said = [None if not v or v["True"] == v["False"] else v["True"] > v["False"] for v in votes]
    right = np.mean([s is not None and s == (r["HumanJudgement"] == "True") for s, r in zip(said, rows, strict=True)])
    assert figures(trivia, "(majority)", "all")["accuracy"] == pytest.approx(right, **EXACT)


def test_blanks_are_counted(trivia: JudgeMetrics) -> None:
    # DATA.md: 5 rows blank in every judge, Llama-70B has 135 blanks
    assert trivia.counts["status"] == {"ok": 39600 - 185, "empty": 10 * 5 + 135}
    rows = trivia.table[(trivia.table["name"] == "kappa") & (trivia.table["judge"] == "Llama-70B")]
    assert rows[["n", "missing"]].iloc[0].to_list() == [3465, 135]


# --- PandaLM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "column"), [("pandalm-7b", "pandalm"), ("gpt-3.5-turbo", "gpt")])
def test_pandalm(file: str, column: str) -> None:
    gold = {r["idx"]: r for r in json.loads((PANDALM / "testset-v1.json").read_text())}
    said = json.loads((PANDALM / f"{file}-testset-v1.json").read_text())
    names = {"0": "tie", "1": "A", "2": "B", "Tie": "tie"}
    rows = []
    for row in said:
        votes = [gold[row["idx"]][f"annotator{k}"] for k in (1, 2, 3)]
        top = max(set(votes), key=votes.count)
        rows.append((names[str(top)], names.get(str(row[f"{column}_result"])), votes.count(top)))
    assert min(n for _, _, n in rows) >= 2
    # the README's table of the test set: 105 ties, 422 first, 472 second
    if len(rows) == 999:
        assert Counter(g for g, _, _ in rows) == {"tie": 105, "A": 422, "B": 472}
    found = log_metrics(PANDALM / f"{file}-testset-v1.json", "pandalm", **FEW)
    truth, verdict = zip(*[(g, v) for g, v, _ in rows if v is not None], strict=True)
    ours = figures(found, column, "all")
    assert ours["accuracy"] == pytest.approx(np.mean([g == v for g, v, _ in rows]), **EXACT)
    assert ours["accuracy_read"] == pytest.approx(sk.accuracy_score(truth, verdict), **EXACT)
    assert ours["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, verdict), **EXACT)
    scores = sk.precision_recall_fscore_support(truth, verdict, average="macro")[:3]
    assert [ours[f"macro_{k}"] for k in ("precision", "recall", "f1")] == pytest.approx(scores, **EXACT)
    assert ours["unread"] == pytest.approx(np.mean([v is None for _, v, _ in rows]), **EXACT)
    humans = figures(found, "(panel)", "annotators")
    pairs = [
        sk.cohen_kappa_score(*([r[f"annotator{k}"] for r in gold.values()] for k in ks))
        for ks in ((1, 2), (1, 3), (2, 3))
    ]
    assert humans["pairwise_kappa"] == pytest.approx(np.mean(pairs), **EXACT)


# --- XSTest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(XSTEST.glob("xstest_v2_completions_*.csv")), ids=lambda p: p.stem[22:])
def test_xstest(file: Path) -> None:
    from verdictscope.judgments.refusal import refused

    rows = table_rows(file)
    found = log_metrics(file, "xstest", **FEW)
    matched = [refused(r["completion"]) for r in rows]
    label = [r["final_label"] for r in rows]
    clear = [k for k, name in enumerate(label) if name != "3_partial_refusal"]
    cases = {
        "not_full_compliance": (range(len(rows)), [name != "1_full_compliance" for name in label]),
        "full_refusal": (range(len(rows)), [name == "2_full_refusal" for name in label]),
        "clear_cases": (clear, [name == "2_full_refusal" for name in label]),
    }
    for part, (at, truth) in cases.items():
        ours = figures(found, "verdictscope", part)
        truth, said = [truth[k] for k in at], [matched[k] for k in at]
        assert ours["kappa"] == pytest.approx(sk.cohen_kappa_score(truth, said), **EXACT)
        assert ours["accuracy_read"] == pytest.approx(sk.accuracy_score(truth, said), **EXACT)
    safe = [r for r in rows if not r["type"].startswith("contrast")]
    ours = figures(found, "verdictscope", "safe_requests")
    over = np.mean([r["final_label"] != "1_full_compliance" for r in safe])
    assert ours["positive_rate_label"] == pytest.approx(over, **EXACT)
    three = figures(found, "annotation_1", "three_way")
    assert three["kappa"] == pytest.approx(sk.cohen_kappa_score([r["annotation_1"] for r in rows], label), **EXACT)
    two = figures(found, "(panel)", "three_way")
    both = [[r[f"annotation_{k}"] for r in rows] for k in (1, 2)]
    assert two["pairwise_kappa"] == pytest.approx(sk.cohen_kappa_score(*both), **EXACT)


# --- the command line ---------------------------------------------------------------------------------------------


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "verdictscope", "judge", "metrics", *map(str, words)], capture_output=True, text=True
    )


def test_the_command_prints_one_json_object() -> None:
    done = command(whole(f"judgebench/{JUDGEBENCH.name}"), "--format", "judgebench", "--json", "--resamples", "50")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout, parse_constant=pytest.fail)
    keys = {
        "format",
        "log",
        "file",
        "resamples",
        "seed",
        "rows",
        "items",
        "groups",
        "verdicts",
        "problems",
        "status",
        "judges",
        "parts",
        "warnings",
        "problem_rows",
        "figures",
        "calibration",
    }
    assert set(told) == keys
    assert (told["rows"], told["items"], told["verdicts"]) == (350, 350, 700)
    score = next(f for f in told["figures"] if f["name"] == "two_order_score" and f["part"] == "all")
    assert score["estimate"] == pytest.approx(230 / 350)
    assert score["low"] < score["estimate"] < score["high"]
    assert score["definition"]


def test_a_set_without_verdicts_is_one_line_and_exit_2() -> None:
    done = command(some("llmbar/Natural.json"), "--format", "llmbar")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no results" in done.stderr


@pytest.mark.parametrize("name", ["llmbar/Natural.json", "rbd_bias4/Arena_Position_and_Bandwagon.json"])
def test_other_sets_without_verdicts(name: str) -> None:
    from verdictscope.errors import InputError

    with pytest.raises(InputError, match="no results|no verdicts"):
        read_log(some(name), "llmbar" if name.startswith("llmbar") else "rbd")
