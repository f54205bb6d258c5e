"""The command line: exit codes, one-line errors, JSON on standard output and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from verdictscope.commands.main import app

ROOT = Path(__file__).resolve().parents[2]


def one_line(code: int, out: str, err: str, says: str) -> None:
    assert code == 2, err
    assert says in err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("verdictscope: ")
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "no_such_study"], "no study file no_such_study"),
        (["run", ROOT / "studies"], "is a folder: give the study file"),
        (["run", "refusal_cliff", "--set", "hedas.k=1"], "did you mean 'heads'?"),
        (["run", "refusal_cliff", "--set", "dtype=float46"], "dtype: Input should be 'auto', 'float32'"),
        (["run"], "Missing argument"),
        (["run", "refusal_cliff", "--ot", "x"], "No such option: --ot. Did you mean '--out'?"),
        (["run", "refusal_cliff", "--sett=seed=1"], "Did you mean '--set'?"),
        (["rnu", "refusal_cliff"], "No such command 'rnu'. Did you mean 'run'?"),
        (["organisms", "sore"], "Did you mean 'score'?"),
        (["organisms", "score", "nowhere"], "no run folder"),
        (["organisms", "train"], "No such command 'train'"),
        (["repair", "no_such_model", "no_such_data", "--prompts", "no_such_prompts"], "no_such"),
        (["select", "no_such_pool"], "no_such_pool"),
        (["plan", "refusal_cliff", "--set", "model=/no/such/folder"], "no such folder"),
        (["doctor", "~/no_such_folder"], "no such folder"),
        (["doctor", "no/such/folder"], "no such folder"),
        (["doctor", ROOT / "README.md"], "is a file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(call: Callable[..., Any], arguments: list[object], says: str) -> None:
    done = call(*arguments)
    one_line(done.code, done.out, done.err, says)


def test_the_same_from_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "verdictscope", "run", "refusal_cliff", "--set", "hedas.k=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    one_line(done.returncode, done.stdout, done.stderr, "did you mean 'heads'?")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model", "/no/such/model", "cannot load model '/no/such/model'"),
        ("model", "organism:unknown", "there are organism:aligned, organism:cliff, organism:fair_judge"),
        ("prompts.file", "/no/such/prompts.csv", "/no/such/prompts.csv"),
        ("prompts.target", '{colour="red"}', "no column 'colour'"),
        ("prompts.target", '{mode="unheard"}', "no prompt matches prompts.target"),
        ("device", "gpu", "device 'gpu' cannot be used"),
    ],
)
def test_wrong_studies_end_in_one_line(
    call: Callable[..., Any], tmp_path: Path, key: str, value: str, says: str
) -> None:
    done = call("run", "refusal_cliff", "--out", tmp_path / "run", "--set", f"{key}={value}", "--json")
    one_line(done.code, done.out, done.err, says)


def test_the_bundled_models_are_listed_as_json(call: Callable[..., Any]) -> None:
    done = call("organisms", "list", "--json")
    assert done.code == 0
    names = [row["name"] for row in json.loads(done.out)["organisms"]]
    assert names == ["organism:aligned", "organism:cliff", "organism:fair_judge", "organism:judge"]


def commands(group: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, as the words that name it."""
    found = [words]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*words, name))
    return found


@pytest.mark.parametrize("words", commands(typer.main.get_command(app)), ids=" ".join)
def test_help_fits_80_columns(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = call(*words, "--help")
    assert done.code == 0
    assert not [
        line for line in done.out.splitlines() if len(line) > 80 or line.endswith("...") and "Usage:" not in line
    ]
