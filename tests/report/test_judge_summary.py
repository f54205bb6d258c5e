"""A judge run's summary and what it says on a terminal, from tables with known numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from judge_runs import BANDWAGON, POSITION, verdicts, write_judge_run

from verdictscope.study.folder import open_run
from verdictscope.study.run import tell
from verdictscope.study.stages.judge_summary import run_judge_summary


def unsummarised(made: dict[str, Any]) -> None:
    made.update(summary=None, verdict_rates=None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_judge_run(tmp_path_factory.mktemp("summary") / "run", unsummarised)
    opened = open_run(folder)
    with opened.claimed():
        run_judge_summary(opened)
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_rates_are_counted_from_the_verdicts(run: Path, summary: dict[str, Any]) -> None:
    rates = pd.read_parquet(run / "verdict_rates.parquet")
    assert summary["rates"]["base"]["off"]["plain"]["accuracy"]["estimate"] == 1.0
    ties = verdicts().query("variant == 'base' and thinking == 'off' and condition == 'plain' and label == 'tie'")
    first = summary["rates"]["base"]["off"]["plain"]["first_in_ties"]
    assert first["estimate"] == (ties["shown"] == "first").mean() == 1.0
    assert summary["rates"]["base"]["off"]["bandwagon"]["follows"]["estimate"] == 1.0
    assert summary["rates"]["base"]["off"]["bandwagon"]["accuracy_named_wrong"]["estimate"] == 0.0
    assert summary["rates"]["reference"]["off"]["bandwagon"]["accuracy_named_wrong"]["estimate"] == 1.0
    both = summary["rates"]["base"]["off"]["plain"]["consistency"]
    assert both["estimate"] == pytest.approx(0.75)  # ties are judged by what is shown first
    cut = summary["rates"]["base"]["on"]["plain"]["unread"]
    assert cut["estimate"] == pytest.approx(2 / 80)
    pull = rates.query("name == 'pull' and variant == 'base' and thinking == 'off'").iloc[0]
    assert (pull["condition"], pull["unit"]) == ("control", "nats")
    assert pull["estimate"] == pytest.approx(0.0)  # the made control changes no verdict
    assert (rates["n"] <= 20).all()
    assert set(rates.query("condition == 'plain'")["name"]).isdisjoint({"follows", "accuracy_named_wrong"})


def test_unread_verdicts_are_neither_right_nor_first(summary: dict[str, Any]) -> None:
    thinking = summary["rates"]["base"]["on"]["plain"]
    assert thinking["accuracy"]["estimate"] == pytest.approx(58 / 60)
    assert summary["verdicts"]["base, thinking on, plain"] == {"verdicts": 80, "unread": 2}


def test_heads_are_those_named_and_confirmed(summary: dict[str, Any]) -> None:
    heads = summary["heads"]
    planted = [list(h) for h in POSITION]
    assert heads["biases"]["position"] == {"found": planted, "selected": planted}
    assert {tuple(h) for h in heads["top"]} == {*POSITION, *BANDWAGON}
    assert heads["delta"] == 0.5
    assert all(not of["selected"] for of in heads["reference"].values())


def test_what_is_left_and_what_was_tried(summary: dict[str, Any]) -> None:
    assert summary["sets"]["position"]["found"]["estimate"] == 0.1
    assert summary["sets"]["position"]["random_sets"] == 9
    assert summary["mitigations"]["off"]["told by the system text"]["bandwagon"]["estimate"] == 0.3
    assert summary["probes"]["verdict_probe"]["last"]["test"]["AUROC"]["estimate"] == 0.9
    assert summary["traces"]["timing"]["lens settled"]["estimate"] == 0.4


def test_the_terminal_tells_it(summary: dict[str, Any], run: Path) -> None:
    told = tell(summary | {"seconds": {}}, run)
    assert "plain      right 1.000" in told
    assert "heads      position: L2H5 L4H2; bandwagon: L3H6 L5H1; authority: none" in told
    assert "in the reference model: none" in told
    assert "ablation   content 5.000 -> 5.000 (9 random sets 4.920 to 5.000)" in told
    assert "told by the system text: right 0.950; position +3.00; bandwagon +0.30" in told
    assert f"run folder {run}" in told
    assert len(told.splitlines()) < 30
