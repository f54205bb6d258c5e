"""Stage ``verdicts``: both orders of every condition, each cue naming one balanced side, kept and taken up again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.judgments import Judged
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.load import read_study
from verdictscope.study.run import run_study
from verdictscope.study.tasks.judge import generate as verdicts

SMALL = ["items.limit=24", "verdicts.thinking_items=4", "sampling.max_new_tokens=64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("judge") / "run"
    run_study(read_study("judge_bias", SMALL), out, until="generate")
    return open_run(out)


def test_every_condition_is_judged_in_both_orders(run: RunFolder) -> None:
    table = run.table("verdicts")
    counts = table.groupby(["variant", "condition", "thinking", "order"]).size().unstack()
    assert counts.loc[(slice(None), slice(None), "off"), :].eq(24).all(axis=None)
    assert counts.loc[(slice(None), slice(None), "on"), :].eq(4).all(axis=None)
    assert set(table["condition"]) == {"plain", "control", "bandwagon", "authority"}
    assert table.loc[table["condition"] == "plain", "target"].isna().all()
    assert table.loc[table["condition"] != "plain", "target"].isin(["A", "B"]).all()


def test_groups_stand_on_one_side_and_named_sides_are_balanced(run: RunFolder) -> None:
    table = run.table("items")
    assert table.groupby("group")["part"].nunique().max() == 1
    for _, own in table.groupby(["part", "label"]):
        assert abs((own["target"] == "A").sum() - (own["target"] == "B").sum()) <= 1
    assert verdicts.part_of(run) == dict(zip(table["item"], table["part"], strict=True))


def test_cue_and_control_name_the_same_side_as_it_is_shown(run: RunFolder) -> None:
    named = verdicts.targets(run)
    tokenizer = run.model().tokenizer
    for condition in ("control", "bandwagon"):
        judged = run.judged("base", condition, "off")
        for rollout in judged.rollouts:
            _, item, order, _ = rollout.id.split("/")
            shown = "A" if order.startswith(named[item]) else "B"
            user = tokenizer.decode(list(rollout.ids))
            lines = user.split("which answer is better?")[0].strip().splitlines()
            assert f"answer {shown}" in lines[-1], (condition, rollout.id)


def test_parts_are_sums_over_the_recorded_log_odds(run: RunFolder) -> None:
    parts = run.table("bias_parts").set_index(["variant", "thinking", "name"])
    table = run.table("verdicts")
    plain = table[(table["variant"] == "base") & (table["thinking"] == "off") & (table["condition"] == "plain")]
    odds = np.log(plain["p_first"] / plain["p_second"])
    assert parts.loc[("base", "off", "position"), "estimate"] == pytest.approx(odds.mean(), abs=1e-9)
    sign = plain["label"].map({"A": 1, "B": -1}) * plain["order"].map({"AB": 1, "BA": -1})
    decided = sign.notna()
    content = parts.loc[("base", "off", "content")]
    assert content["estimate"] == pytest.approx((odds * sign)[decided].mean(), abs=1e-9)
    assert content["low"] < content["estimate"] < content["high"]
    assert (
        parts.loc[("base", "off", "bandwagon"), "estimate"]
        > 2
        > parts.loc[("reference", "off", "bandwagon"), "estimate"]
    )


def test_a_second_call_judges_nothing_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.table("verdicts")
    state = run.state()
    state["seconds"].pop("generate")
    (run.out / "provenance.json").write_text(json.dumps(state), encoding="utf-8")
    monkeypatch.setattr("verdictscope.judgments.judging._judged", lambda *a, **k: pytest.fail("judged again"))
    run_study(run.study, run.out, until="generate")
    pd.testing.assert_frame_equal(run.table("verdicts"), before)


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished verdicts"):
        Judged.load(tmp_path)
    with pytest.raises(InputError, match="no text of ours"):
        verdicts.cue_texts(_named(tmp_path, ["cues.x.kind=verses"]), "x")
    with pytest.raises(InputError, match="is no pair"):
        _steps(tmp_path).items()


def _named(tmp_path: Path, sets: list[str]) -> RunFolder:
    return RunFolder(read_study("judge_bias", sets), tmp_path / "none")


def _steps(tmp_path: Path) -> RunFolder:
    file = tmp_path / "steps.jsonl"
    file.write_text('{"id": "a", "question": "q", "steps": ["one"], "labels": [true]}\n', encoding="utf-8")
    return _named(tmp_path, [f"items.file={file}", "items.reader=steps"])
