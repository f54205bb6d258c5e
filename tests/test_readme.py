"""The README says what is so: its example runs, and its numbers are those of a stored run."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from tools.docs.update import DEMO, PAGES, with_block
from verdictscope.sources import models_folder

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_notebook_example_runs(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(README.split("```python\n")[1].split("```")[0])
    seen = runpy.run_path(str(file))
    planted = json.loads((models_folder() / "cliff" / "truth.json").read_text())["heads"]
    assert {tuple(head) for head in seen["top"]} == {tuple(head) for head in planted}


@pytest.mark.xfail(not (DEMO / "results.parquet").exists(), reason="`make readme` stores the results of a run")
@pytest.mark.parametrize("name", PAGES)
def test_the_numbers_are_those_of_the_stored_run(name: str) -> None:
    page = PAGES[name].read_text(encoding="utf-8")
    assert with_block(name, page, DEMO) == page
    assert len(page.partition(f"<!-- {name}:begin")[2].partition(f"<!-- {name}:end")[0].splitlines()) > 6


def test_its_pictures_and_pages_are_there() -> None:
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link}
    assert not [link for link in links if not (ROOT / link).exists()]
    captions = json.loads((DEMO / "captions.json").read_text())
    assert not [name for name in captions if not (DEMO / f"{name}.png").is_file()]


def test_it_is_short_and_imports_from_one_place() -> None:
    assert len(README.splitlines()) <= 120
    code = README.split("```python\n")[1].split("```")[0]
    assert re.findall(r"^(?:import|from) .*", code, re.MULTILINE) == ["import verdictscope as vs"]
