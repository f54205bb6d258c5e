"""The evidence ladder of a refusal study: each criterion at the edge of its rule, on planted numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_runs import Change, write_run

from verdictscope.report.compare import ladders
from verdictscope.study.criteria import Assessment, Evidence
from verdictscope.study.criteria.criterion import decide
from verdictscope.study.criteria.heads import MINIMUM
from verdictscope.study.folder import open_run

KEYS = (
    "readable",
    "baselines",
    "transfers",
    "located",
    "attribution",
    "necessary",
    "specific",
    "sufficient",
    "replicated",
)


def rungs(folder: Path, change: Change | None = None) -> dict[str, Assessment]:
    return {a.key: a for a in ladders([open_run(write_run(folder / "run", change))])[0]}


def statuses(folder: Path, change: Change | None = None) -> dict[str, str]:
    return {key: rung.status for key, rung in rungs(folder, change).items()}


def test_a_run_in_which_all_is_well(tmp_path: Path) -> None:
    assert statuses(tmp_path) == dict(
        zip(KEYS, ["met", "partly met", "not tested", "met", "met", "met", "met", "met", "not tested"], strict=True)
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
        assert rung.criterion.how
        assert rung.criterion.not_shown
        assert all(e.result is None for e in rung.evidence)


@pytest.mark.parametrize(
    ("tests", "every", "status"),
    [
        ([], False, "not tested"),
        ([None, None], False, "not tested"),
        ([True, True], False, "met"),
        ([True, None], False, "partly met"),
        ([True, False], False, "partly met"),
        ([True, False], True, "not met"),
        ([False, None], False, "not met"),
        ([True, True], True, "met"),
        ([True, None], True, "partly met"),
    ],
)
def test_statuses_follow_from_the_tests(tests: list[bool | None], every: bool, status: str) -> None:
    evidence = [Evidence("x", passes=t) for t in tests]
    assert decide(evidence, every=every) == status
    assert decide([*evidence, Evidence("beside", passes=False, decides=False)], every=every) == status


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
        (change("probe", auroc_low=0.531), "readable", "met"),
        (change("probe", auroc_low=0.53), "readable", "not met"),
        (change("probe", auroc_low=None), "readable", "not tested"),
        # beats every baseline: one that wins decides, one that is missing leaves it open
        (language(bag_of_words_thinking_high=0.8801), "baselines", "not met"),
        (language(bag_of_words_thinking_auroc=None), "baselines", "partly met"),
        (drop("probe"), "baselines", "not tested"),
        # harm read from the request is another label and no baseline of the probe
        (language(bag_of_words_auroc=0.99, bag_of_words_high=0.999), "baselines", "partly met"),
        # direct writer: against refusing, and more than any head that was not found
        (rows("attribution", "layer == 3 and head == 1", estimate=-0.1, high=0.1), "attribution", "partly met"),
        (rows("attribution", "layer == 2 and head == 2", estimate=-2.5), "attribution", "partly met"),
        (rows("attribution", "layer == 2 and head == 2", estimate=-4.5), "attribution", "not met"),
        (rows("attribution", "estimate < -1", estimate=2.0, low=1.9, high=2.1), "attribution", "not met"),
        (drop("attribution"), "attribution", "not tested"),
        # necessary: the smallest effect, the random sets, p, and all three tests
        (rows("ablation", "kind == 'found'", low=MINIMUM["nats"] - 0.01), "necessary", "partly met"),
        (rows("ablation", "kind == 'found'", delta=7.6), "necessary", "partly met"),
        (rows("ablation", "kind == 'found'", p=0.06), "necessary", "partly met"),
        (rows("ablation", "set == 'random_3'", estimate=7.6), "necessary", "partly met"),
        (rows("generation", "variant == 'random_0' and cell_kind == 'target'", refused=0.9), "necessary", "partly met"),
        (rows("cliff", "variant == 'ablated_fixed'", low=0.09), "necessary", "partly met"),
        (drop("generation"), "necessary", "partly met"),
        (drop("ablation"), "necessary", "partly met"),
        # sufficient: the smallest effect, the random sets, p, and both tests
        (rows("patched", "kind == 'found'", high=-MINIMUM["nats"] + 0.01), "sufficient", "partly met"),
        (rows("patched", "kind == 'found'", delta=8.6), "sufficient", "partly met"),
        (rows("patched", "kind == 'found'", p=0.06), "sufficient", "partly met"),
        (rows("patched", "set == 'random_3'", estimate=-8.6), "sufficient", "partly met"),
        (
            rows("generation", "variant == 'patched' and cell_kind == 'target'", low=0.8, refused=0.9, high=0.95),
            "sufficient",
            "partly met",
        ),
        (drop("patched"), "sufficient", "partly met"),
        (drop("generation"), "sufficient", "partly met"),
    ],
)
def test_each_rule_at_its_edge(tmp_path: Path, alter: Change, key: str, status: str) -> None:
    assert statuses(tmp_path, alter)[key] == status


def test_without_a_reference_sufficiency_is_not_tested(tmp_path: Path) -> None:
    def alone(made: dict[str, Any]) -> None:
        made["study"] = made["study"].model_copy(update={"reference": None})
        made["patched"] = None
        made["generation"] = made["generation"].query("variant != 'patched'")

    assert rungs(tmp_path, alone)["sufficient"].status == "not tested"


def test_a_baseline_that_the_probe_does_not_exceed_fails(tmp_path: Path) -> None:
    made = rungs(tmp_path, language(bag_of_words_refusal_auroc=0.96, bag_of_words_refusal_high=0.97))["baselines"]
    assert made.status == "not met"
    passes = {e.what: e.passes for e in made.evidence if e.decides}
    assert passes == {
        "words of the prompt": False,
        "words of prompt and thinking": True,
        "length": None,
        "position": None,
    }


@pytest.mark.parametrize(
    ("lows", "nulls", "status"),
    [
        ([0.6, 0.7], [0.5, 0.5], "met"),
        ([0.6, 0.49], [0.4, 0.4], "partly met"),
        ([0.6, 0.7], [0.55, 0.71], "partly met"),
        ([0.4, 0.3], [0.5, 0.5], "not met"),
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
        assert sum(bool(e.passes) for e in rung.evidence) <= cells


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
        (("prompt, words", "length of the thinking", "position"), 0.8, "met"),
        (("prompt, words", "length of the thinking"), 0.8, "partly met"),
        (("prompt, words", "length of the thinking", "position"), 0.9, "not met"),
    ],
)
def test_a_table_of_nulls_names_the_baselines(tmp_path: Path, names: tuple[str, ...], high: float, status: str) -> None:
    rung = rungs(tmp_path, lambda made: baselines(made, *names, high=high))["baselines"]
    assert rung.status == status
    assert [e.what for e in rung.evidence if e.decides][: len(names)] == list(names)


def second_set(made: dict[str, Any]) -> None:
    made["rollouts"] = made["rollouts"].assign(prompt_text="kindly " + made["rollouts"]["prompt_text"])


def test_a_second_set_of_prompts_fills_the_last_rung(tmp_path: Path) -> None:
    def last(name: str, change: Change) -> Assessment:
        runs = [open_run(tmp_path / "first"), open_run(write_run(tmp_path / name, change))]
        return ladders(runs)[0][-1]

    write_run(tmp_path / "first")
    assert last("other", second_set).status == "met"
    assert last("same", lambda made: None).status == "not tested"

    def weaker(made: dict[str, Any]) -> None:
        second_set(made)
        rows("attribution", "estimate < -1", estimate=2.0, low=1.9, high=2.1)(made)

    assert last("weaker", weaker).status == "partly met"

    def stranger(made: dict[str, Any]) -> None:
        second_set(made)
        made["provenance"]["models"]["base"]["config"] = "other"

    assert last("stranger", stranger).status == "not tested"


def test_every_number_says_what_it_rests_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for assessed in ladders([open_run(folder)])[0]:
        for evidence in assessed.evidence:
            row = evidence.result
            if evidence.decides and row is not None:
                assert row.n
                assert row.low <= row.estimate <= row.high
                assert evidence.null
                assert (folder / row.file).is_file()
