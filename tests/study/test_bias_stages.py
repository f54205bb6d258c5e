"""Stages ``heads``, ``ablate`` and ``mitigate`` of a small judge study on the bundled judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from verdictscope.figures import head_map
from verdictscope.figures import mitigations as draw_mitigations
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.load import read_study
from verdictscope.study.run import run_study
from verdictscope.study.stages.heads import left_out
from verdictscope.study.tasks.judge import split_items

SMALL = (
    "items.limit=24",
    "verdicts.thinking=false",
    "heads.items=8",
    "heads.positions=last",
    "heads.k=2",
    "probe.C=[0.01]",
    "probe.permutations=50",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("judge") / "run"
    run_study(read_study("judge_bias", SMALL), out, until="mitigate")
    return open_run(out)


def test_the_table_of_heads_holds_both_variants_and_every_part(run: RunFolder) -> None:
    table, model = run.table("heads"), run.model()
    assert set(table["variant"]) == {"base", "reference"}
    assert set(table["contrast"]) == {"content", "position", "bandwagon", "authority"}
    assert len(table) == 2 * 4 * (model.n_layers * model.n_heads + model.n_layers)
    heads = table[table["component"] == "head"]
    ranks = heads.groupby(["variant", "contrast"])["rank"].agg(sorted)
    assert all(rank == list(range(model.n_layers * model.n_heads)) for rank in ranks)
    assert not table.loc[table["contrast"] == "content", "found"].any()
    assert table["attribution"].notna().all()


def test_found_heads_are_those_of_the_exploring_half(run: RunFolder) -> None:
    table, told = run.table("heads"), run.read_json("heads")
    base = table[table["variant"] == "base"]
    for bias, facts in told["contrasts"].items():
        own = base[(base["contrast"] == bias) & base["found"]].sort_values("effect_explore", ascending=False)
        assert [[layer, head] for layer, head in zip(own["layer"], own["head"], strict=True)] == facts["found"]
        assert (own["content_loss_explore"] < told["delta"]).all()
        assert len(own) <= 2
        assert (own["effect_explore"] > told["delta"]).all()
        assert bool(facts["found"]) <= facts["exists_explore"]
    assert told["items"] == {"explore": 8, "report": 8}
    assert "last only" in told["left_out"]
    assert left_out("all").startswith("nothing")
    assert len(split_items(run, "explore", None) & split_items(run, "report", None)) == 0
    assert "delta" in told
    assert set(told["reference"]["contrasts"]) == set(told["contrasts"])


def test_found_set_and_random_sets_stand_side_by_side(run: RunFolder) -> None:
    sets = run.table("ablation")
    assert set(sets["contrast"]) == {"content", "position", "bandwagon", "authority", "accuracy"}
    for _, own in sets.groupby("contrast"):
        assert own["kind"].value_counts()[["base", "found"]].tolist() == [1, 1]
        assert (own["kind"] == "random").sum() >= 49
        assert own.iloc[0]["left"] == 1
    found = set(sets.loc[sets["kind"] == "found", "heads"].iloc[0].split())
    random = {head for heads in sets.loc[sets["kind"] == "random", "heads"] for head in heads.split()}
    assert not found & random


def test_mitigations_have_every_figure_with_its_interval(run: RunFolder) -> None:
    table = run.table("mitigations")
    wanted = {
        "accuracy",
        "consistency",
        "first_preference",
        "follows_bandwagon",
        "follows_authority",
        "accuracy_bandwagon_wrong",
        "accuracy_authority_wrong",
        "content",
        "position",
        "bandwagon",
        "authority",
    }
    for _, own in table.groupby("mitigation"):
        assert set(own["name"]) == wanted
        assert own[["estimate", "n"]].notna().all().all()
    kinds = table.drop_duplicates("mitigation").set_index("mitigation")["kind"]
    assert {"none", "ablate", "scale", "steer", "prompt"} <= set(kinds)
    values = table.set_index(["mitigation", "name"])["estimate"]
    steered = next(name for name, kind in kinds.items() if kind == "steer")
    assert abs(values[steered, "position"]) < abs(values["none", "position"])
    # What is left untouched is what the verdicts' own table says.
    plain = run.table("verdicts").query("variant == 'base' and condition == 'plain' and part == 'test'")
    decided = plain[plain["label"].isin(["A", "B"])]
    assert values["none", "accuracy"] == pytest.approx((decided["verdict"] == decided["label"]).mean())


def test_figures_are_drawn_and_tell_what_they_show(run: RunFolder) -> None:
    heads, mitigations = run.table("heads"), run.table("mitigations")
    told = run.read_json("heads")
    for variant in ("base", "reference"):
        caption = head_map(heads, variant=variant, left_out=told["left_out"]).caption
        assert "position" in caption.lower()
        assert told["left_out"] in caption
    for table, draw in ((heads, head_map), (mitigations, draw_mitigations)):
        assert "Not shown" in draw(table).caption
        assert draw(table[:0]).figure.axes


def test_a_second_start_does_nothing_again(run: RunFolder) -> None:
    before = run.state()["seconds"]
    out: Path = run.out
    run_study(read_study("judge_bias", SMALL), out, until="mitigate")
    assert open_run(out).state()["seconds"] == before
