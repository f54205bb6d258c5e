"""The notebooks: short, on public names alone, stored as a clean kernel runs them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from verdictscope.study.load import read_study

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
BUILD: dict[str, Any] = runpy.run_path(str(FOLDER / "build.py"))
NAMES = ("01_refusal_cliff", "02_your_own_model", "03_judge_bias")
CELLS, BYTES = 25, 3_000_000


def stored(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: NotebookNode) -> ast.Module:
    return ast.parse("\n".join(c.source for c in notebook.cells if c.cell_type == "code"))


def public(module: str) -> set[str]:
    """The face of a room; of any other module what does not begin with an underscore."""
    found = importlib.import_module(module)
    return set(getattr(found, "__all__", [name for name in vars(found) if not name.startswith("_")]))


def test_these_are_the_notebooks() -> None:
    assert BUILD["NAMES"] == NAMES
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    assert sum((FOLDER / f"{name}.ipynb").stat().st_size for name in NAMES) < BYTES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short(name: str) -> None:
    cells = stored(name).cells
    assert len(cells) <= CELLS
    assert cells[0].cell_type == "markdown"
    assert "does not show" in "\n".join(c.source for c in cells if c.cell_type == "markdown")


@pytest.mark.parametrize("name", NAMES)
def test_it_uses_public_names_alone(name: str) -> None:
    for node in ast.walk(code(stored(name))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("verdictscope") for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("verdictscope"):
            names = {alias.name for alias in node.names}
            if node.module == "verdictscope":
                assert all(public(f"verdictscope.{room}") for room in names)
            else:
                assert names <= public(str(node.module)), ast.unparse(node)
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), ast.unparse(node)


def test_names_reached_through_a_room_are_public() -> None:
    for name in NAMES:
        for node in ast.walk(code(stored(name))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "figures":
                assert node.attr in public("verdictscope.figures")


@pytest.mark.parametrize("name", NAMES)
def test_its_calls_fit_the_functions(name: str) -> None:
    """A keyword that was renamed shows here, in a second, before a kernel is started."""
    tree = code(stored(name))
    known = {
        alias.name: getattr(importlib.import_module(str(node.module)), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("verdictscope.")
        for alias in node.names
    }
    calls = [c for c in ast.walk(tree) if isinstance(c, ast.Call)]
    named = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id in known]
    assert len(named) > 10
    for call in named:
        parameters = inspect.signature(known[call.func.id]).parameters
        given = {keyword.arg for keyword in call.keywords} - {None}
        assert given <= set(parameters), f"{ast.unparse(call)[:120]}: no {given - set(parameters)}"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_as_its_source_with_outputs(name: str) -> None:
    notebook, source = stored(name), BUILD["read"](FOLDER / f"{name}.py")
    nbformat.validate(notebook)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [(c.cell_type, c.source) for c in source.cells], (
        "the source was changed after the notebook was run: `make notebooks`"
    )
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    # A cell that ends in an expression shows it.
    shown = [c for c in cells if isinstance(ast.parse(c.source).body[-1], ast.Expr)]
    assert len(shown) >= len(cells) - 2
    assert all(c.outputs for c in shown)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_is_stored(name: str) -> None:
    notebook = stored(name)
    assert not list(BUILD["faults"](notebook))
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            shown = "\n".join(BUILD["_texts"](output))
            assert not re.search(r"(?<![\w<])/(?:home|root|work|tmp|Users|usr|opt)/", shown), shown[:300]
            assert "Warning" not in shown


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_in_a_clean_kernel(name: str) -> None:
    notebook = BUILD["execute"](BUILD["read"](FOLDER / f"{name}.py"))
    assert not list(BUILD["faults"](notebook))
    kinds = {kind for c in notebook.cells for o in c.get("outputs", ()) for kind in o.get("data", ())}
    assert "text/html" in kinds
    assert ("image/png" in kinds) == (name != NAMES[1])


def test_the_command_of_the_second_notebook_is_a_study(tmp_path: Path) -> None:
    text = "\n".join(c.source for c in stored(NAMES[1]).cells if c.cell_type == "markdown")
    sets = [first or second for first, second in re.findall(r"--set (?:'([^']+)'|(\S+))", text)]
    study = read_study("refusal_cliff", sets)
    assert study.model == "YOUR_MODEL"
    assert study.data.prompts.file == "my_prompts.csv"
    assert study.heads.k == 32


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_leads_there(name: str) -> None:
    assert f"(notebooks/{name}.ipynb)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_faults_are_seen() -> None:
    notebook = BUILD["read"](FOLDER / f"{NAMES[0]}.py")
    cell = next(c for c in notebook.cells if c.cell_type == "code")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="UserWarning: look out"),
        nbformat.v4.new_output("stream", name="stdout", text=f"read {ROOT}/organisms"),
        nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}),
    ]
    assert len(list(BUILD["faults"](notebook))) >= 3
