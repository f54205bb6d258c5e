"""The README says what is so: its example runs, and its numbers are those of a stored run."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from tools.docs.update import block, with_block
from verdictscope.sources import models_folder

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_notebook_example_runs(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(README.split("```python\n")[1].split("```")[0])
    seen = runpy.run_path(str(file))
    planted = json.loads((models_folder() / "cliff" / "truth.json").read_text())["heads"]
    assert {tuple(head) for head in seen["top"]} == {tuple(head) for head in planted}


def test_the_numbers_are_those_of_the_stored_run() -> None:
    assert with_block(README, block(ROOT / "docs" / "demo")) == README
    for name in json.loads((ROOT / "docs" / "demo" / "captions.json").read_text()):
        assert (ROOT / "docs" / "demo" / f"{name}.png").is_file()


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_two_commands_are_targets(command: str) -> None:
    assert command in README
    assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text()
