"""The judge's ladder: each rung decided by its rule on planted numbers, and nothing said about what was not tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from judge_runs import write_judge_run
from report_runs import Change, write_run

from verdictscope.errors import InputError
from verdictscope.report import Record, Rung, climb

KEYS = ("measured", "readable", "located", "necessary", "specific", "reference", "mitigated", "replicated")


def rungs(folder: Path, change: Change | None = None) -> dict[str, Rung]:
    return {rung.key: rung for rung in climb(Record(write_judge_run(folder / "run", change)))}


def rows(part: str, where: str, **values: Any) -> Change:
    def alter(made: dict[str, Any]) -> None:
        table: pd.DataFrame = made[part]
        chosen = table.query(where).index
        assert len(chosen), where
        for column, value in values.items():
            table.loc[chosen, column] = value

    return alter


def drop(part: str) -> Change:
    return lambda made: made.update({part: None})


def unbiased(made: dict[str, Any]) -> None:
    rows("bias_parts", "name != 'content'", estimate=0.0, low=-0.1, high=0.1)(made)


def test_a_run_in_which_all_is_well(tmp_path: Path) -> None:
    found = rungs(tmp_path)
    assert {key: rung.status for key, rung in found.items()} == dict.fromkeys(KEYS, "held") | {
        "replicated": "not tested"
    }
    assert found["measured"].reason == (
        "Moves the verdict: position +3.00, bandwagon +7.00 nats; does not: authority +0.02."
    )


def test_an_empty_run_tests_nothing(tmp_path: Path) -> None:
    def empty(made: dict[str, Any]) -> None:
        for name in set(made) - {"study", "done", "provenance"}:
            made[name] = None
        made["done"] = []

    found = rungs(tmp_path, empty)
    assert tuple(found) == KEYS
    for rung in found.values():
        assert rung.status == "not tested"
        assert rung.reason == "Not tested by this run."
        assert rung.fill
        assert rung.not_shown
        assert not rung.sources


def test_of_a_judge_without_a_bias_nothing_is_asked_further(tmp_path: Path) -> None:
    found = rungs(tmp_path, unbiased)
    assert found["measured"].status == "held"
    assert found["measured"].reason.startswith("No bias moves the verdict by more than counts; does not: position")
    assert found["readable"].status == "held"
    for key in ("located", "necessary", "specific", "reference", "mitigated"):
        assert found[key].status == "not tested"
        assert "no bias of this judge" in found[key].reason


@pytest.mark.parametrize(
    ("alter", "key", "status"),
    [
        # measured: beyond or within what counts, on every bias; between the two it cannot be told
        (rows("bias_parts", "name == 'authority'", low=-0.6), "measured", "partly"),
        (rows("bias_parts", "name == 'position'", estimate=-3.0, low=-3.2, high=-2.8), "measured", "held"),
        (drop("bias_parts"), "measured", "not tested"),
        # a cue has to exceed what its control does as well
        (rows("verdict_rates", "name == 'pull'", estimate=6.9, low=6.8, high=7.0), "measured", "partly"),
        # readable: above every refit, both probes
        (rows("verdict_probe", "kind == 'test' and place == 'last'", low=0.6), "readable", "partly"),
        (rows("verdict_probe", "kind == 'test'", low=0.601), "readable", "held"),
        (rows("correctness", "name == 'AUROC' and condition == 'plain'", null_high=0.88), "readable", "partly"),
        (drop("correctness"), "readable", "partly"),
        # located: every named head, by the test on the other half
        (
            rows(
                "bias_heads",
                "contrast == 'position' and layer == 2 and head == 5 and variant == 'base'",
                declared=False,
            ),
            "located",
            "partly",
        ),
        (rows("bias_heads", "variant == 'base'", declared=False), "located", "not held"),
        (drop("bias_heads"), "located", "not tested"),
        # necessary: a fifth left at most, interval and all; below every random set; p
        (rows("bias_sets", "contrast == 'position' and kind == 'found'", high=0.61), "necessary", "partly"),
        (rows("bias_sets", "contrast == 'position' and kind == 'found'", low=-0.61), "necessary", "partly"),
        (rows("bias_sets", "contrast == 'position' and kind == 'found'", p=0.06), "necessary", "partly"),
        (rows("bias_sets", "contrast == 'position' and set == 'random_3'", estimate=0.05), "necessary", "partly"),
        (rows("bias_sets", "kind == 'found'", estimate=9.0, low=8.0, high=10.0), "necessary", "not held"),
        (drop("bias_sets"), "necessary", "not tested"),
        # specific: four fifths of everything else, two points of accuracy, with one bias's heads out at a time
        (
            rows("mitigations", "mitigation == 'position heads zeroed' and name == 'content'", low=3.99),
            "specific",
            "partly",
        ),
        (
            rows("mitigations", "mitigation == 'position heads zeroed' and name == 'bandwagon'", low=5.5),
            "specific",
            "partly",
        ),
        (
            rows("mitigations", "mitigation == 'position heads zeroed' and name == 'accuracy'", estimate=0.929),
            "specific",
            "partly",
        ),
        (rows("mitigations", "kind == 'ablate' and name == 'accuracy'", estimate=0.93), "specific", "held"),
        # without mitigations all found heads are out at once, and no other bias should stay
        (drop("mitigations"), "specific", "partly"),
        (lambda made: made.update(mitigations=None, bias_sets=None), "specific", "not tested"),
        # reference model: within what counts, and no head named
        (rows("bias_parts", "variant == 'reference' and name == 'position'", high=0.51), "reference", "partly"),
        (
            rows("bias_heads", "variant == 'reference' and contrast == 'bandwagon' and layer == 1", declared=True),
            "reference",
            "partly",
        ),
        (
            lambda made: made.update(
                study=made["study"].model_copy(update={"reference": None}),
                bias_parts=made["bias_parts"].query("variant == 'base'"),
                bias_heads=made["bias_heads"].query("variant == 'base'"),
            ),
            "reference",
            "not tested",
        ),
        # mitigated: a fifth left at most, two points of accuracy, a prompt beside it
        (rows("mitigations", "kind == 'ablate' and name == 'position'", high=0.61), "mitigated", "partly"),
        (rows("mitigations", "kind == 'ablate' and name == 'accuracy'", estimate=0.9), "mitigated", "not held"),
        (lambda made: made.update(mitigations=made["mitigations"].query("kind != 'prompt'")), "mitigated", "partly"),
        (drop("mitigations"), "mitigated", "not tested"),
    ],
)
def test_each_rule_at_its_edge(tmp_path: Path, alter: Change, key: str, status: str) -> None:
    assert rungs(tmp_path, alter)[key].status == status


def test_without_a_reference_the_rung_says_so(tmp_path: Path) -> None:
    def alone(made: dict[str, Any]) -> None:
        made["study"] = made["study"].model_copy(update={"reference": None})
        made["bias_parts"] = made["bias_parts"].query("variant == 'base'")
        made["bias_heads"] = made["bias_heads"].query("variant == 'base'")

    assert "names no reference" in rungs(tmp_path, alone)["reference"].reason


def test_a_second_set_of_items_fills_the_last_rung(tmp_path: Path) -> None:
    def others(made: dict[str, Any]) -> None:
        made["verdicts"] = made["verdicts"].assign(item="other " + made["verdicts"]["item"])

    first = Record(write_judge_run(tmp_path / "first"))
    other = Record(write_judge_run(tmp_path / "other", others))
    assert climb(first, other)[-1].status == "held"
    same = climb(first, Record(write_judge_run(tmp_path / "same")))[-1]
    assert same.reason == "Not tested: 40 of 40 prompts stand in both runs."


def test_two_kinds_are_not_set_side_by_side(tmp_path: Path) -> None:
    judge, refusal = Record(write_judge_run(tmp_path / "judge")), Record(write_run(tmp_path / "refusal"))
    with pytest.raises(InputError, match="compare two runs of one kind"):
        climb(judge, refusal)


def test_every_number_says_what_it_rests_on(tmp_path: Path) -> None:
    folder = write_judge_run(tmp_path / "run")
    for rung in climb(Record(folder)):
        for evidence in rung.evidence:
            if evidence.decides and evidence.value is not None:
                assert evidence.n
                assert evidence.low <= evidence.value <= evidence.high
                assert evidence.null
                assert (folder / evidence.source).is_file()
