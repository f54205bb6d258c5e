"""The judge's page: the answer in plain words, complete or saying what is missing, the same whatever the data holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hostile import ATTACKS, hostile_judge
from judge_runs import write_judge_run
from test_page import Skeleton, page_of

from verdictscope.report import Record, write_comparison
from verdictscope.study.load import read_study
from verdictscope.study.tasks import stages_of

STAGES = [s for s in stages_of(read_study("judge_bias")) if s != "report"]
FILES = {
    "verdicts": ["items", "verdicts", "bias_parts", "judged/base/on/plain/whole", "judged/base/on/bandwagon/whole"],
    "bias_heads": ["bias_heads"],
    "mitigations": ["bias_sets", "mitigations"],
    "verdict_probes": ["verdict_probe", "correctness", "bias_detector"],
    "verdict_traces": ["verdict_timing", "forced_lengths"],
    "judge_summary": ["summary", "verdict_rates"],
    "judge_figures": ["captions"],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(write_judge_run(tmp_path_factory.mktemp("page") / "run"))


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Skeleton(page).text))


def test_the_answer_stands_first_in_plain_words(page: str) -> None:
    text = text_of(page)
    assert page.index('id="short"') < page.index('id="asked"') < page.index('id="ladder"')
    for told in (
        "The judge was shown 40 pairs of answers and asked which is better, each pair in both orders; in 10 of them",
        "Without thinking it says the better answer in 95 % [91, 99] of verdicts (n = 20 groups).",
        "Where both are equally good it says the one shown first in 90 % [86, 94] of verdicts",
        "With the bandwagon sentence it says the side named in 90 % [86, 94] of verdicts (n = 20 groups)",
        "+3.00 [+2.80, +3.20] from the place an answer is shown in (first preferred)",
        "position is carried by L2H5 (+1.50), L4H2 (+1.50); bandwagon is carried by L3H6 (+1.50), L5H1 (+1.50)",
        "position goes from +3.00 to +0.10 [+0.06, +0.14] nats (n = 20 groups), while 9 random sets",
        "Without being told, the study found 4 of the 4 and confirmed no other.",
        "the judge itself, made to answer there, after 0.200 [0.100, 0.300] of the thinking; the logit lens",
    ):
        assert told in text


def test_figures_tables_and_examples_are_there(page: str) -> None:
    titles = re.findall(r'<figure id="[^"]*">\s*<h3>(.*?)</h3>', page)
    assert titles == ["What the verdict is made of", "novel"]
    assert page.count("<caption>Shares of verdicts: ") == 4
    assert "model under study, after its own thinking</th><td>320</td><td>2</td><td>2 cut off</td>" in page
    assert re.findall(r"<summary><bdi>(.*?)</bdi>", page) == [
        "plain: says second, probability 0.900; the better answer is shown second",
        "bandwagon: says first, probability 0.900; the better answer is shown second",
    ]
    assert "verdictscope run judge_bias" in page


@pytest.mark.parametrize("stage", STAGES)
def test_an_unfinished_run_says_what_is_missing(tmp_path: Path, stage: str) -> None:
    missing = STAGES[STAGES.index(stage) :]

    def stopped(made: dict[str, Any]) -> None:
        made["done"] = [s for s in STAGES if s not in missing]
        for name in (f for s in missing for f in FILES[s]):
            made[name] = None

    page = page_of(write_judge_run(tmp_path / "run", stopped))
    assert f"Missing stages: {', '.join(missing)}" in page
    assert not re.search(r"\bnan\b|None", text_of(page))


def test_numbers_that_are_missing_are_not_told(tmp_path: Path) -> None:
    """A table whose estimates could not be made is as good as none: dashes and sentences left out, no nan."""

    def blank(made: dict[str, Any]) -> None:
        for name in (
            "verdict_rates",
            "bias_parts",
            "bias_heads",
            "bias_sets",
            "mitigations",
            "verdict_probe",
            "correctness",
            "verdict_timing",
            "forced_lengths",
        ):
            made[name][["estimate", "low", "high"]] = float("nan")
        made["bias_detector"][["auroc", "low", "high"]] = float("nan")

    text = text_of(page_of(write_judge_run(tmp_path / "run", blank)))
    assert not re.search(r"\bnan\b|None", text)


@pytest.mark.parametrize("name", ["all", "long"])
def test_hostile_data_changes_nothing_but_text(tmp_path: Path, name: str) -> None:
    attack = "".join(t for n, t in ATTACKS.items() if n != "long") if name == "all" else ATTACKS["long"]
    harmless = page_of(write_judge_run(tmp_path / "plain", hostile_judge("word")))
    attacked = page_of(write_judge_run(tmp_path / "attacked", hostile_judge(attack)))
    assert Skeleton(attacked).tags == Skeleton(harmless).tags
    assert Skeleton(attacked).text != Skeleton(harmless).text
    assert "\u202e" not in attacked
    assert len(attacked) < 2_000_000


def test_two_judges_side_by_side(tmp_path: Path) -> None:
    runs = [Record(write_judge_run(tmp_path / name)) for name in ("one", "two")]
    made = write_comparison(*runs, tmp_path / "both.html")
    names = [row["name"] for row in made["numbers"]]
    assert names[:4] == [f"{n} part of the verdict" for n in ("content", "position", "bandwagon", "authority")]
    assert "follows the bandwagon cue" in names
    assert "position left with the found heads taken out" in names
    assert json.dumps(made)
