"""``judge run``: a benchmark goes through a checkpoint into a folder of verdicts, and errors are one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.judgments.judge_worlds import real, tiny_judge
from verdictscope.judgments import check_verdicts, verdict_metrics


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
    asked = ["judge", "run", checkpoint, file, "--reader", "judgebench", "--format", "arena_hard", "--json",
             "--out", tmp_path / "out"]  # fmt: skip
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
        (["--reader", "judgbench", "--format", "arena_hard"], "no reader 'judgbench'"),
        (["--reader", "judgebench", "--format", "arena"], "formats are arena_hard"),
        (["--format", "arena_hard"], "Missing option '--reader'"),
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
