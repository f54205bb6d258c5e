"""A run killed at random moments and resumed by the same command equals a run that nobody killed, table by table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evidence import write_evidence
from tests.study.whole import some_prompts
from verdictscope.study.tasks.refusal import Refusal

GROUPS = 14
ROOT = Path(__file__).resolve().parents[2]


def killed(folder: Path, *arguments: object, timeout: float) -> dict[str, Any]:
    """A campaign in a process of its own: it forks, and this one holds threads."""
    command = [sys.executable, "-m", "tests.study.killing", folder, *arguments]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_kills_of_a_small_run(tmp_path: Path) -> None:
    some_prompts(file := tmp_path / "prompts.csv", 4)
    sets = ("--set", f"prompts.file={file}", "--set", "sampling.max_new_tokens=96")
    found = killed(tmp_path / "runs", "--kills", 2, "--chains", 1, "--last", "probe", *sets, timeout=280)
    assert found["kills"] == 2
    assert found["unequal_files"] == 0


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_fifty_kills_of_the_demo(tmp_path: Path) -> None:
    """Every stage of the demo, on a quarter of its prompts: the whole is run some ten times over."""
    prompts = some_prompts(file := tmp_path / "prompts.csv", GROUPS)
    sets = ("--set", f"prompts.file={file}")
    found = killed(tmp_path / "runs", "--kills", 50, "--chains", 5, *sets, timeout=4 * 3600)
    assert found["kills"] == 50
    assert set(found["by_stage"]) >= set(Refusal.stages) - {"results", "report"}, "stages of no length may be missed"
    changed = {"prompts.file": f"{prompts} of the demo's prompts: {GROUPS} groups of every category cell"}
    write_evidence("run_kills", found | {"set": changed})
