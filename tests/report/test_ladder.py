"""The ladder: each rung decided by its rule on planted numbers, and nothing said about what was not tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_runs import Change, write_run

from verdictscope.report import Evidence, Record, Rung, climb
from verdictscope.report.evidence import decide
from verdictscope.report.refusal.ladder import MINIMUM

KEYS = ("decodable", "beyond", "transfers", "writer", "necessary", "sufficient", "replicated")


def rungs(folder: Path, change: Change | None = None) -> dict[str, Rung]:
    return {rung.key: rung for rung in climb(Record(write_run(folder / "run", change)))}


def statuses(folder: Path, change: Change | None = None) -> dict[str, str]:
    return {key: rung.status for key, rung in rungs(folder, change).items()}


def test_a_run_in_which_all_is_well(tmp_path: Path) -> None:
    assert statuses(tmp_path) == dict(
        zip(KEYS, ["held", "partly", "not tested", "held", "held", "held", "not tested"], strict=True)
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
        (language(bag_of_words_thinking_auroc=None), "beyond", "partly"),
        (drop("probe"), "beyond", "not tested"),
        # harm read from the request is another label and no baseline of the probe
        (language(bag_of_words_auroc=0.99, bag_of_words_high=0.999), "beyond", "partly"),
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
        (rows("generation", "variant == 'random_0' and cell_kind == 'target'", refused=0.9), "necessary", "partly"),
        (rows("cliff", "variant == 'ablated_fixed'", low=0.09), "necessary", "partly"),
        (drop("generation"), "necessary", "partly"),
        (drop("ablation"), "necessary", "partly"),
        # sufficient: the smallest effect, the random sets, p, and both tests
        (rows("transplant", "kind == 'found'", high=-MINIMUM["nats"] + 0.01), "sufficient", "partly"),
        (rows("transplant", "kind == 'found'", delta=8.6), "sufficient", "partly"),
        (rows("transplant", "kind == 'found'", p=0.06), "sufficient", "partly"),
        (rows("transplant", "set == 'random_3'", estimate=-8.6), "sufficient", "partly"),
        (
            rows("generation", "variant == 'transplanted' and cell_kind == 'target'", low=0.8, refused=0.9, high=0.95),
            "sufficient",
            "partly",
        ),
        (drop("transplant"), "sufficient", "partly"),
        (drop("generation"), "sufficient", "partly"),
    ],
)
def test_each_rule_at_its_edge(tmp_path: Path, alter: Change, key: str, status: str) -> None:
    assert statuses(tmp_path, alter)[key] == status


def test_without_a_reference_the_sixth_rung_says_so(tmp_path: Path) -> None:
    def alone(made: dict[str, Any]) -> None:
        made["study"] = made["study"].model_copy(update={"reference": None})
        made["transplant"] = None
        made["generation"] = made["generation"].query("variant != 'transplanted'")

    rung = rungs(tmp_path, alone)["sufficient"]
    assert rung.status == "not tested"
    assert "names no reference" in rung.reason


def test_the_words_that_beat_the_probe_are_named(tmp_path: Path) -> None:
    rung = rungs(tmp_path, language(bag_of_words_refusal_auroc=0.96, bag_of_words_refusal_high=0.97))["beyond"]
    assert rung.status == "not held"
    assert rung.reason == "The probe reads 0.900; words of the prompt 0.960. Not measured: length, position."


@pytest.mark.parametrize(
    ("lows", "nulls", "status"),
    [
        ([0.6, 0.7], [0.5, 0.5], "held"),
        ([0.6, 0.49], [0.4, 0.4], "partly"),
        ([0.6, 0.7], [0.55, 0.71], "partly"),
        ([0.4, 0.3], [0.5, 0.5], "not held"),
        ([], [], "not tested"),
    ],
)
@pytest.mark.parametrize("table", ["position_transfer", "ood"])
def test_transfer_tables_fill_the_third_rung(
    tmp_path: Path, lows: list[float], nulls: list[float], status: str, table: str
) -> None:
    # Each place is read at two others, and the weaker of them decides.
    found = [
        (f"a{i}", read, low + 0.1 + more, low + more, low + 0.2 + more, 20, 0.4, null)
        for i, (low, null) in enumerate(zip(lows, nulls, strict=True))
        for read, more in (("b", 0.0), ("c", 0.05))
    ]
    # Where it was fitted it reads at chance: the diagonal is no transfer and decides nothing.
    found.append(("same", "same", 0.5, 0.4, 0.6, 20, 0.4, 0.6))
    columns = ["fit", "read", "auroc", "low", "high", "n", "null_low", "null_high"]
    rung = rungs(tmp_path, lambda made: made.update({table: pd.DataFrame(found, columns=columns)}))["transfers"]
    assert rung.status == status
    assert len(rung.evidence) == len(lows)
    if lows:
        cells = sum(low + more > max(null, 0.5) for low, null in zip(lows, nulls, strict=True) for more in (0, 0.05))
        assert rung.reason == f"{cells} of {2 * len(lows)} transfers read above their null."


def baselines(made: dict[str, Any], *names: str, high: float = 0.8) -> None:
    rows = [
        {"name": name, "kind": "baseline", "estimate": high - 0.1, "low": high - 0.2, "high": high, "n": 20}
        for name in names
    ]
    control = {"name": "random directions", "kind": "control", "estimate": 0.99, "low": 0.9, "high": 1.0, "n": 20}
    made["probe_nulls"] = pd.DataFrame([*rows, control])


@pytest.mark.parametrize(
    ("names", "high", "status"),
    [
        (("prompt, words", "length of the thinking", "position"), 0.8, "held"),
        (("prompt, words", "length of the thinking"), 0.8, "partly"),
        (("prompt, words", "length of the thinking", "position"), 0.9, "not held"),
    ],
)
def test_a_table_of_nulls_names_the_baselines(tmp_path: Path, names: tuple[str, ...], high: float, status: str) -> None:
    rung = rungs(tmp_path, lambda made: baselines(made, *names, high=high))["beyond"]
    assert rung.status == status
    assert [e.what for e in rung.evidence if e.decides][: len(names)] == list(names)


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
            if evidence.decides and evidence.value is not None:
                assert evidence.n
                assert evidence.low <= evidence.value <= evidence.high
                assert evidence.null
                assert (folder / evidence.source).is_file()
