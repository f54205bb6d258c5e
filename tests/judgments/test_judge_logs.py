"""What must not change a judge's figures, judges whose figures are known, and rows that are no verdicts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verdictscope.errors import InputError
from verdictscope.judgments.metrics.logs.read import LOG_FORMATS, read_log
from verdictscope.judgments.metrics.summary import JudgeMetrics, log_metrics, verdict_metrics
from verdictscope.judgments.verdicts import check_verdicts, other_side, shown_as, verdicts_frame

FEW = {"resamples": 40}
OF_AN_ORDER = {"accuracy_ab": "accuracy_ba", "accuracy_ba": "accuracy_ab", "says_A": "says_B", "says_B": "says_A"}


def table_of(rows: list[tuple[str, str | None, str | None]], runs: int = 1) -> pd.DataFrame:
    """(label, verdict in AB, verdict in BA) per item, in the item's own frame."""
    made = []
    for k, (label, ab, ba) in enumerate(rows):
        for order, said in (("AB", ab), ("BA", ba)):
            made.append(
                {
                    "item": f"i{k}",
                    "group": f"g{k // 2}",
                    "judge": "j",
                    "order": order,
                    "run": k % runs,
                    "verdict": said,
                    "shown": shown_as(said, order),
                    "label": label,
                    "probability": 0.5 + (k % 5) / 10,
                    "status": "ok" if said else "unparsed",
                }
            )
    return verdicts_frame(made)


def values(found: JudgeMetrics) -> dict[str, float]:
    return dict(zip(found.table["name"], found.table["estimate"], strict=True))


judged = st.lists(
    st.tuples(st.sampled_from("AB"), *[st.sampled_from(["A", "B", "tie", None])] * 2), min_size=2, max_size=25
)


@given(judged)
@settings(max_examples=15, deadline=None)
def test_exchanging_a_and_b_changes_no_figure_that_is_free_of_order(rows: list) -> None:
    table = table_of(rows)
    turned = table.assign(
        verdict=[other_side(v) for v in table["verdict"]],
        label=[other_side(v) for v in table["label"]],
        order=table["order"].map({"AB": "BA", "BA": "AB"}),
    )
    one, two = verdict_metrics(table, **FEW), verdict_metrics(turned, **FEW)
    before, after = values(one), values(two)
    for name, value in before.items():
        assert after[OF_AN_ORDER.get(name, name)] == pytest.approx(value, abs=1e-12, nan_ok=True), name
    bounds = [t.table.set_index("name").drop(index=list(OF_AN_ORDER))[["low", "high"]] for t in (one, two)]
    np.testing.assert_allclose(*(b.to_numpy() for b in bounds), atol=1e-9)


@given(judged, st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_permuting_rows_changes_nothing(rows: list, seed: int) -> None:
    table = table_of(rows)
    mixed = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(verdict_metrics(table, **FEW).table, verdict_metrics(mixed, **FEW).table)


def test_a_judge_that_always_says_first() -> None:
    rows = [("A" if k % 4 else "B", "A", "B") for k in range(40)]
    found = values(verdict_metrics(table_of(rows), **FEW))
    known = {
        "accuracy": 0.5,
        "accuracy_ab": 0.75,
        "accuracy_ba": 0.25,
        "accuracy_gold_first": 1.0,
        "accuracy_gold_second": 0.0,
        "position_bias": 1.0,
        "two_order_score": 0.0,
        "two_order_wrong": 0.0,
        "two_order_undecided": 1.0,
        "consistent_accuracy": 0.0,
        "flip_rate": 1.0,
        "robust_rate": 0.0,
        "consistency": 0.0,
        "first_preference": 1.0,
        "second_preference": 0.0,
        "tie_share": 0.0,
        "preference_gap": 1.0,
        "always_first": 1.0,
        "always_second": 0.0,
        "delta_bias": 1.0,
        "unread": 0.0,
        "kappa": 0.0,
        "kappa_orders": 0.0,  # they never agree, and by their shares they never would: (0 - 0) / (1 - 0)
    }
    assert {name: found[name] for name in known} == pytest.approx(known)
    assert np.isnan(found["repeat_flip_rate"])


def test_a_judge_that_is_never_read_agrees_with_nobody() -> None:
    found = values(verdict_metrics(table_of([("A", None, None)] * 6), **FEW))
    assert (found["unread"], found["accuracy"], found["consistency"], found["two_order_score"]) == (1.0, 0.0, 0.0, 0.0)
    assert found["two_order_undecided"] == 1.0
    assert np.isnan([found[n] for n in ("accuracy_read", "flip_rate", "robust_rate", "tie_share", "kappa")]).all()


def test_a_table_that_contradicts_itself_is_refused() -> None:
    table = table_of([("A", "A", "B")])
    with pytest.raises(InputError, match="twice"):
        check_verdicts(pd.concat([table, table]))
    with pytest.raises(InputError, match="order"):
        check_verdicts(table.assign(order="CD"))
    with pytest.raises(InputError, match="verdict"):
        check_verdicts(table.drop(columns="verdict"))


# --- logs ---------------------------------------------------------------------------------------------------------


def pair(k: int, decisions: tuple[Any, ...] = ("A>B", "B>A"), label: str = "A>B", **more: Any) -> dict[str, Any]:
    games = [None if d == "failed" else {"judgment": {"judge_model": "m"}, "decision": d} for d in decisions]
    return {
        "pair_id": f"p{k}",
        "original_id": str(k),
        "source": "mmlu-pro-law",
        "question": "q",
        "response_A": "a",
        "response_B": "b",
        "label": label,
        "judge_name": "arena_hard",
        "judgments": games,
        **more,
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_every_bad_row_is_counted_and_named(tmp_path: Path) -> None:
    rows = [
        pair(0),
        pair(1, ("A>B", None)),
        pair(2, ("failed", "A=B")),
        pair(3, label="C>D"),
        pair(4, ("maybe", "A>>B")),
        "{broken",
        "[1, 2]",
        pair(0),
        pair(0, ("B>A", "B>A")),
        pair(5, ("A>B",)),
        {"pair_id": "p6", "label": "A>B"},
        pair(7, ("A>B", "B>A", "A>B")),
    ]
    found = log_metrics(write(tmp_path / "log.jsonl", rows), "judgebench", **FEW)
    told = found.to_dict()
    assert told["problems"] == {
        "malformed": 4,
        "unknown_label": 1,
        "unknown_verdict": 1,
        "duplicate_id": 2,
        "mixed_order": 1,
    }
    assert told["status"] == {"ok": 10, "unparsed": 1, "empty": 1, "unknown_label": 1}
    assert told["rows"] == 12
    assert told["items"] == 7
    assert len(told["problem_rows"]) == 9
    left_out = [p for p in told["problem_rows"] if not p["used"]]
    assert {p["kind"] for p in left_out} == {"malformed", "duplicate_id"}
    assert len(left_out) == 5
    json.dumps(told, allow_nan=False)
    rows_of = found.table.set_index("name")
    assert rows_of.loc["two_order_score", ["n", "missing"]].to_list() == [5, 2]  # one label, one order unknown
    assert rows_of.loc["flip_rate", ["n", "missing"]].to_list() == [3, 4]


def test_decisions_of_the_second_game_are_turned_back(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "log.jsonl", [pair(0, ("A>B", "A>B"))]), "judgebench")
    assert log.verdicts["verdict"].to_list() == ["A", "B"]
    assert log.verdicts["shown"].to_list() == ["first", "first"]
    assert log.verdicts["judge"].unique() == ["arena_hard/m"]


def test_the_same_log_in_every_dress(tmp_path: Path) -> None:
    rows = [pair(k, ("A>B", "B>A" if k % 3 else "A>B"), "A>B" if k % 2 else "B>A") for k in range(12)]
    plain = write(tmp_path / "log.jsonl", rows)
    zipped, listed, odd = tmp_path / "log.jsonl.gz", tmp_path / "log.json", tmp_path / "log.txt"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    listed.write_text("\ufeff" + json.dumps(rows, indent=1), encoding="utf-8")
    odd.write_bytes(plain.read_bytes().replace(b"\n", b"\r\n"))
    tables = [log_metrics(p, "judgebench", **FEW).table for p in (plain, zipped, listed, odd)]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_csv_json_and_parquet_of_one_table_agree(tmp_path: Path) -> None:
    rows = [
        {
            "model": m,
            "response": f"a,\n{q}",
            "question": f"q{q}",
            "references": "r",
            "benchmark": "b",
            "J1": str(q % 2 == 0),
            "J2": "" if q == 3 else str(q % 3 == 0),
            "J3": "True",
            "HumanJudgement": "True" if (q + len(m)) % 2 else "False",
        }
        for m in ("x", "yy", "zzz")
        for q in range(10)
    ]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.json", orient="records")
    frame.to_json(tmp_path / "columns.json")
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    frame.sample(frac=1, random_state=1).to_csv(tmp_path / "mixed.csv", index=False)
    files = ("a.csv", "a.tsv", "a.json", "columns.json", "a.parquet", "a.csv.gz", "mixed.csv")
    found = [log_metrics(tmp_path / name, "judging_the_judges", **FEW) for name in files]
    for other in found[1:]:
        pd.testing.assert_frame_equal(other.table, found[0].table)
    assert found[0].counts["status"] == {"ok": 87, "empty": 3}
    assert found[0].value("unread", "J2") == pytest.approx(0.1)


def test_llmbar_reads_the_last_round(tmp_path: Path) -> None:
    def row(first: Any, second: Any, label: int = 1, k: int = 0) -> dict[str, Any]:
        last = {"swap = False": {"winner": first}, "swap = True": {"winner": second}}
        early = {"swap = False": {"winner": "2"}, "swap = True": {"winner": "1"}}
        results = [["aid", ""], early, last]
        return {"input": f"q{k}", "output_1": "x", "output_2": "y", "label": label, "results": results}

    folder = tmp_path / "evaluators" / "GPT-4" / "Swap"
    folder.mkdir(parents=True)
    rows = [row("1", "1"), row("1", "2", 2, 1), row(None, "2", 2, 2), row("1", "1", 1, 0), {"input": "q", "label": 1}]
    (folder / "result.json").write_text(json.dumps(rows))
    found = log_metrics(folder / "result.json", "llmbar", **FEW)
    assert found.table["judge"].unique().tolist() == ["GPT-4/Swap"]
    assert found.counts["problems"]["malformed"] == 1
    assert found.counts["items"] == 4  # the same question twice has no id that could be one: both are kept
    assert found.value("consistent_accuracy") == pytest.approx(2 / 4)
    assert found.value("accuracy_ba") == pytest.approx(4 / 4)
    assert found.value("unread") == pytest.approx(1 / 8)


def test_pandalm_with_labels_elsewhere(tmp_path: Path) -> None:
    said = [{"idx": k, "x_result": v} for k, v in enumerate(["1", "2", "Tie", "garbage", "9", 1])]
    gold = [
        {
            "idx": k,
            "instruction": f"i{k // 2}",
            "input": "",
            "annotator1": a,
            "annotator2": b,
            "annotator3": c,
            "motivation_app": "m",
            "cmp_key": "p_q",
        }
        for k, (a, b, c) in enumerate([(1, 1, 0), (2, 2, 2), (0, 0, 1), (1, 1, 1), (2, 2, 1), (0, 1, 2)])
    ]
    log, labels = tmp_path / "log.json", tmp_path / "gold.json"
    log.write_text(json.dumps(said))
    labels.write_text(json.dumps(gold))
    found = log_metrics(log, "pandalm", labels=labels, **FEW)
    assert found.counts["problems"] == {
        "malformed": 0,
        "unknown_label": 1,
        "unknown_verdict": 1,
        "duplicate_id": 0,
        "mixed_order": 0,
    }
    assert found.counts["groups"] == 3
    assert found.value("accuracy", "x") == pytest.approx(3 / 5)
    assert found.value("accuracy_read", "x") == pytest.approx(3 / 3)
    alone = log_metrics(log, "pandalm", **FEW)
    assert any("testset-v1.json" in w for w in alone.warnings)
    assert np.isnan(alone.value("accuracy"))


def test_rbd_predictions(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "id": ["1", "2", "3", "4"],
            "prompt": list("abcd"),
            "ground_truth_original": [1, 2, 1, 2],
            "ground_truth_reversed": [2, 1, 2, 2],
            "prediction_original": [1, 2, 2, -1],
            "prediction_position": [2, 2, 1, 1],
            "prediction_bandwagon": [2, 2, 2, 1],
        }
    )
    rows.to_csv(tmp_path / "gpt-4o_Position_prediction.csv", index=False)
    found = log_metrics(tmp_path / "gpt-4o_Position_prediction.csv", "rbd", **FEW)
    assert found.table["judge"].unique().tolist() == ["gpt-4o"]
    assert found.counts["problems"]["mixed_order"] == 1
    # the order: verdicts in the item's frame are A A, B A, B B, unread B
    assert found.value("consistency", part="orders") == pytest.approx(2 / 4)
    assert found.value("flip_rate", part="orders") == pytest.approx(1 / 3)
    # as the authors count: items read both times, right before, right after, right both times
    read = [
        found.value(n, part="position")
        for n in ("accuracy_control_read", "accuracy_cued_read", "consistent_accuracy_read")
    ]
    assert read == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    names = ["accuracy_control", "accuracy_cued", "harmful_flips", "helpful_flips", "follow_rate_control"]
    names.append("follow_rate")
    said = [found.value(n, part="bandwagon") for n in names]
    assert said == pytest.approx([2 / 4, 1 / 4, 1 / 3, 0, 1 / 3, 2 / 3])


def test_rbd_options_and_detectors(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "question": list("abc"),
            "choices": ["['u', 'v', 'w']"] * 3,
            "answer": [0, 1, 2],
            "sentiment_choices": ["['u', 'v', 'w']"] * 3,
            "prediction_original": [0, 1.0, 7],
            "prediction_sentiment": [1, 1, 2],
        }
    )
    rows.to_csv(tmp_path / "x_prediction_ScienceQA.csv", index=False)
    found = log_metrics(tmp_path / "x_prediction_ScienceQA.csv", "rbd", **FEW)
    assert found.counts["problems"]["unknown_verdict"] == 1
    assert found.value("accuracy_cued") == pytest.approx(2 / 3)
    assert found.value("consistent_accuracy_read") == pytest.approx(1 / 2)
    detector = pd.DataFrame(
        {
            "index": [1, 2, 1],
            "bias_category": ["position", "position", "sentiment"],
            "llm_judge_model": "m",
            "instruction": list("abc"),
            "bias_label": ["Yes", "No", "No"],
            "llm_judgment": ["### Original Order\nOutput (a)\n\n### Swapped Order\nOutput (a)"] * 3,
            "d_bias_label": ["Yes", "Yes", "Unknown"],
            "Zero-shot": ["<think>no</think> Yes", "x</think>No", "?"],
        }
    )
    detector.to_csv(tmp_path / "test.csv", index=False)
    found = log_metrics(tmp_path / "test.csv", "rbd", **FEW)
    assert found.value("accuracy", "d", "all") == pytest.approx(1 / 3)
    assert found.value("accuracy", "Zero-shot", "all") == pytest.approx(2 / 3)
    assert found.value("always_first", "m", "position_judges") == 1.0


def test_xstest_readings_of_a_partial_refusal(tmp_path: Path) -> None:
    rows = [
        ("1", "homonyms", "Sure, here it is.", "1_full_compliance"),
        ("2", "contrast_x", "I'm sorry, I can't.", "2_full_refusal"),
        ("3", "contrast_x", "I cannot do that. But here it is.", "3_partial_refusal"),
        ("4", "homonyms", "", "oops"),
    ]
    frame = pd.DataFrame(rows, columns=["id", "type", "completion", "final_label"])
    frame["prompt"], frame["annotation_1"], frame["annotation_2"] = "p", frame["final_label"], "1_full_compliance"
    frame.to_csv(tmp_path / "x.csv", index=False)
    found = log_metrics(tmp_path / "x.csv", "xstest", **FEW)
    assert found.value("accuracy", "verdictscope", "not_full_compliance") == pytest.approx(1.0)
    assert found.value("accuracy", "verdictscope", "full_refusal") == pytest.approx(2 / 3)
    rows_of = found.table[(found.table["part"] == "clear_cases") & (found.table["judge"] == "verdictscope")]
    assert rows_of.set_index("name").loc["accuracy", ["n", "missing"]].to_list() == [2, 2]
    assert found.counts["status"]["empty"] == 1
    assert found.counts["problems"]["unknown_label"] == 1


@pytest.mark.parametrize("name", LOG_FORMATS)
def test_files_that_are_no_logs_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    wrong = {
        "missing": tmp_path / "none.json",
        "empty": tmp_path / "empty.json",
        "binary": tmp_path / "x.bin",
        "half": tmp_path / "half.json",
        "zip": tmp_path / "x.gz",
        "other": write(tmp_path / "other.jsonl", [{"a": 1}, {"a": 2}]),
        "csv": tmp_path / "x.csv",
    }
    wrong["empty"].write_text("")
    wrong["binary"].write_bytes(bytes(range(256)))
    wrong["half"].write_text('[{"a": 1}, ')
    wrong["zip"].write_bytes(b"\x1f\x8b123")
    wrong["csv"].write_text("a,b\n1,2\n")
    for path in wrong.values():
        with pytest.raises(InputError) as error:
            log_metrics(path, name)
        assert "\n" not in str(error.value)


def test_a_result_shows_itself() -> None:
    found = verdict_metrics(table_of([("A", "A", "B"), ("B", "B", "B"), ("A", None, "A")]), **FEW)
    assert "accuracy" in found._repr_html_()
    assert found.plot().axes
    assert found.plot_calibration().axes
    with pytest.raises(InputError, match="no metric"):
        found.value("nothing")
