"""The study file: what it accepts, what it says when it does not, and that it survives a round trip."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from verdictscope.errors import InputError
from verdictscope.study.load import STUDIES, parse_study, read_study
from verdictscope.study.tasks import STAGES, stages_of


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_studies_are_valid_and_round_trip(file: Path) -> None:
    study = read_study(file)
    again = parse_study(tomllib.loads(study.to_toml()), file.name)
    assert again == study
    assert read_study(file.stem) == study


def test_texts_with_quotes_and_control_characters_round_trip() -> None:
    study = read_study("refusal_cliff").model_copy(update={"question": 'a "b" \\ c\nd\te \x07 é'})
    assert parse_study(tomllib.loads(study.to_toml()), "s.toml") == study


def test_overrides_are_toml_values_or_bare_words() -> None:
    study = read_study(
        "refusal_cliff", ["seed=3", "model=some/dir", "heads.k=5", "prompts.target={harm=true}", "probe.C=[1, 2]"]
    )
    assert (study.seed, study.model, study.heads.k) == (3, "some/dir", 5)
    assert study.data.prompts.target == {"harm": True}
    assert study.probe.C == [1.0, 2.0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hedas.k=3", "unknown key 'hedas': did you mean 'heads'?"),
        ("heads.kk=3", "unknown key 'heads.kk': did you mean 'k'?"),
        ("zzz=1", "unknown key 'zzz': known keys are prompts, labels, format, task, name"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("split.shares=[0.5, 0.5, 0.5]", "must sum to 1, not 1.5"),
        ("labels.refuse=[]", "labels.refuse"),
        ("ablation.random_sets=10", "ablation.random_sets"),
        ("probe.permutations=3", "probe.permutations"),
        ("format=1", "format 1 is of an earlier verdictscope"),
        ("format=3", "made by a newer verdictscope"),
        ("nonsense", "--set takes KEY=VALUE"),
        ("prompts.file.x=1", "'file' is no section"),
    ],
)
def test_a_wrong_study_is_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_study("refusal_cliff", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_shipped_studies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refusal_cliff"):
        read_study(tmp_path / "none.toml")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('name = "x"\nquestion = "y"\n[prompts]\nfile = "p.csv"\n[labels]\nrefuse = ["a"]\ncomply = ["b"]\n')
    with pytest.raises(InputError, match="key 'model' is missing"):
        read_study(file)
    file.write_text("a = = 1")
    with pytest.raises(InputError, match="no valid TOML"):
        read_study(file)


def test_columns_of_any_name_round_trip() -> None:
    study = read_study("refusal_cliff")
    prompts = study.data.prompts.model_copy(update={"target": {"my column": True, 'a "b".c': 1, "plain-1": "x"}})
    study = study.model_copy(update={"data": study.data.model_copy(update={"prompts": prompts})})
    assert parse_study(tomllib.loads(study.to_toml()), "s.toml") == study


def test_a_task_has_its_own_sections_and_stages() -> None:
    study = read_study("judge_bias")
    assert set(stages_of(study)) < set(STAGES)
    assert set(study.to_dict()) & {"prompts", "erase", "items"} == {"items"}
    with pytest.raises(InputError, match="task 'jury' is none of refusal, judge"):
        read_study("judge_bias", ["task=jury"])
    with pytest.raises(InputError, match="a judge study has no section 'erase'"):
        read_study("judge_bias", ["erase.draws=30"])
    with pytest.raises(InputError, match="unknown key 'heads.kk': did you mean 'k'"):
        read_study("judge_bias", ["heads.kk=3"])
    with pytest.raises(InputError, match="cannot be called position"):
        read_study("judge_bias", ["cues.position.kind=bandwagon"])
    with pytest.raises(InputError, match="either a kind or texts"):
        read_study("judge_bias", ["cues.bandwagon.kind=bandwagon"])
