"""The judge study from its items to its page, small: every stage runs, every file is written down, no gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.browser import check_everywhere
from verdictscope.report import format_summary
from verdictscope.study.criteria import assess
from verdictscope.study.folder import open_run
from verdictscope.study.load import read_study
from verdictscope.study.run import run_study
from verdictscope.study.tables import faults
from verdictscope.study.tasks import stages_of

pytestmark = pytest.mark.timeout(1200)  # two minutes: every head at every token, in both variants

SMALL = (
    "items.limit=48",
    "verdicts.thinking_items=16",
    "heads.items=8",
    "probe.C=[0.01]",
    "probe.permutations=50",
    "trace.items=8",
    "trace.lengths=[0, 8]",
    "mitigations.rules=[]",
)
FORMATS = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("judge_demo") / "run"
    return folder, run_study(read_study("judge_bias", SMALL), folder)


def test_every_stage_ends_and_the_page_misses_nothing(run: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = run
    record = open_run(folder)
    assert record.missing == []
    assert set(summary["seconds"]) == set(stages_of(record.study))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "not finished" not in page
    captions = json.loads((folder / "figures" / "captions.json").read_text(encoding="utf-8"))
    assert {"bias_parts", "heads", "mitigations", "verdict_probe", "verdict_trace"} <= set(captions)
    for title in ("Contrasts of the verdict", "Mitigations"):
        assert page.count(f"<h3>{title}</h3>") == 1


def test_the_page_can_be_read_at_every_width_and_on_paper(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    check_everywhere(run[0] / "report.html", tmp_path / "profile", cards=4)


def test_the_criteria_that_can_be_tested_are(run: tuple[Path, dict[str, Any]]) -> None:
    statuses = {a.key: a.status for a in assess("judge", open_run(run[0]).results())}
    assert statuses["measured"] in ("met", "partly met")
    assert "not tested" not in {status for key, status in statuses.items() if key != "replicated"}


def test_the_biases_are_in_results_and_on_the_terminal(run: tuple[Path, dict[str, Any]]) -> None:
    text = format_summary(run[0])
    assert "bandwagon, log-odds, reference model: " in " ".join(text.split())
    follows = [
        open_run(run[0]).results().get("generate", "follows", variant=variant, condition="bandwagon").estimate
        for variant in ("base", "reference")
    ]
    assert follows[0] > 0.8 > follows[1]


def test_the_tables_are_as_declared(run: tuple[Path, dict[str, Any]]) -> None:
    assert [fault for file in run[0].glob("*.parquet") for fault in faults(file.stem, pd.read_parquet(file))] == []


def test_the_run_folder_holds_what_formats_md_says(run: tuple[Path, dict[str, Any]]) -> None:
    for file in run[0].iterdir():
        assert file.name in FORMATS, f"docs/formats.md does not mention {file.name}"
