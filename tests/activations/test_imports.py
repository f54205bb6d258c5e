"""No circle of imports larger than two files in the package, imports inside functions counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("rollouts", "activations", "judgments", "probes", "traces", "interventions", "repair", "figures", "organisms")


def modules() -> dict[str, Path]:
    """Every file of the package by the name it is imported under."""
    found = {}
    for room in (*ROOMS, "verdictscope"):
        for file in (ROOT / room).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if room == "verdictscope" and parts[1] in ROOMS:
                continue  # the link to a room
            name = ".".join(parts if room == "verdictscope" else ("verdictscope", *parts))
            found[name.removesuffix(".__init__")] = file
    return found


def imported(node: ast.AST) -> Iterator[str]:
    """Names of what a file imports anywhere, but for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        yield from imported(child)


def test_no_circle_is_larger_than_two_files():
    files, graph = modules(), nx.DiGraph()
    for name, file in files.items():
        for target in imported(ast.parse(file.read_text(encoding="utf-8"))):
            known = target if target in files else target.rpartition(".")[0]
            if known in files and known != name:
                graph.add_edge(name, known)
    assert graph.number_of_nodes() > 200
    circles = [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 2]
    assert not circles
