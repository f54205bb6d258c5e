"""Stage ``verdict_probes`` on the bundled judge: three tables with their nulls, and the figures of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from verdictscope import figures
from verdictscope.activations import readout_from_dict
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.load import read_study
from verdictscope.study.run import run_study
from verdictscope.study.tasks.judge.probe import run_probe

SMALL = ["items.limit=60", "verdicts.thinking=false", "probe.permutations=50", "probe.C=[0.01]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("judge") / "run"
    run_study(read_study("judge_bias", SMALL), out, until="generate")
    run = open_run(out)
    with run.claimed():
        run_probe(run)
    return run


def test_the_verdict_is_read_at_the_verdict_with_every_null(run: RunFolder) -> None:
    table = run.table("verdict_probe")
    at = table[table["place"] == "last"]
    assert set(at["kind"]) == {"test", "part", "permuted", "control", "baseline", "layer"}
    assert list(dict.fromkeys(table["place"])) == ["last", "think_end[0]", "think_end[-1]"]
    test, null = (at[at["kind"] == kind].iloc[0] for kind in ("test", "permuted"))
    assert test["low"] <= test["estimate"] <= test["high"]
    assert test["estimate"] > null["high"]
    assert set(at.loc[at["kind"] == "baseline", "name"]) == {
        "words of the answers",
        "TF-IDF of the answers",
        "difference in length",
    }
    assert (at["kind"] == "layer").sum() == 6


def test_correctness_stands_beside_what_is_stated(run: RunFolder) -> None:
    table = run.table("correctness")
    assert set(table["condition"]) == {"plain", "control", "bandwagon", "authority", "all cues"}
    first = table.iloc[0]
    assert (first["kind"], first["name"], first["condition"]) == ("test", "AUROC", "plain")
    rows = table[table["kind"] != "layer"].set_index(["condition", "name"])
    assert not rows.index.duplicated().any()
    verdicts = run.table("verdicts").query("variant == 'base' and condition == 'bandwagon' and part == 'test'")
    verdicts = verdicts[verdicts["label"] != "tie"]
    assert rows.loc[("bandwagon", "right as stated"), "estimate"] == pytest.approx(
        (verdicts["verdict"] == verdicts["label"]).mean()
    )
    wrong = rows.loc[("bandwagon", "right where the verdict is wrong")]
    assert wrong["n"] > 5
    assert wrong["null_low"] <= wrong["null_mean"] <= wrong["null_high"]
    told = table.loc[table["n"] > 0, ["estimate", "low", "high"]].dropna()
    assert (told["low"] <= told["estimate"] + 1e-9).all()


def test_the_detector_says_where_there_is_one_class(run: RunFolder) -> None:
    table = run.table("bias_detector").set_index(["label", "fit", "read"])
    assert set(table.index.get_level_values("label")) == {"cued", "flip", "yield"}
    assert table.loc[("cued", "bandwagon", "bandwagon"), "auroc"] > 0.9
    assert table.loc[("cued", "bandwagon", "bandwagon"), "words"] == 1.0
    assert table.loc[("cued", "position", "position"), "reason"].startswith("every prompt has an order")
    assert "did not flip" in table.loc[("flip", "authority", "bandwagon"), "reason"]
    flip = table.loc[("flip", "bandwagon", "bandwagon")]
    assert flip["auroc"] > 0.7
    assert flip["p"] <= 0.05
    empty = table["auroc"].isna()
    assert (table.loc[empty, "reason"] != "").all()
    assert (table.loc[~empty, "reason"] == "").all()


def test_the_probes_are_written_as_data(run: RunFolder) -> None:
    told = run.read_json("verdict_probes")
    assert json.loads(json.dumps(told)) == told
    for name in ("verdict", "correctness"):
        readout = readout_from_dict(told["readouts"][name])
        assert readout.layer == told[name]["layer"]
        assert abs(readout.bias) < 1e-4
    assert np.isfinite(told["verdict"]["auroc"])


@pytest.mark.parametrize("name", ["verdict_probe", "correctness", "bias_detector"])
def test_figures_are_drawn_of_the_tables_and_of_none(run: RunFolder, name: str) -> None:
    table = run.table(name)
    draw = getattr(figures, name)
    shown, empty = draw(table), draw(table.iloc[:0])
    assert "Not shown" in shown.caption
    assert "nan" not in shown.caption
    for display in (shown, empty):
        assert display.figure.axes
        assert display.caption
    with pytest.raises(ValueError, match="lacks"):
        draw(pd.DataFrame({"variant": []}))
