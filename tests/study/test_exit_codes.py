"""Every exit code that is promised, asked of the installed command in a process of its own."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from verdictscope.errors import InputError, reason
from verdictscope.sources import models_folder

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).parent / "verdictscope"
DOCTOR = ("doctor", "--device", "cpu")


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT} | options
    return subprocess.Popen([COMMAND, *map(str, arguments)], **streams)  # type: ignore[call-overload]


def run(*arguments: object) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@dataclass(frozen=True)
class Folders:
    """Models made for the test."""

    nan: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    nan = tmp_path_factory.mktemp("nan")
    for file in (models_folder() / "cliff").iterdir():
        (nan / file.name).write_bytes(file.read_bytes())
    weights = load_file(nan / "model.safetensors")
    name = next(name for name in weights if "layers.2" in name and "o_proj" in name)
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, nan / "model.safetensors", metadata={"format": "pt"})
    return Folders(nan)


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--help"], 0, "Commands:", ""),
        (["--version"], 0, "verdictscope ", ""),
        (["judge", "--help"], 0, "metrics", ""),
        (["judge", "metrics", "--help"], 0, "--format", ""),
        (["organisms", "list"], 0, "organism:cliff", ""),
        (["select", "--help"], 0, "--budget", ""),
        (["repair", "--help"], 0, "--lora", ""),
        ([], 2, "", "Commands:"),
        (["judge"], 2, "", "Commands:"),
        (["organisms"], 2, "", "Commands:"),
    ],
)
def test_help(arguments: list[str], code: int, out: str, err: str) -> None:
    done = run(*arguments)
    assert done[0] == code
    assert out in done[1]
    assert err in done[2]
    assert (done[1] == "") == (code != 0)
    assert (done[2] == "") == (code == 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu"], "'run'"),
        (["run"], "STUDY"),
        (["run", "no_such_study"], "no_such_study"),
        (["judge", "metric"], "'metrics'"),
        (["judge", "metrics", "no_such_file", "--format", "rbd"], "no_such_file"),
        (["judge", "run"], "Missing"),
        (["organisms", "score", "no_such_run"], "no_such_run"),
        (["organisms", "train"], "No such command"),
        (["repair", "organism:cliff"], "Missing"),
        (["select", "no_such_pool", "--bugdet", "3"], "'--budget'"),
        (["report", "no_such_run"], "no_such_run"),
        (["doctor", "/no/such/folder"], "no such folder"),
    ],
)
def test_wrong_input_is_2_and_one_line(arguments: list[str], says: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("verdictscope: ")
    assert says in lines[0]


def test_the_doctor_is_1_where_a_check_failed_and_0_where_none_did(folders: Folders) -> None:
    asked = {"well": (*DOCTOR, "organism:cliff"), "nan": (*DOCTOR, folders.nan)}
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(asked, pool.map(lambda words: run(*words), asked.values()), strict=True))
    assert {name: code for name, (code, _, _) in done.items()} == {"well": 0, "nan": 1}
    for _, out, _ in done.values():
        assert not [line for line in out.splitlines() if line.rstrip().endswith(("Error:", "StopIteration:"))]


def signalled(number: int, folder: Path) -> tuple[int, str]:
    process = start("run", "refusal_cliff", "--out", folder, "--set", "device=cpu")
    for _ in range(2400):
        if (folder / "study.toml").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def test_a_signal_is_128_and_its_number(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda number: signalled(number, tmp_path / str(number)), numbers))
    assert [code for code, _ in done] == [130, 143]
    assert all("Traceback" not in err and "stopped" in err.splitlines()[-1] for _, err in done)


@pytest.fixture
def closed() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("arguments", [["--help"], ["organisms", "list"], ["organisms", "list", "--json"]])
def test_a_reader_that_left_is_sigpipe_without_a_word(closed: int, arguments: list[str]) -> None:
    process = start(*arguments, stdout=closed)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_nobody_reads_the_error_either(closed: int) -> None:
    process = start("run", "no_such_study", stdout=closed, stderr=closed)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error", [StopIteration(), RuntimeError(""), AssertionError("  \n "), KeyError("qwen9"), OSError(), IndexError()]
)
def test_an_error_without_words_is_given_some(error: BaseException) -> None:
    text = reason(raised(error))
    assert len(text.split()) >= 3
    assert not text.endswith((":", type(error).__name__))


def test_an_error_with_words_keeps_them() -> None:
    assert reason(InputError("the file is empty\nand more")) == "the file is empty"
    assert "qwen9" in reason(KeyError("qwen9"))


ROOMS = ("rollouts", "activations", "judgments", "probes", "interventions", "figures", "organisms", "verdictscope")


def test_no_message_is_made_of_the_name_of_an_exception() -> None:
    """What an exception says is asked of ``reason``: its own text may be empty, and its first line missing."""
    found = []
    for file in sorted(f for room in ROOMS for f in (ROOT / room).rglob("*.py") if f.name != "errors.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler) or node.name is None:
                continue
            text = "\n".join(ast.unparse(line) for line in node.body)
            named = f"type({node.name}).__name__" in text and "OutOfMemoryError" not in text
            if named or f"str({node.name}).splitlines()[0]" in text:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found == []
