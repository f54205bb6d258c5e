"""The evidence ladder of a judge study: each criterion at the edge of its rule, on planted numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from judge_runs import write_judge_run
from report_runs import Change, write_run

from verdictscope.errors import InputError
from verdictscope.report.compare import ladders
from verdictscope.study.criteria import Assessment
from verdictscope.study.folder import open_run

KEYS = ("measured", "readable", "located", "necessary", "specific", "reference", "mitigated", "replicated")


def rungs(folder: Path, change: Change | None = None) -> dict[str, Assessment]:
    return {a.key: a for a in ladders([open_run(write_judge_run(folder / "run", change))])[0]}


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
    assert {key: rung.status for key, rung in found.items()} == dict.fromkeys(KEYS, "met") | {
        "replicated": "not tested"
    }


def test_an_empty_run_tests_nothing(tmp_path: Path) -> None:
    def empty(made: dict[str, Any]) -> None:
        for name in set(made) - {"study", "done", "provenance"}:
            made[name] = None
        made["done"] = []

    found = rungs(tmp_path, empty)
    assert tuple(found) == KEYS
    for rung in found.values():
        assert rung.status == "not tested"
        assert rung.criterion.how
        assert all(e.result is None for e in rung.evidence)


def test_of_a_judge_without_a_bias_nothing_is_asked_further(tmp_path: Path) -> None:
    found = rungs(tmp_path, unbiased)
    assert found["measured"].status == "met"
    assert found["readable"].status == "met"
    for key in ("located", "necessary", "specific", "reference", "mitigated"):
        assert found[key].status == "not tested"


@pytest.mark.parametrize(
    ("alter", "key", "status"),
    [
        # measured: beyond or within what counts, on every bias; between the two it cannot be told
        (rows("bias_parts", "name == 'authority'", low=-0.6), "measured", "partly met"),
        (rows("bias_parts", "name == 'position'", estimate=-3.0, low=-3.2, high=-2.8), "measured", "met"),
        (drop("bias_parts"), "measured", "not tested"),
        # a cue has to exceed what its control does as well
        (rows("verdict_rates", "name == 'pull'", estimate=6.9, low=6.8, high=7.0), "measured", "partly met"),
        # readable: above every refit, both probes
        (rows("verdict_probe", "kind == 'test' and place == 'last'", low=0.6), "readable", "partly met"),
        (rows("verdict_probe", "kind == 'test'", low=0.601), "readable", "met"),
        (rows("correctness", "name == 'AUROC' and condition == 'plain'", null_high=0.88), "readable", "partly met"),
        (drop("correctness"), "readable", "partly met"),
        # located: every named head, by the test on the other half
        (
            rows("heads", "contrast == 'position' and layer == 2 and head == 5 and variant == 'base'", declared=False),
            "located",
            "partly met",
        ),
        (rows("heads", "variant == 'base'", declared=False), "located", "not met"),
        (drop("heads"), "located", "not tested"),
        # necessary: a fifth left at most, interval and all; below every random set; p
        (rows("ablation", "contrast == 'position' and kind == 'found'", high=0.61), "necessary", "partly met"),
        (rows("ablation", "contrast == 'position' and kind == 'found'", low=-0.61), "necessary", "partly met"),
        (rows("ablation", "contrast == 'position' and kind == 'found'", p=0.06), "necessary", "partly met"),
        (rows("ablation", "contrast == 'position' and set == 'random_3'", estimate=0.05), "necessary", "partly met"),
        (rows("ablation", "kind == 'found'", estimate=9.0, low=8.0, high=10.0), "necessary", "not met"),
        (drop("ablation"), "necessary", "not tested"),
        # specific: four fifths of everything else, two points of accuracy, with one bias's heads out at a time
        (
            rows("mitigations", "mitigation == 'position heads zeroed' and name == 'content'", low=3.99),
            "specific",
            "partly met",
        ),
        (
            rows("mitigations", "mitigation == 'position heads zeroed' and name == 'bandwagon'", low=5.5),
            "specific",
            "partly met",
        ),
        (
            rows("mitigations", "mitigation == 'position heads zeroed' and name == 'accuracy'", estimate=0.929),
            "specific",
            "partly met",
        ),
        (rows("mitigations", "kind == 'ablate' and name == 'accuracy'", estimate=0.93), "specific", "met"),
        # without mitigations all found heads are out at once, and no other bias should stay
        (drop("mitigations"), "specific", "partly met"),
        (lambda made: made.update(mitigations=None, ablation=None), "specific", "not tested"),
        # reference model: within what counts, and no head named
        (rows("bias_parts", "variant == 'reference' and name == 'position'", high=0.51), "reference", "partly met"),
        (
            rows("heads", "variant == 'reference' and contrast == 'bandwagon' and layer == 1", declared=True),
            "reference",
            "partly met",
        ),
        (
            lambda made: made.update(
                study=made["study"].model_copy(update={"reference": None}),
                bias_parts=made["bias_parts"].query("variant == 'base'"),
                heads=made["heads"].query("variant == 'base'"),
            ),
            "reference",
            "not tested",
        ),
        # mitigated: a fifth left at most, two points of accuracy, a prompt beside it
        (rows("mitigations", "kind == 'ablate' and name == 'position'", high=0.61), "mitigated", "partly met"),
        (rows("mitigations", "kind == 'ablate' and name == 'accuracy'", estimate=0.9), "mitigated", "not met"),
        (
            lambda made: made.update(mitigations=made["mitigations"].query("kind != 'prompt'")),
            "mitigated",
            "partly met",
        ),
        (drop("mitigations"), "mitigated", "not tested"),
    ],
)
def test_each_rule_at_its_edge(tmp_path: Path, alter: Change, key: str, status: str) -> None:
    assert rungs(tmp_path, alter)[key].status == status


def test_a_second_set_of_items_fills_the_last_rung(tmp_path: Path) -> None:
    def others(made: dict[str, Any]) -> None:
        made["verdicts"] = made["verdicts"].assign(item="other " + made["verdicts"]["item"])

    first = open_run(write_judge_run(tmp_path / "first"))
    other, same = (open_run(write_judge_run(tmp_path / n, c)) for n, c in (("other", others), ("same", None)))
    assert ladders([first, other])[0][-1].status == "met"
    assert ladders([first, same])[0][-1].status == "not tested"


def test_two_kinds_are_not_compared(tmp_path: Path) -> None:
    judge, refusal = open_run(write_judge_run(tmp_path / "judge")), open_run(write_run(tmp_path / "refusal"))
    with pytest.raises(InputError, match="different kinds"):
        ladders([judge, refusal])


def test_every_number_says_what_it_rests_on(tmp_path: Path) -> None:
    folder = write_judge_run(tmp_path / "run")
    for assessed in ladders([open_run(folder)])[0]:
        for evidence in assessed.evidence:
            row = evidence.result
            if evidence.decides and row is not None:
                assert row.n
                assert row.low <= row.estimate <= row.high
                assert evidence.null
                assert (folder / row.file).is_file()
