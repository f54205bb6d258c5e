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

from verdictscope.report import write_comparison
from verdictscope.study.folder import open_run
from verdictscope.study.load import read_study
from verdictscope.study.tasks import stages_of

STAGES = [s for s in stages_of(read_study("judge_bias")) if s != "report"]
FILES = {
    "generate": ["items", "verdicts", "bias_parts", "judged/base/on/plain/whole", "judged/base/on/bandwagon/whole"],
    "probe": ["verdict_probe", "correctness", "bias_detector"],
    "trace": ["verdict_timing", "forced_lengths"],
    "heads": ["heads"],
    "ablate": ["ablation"],
    "mitigate": ["mitigations"],
    "results": ["verdict_rates"],
    "figures": ["captions"],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(write_judge_run(tmp_path_factory.mktemp("page") / "run"))


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Skeleton(page).text))


def test_the_answer_stands_first(page: str) -> None:
    text = text_of(page)
    assert page.index('id="short"') < page.index('id="ladder"') < page.index('id="numbers"') < page.index('id="setup"')
    for part in (
        "95 % [91, 99]",  # accuracy
        "90 % [86, 94]",  # follows the bandwagon cue
        "position +3.00 [2.80, 3.20]",
        "position: L2H5 (+1.50), L4H2 (+1.50)",
        "+0.100 [0.060, 0.140] of +3.000 nats remain",
        "4 of 4 were selected and confirmed",
    ):
        assert part in text, part


def test_figures_tables_and_examples_are_there(page: str) -> None:
    titles = re.findall(r'<figure id="[^"]*">\s*<h3>(.*?)</h3>', page)
    assert titles == ["Contrasts of the verdict", "novel"]
    assert re.search(r'<th scope="row">not parsed: cut off</th><td>2</td><td>–</td>', page)
    assert re.findall(r"<summary><bdi>(.*?)</bdi>", page) == [
        "plain: verdict second; the second answer is better",
        "bandwagon: verdict first; the second answer is better",
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
            "heads",
            "ablation",
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
    runs = [open_run(write_judge_run(tmp_path / name)) for name in ("one", "two")]
    made = write_comparison(runs, tmp_path / "both.html")
    names = [row["name"] for row in made["numbers"]]
    assert {"accuracy", "follows the bandwagon cue", "position, log-odds", "position, selected heads ablated"} <= set(
        names
    )
    assert json.dumps(made)
