"""``judge run``: a benchmark goes through a checkpoint into a folder of verdicts, and errors are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.judgments.judge_worlds import real, tiny_judge
from verdictscope.judgments.metrics.summary import verdict_metrics
from verdictscope.judgments.verdicts import check_verdicts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    tiny_judge().hf.save_pretrained(folder)
    real("qwen").save_pretrained(folder)
    return folder


def test_a_benchmark_is_judged_from_the_command_line(
    checkpoint: Path, tmp_path: Path, call: Callable[..., Any]
) -> None:
    row = {"source": "s", "question": "q?", "response_A": "yes", "response_B": "no", "label": "A>B"}
    rows = [{**row, "pair_id": str(k), "question": f"q{k}"} for k in range(4)] + [{**row, "label": "?"}, row]
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    asked = [
        "judge",
        "run",
        checkpoint,
        file,
        "--loader",
        "judgebench",
        "--format",
        "arena_hard",
        "--json",
        "--out",
        tmp_path / "out",
    ]
    done = call(*asked)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["rows"], found["items"], found["verdicts"]) == (6, 4, 8)
    assert found["problems"] == {"malformed": 2}
    assert found["status"] == {"ok": 8}
    table = check_verdicts(pd.read_parquet(tmp_path / "out" / "verdicts.parquet"))
    assert found["accuracy"]["AB"] == (table["verdict"] == table["label"])[table["order"] == "AB"].mean()
    assert not verdict_metrics(table, resamples=10).table.empty
    again = call(*asked)
    assert json.loads(again.out) == found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--loader", "judgbench", "--format", "arena_hard"], "no loader 'judgbench'"),
        (["--loader", "judgebench", "--format", "arena"], "formats are arena_hard"),
        (["--format", "arena_hard"], "Missing option '--loader'"),
    ],
)
def test_errors_are_one_line(arguments: list[str], says: str, tmp_path: Path, call: Callable[..., Any]) -> None:
    file = tmp_path / "items.jsonl"
    row = {"pair_id": "p", "question": "q?", "response_A": "yes", "response_B": "no", "label": "A>B"}
    file.write_text(json.dumps(row))
    done = call("judge", "run", "nowhere", file, *arguments)
    assert done.code == 2
    assert says in done.err
    assert done.out == ""


def installed(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    command = Path(sys.executable).with_name("verdictscope")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True)


def test_own_verdicts_are_measured_without_a_format(checkpoint: Path, tmp_path: Path, call: Callable[..., Any]) -> None:
    file, out = tmp_path / "items.csv", tmp_path / "out"
    rows = [
        {"id": k, "question": f"q{k}", "answer_a": "yes", "answer_b": "no", "label": "AB"[k % 2], "group": k // 2}
        for k in range(4)
    ]
    pd.DataFrame(rows).to_csv(file, index=False)
    done = call("judge", "run", checkpoint, file, "--loader", "pairs", "--format", "arena_hard", "--out", out, "--json")
    assert done.code == 0, done.err
    measured = installed("judge", "metrics", out, "--json", "--resamples", "10")
    assert (measured.returncode, measured.stderr) == (0, "")
    found = json.loads(measured.stdout)
    assert (found["log"], found["rows"], found["verdicts"], found["items"], found["groups"]) == ("verdicts", 8, 8, 4, 2)
    figures = {row["name"]: row["estimate"] for row in found["figures"]}
    accuracy = json.loads(done.out)["accuracy"]
    assert figures["accuracy_ab"] == pytest.approx(accuracy["AB"])
    assert figures["accuracy"] == pytest.approx((accuracy["AB"] + accuracy["BA"]) / 2)
    table = pd.read_parquet(out / "verdicts.parquet")
    assert verdict_metrics(table, resamples=10).value("ece") == pytest.approx(figures["ece"])
    in_words = call("judge", "metrics", out / "verdicts.parquet", "--resamples", "10")
    assert in_words.code == 0
    assert "accuracy" in in_words.out

    spoiled = tmp_path / "percent.csv"
    table.assign(probability=table["probability"] * 100).to_csv(spoiled, index=False)
    refused = call("judge", "metrics", spoiled)
    assert refused.code == 2
    assert "probability of line 2" in refused.err
    table.to_csv(spoiled, index=False)
    assert (
        json.loads(call("judge", "metrics", spoiled, "--json", "--resamples", "10").out)["figures"] == found["figures"]
    )
    assert call("judge", "metrics", file).code == 2  # items are no verdicts
    (out / "request.json").unlink()
    unfinished = installed("judge", "metrics", out)
    assert unfinished.returncode == 2
    assert "no finished verdicts" in unfinished.stderr
