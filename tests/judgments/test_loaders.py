"""Loaders: every row is an item or a reported problem; the counts of the published files; hostile and broken rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.public_data import whole
from verdictscope.errors import InputError
from verdictscope.judgments import load_items
from verdictscope.judgments.items import AnswerItem, ChoiceItem, DebateItem, PairItem, Step, Turn
from verdictscope.judgments.loaders.load import LOADERS, known_loaders
from verdictscope.rows import Row

FILES = [
    ("judgebench/gpt-4o.jsonl", "judgebench", 350, {"A": 193, "B": 157}, {}),
    ("judgebench/claude-3-5-sonnet.jsonl", "judgebench", 270, {"A": 143, "B": 127}, {}),
    ("llmbar/Natural.json", "llmbar", 100, {"A": 42, "B": 58}, {}),
    ("llmbar/Adversarial_Neighbor.json", "llmbar", 134, {"A": 75, "B": 59}, {}),
    ("llmbar/Processed_LLMEval2.json", "llmbar", 200, None, {"blank": 1}),
    ("pandalm/testset-v1.json", "pandalm", 999, None, {"blank": 54}),
    ("rbd_bias4/Arena_Position_and_Bandwagon.json", "rbd_arena", 500, {"A": 253, "B": 247}, {}),
    ("rbd_bias4/GSM8K_Verbosity.json", "rbd_gsm8k", 500, {"A": 500}, {}),
    ("rbd_bias4/ScienceQA_Sentiment.json", "rbd_scienceqa", 500, None, {}),
    ("rbd_bias4/ScienceQA_Sentiment.json", "rbd_sentiment", 500, None, {}),
    (
        "judging_the_judges/TriviaQA_Judges_w_HumanJudgement_V1.csv",
        "judging_the_judges",
        3_600,
        {"correct": 2507, "incorrect": 1093},
        {},
    ),
    ("trustjudge/filtered_selected_answers_with_category.jsonl", "trustjudge", 20, None, {}),
    ("mt_bench/reference_answer_gpt-4.jsonl", "mt_bench", 30, {None: 30}, {}),
]


@pytest.mark.parametrize(("file", "loader", "n", "labels", "problems"), FILES)
def test_published_files(file: str, loader: str, n: int, labels: dict | None, problems: dict[str, int]) -> None:
    found = load_items(whole(file), loader)
    assert len(found.items) == n
    assert len({item.id for item in found.items}) == n
    assert {kind: count for kind, count in found.counts.items() if count} == problems
    if labels is not None:
        assert Counter(item.label for item in found.items) == labels


def test_pandalm_takes_the_majority() -> None:
    row = {"idx": 7, "instruction": "Do", "input": "", "response1": "x", "response2": "y"}
    votes = [(1, 1, 2), (0, 0, 1), (0, 1, 2), (2, 2, 9)]
    rows = [
        {**row, "idx": k, **dict(zip(("annotator1", "annotator2", "annotator3"), v, strict=True))}
        for k, v in enumerate(votes)
    ]
    found = load_items(rows, "pandalm")
    assert [item.label for item in found.items] == ["A", "tie", None, "B"]
    assert found.counts["unknown_label"] == 2


PAIR = {"pair_id": "p", "source": "s", "question": "q?", "response_A": "a", "response_B": "b", "label": "A>B"}
MORE: list[tuple[str, dict[str, Any], Any]] = [
    ("codejudgebench", {"question_content": "q", "pos_response": "x", "neg_response": "y", "difficulty": "easy"}, "A"),
    ("codejudgebench", {"question_content": "q", "pos_input": "1", "neg_input": "2"}, "A"),
    (
        "contextualjudgebench",
        {"question": "q", "context": "c", "positive_response": "x", "negative_response": "y"},
        "A",
    ),
    ("rewardbench", {"id": 3, "prompt": "q", "chosen": "x", "rejected": "y", "subset": "hep"}, "A"),
    (
        "judgelm",
        {"question_id": 1, "question_body": "q", "answer1_body": "x", "answer2_body": "y", "score": [7.0, 9.0]},
        "B",
    ),
    (
        "judgelm",
        {
            "question_id": 1,
            "question_body": "q",
            "answer1_body": "x",
            "answer2_body": "y",
            "score": [8, 8.0],
            "reference": {"text": "r"},
        },
        "tie",
    ),
    (
        "judgelm",
        {"question_id": 1, "question_body": "q", "answer1_body": "x", "answer2_body": "y", "score": [-1, -1]},
        None,
    ),
    (
        "mmlu_pro",
        {
            "question_id": 5,
            "question": "q",
            "options": list("abcdefghij"),
            "answer": "J",
            "answer_index": 9,
            "category": "law",
        },
        "J",
    ),
    ("emerton_dpo", {"system": "s", "input": "q", "chosen": "x", "rejected": "y"}, "A"),
    ("orca_dpo", {"system": "", "question": "q", "chosen": "x", "rejected": "y"}, "A"),
    ("py_dpo", {"id": "z", "prompt": "q", "chosen": "x", "rejected": "y"}, "A"),
    ("truthy_dpo", {"id": "z", "system": "s", "prompt": "q", "chosen": "x", "rejected": "y", "source": "o"}, "A"),
    (
        "steps",
        {"question": "q", "steps": ["one", "two"], "labels": [True, False], "errors": [None, "sign"]},
        "incorrect",
    ),
    ("debate", {"question": "q", "a": "x", "b": "y", "label": "B", "turns": [{"speaker": "A", "text": "t"}]}, "B"),
]


@pytest.mark.parametrize(("loader", "row", "label"), MORE)
def test_rows_of_hub_sets(loader: str, row: dict[str, Any], label: str | None) -> None:
    found = load_items([row], loader, "part")
    (item,) = found.items
    assert item.label == label
    assert found.counts["unknown_label"] == (loader == "judgelm" and label is None)
    assert item.source.split("/")[0] in (loader, "dpo", "steps", "debate")


def test_the_second_reward_bench_gives_a_pair_per_rejected_answer() -> None:
    row = {"id": 1, "prompt": "q", "chosen": ["x"], "rejected": ["u", "v", "w"], "subset": "Math"}
    items = load_items([row], "rewardbench").items
    assert [(i.a, i.b, i.group) for i in items] == [("x", "u", "1"), ("x", "v", "1"), ("x", "w", "1")]


def test_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [
        PAIR,
        {**PAIR, "response_A": "other"},  # same id, other content
        PAIR,  # a copy
        {**PAIR, "pair_id": "l", "label": "A=B"},
        {**PAIR, "pair_id": "t", "response_A": 3},
        {**PAIR, "pair_id": "e", "response_B": "  "},
        {key: value for key, value in PAIR.items() if key != "question"},
        ["no", "object"],
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + '\n{"pair_id": "cut", "quest\n')
    found = load_items(file, "judgebench")
    assert [item.id for item in found.items] == ["p", "p#2", "l", "e"]
    assert found.items[1].group == found.items[0].group
    assert found.items[2].label is None
    assert found.rows == 9
    told = [(p["row"], p["kind"], p["used"]) for p in found.problems.to_dict("records")]
    assert told == [
        (1, "duplicate_id", True),
        (2, "duplicate_id", False),
        (3, "unknown_label", True),
        (4, "malformed", False),
        (5, "blank", True),
        (6, "malformed", False),
        (7, "malformed", False),
        (8, "malformed", False),
    ]
    assert found.rows - len(found.items) == (~found.problems["used"]).sum()
    assert "4 malformed" in repr(found)


def test_mixed_orders_are_reported() -> None:
    sides = {"response_a": "x", "response_b": "y"}
    turned = {"response_a": "y", "response_b": "x"}
    row = {
        "id": 1,
        "prompt": "q",
        "original": sides,
        "reversed": repr(turned),
        "ground_truth_original": 1,
        "ground_truth_reversed": 2,
    }
    rows = [row, {**row, "id": 2, "ground_truth_reversed": 1}, {**row, "id": 3, "reversed": sides}]
    found = load_items(rows, "rbd_arena")
    assert [item.label for item in found.items] == ["A", None, None]
    assert found.counts["mixed_order"] == 2
    choice = {"question_id": 5, "question": "q", "options": ["a", "b"], "answer": "A", "answer_index": 1}
    assert load_items([choice], "mmlu_pro").counts["mixed_order"] == 1


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no loader .judgbench.: loaders are"):
        load_items([PAIR], "judgbench")
    with pytest.raises(InputError, match="not one of 1 rows is an item of llmbar .record 1: no column input"):
        load_items([PAIR], "llmbar")
    with pytest.raises(InputError, match="does not exist"):
        load_items(tmp_path / "no.json", "llmbar")
    (tmp_path / "x.json").write_text("3")
    with pytest.raises(InputError, match="no JSON list"):
        load_items(tmp_path / "x.json", "llmbar")
    with pytest.raises(InputError, match="is not loaded from the hub: give its file"):
        load_items("hub", "llmbar")
    with pytest.raises(InputError, match="has no part 'gtp': there are gpt, claude"):
        load_items("hub", "judgebench", "gtp")
    asked = []
    monkeypatch.setattr(
        "verdictscope.judgments.loaders.load.hub_rows", lambda *a: asked.append(a) or [Row("record 1", PAIR)]
    )
    assert len(load_items("hub", "judgebench").items) == 1
    assert asked == [("ScalerLab/JudgeBench", None, "gpt")]
    assert set(known_loaders()["name"]) == set(LOADERS)


def test_items_are_checked_and_frozen() -> None:
    pair = PairItem(id="p", question="q", a="x", b="y", label="A")
    assert pair.swapped().swapped() == pair
    assert pair.swapped().label == "B"
    with pytest.raises(InputError, match="label 'C' is not one of A, B, tie"):
        PairItem(id="p", question="q", a="x", b="y", label="C")
    with pytest.raises(InputError, match="11 options"):
        ChoiceItem(id="c", question="q", options=tuple("abcdefghijk"))
    choice = ChoiceItem(id="c", question="q", options=("x", "y", "z"), label="C")
    first = choice.moved(2, 0)
    assert (first.options, first.letters, first.label, first.right) == (("z", "x", "y"), ("C", "A", "B"), "C", 0)
    steps = (Step("one", True), Step("two", False, "sign"), Step("three"))
    items = AnswerItem(id="s", question="q", answer="x", steps=steps).step_items()
    assert [(i.answer, i.label, i.group) for i in items] == [
        ("one", "correct", "s"),
        ("one\ntwo", "incorrect", "s"),
        ("one\ntwo\nthree", None, "s"),
    ]
    debate = DebateItem(id="d", question="q", a="x", b="y", turns=(Turn("A", "1"), Turn("B", "2")))
    assert [len(debate.until(k).turns) for k in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="has 2 turns, not 3"):
        debate.until(3)
