"""The ladder: each rung decided by its rule on planted numbers, and nothing said about what was not tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_runs import Change, write_run

from verdictscope.report import Evidence, Record, Rung, climb
from verdictscope.report.evidence import decide
from verdictscope.report.ladder import MINIMUM

KEYS = ("decodable", "beyond", "transfers", "writer", "necessary", "sufficient", "replicated")


def rungs(folder: Path, change: Change | None = None) -> dict[str, Rung]:
    return {rung.key: rung for rung in climb(Record(write_run(folder / "run", change)))}


def statuses(folder: Path, change: Change | None = None) -> dict[str, str]:
    return {key: rung.status for key, rung in rungs(folder, change).items()}


def test_a_run_in_which_all_is_well(tmp_path: Path) -> None:
    assert statuses(tmp_path) == dict(
        zip(KEYS, ["held", "held", "not tested", "held", "held", "not tested", "not tested"], strict=True)
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


@pytest.mark.parametrize(
    ("tests", "every", "status"),
    [
        ([], False, "not tested"),
        ([None, None], False, "not tested"),
        ([True, True], False, "held"),
        ([True, None], False, "partly"),
        ([True, False], False, "partly"),
        ([True, False], True, "not held"),
        ([False, None], False, "not held"),
        ([True, True], True, "held"),
        ([True, None], True, "partly"),
    ],
)
def test_statuses_follow_from_the_tests(tests: list[bool | None], every: bool, status: str) -> None:
    evidence = [Evidence("x", 1.0, passes=t) for t in tests]
    assert decide(evidence, every=every) == status
    assert decide([*evidence, Evidence("beside", 1.0, passes=False, decides=False)], every=every) == status


def change(part: str, **values: Any) -> Change:
    return lambda made: made[part].update(values)


def language(**values: float) -> Change:
    return lambda made: made["probe"]["language"].update(values)


def rows(part: str, where: str, **values: Any) -> Change:
    """Set columns of the rows of a table that a query names."""

    def alter(made: dict[str, Any]) -> None:
        table: pd.DataFrame = made[part]
        chosen = table.query(where).index
        for column, value in values.items():
            table.loc[chosen, column] = value

    return alter


def drop(part: str) -> Change:
    return lambda made: made.update({part: None})


@pytest.mark.parametrize(
    ("alter", "key", "status"),
    [
        # decodable: the lower end against the highest refit
        (change("probe", auroc_low=0.531), "decodable", "held"),
        (change("probe", auroc_low=0.53), "decodable", "not held"),
        (change("probe", auroc_low=None), "decodable", "not tested"),
        # beats every baseline: one that wins decides, one that is missing leaves it open
        (language(bag_of_words_thinking_high=0.8801), "beyond", "not held"),
        (language(length_auroc=0.9, length_high=0.95), "beyond", "not held"),
        (language(position_auroc=None, position_low=None, position_high=None), "beyond", "partly"),
        (drop("probe"), "beyond", "not tested"),
        # harm read from the request is another label and no baseline of the probe
        (language(bag_of_words_auroc=0.99, bag_of_words_high=0.999), "beyond", "held"),
        # direct writer: against refusing, and more than any head that was not found
        (rows("attribution", "layer == 3 and head == 1", estimate=-0.1, high=0.1), "writer", "partly"),
        (rows("attribution", "layer == 2 and head == 2", estimate=-2.5), "writer", "partly"),
        (rows("attribution", "layer == 2 and head == 2", estimate=-4.5), "writer", "not held"),
        (rows("attribution", "estimate < -1", estimate=2.0, low=1.9, high=2.1), "writer", "not held"),
        (drop("attribution"), "writer", "not tested"),
        # necessary: the smallest effect, the random sets, p, and all three tests
        (rows("ablation", "kind == 'found'", low=MINIMUM["nats"] - 0.01), "necessary", "partly"),
        (rows("ablation", "kind == 'found'", delta=7.6), "necessary", "partly"),
        (rows("ablation", "kind == 'found'", p=0.06), "necessary", "partly"),
        (rows("ablation", "set == 'random_3'", estimate=7.6), "necessary", "partly"),
        (rows("generation", "arm == 'random_0' and cell_kind == 'target'", refused=0.9), "necessary", "partly"),
        (rows("cliff", "arm == 'ablated_fixed'", low=0.09), "necessary", "partly"),
        (drop("generation"), "necessary", "partly"),
        (drop("ablation"), "necessary", "partly"),
    ],
)
def test_each_rule_at_its_edge(tmp_path: Path, alter: Change, key: str, status: str) -> None:
    assert statuses(tmp_path, alter)[key] == status


def test_the_words_that_beat_the_probe_are_named(tmp_path: Path) -> None:
    rung = rungs(tmp_path, language(bag_of_words_refusal_auroc=0.96, bag_of_words_refusal_high=0.97))["beyond"]
    assert rung.status == "not held"
    assert rung.reason == "The probe reads 0.900; words of the prompt 0.960."


@pytest.mark.parametrize(
    ("lows", "status"), [([0.6, 0.7], "held"), ([0.6, 0.49], "partly"), ([0.4, 0.3], "not held"), ([], "not tested")]
)
@pytest.mark.parametrize("table", ["position_transfer", "ood"])
def test_transfer_tables_fill_the_third_rung(tmp_path: Path, lows: list[float], status: str, table: str) -> None:
    names = ("fit_segment", "read_segment") if table == "position_transfer" else ("train_set", "test_set")
    found = [(f"a{i}", f"b{i}", low + 0.1, low, low + 0.2, 20) for i, low in enumerate(lows)]
    # Where it was fitted it reads at chance: the diagonal is no transfer and decides nothing.
    found.append(("same", "same", 0.5, 0.4, 0.6, 20))
    frame = pd.DataFrame(found, columns=[*names, "auroc", "low", "high", "n"])
    rung = rungs(tmp_path, lambda made: made.update({table: frame}))["transfers"]
    assert rung.status == status
    assert len(rung.evidence) == len(lows)


def second_set(made: dict[str, Any]) -> None:
    made["rollouts"] = made["rollouts"].assign(prompt_text="kindly " + made["rollouts"]["prompt_text"])


def test_a_second_set_of_prompts_fills_the_last_rung(tmp_path: Path) -> None:
    first = Record(write_run(tmp_path / "first"))
    other = Record(write_run(tmp_path / "other", second_set))
    assert climb(first, other)[-1].status == "held"
    same = climb(first, Record(write_run(tmp_path / "same")))[-1]
    assert same.reason == "Not tested: 80 of 80 prompts stand in both runs."

    def weaker(made: dict[str, Any]) -> None:
        second_set(made)
        rows("attribution", "estimate < -1", estimate=2.0, low=1.9, high=2.1)(made)

    assert climb(first, Record(write_run(tmp_path / "weaker", weaker)))[-1].status == "partly"

    def stranger(made: dict[str, Any]) -> None:
        second_set(made)
        made["provenance"]["models"]["base"]["config"] = "other"

    assert "another model" in climb(first, Record(write_run(tmp_path / "stranger", stranger)))[-1].reason


def test_every_number_says_what_it_rests_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for rung in climb(Record(folder)):
        for evidence in rung.evidence:
            if evidence.decides:
                assert evidence.n
                assert evidence.low <= evidence.value <= evidence.high
                assert evidence.null
            assert (folder / evidence.source).is_file()
