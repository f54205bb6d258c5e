"""The command line: exit codes, one-line errors, JSON on standard output and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verdictscope", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "no_such_study"], "no study file no_such_study"),
        (["run", "refusal_cliff", "--set", "hedas.k=1"], "did you mean 'heads'?"),
        (["run"], "Missing argument"),
        (["run", "refusal_cliff", "--no-such-option"], "No such option"),
        (["no_such_command"], "No such command"),
        (["organisms", "score", "nowhere"], "no run folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments: list[str], says: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model", "/no/such/model", "cannot load model '/no/such/model'"),
        ("model", "organism:unknown", "there are organism:aligned, organism:cliff"),
        ("prompts.file", "/no/such/prompts.csv", "/no/such/prompts.csv"),
        ("prompts.target", '{colour="red"}', "no column 'colour'"),
        ("prompts.target", '{mode="unheard"}', "no prompt matches prompts.target"),
    ],
)
def test_wrong_studies_end_in_one_line(tmp_path: Path, key: str, value: str, says: str) -> None:
    done = call("run", "refusal_cliff", "--out", tmp_path / "run", "--set", f"{key}={value}", "--json")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_bundled_models_are_listed_as_json() -> None:
    done = call("organisms", "list", "--json")
    assert done.returncode == 0
    names = [row["name"] for row in json.loads(done.stdout)["organisms"]]
    assert names == ["organism:aligned", "organism:cliff"]
