"""The results table: rows by name, strict keys, and a judge's rates and heads from tables with known numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from judge_runs import BANDWAGON, POSITION, verdicts, write_judge_run
from report_runs import write_run

from verdictscope.errors import InputError
from verdictscope.report import format_summary
from verdictscope.stats import Effect
from verdictscope.study.folder import open_run
from verdictscope.study.results import Result, Results
from verdictscope.study.stages.results import run_results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_judge_run(tmp_path_factory.mktemp("results") / "run", lambda made: made.update(verdict_rates=None))
    opened = open_run(folder)
    with opened.claimed():
        run_results(opened)
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return Results.read(run / "results.parquet")


def test_a_number_is_found_by_name_and_a_wrong_name_gives_the_nearest() -> None:
    effect = Effect("normalised_drop", 0.3, 0.2, 0.4, 54, "normalised", p=0.01)
    results = Results([Results.row(effect, "trace", condition="target")])
    row = results.get("trace", "normalised_drop", condition="target")
    assert (row.estimate, row.low, row.high, row.n, row.unit, row.p) == (0.3, 0.2, 0.4, 54, "normalised", 0.01)
    with pytest.raises(InputError, match="nearest: trace / base / target / normalised_drop"):
        results.get("trace", "normalized_drop", condition="target")
    assert results.find("trace", "other") is None
    with pytest.raises(InputError, match="two rows"):
        results.add(row)


def test_a_table_comes_back_as_it_was_written(results: Results, run: Path) -> None:
    again = Results.from_frame(results.to_frame())
    assert list(again) == list(results)
    assert list(open_run(run).results()) == list(results)
    nested = json.loads((run / "summary.json").read_text())["results"]
    for row in results:
        assert nested[row.stage][row.variant][row.condition][row.name]["estimate"] == row.estimate


def test_what_is_missing_is_none() -> None:
    results = Results([Result("trace", "base", "all", "x", None), Result("trace", "base", "all", "y", float("nan"))])
    assert [row.estimate for row in Results.from_frame(results.to_frame())] == [None, None]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "results.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"results\.parquet cannot be read"):
        open_run(folder).results()


def test_rates_are_counted_from_the_verdicts(run: Path, results: Results) -> None:
    def rate(name: str, condition: str = "plain", variant: str = "base") -> float | None:
        return results.get("generate", name, condition=condition, variant=variant).estimate

    ties = verdicts().query("variant == 'base' and thinking == 'off' and condition == 'plain' and label == 'tie'")
    assert rate("accuracy") == 1.0
    assert rate("first_in_ties") == (ties["shown"] == "first").mean() == 1.0
    assert rate("follows", "bandwagon") == 1.0
    assert rate("accuracy_named_wrong", "bandwagon") == 0.0
    assert rate("accuracy_named_wrong", "bandwagon", "reference") == 1.0
    assert rate("consistency") == pytest.approx(0.75)  # ties are judged by what is shown first
    assert rate("unread", "plain, after thinking") == pytest.approx(2 / 80)
    assert rate("accuracy", "plain, after thinking") == pytest.approx(58 / 60)
    assert rate("not parsed", "plain, after thinking") == 2
    assert rate("pull", "control") == pytest.approx(0.0)  # the made control changes no verdict
    rates = pd.read_parquet(run / "verdict_rates.parquet")
    assert (rates["n"] <= 20).all()
    assert set(rates.query("condition == 'plain'")["name"]).isdisjoint({"follows", "accuracy_named_wrong"})


def test_heads_are_those_selected_and_confirmed(results: Results) -> None:
    for contrast, heads in {"position": POSITION, "bandwagon": BANDWAGON}.items():
        rows = results.select(stage="heads", variant="base", condition=contrast, selected=True, confirmed=True)
        assert {row.name for row in rows} == {f"L{layer}H{head}" for layer, head in heads}
    assert results.get("truth", "recall", condition="planted heads").estimate is not None


def test_random_sets_are_the_null_of_the_selected_heads(results: Results) -> None:
    left = results.get("ablate", "size", variant="ablated", condition="position")
    assert (left.estimate, left.null_low, left.null_high) == (0.1, pytest.approx(2.92), pytest.approx(3.0))


def test_the_terminal_shows_them_at_80_columns(run: Path) -> None:
    text = format_summary(run)
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for part in ("position, log-odds: +3.00 [2.80, 3.20] nats", "heads, bandwagon: L3H6 (+1.50), L5H1 (+1.50)"):
        assert part in flat
