"""The comparison of two run folders finds what was changed, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "compare_runs.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "a"
    run.mkdir()
    (run / "provenance.json").write_text("{}")
    (run / "summary.json").write_text(json.dumps({"seconds": {"probe": 1.0}, "cliff": {"drop": 0.25, "n": 54}}))
    table = pd.DataFrame({"head": ["L0H0", "L0H1", "L0H1"], "estimate": [1.0, 2.0, None], "p": [0.1, 0.2, 0.3]})
    table.to_parquet(run / "heads.parquet")
    return run


def compare(a: Path, b: Path) -> tuple[int, dict]:
    done = subprocess.run([sys.executable, TOOL, a, b, "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_equal_runs_in_another_row_order_are_equal(folder: Path):
    other = shutil.copytree(folder, folder.with_name("b"))
    pd.read_parquet(other / "heads.parquet").iloc[[1, 0, 2]].to_parquet(other / "heads.parquet")
    (other / "summary.json").write_text(json.dumps({"seconds": {"probe": 9.0}, "cliff": {"drop": 0.25, "n": 54}}))
    code, said = compare(folder, other)
    assert (code, said["largest"], said["moved"], said["alone"]) == (0, 0.0, [], [])
    assert said["n"] == 2 + 5


def test_a_changed_number_a_lost_one_and_a_lost_row_are_found(folder: Path):
    other = shutil.copytree(folder, folder.with_name("b"))
    table = pd.read_parquet(other / "heads.parquet")
    table.loc[0, "estimate"], table.loc[2, "estimate"] = 1.1, 3.0
    table.drop(index=1).to_parquet(other / "heads.parquet")
    (other / "summary.json").write_text(json.dumps({"cliff": {"drop": 0.5}}))
    code, said = compare(folder, other)
    moved = {d["name"]: d for d in said["moved"]}
    assert code == 1
    assert moved["summary.json:cliff.drop"]["relative"] == pytest.approx(0.5)
    assert moved["heads.parquet (rows)"]["changed"] == 1
    assert moved["heads.parquet:estimate"]["relative"] >= 0.1 / 1.1
    assert "only in A: summary.json:cliff.n" in said["alone"]
