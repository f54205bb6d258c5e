"""Stage ``verdict_traces``: what was read is what the verdicts hold, and every verdict is somewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from verdictscope.activations import LinearReadout
from verdictscope.figures import forced_lengths, verdict_trace
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.load import read_study
from verdictscope.study.run import run_study
from verdictscope.study.tasks.judge.trace import EMPTY, run_trace

SMALL = [
    "items.limit=20",
    "verdicts.thinking_items=20",
    "sampling.max_new_tokens=40",
    "trace.items=8",
    "trace.lengths=[0,6]",
]
"""Forty tokens cut some thinking off: those are to be counted, not lost."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("traces") / "run"
    study = read_study("judge_bias", SMALL)
    run_study(study.model_copy(update={"reference": None}), out, until="generate")
    made = open_run(out)
    weight = np.random.default_rng(0).normal(size=made.model().d_model)
    probe = LinearReadout("verdict_probe", "resid_post", 3, weight, positions="last")
    made.write_json("verdict_probes", {"readouts": {"verdict": probe.to_dict()}})
    run_trace(made)
    return made


def test_every_verdict_is_traced_or_counted(run: RunFolder) -> None:
    told, trace = run.read_json("verdict_traces"), run.table("verdict_trace")
    assert told["items"] == 8
    for condition, counts in told["conditions"].items():
        own = trace[trace["condition"] == condition]
        assert counts["verdicts"] == 16 == own["rollout"].nunique() == sum(counts["by_status"].values())
    assert any(set(c["by_status"]) > {"ok"} for c in told["conditions"].values()), "no thinking was cut off"
    assert set(trace["readout"]) == {"lens", "verdict", "verdict_probe"}
    assert set(told["readers"]["zeros"]) == {"lens", "verdict_probe"}
    assert set(told["readers"]["auroc"]) <= set(told["readers"]["zeros"])
    assert trace.loc[trace["readout"] == "verdict", "status"].eq("ok").all()
    settled = run.table("verdict_commitment")
    assert (
        settled.loc[settled["reader"] == "forced", "rollout"].nunique()
        == 16 - told["conditions"]["plain"]["without_thinking"]
    )
    assert settled["commit"].isna().eq(settled["reason"].ne("")).all()
    assert settled["reason"].eq("thinking cut off").any()


def test_the_own_end_and_the_verdicts_place_hold_what_was_said(run: RunFolder) -> None:
    chosen = run.table("verdict_trace").query("condition == 'plain'")["item"].unique()
    table = run.judged("base", "plain", "on").verdicts
    table = table[table["item"].isin(chosen)]
    odds = np.log(table["p_first"]) - np.log(table["p_second"])
    both = odds.groupby(table["item"]).agg(lambda s: s.mean(skipna=False)).dropna()
    lengths = run.table("forced_lengths").query("part == 'position'")
    own = lengths[lengths["allowed"].isna()].iloc[0]
    mean = run.table("verdict_trace_mean")
    said = mean[(mean["readout"] == "verdict") & (mean["part"] == "position")].iloc[0]
    assert said["name"] == "verdict"
    assert said["n"] == len(both)
    assert said["estimate"] == pytest.approx(both.mean(), abs=1e-3)
    assert own["n"] + own["n_missing"] == 8
    if own["n"] == len(both):
        assert own["estimate"] == pytest.approx(both.mean(), abs=1e-2)
    first = lengths[lengths["allowed"] == 0].iloc[0]
    assert first["n"] == 8, "closing at once can be read whatever came of the thinking"
    assert (lengths["ended"].diff().dropna() >= 0).all()


def test_forced_endings_stand_on_the_axis_of_the_trace(run: RunFolder) -> None:
    mean = run.table("verdict_trace_mean")
    forced = mean[(mean["readout"] == "forced") & (mean["part"] == "content") & (mean["condition"] == "plain")]
    assert forced["place"].tolist() == [0, 2, 4, 6, 8]
    assert forced["name"].tolist() == ["prompt end", "thinking 2/8", "thinking 4/8", "thinking 6/8", "thinking 8/8"]
    at = run.table("forced_lengths").query("part == 'content' and condition == 'plain' and allowed == 0")
    assert forced["estimate"].iloc[0] == pytest.approx(at["estimate"].item(), abs=1e-6)
    lines = set(zip(mean["part"], mean["condition"], mean["toward"], strict=True))
    assert {("content", "plain", ""), ("position", "plain", ""), ("bandwagon", "bandwagon", "")} <= lines
    assert {t for p, c, t in lines if p == "content" and c == "bandwagon"} == {"right", "wrong"}
    layers = mean.loc[mean["readout"] == "verdict_lens", "layer"].nunique()
    assert layers == run.model().n_layers


def test_readers_are_compared(run: RunFolder) -> None:
    table = run.table("verdict_timing").set_index("name")
    named = {f"{reader} settled" for reader in ("lens", "verdict_probe", "text", "forced")}
    assert named | {"forced after lens", "text after forced"} <= set(table.index)
    agree = table.loc["forced settles on the verdict given"]
    assert agree["estimate"] == pytest.approx(1), "what is said when nothing is cut is the verdict"
    assert table.loc["forced settled", "about"]
    assert table.loc[["lens settled", "forced settled"], "estimate"].between(0, 1).all()


def test_without_thinking_the_tables_are_empty_and_say_why(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "bare")
    bare = RunFolder(read_study("judge_bias", [*SMALL, "verdicts.thinking=false"]), tmp_path / "bare")
    run_trace(bare)
    assert "no item" in bare.read_json("verdict_traces")["about"]
    for name in EMPTY:
        assert set(bare.table(name).columns) <= set(run.table(name).columns), name
        assert len(bare.table(name)) == 0
    assert "nothing" in verdict_trace(bare.table("verdict_trace_mean")).caption
    for figure in (verdict_trace, forced_lengths):
        name = "verdict_trace_mean" if figure is verdict_trace else "forced_lengths"
        assert figure(bare.table(name)).figure.axes
        assert figure(run.table(name)).figure.axes
