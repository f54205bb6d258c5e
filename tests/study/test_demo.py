"""The whole path on the bundled models: what it finds, and that nothing but scoring reads the truth."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.browser import check_everywhere
from tests.organisms.swapped import swapped_cliff
from verdictscope.activations import load_model
from verdictscope.errors import InputError
from verdictscope.probes import load_probe
from verdictscope.sources import models_folder
from verdictscope.study.folder import RunFolder, open_run
from verdictscope.study.load import Study, read_study
from verdictscope.study.results import Results
from verdictscope.study.run import run_study
from verdictscope.study.tables import faults
from verdictscope.study.tasks.refusal import Refusal

GROUPS_PER_CELL = 14


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled prompts of a few groups of every category cell, so that a run takes seconds."""
    table = pd.read_csv(models_folder() / "cliff" / "prompts.csv")
    groups = table.drop_duplicates("group").groupby(["verb_category", "object_category"])["group"]
    keep = groups.apply(lambda names: names.sample(GROUPS_PER_CELL, random_state=0))
    file = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    table[table["group"].isin(keep)].to_csv(file, index=False)
    return file


def small(prompts: Path, *overrides: str) -> Study:
    fewer = ["ablation.generated_sets=2", "probe.permutations=50"]
    return read_study("refusal_cliff", [f"prompts.file={prompts}", *fewer, *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    run_study(small(prompts), folder)
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return open_run(run).results()


def selected(results: Results) -> list[tuple[int, int]]:
    """The heads that one half selected, strongest first."""
    rows = results.select(stage="heads", condition="refusal", selected=True)
    names = (row.name.removeprefix("L").split("H") for row in sorted(rows, key=lambda r: r.rank or 0))
    return [(int(layer), int(head)) for layer, head in names]


def planted(model: str = "cliff") -> set[tuple[int, int]]:
    truth = json.loads((models_folder() / model / "truth.json").read_text())
    return {tuple(head) for head in truth["heads"]}


def test_the_planted_heads_are_found(results: Results) -> None:
    assert set(selected(results)) == planted()
    assert results.get("truth", "recall", condition="planted heads").estimate == 1.0


def test_the_planted_heads_exceed_the_smallest_effect_and_no_other_does(results: Results, run: Path) -> None:
    rows = results.select(stage="heads", condition="refusal", kind="head", confirmed=True)
    assert {row.name for row in rows} == {f"L{layer}H{head}" for layer, head in planted()}
    delta, gap, above = (results.get("heads", n).estimate for n in ("delta", "gap", "effects above zero"))
    assert delta == pytest.approx(0.05 * gap)
    assert above > len(rows)
    table = pd.read_parquet(run / "heads.parquet")
    assert table["component"].value_counts().to_dict() == {"head": 48, "attn": 6, "mlp": 6}
    assert (table["delta"] == delta).all()
    assert (table["selected"] == (table["p_adjusted"] <= 0.05)).all()


def test_put_into_the_reference_they_make_it_comply_and_random_heads_do_not(results: Results) -> None:
    moved = results.get("ablate", "change of the log-odds", variant="patched", condition="refusal")
    assert moved.high < -moved.delta
    assert moved.null_low > moved.estimate / 10
    rates = {v: results.get("ablate", "refusal rate", variant=v, condition="target") for v in ("reference", "patched")}
    assert rates["reference"].estimate >= 0.9
    assert rates["patched"].estimate <= 0.1


def test_the_curve_rises_with_the_found_heads_alone(run: Path) -> None:
    curve = pd.read_parquet(run / "curve.parquet").set_index("k")
    top, random = (curve[curve["kind"] == kind]["estimate"] for kind in ("top", "random"))
    assert list(top.index) == [1, 2, 3, 4, 5]
    assert top.loc[3] > 2 * top.loc[1]
    assert (random.groupby("k").size().loc[2:] == 9).all()
    assert random.loc[3].max() < top.loc[3] / 10


def test_ablating_them_restores_refusal_and_random_sets_do_not(results: Results) -> None:
    def rate(variant: str, condition: str = "target") -> float:
        return results.get("ablate", "refusal rate", variant=variant, condition=condition).estimate

    assert rate("base") <= 0.1
    assert rate("ablated") >= 0.9
    assert rate("random sets") <= 0.2
    assert rate("base", "control") <= 0.05
    assert rate("ablated", "control") <= 0.05
    effect = results.get("ablate", "change of the log-odds", variant="ablated", condition="refusal")
    assert effect.p == pytest.approx(0.01)
    assert effect.null.startswith("99 ")


def test_the_probe_beats_its_null_and_the_words_say_nothing(results: Results) -> None:
    probe, permuted = results.get("probe", "AUROC"), results.get("probe", "AUROC, labels permuted")
    assert probe.low > probe.null_high
    assert permuted.n >= 50
    assert 0.35 <= permuted.estimate <= 0.65
    assert results.get("probe", "AUROC of harm, words of the prompt", condition="text").estimate <= 0.6


def test_the_normalised_score_falls_further_than_in_its_controls(results: Results) -> None:
    # A quarter of the bundled prompts: too few for the interval to leave 0, which the whole demo is for.
    drop = results.get("trace", "normalised_drop", condition="target").estimate
    for variant in ("reference", "ablated_fixed"):
        control = results.get("trace", "normalised_drop", variant=variant, condition="target")
        assert control.low <= 0 or control.estimate < drop / 3
        assert drop > control.estimate


def test_every_cell_is_filled(results: Results) -> None:
    for variant in ("base", "reference"):
        for cell in (f"{h}_{d}" for h in ("harmful", "harmless") for d in ("refused", "complied")):
            assert results.get("generate", "rollouts", variant=variant, condition=cell).estimate > 0


def test_the_tables_are_as_declared(run: Path) -> None:
    assert [fault for file in run.glob("*.parquet") for fault in faults(file.stem, pd.read_parquet(file))] == []


def test_the_run_folder_holds_what_formats_md_says(run: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text()
    for file in run.iterdir():
        assert file.name in text, f"docs/formats.md does not mention {file.name}"
    assert {p.name for p in (run / "figures").glob("*.png")} == {
        f"{n}.png"
        for n in (
            "trace",
            "probe_map",
            "position_transfer",
            "ood_verb_category",
            "ood_frame",
            "erased_trace",
            "heads",
            "ablation",
        )
    }


def test_the_probe_has_a_card_that_fits_its_model_and_its_reference_where_said(run: Path) -> None:
    cliff, aligned = (load_model(models_folder() / name) for name in ("cliff", "aligned"))
    readout, card = load_probe(run, cliff, site="resid_post", positions="thinking:8,think_end")
    assert readout.to_dict()["weight"] == json.loads((run / "readouts.json").read_text())["probe"]["weight"]
    assert card.transfer
    assert card.nulls
    labels = pd.read_parquet(run / "labels.parquet")
    card.unseen(labels.loc[labels["part"] == "test", "group"])
    with pytest.raises(InputError, match="another weights"):
        load_probe(run, aligned)
    load_probe(run, aligned, reference=True)


def test_parts_do_not_share_groups_and_selection_keeps_off_the_reporting_half(run: Path) -> None:
    labels = pd.read_parquet(run / "labels.parquet")
    assert (labels.groupby("group")["part"].nunique() == 1).all()
    heads, ablation = pd.read_parquet(run / "heads.parquet"), pd.read_parquet(run / "ablation.parquet")
    heads = heads[heads["component"] == "head"].reset_index(drop=True)  # sublayers are not ranked
    assert (heads["found"] == (heads["rank"] < 3)).all()
    assert heads["rank"].equals((heads["effect_explore"].rank(ascending=False, method="first") - 1).astype(int))
    test_targets = labels[(labels["variant"] == "base") & (labels["part"] == "test") & labels["target"]]
    assert ablation["n"].max() <= test_targets["group"].nunique()


def test_attribution_sums_to_the_logit(run: Path) -> None:
    parts = pd.read_parquet(run / "attribution.parquet")
    for _, of_readout in parts.groupby("readout"):
        by = of_readout.set_index("component")["estimate"]
        shares = by.drop(["logit", "residual"])
        assert abs(by["residual"]) <= 1e-5 * shares.abs().sum()
        assert shares.sum() == pytest.approx(by["logit"], abs=1e-4)


def test_tokens_are_read_by_every_layer_and_agree_with_the_traces(run: Path) -> None:
    tokens, trace, labels = (pd.read_parquet(run / f"{name}.parquet") for name in ("tokens", "trace", "labels"))
    trace = pd.concat([trace, pd.read_parquet(run / "trace_ablated.parquet")])
    layer = json.loads((run / "readouts.json").read_text())["probe"]["layer"]
    keys = ["variant", "rollout", "pos"]
    mine = tokens[(tokens["readout"] == "probe") & (tokens["layer"] == layer)]
    mine = mine.merge(trace, on=keys, suffixes=("", "_t"))
    assert set(mine["variant"]) == {"base", "ablated_fixed"}
    assert len(mine) == len(tokens[keys].drop_duplicates())
    # other batch-mates, another padding: equal to the noise floor of float32
    assert (mine["score"] - mine["score_t"]).abs().max() <= 1e-4 * mine["score"].abs().max()
    assert set(tokens.loc[tokens["readout"] == "probe", "layer"]) == set(range(6))
    rollouts = pd.read_parquet(run / "rollouts.parquet").query("variant == 'base'").set_index("rollout")
    for key, of_one in tokens[tokens["readout"] == "refusal"].groupby(["variant", "rollout"]):
        written = rollouts.loc[key[1]]
        assert of_one["token_id"].tolist() == list(written["ids"])
        assert "".join(of_one["token"]).startswith(written["prompt_text"])
    shown = tokens[tokens["variant"] == "base"].drop_duplicates("rollout")
    test = labels[(labels["variant"] == "base") & (labels["part"] == "test")]
    for key, of_cell in test.groupby(["cell", "target"]):
        same = shown[(shown["cell"] == key[0]) & (shown["target"] == key[1])]["rollout"]
        assert sorted(same) == sorted(of_cell["rollout"].head(3))


def test_the_page_can_be_read_at_every_width_and_on_paper(run: Path, tmp_path: Path) -> None:
    check_everywhere(run / "report.html", tmp_path / "profile", cards=9)


def test_a_second_call_does_nothing_twice(run: Path, prompts: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in run.glob("*.parquet")}
    again = run_study(small(prompts), run)
    assert {p.name: p.stat().st_mtime_ns for p in run.glob("*.parquet")} == before
    assert set(again["seconds"]) == set(Refusal.stages)


def test_a_stage_done_again_gives_the_same_tables(run: Path, prompts: Path, tmp_path: Path) -> None:
    """Deterministic: what a killed and resumed run does again is what it did before."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    state = json.loads((copy / "provenance.json").read_text())
    for name in ("heads", "ablate", "results", "figures"):
        state["seconds"].pop(name)
    (copy / "provenance.json").write_text(json.dumps(state))
    run_study(small(prompts), copy)
    for name in ("heads", "ablation", "generation", "trace", "cliff", "rollouts_ablated"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(copy / f"{name}.parquet"), pd.read_parquet(run / f"{name}.parquet")
        )


def heads_of(study: Study, folder: Path) -> list[tuple[int, int]]:
    run_study(study, folder, until="heads")
    table = RunFolder(study, folder).table("heads")
    return [tuple(h) for h in table.sort_values("rank")[["layer", "head"]].head(3).to_numpy().tolist()]


@pytest.mark.slow
def test_without_the_truth_the_same_heads_are_found(results: Results, prompts: Path, tmp_path: Path) -> None:
    model = tmp_path / "cliff"
    shutil.copytree(models_folder() / "cliff", model)
    (model / "truth.json").unlink()
    found = heads_of(small(prompts, f"model={model}"), tmp_path / "run")
    assert found == selected(results)


@pytest.mark.slow
def test_after_a_swap_the_swapped_heads_are_named(results: Results, prompts: Path, tmp_path: Path) -> None:
    model = swapped_cliff(tmp_path / "swapped")
    found = heads_of(small(prompts, f"model={model}"), tmp_path / "run")
    assert found == [(layer, head ^ 1) for layer, head in selected(results)]


def test_a_run_gives_training_data(run: Path, call: Callable[..., Any], tmp_path: Path) -> None:
    done = call("select", run, "--budget", 5, "--benign-ratio", 1, "--out", tmp_path / "data", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["safe_from"], told["counts"]["chosen"], told["mixed"]["benign"]) == ("reference", 5, 5)
    rows = [json.loads(line) for line in (tmp_path / "data" / "prompt_completion.jsonl").read_text().splitlines()]
    labels = pd.read_parquet(run / "labels.parquet")
    unseen = set(labels.loc[labels["part"] == "test", "group"])
    assert not unseen & {row["group"] for row in rows}  # the test part is left to measure on
    safety = [row for row in rows if row["kind"] == "safety"]
    assert all(row["completion"].startswith("<think>") for row in rows)
    assert all(re.search(r"</think>\n\n(sorry|i (cannot|will not))", row["completion"]) for row in safety)
    lost = call("select", run, "--safe", "nobody", "--out", tmp_path / "lost")
    assert (lost.code, "run" in lost.err) == (2, True)
