"""What can be wrong from outside: one line on standard error, exit code 2, no usage box, no traceback, nothing lost."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from verdictscope import provenance
from verdictscope.activations.hdf5 import Extents
from verdictscope.sources import models_folder
from verdictscope.study.folder import RunFolder
from verdictscope.study.load import read_study

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., Any]


def told(done: Any, *says: str, worked: bool = False) -> None:
    """One line and 2; before it the progress of what was done, where work had begun."""
    assert done.code == 2, done.err
    *progress, line = done.err.strip().splitlines()
    assert worked or not progress, done.err
    assert all(re.fullmatch(r".*: [\d,]+ of [\d,]+, .*", told) for told in progress), done.err
    assert line.startswith("verdictscope: ")
    for words in says:
        assert words in line
    assert done.out == ""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- words
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["colect", "refusal_cliff"], "No such command 'colect'. Did you mean 'collect'"),
        (["plan"], "Missing argument"),
        (["plan", "refusal_cliff", "--tflops", "much"], "Invalid value for '--tflops'"),
        (["plan", "refusal_cliff", "--dvice", "a100"], "Did you mean '--device'?"),
        (["run", "refusal_cliff", "again"], "again"),
        (["run", "refusal_cliff", "--set", "seed"], "--set takes KEY=VALUE"),
        (["run", "refusal_cliff", "--set", "ablation.randm_sets=120"], "did you mean 'random_sets'?"),
        (["run", "refusal_cliff", "--set", "prompts.file=[]"], "prompts.file"),
        (["report", "/no/such/run"], "/no/such/run"),
    ],
)
def test_words_that_are_not_understood(call: Call, arguments: list[str], says: str) -> None:
    told(call(*arguments), says)


# -- the study file
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'name = "x\n[prompts', "is no valid TOML"),
        (b"\xff\xfe\x00", "is no valid TOML"),
        (b"", "is missing"),
        (b'name = "x"\nquestion = "y"\nmodle = "z"\n', "is missing"),
    ],
)
def test_a_broken_study_file(call: Call, tmp_path: Path, text: bytes, says: str) -> None:
    file = tmp_path / "study.toml"
    file.write_bytes(text)
    told(call("run", file, "--out", tmp_path / "run"), says)
    assert not (tmp_path / "run").exists()


def test_a_study_file_that_may_not_be_read(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.toml"
    file.write_text((ROOT / "studies" / "refusal_cliff.toml").read_text())
    read = Path.read_text

    def refused(path: Path, *arguments: Any, **options: Any) -> str:
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    told(call("run", file), "study.toml", "permission denied")


# -- the prompts
# ------------------------------------------------------------------------------------------------------------------

GOOD = {"id": ["a", "b"], "user": ["make bread.", "make harm."], "harm": [False, True], "mode": ["normal", "normal"]}


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("p.csv", {key: [] for key in GOOD}, "holds no rows"),
        ("p.parquet", {"user": ["make bread.", None]}, "record 2: user is empty"),
        ("p.csv", {"user": ["make bread.", float("nan")]}, "line 3: user is empty"),
        ("p.csv", {"id": ["a", "a"]}, "line 3: id 'a'"),
        ("p.csv", {"harm": ["yes", "perhaps"]}, "write true or false"),
        ("p.csv", {"user": None}, "not id and user"),
        ("p.csv", {"mode": None}, "no column 'mode'"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_prompts_that_cannot_be_asked(
    call: Call, tmp_path: Path, command: str, name: str, changed: dict[str, Any], says: str
) -> None:
    columns = {key: value for key, value in (GOOD | changed).items() if value is not None}
    table, file = pd.DataFrame(columns), tmp_path / name
    if file.suffix == ".csv":
        table.to_csv(file, index=False)
    else:
        table.to_parquet(file)
    out = ("--out", tmp_path / "run") if command == "run" else ()
    told(call(command, "refusal_cliff", "--set", f"prompts.file={file}", "--set", "transfer.by=[]", *out), says)


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.jsonl", "p.json", "p.xlsx"])
def test_a_prompt_file_of_rubbish(call: Call, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"PAR1\x00\xff\xfe{]")
    told(call("plan", "refusal_cliff", "--set", f"prompts.file={file}"), name)


def test_a_prompt_file_that_is_a_folder(call: Call, tmp_path: Path) -> None:
    (tmp_path / "p.csv").mkdir()
    told(call("plan", "refusal_cliff", "--set", f"prompts.file={tmp_path / 'p.csv'}"), "p.csv")


# -- the model
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_whose_files_are_damaged(call: Call, tmp_path: Path, wrong: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in (models_folder() / "cliff").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / wrong).write_bytes(b"\x08\x00")
    sets = ("--set", f"model={model}", "--set", "reference=")
    told(call("generate", "refusal_cliff", "--out", tmp_path / "run", *sets), str(model))


# -- the run folder
# ------------------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_another_run(call: Call, tmp_path: Path) -> None:
    run = RunFolder(read_study("refusal_cliff"), tmp_path / "run")
    with run.claimed(), run.stage("generate"):
        run.write("rollouts", pd.DataFrame({"a": [1]}))
    before = contents(tmp_path / "run")
    told(call("run", "refusal_cliff", "--out", tmp_path / "run", "--set", "seed=1"), "seed is 0 there and 1 here")
    assert contents(tmp_path / "run") == before


def test_a_folder_that_is_no_run(call: Call, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("my only copy")
    told(call("run", "refusal_cliff", "--out", tmp_path), "exists and is no run folder")
    told(call("run", "refusal_cliff", "--out", tmp_path / "thesis.tex"), "exists and is no run folder")
    told(call("run", "refusal_cliff", "--out", tmp_path / "thesis.tex" / "run"), "thesis.tex")
    assert contents(tmp_path) == {"thesis.tex": b"my only copy"}


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = pd.read_csv(models_folder() / "cliff" / "prompts.csv")
    groups = table.drop_duplicates("group").groupby(["verb_category", "object_category"])["group"]
    file = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    table[table["group"].isin(groups.apply(lambda names: names.sample(3, random_state=0)))].to_csv(file, index=False)
    return file


def test_a_full_disk_and_a_damaged_table_lose_nothing(
    call: Call, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    rest = ("refusal_cliff", "--out", out, "--set", f"prompts.file={prompts}", "--set", "reference=", "--json")
    rest += ("--set", "transfer.by=[]", "--set", "probe.permutations=50")
    for stage, owner, name, repaired in (
        ("generate", pd.DataFrame, "to_parquet", True),
        ("collect", os, "pwrite", False),  # the first of them claims the folder
        ("collect", Extents, "write", True),
        ("probe", os, "replace", False),
    ):
        before = contents(out) if out.exists() else {}
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            told(call(stage, *rest), str(out), worked=True)
        after = contents(out)
        kept = [n for n in before if n != "activations.h5"]  # a begun store is gone on with
        assert {n: after[n] for n in kept} == {n: before[n] for n in kept}
        assert not [n for n in after if n.endswith(provenance.PART)]
        if repaired:
            assert call(stage, *rest).code == 0
    table = out / "rollouts.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    told(
        call("probe", *rest),
        "rollouts.parquet cannot be read",
        "delete it and give the run's command again",
        worked=True,
    )
    table.unlink()
    assert call("collect", *rest).code == 0
    assert table.read_bytes() == whole


# -- Ctrl-C
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_ends_in_one_line(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "verdictscope", "generate", "refusal_cliff", "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 200
    while not (out / "study.toml").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 128 + number, errors
    assert errors.strip().splitlines()[-1] == "verdictscope: stopped; the same command resumes from here"
    assert "Traceback" not in errors
    assert said == ""
    assert not (out / ".lock").exists()
