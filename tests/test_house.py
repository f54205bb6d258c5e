"""The house itself: rooms, their links, the direction of imports, what is shipped, and what starts fast."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("rollouts", "activations", "judgments", "probes", "traces", "interventions", "repair", "figures", "organisms")
BELOW = {
    "rollouts": set(),
    "activations": {"rollouts"},
    "judgments": {"rollouts", "activations"},
    "probes": {"rollouts", "activations", "judgments"},
    "traces": {"rollouts", "activations", "judgments", "probes"},
    "interventions": {"rollouts", "activations", "judgments", "probes", "traces"},
    "figures": set(),
    "repair": {"rollouts", "activations", "judgments", "probes", "traces", "interventions", "study", "commands"},
    "organisms": {"rollouts", "activations", "judgments", "probes", "traces", "interventions"},
}
LEAVES = {
    "stats",
    "hook_owners",
    "rope_types",
    "provenance",
    "sources",
    "errors",
    "weights_digest",
    "in_force",
    "kept",
    "rows",
    "values",
}
"""For anyone. ``figures`` is a leaf too: results draw themselves through it."""


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First part after ``verdictscope.`` of everything a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "verdictscope" else [f"verdictscope.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("verdictscope.")}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    allowed = BELOW[room] | LEAVES | {room} | (set() if room == "figures" else {"figures"})
    if room == "figures":
        allowed = {"figures", "stats", "errors"}
    for path in sources(room):
        against = imported(path) - allowed
        assert not against, f"{path.relative_to(ROOT)} imports {sorted(against)}"


def test_the_leaves_import_no_room() -> None:
    for path in (ROOT / "verdictscope" / "stats").glob("*.py"):
        assert imported(path) <= {"stats", "errors", "values"}, path
    for leaf in LEAVES - {"stats"}:
        path = ROOT / "verdictscope" / f"{leaf}.py"
        assert imported(path) <= LEAVES - {"stats"}, path


@pytest.mark.parametrize("room", [*ROOMS, "studies"])
def test_each_room_is_linked(room: str) -> None:
    link = ROOT / "verdictscope" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_by_its_bare_name_is_an_error(room: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"verdictscope.{room}" in done.stderr


def test_the_wheel_holds_the_rooms(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    source = tmp_path / "source"
    for name in tracked.stdout.splitlines():  # what a clone has, without what earlier builds left behind
        if not name.startswith(("tests/", "docs/", "notebooks/")) and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("verdictscope/")}
    files = [f for f in tracked.stdout.splitlines() if (ROOT / f).is_file() and not (ROOT / f).is_symlink()]
    expected = {f for f in files if f.startswith("verdictscope/")}
    expected |= {f"verdictscope/{f}" for f in files if f.split("/")[0] in (*ROOMS, "studies")}
    missing = {f for f in expected - held if not f.endswith(".gitkeep")}
    assert not missing, f"not in the wheel: {sorted(missing)}"
    assert not {name for name in held - expected if name.endswith(".py")}


@pytest.mark.parametrize("command", [["-c", "import verdictscope"], ["-m", "verdictscope", "--help"]])
def test_starting_loads_nothing_heavy(command: list[str]) -> None:
    # Seconds depend on the machine, so the modules are asserted and the time is only printed.
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True)
    print(f"{' '.join(command)}: {time.perf_counter() - begin:.2f} s")
    assert done.returncode == 0
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    heavy = {"torch", "transformers", "transformer_lens", "nnsight", "sklearn", "pandas", "matplotlib", "numpy", "rich"}
    assert not loaded & heavy


def test_ground_truth_is_read_by_scoring_code_only() -> None:
    readers = [
        p.relative_to(ROOT) for room in (*ROOMS, "verdictscope") for p in sources(room) if "truth.json" in p.read_text()
    ]
    inside = {p for p in readers if p.parts[0] != "verdictscope" or p.parts[1] not in ROOMS}
    assert inside <= {Path("organisms/scorecards.py"), Path("verdictscope/commands/main.py")}


def test_no_pickle_and_no_remote_code_by_default() -> None:
    for room in (*ROOMS, "verdictscope"):
        for path in sources(room):
            text = path.read_text(encoding="utf-8")
            assert "import pickle" not in text, path
            assert "trust_remote_code=True" not in text, path
            assert "torch.load(" not in text, path
