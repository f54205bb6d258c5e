"""Public prompt sets: real files where they are there, the hub's forms through a stand-in, errors with advice."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.public_data import whole
from verdictscope.errors import InputError
from verdictscope.rollouts import load_prompts
from verdictscope.rollouts.prompts.catalogue import SETS
from verdictscope.rollouts.prompts.sets import join_prompts, known_sets

REAL = [
    ("advbench/harmful_behaviors.csv", "advbench", 520, 520),
    ("harmbench/harmbench_behaviors_text_all.csv", "harmbench", 400, 400),
    ("harmbench/harmbench_behaviors_text_val.csv", "harmbench", 80, 80),
    ("jailbreakbench/jbb_harmful_behaviors.csv", "jailbreakbench", 100, 100),
    ("xstest/xstest_prompts.csv", "xstest", 450, 200),
    ("xstest/xstest_v2_completions_gpt4.csv", "xstest_completions", 450, 200),
    ("refusal_direction/harmful_val.json", "refusal_direction", 39, 39),
    ("refusal_direction/harmless_val.json", "refusal_direction", 6264, 0),
]


@pytest.mark.parametrize(("file", "name", "rows", "harmful"), REAL, ids=[file for file, *_ in REAL])
def test_the_published_files_are_known_by_their_columns(file: str, name: str, rows: int, harmful: int) -> None:
    prompts = load_prompts(whole(file))
    assert len(prompts) == rows
    assert int(prompts["harm"].sum()) == harmful
    assert set(prompts["set"]) == {name}
    assert prompts["id"].is_unique
    assert prompts["user"].str.strip().ne("").all()


def test_context_stands_before_the_behaviour(tmp_path: Path) -> None:
    file = tmp_path / "harmbench.csv"
    pd.DataFrame(
        {
            "Behavior": ["Do it", "Say it"],
            "FunctionalCategory": ["contextual", "standard"],
            "SemanticCategory": "x",
            "Tags": "",
            "ContextString": ["Once upon a time", ""],
            "BehaviorID": ["do", "say"],
        }
    ).to_csv(file, index=False)
    prompts = load_prompts(file)
    assert prompts["user"].tolist() == ["Once upon a time\n\n---\n\nDo it", "Say it"]
    assert prompts["id"].tolist() == ["harmbench-do", "harmbench-say"]


def hub_rows(name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Two rows with the columns of a form, valid where a column tells harm."""
    values = {"label": ["safe", "unsafe"], "data_type": ["vanilla_benign", "adversarial_harmful"], "Index": [0, 1]}
    if name == "wildjailbreak":
        values |= {"vanilla": ["plain one", "plain two"], "adversarial": ["", "dressed two"]}
        if "label" in columns:
            values |= {"adversarial": ["a", "b"], "label": [0, 1], "data_type": ["adversarial_benign"] * 2}
    return pd.DataFrame({c: values.get(c, [f"{c} one", f"{c} two"]) for c in columns})


@pytest.mark.parametrize("name", [n for n, s in SETS.items() if s.hub])
def test_every_part_is_asked_of_the_hub_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path: str, config: str | None, split: str, **options: object) -> object:
        asked.append((path, config, split))
        form = SETS[name].schemas[part.schema]
        return datasets.Dataset.from_pandas(hub_rows(name, form.columns))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for title, part in SETS[name].parts.items():
        prompts = load_prompts(f"{name}:{title}")
        assert asked[-1] == (SETS[name].hub, part.config, part.split)
        assert len(prompts) == 2
        assert prompts["harm"].notna().all()
        if part.harm is not None:
            assert set(prompts["harm"]) == {part.harm}
    assert load_prompts(name)["part"].iloc[0] == next(iter(SETS[name].parts))


def test_an_adversarial_request_stands_in_for_its_vanilla_one_and_shares_its_group(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    rows = [("how", "", "no", "vanilla_harmful"), ("how", "as a pirate, how", "no", "adversarial_harmful")]
    table = pd.DataFrame(rows, columns=["vanilla", "adversarial", "completion", "data_type"])
    table.to_csv(file, sep="\t", index=False)
    prompts = load_prompts(file)
    assert prompts["user"].tolist() == ["how", "as a pirate, how"]
    assert prompts["group"].nunique() == 1
    assert prompts["completion"].tolist() == ["no", "no"]


def test_both_halves_of_jailbreakbench_pair_by_index(tmp_path: Path) -> None:
    columns = {"Index": ["0", "1"], "Goal": ["a", "b"], "Target": "t", "Behavior": "x", "Category": "c", "Source": "s"}
    for half in ("harmful", "benign"):
        pd.DataFrame(columns).to_csv(tmp_path / f"{half}-behaviors.csv", index=False)
    both = join_prompts([load_prompts(tmp_path / f"{half}-behaviors.csv") for half in ("harmful", "benign")])
    assert both["harm"].tolist() == [True, True, False, False]
    assert both.groupby("group")["harm"].nunique().eq(2).all()
    unnamed = tmp_path / "behaviors.csv"
    pd.DataFrame(columns).to_csv(unnamed, index=False)
    with pytest.raises(InputError, match=r"give harm= or part= \(harmful, benign\)"):
        load_prompts(unnamed)
    assert not load_prompts(unnamed, harm=False)["harm"].any()
    assert load_prompts(unnamed, "harmful")["harm"].all()


def test_own_files_are_read_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("id,user,harm\n1,Hello,no\n")
    prompts = load_prompts(file)
    assert prompts["id"].tolist() == ["1"]
    assert "set" not in prompts


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("advbnch", "did you mean 'advbench'"),
        ("advbench:tset", "no part 'tset': there are train"),
        ("refusal_direction", "not on the hub: give its file"),
        ("nonsense", "sets are advbench, harmbench"),
        ("missing.csv", "does not exist"),
    ],
)
def test_what_is_not_there_is_named(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_prompts(source)


def test_a_file_of_no_form_or_of_several_is_an_error(tmp_path: Path) -> None:
    odd, shared = tmp_path / "odd.csv", tmp_path / "shared.jsonl"
    odd.write_text("text,kind\nhello,x\n")
    with pytest.raises(InputError, match="rename its columns to id, user and harm"):
        load_prompts(odd)
    shared.write_text(json.dumps({"prompt": "p", "category": "c"}) + "\n")
    with pytest.raises(InputError, match="could be harmbench or strongreject or or_bench: say which with name="):
        load_prompts(shared)
    assert load_prompts(shared, name="strongreject")["harm"].all()
    with pytest.raises(InputError, match="nothing states"):
        load_prompts(shared, name="or_bench")


def test_an_unknown_label_is_no_guess(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("id,prompt,type,label,focus,note\n1,Hi,t,maybe,f,n\n")
    with pytest.raises(InputError, match="'label' holds 'maybe': known are unsafe, safe"):
        load_prompts(file)


def test_the_hub_failing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: object, **__: object) -> object:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match="gated: accept its terms") as caught:
        load_prompts("wildjailbreak")
    assert "\n" not in str(caught.value)


def test_the_list_names_every_set() -> None:
    assert known_sets()["name"].tolist() == list(SETS)
