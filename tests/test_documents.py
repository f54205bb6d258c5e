"""What README and docs tell a reader to type is there: every command, every block of code, every target and extra."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer

import verdictscope
from benchmarks.__main__ import names
from verdictscope.commands.main import DEMOS, app
from verdictscope.study.load import read_study

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`((?:verdictscope|make|python|pip) [^`\n]+)`")
COMMAND = typer.main.get_command(app)

NOT_RUN = {
    "make test": "is this test run",
    "make install-dev": "comes before this test run",
    "pip install verdictscope": "installs",
    "pip install pre-commit && pre-commit install": "installs",
    "verdictscope demo": "takes minutes; its study runs in tests/study/test_demo.py",
    "verdictscope demo judge": "takes minutes; its study runs small in tests/study/test_judge_demo.py",
    "verdictscope doctor MODEL": "tests/activations have the doctor",
    "verdictscope plan r1_distill_llama_8b": "needs the hub; tests/study/test_plan.py plans the bundled model",
    "verdictscope plan r1_distill_llama_8b --device h100": "needs the hub",
    "verdictscope run r1_distill_llama_8b --out runs/r1-8b": "needs the hub and a GPU",
    "verdictscope report runs/r1-8b": "needs that run",
    "verdictscope run r1_distill_llama_8b --out runs/mine --set model=DIR --set prompts.file=my_prompts.csv "
    "--set 'transfer.by=[]'": "needs a model and prompts of the reader's",
}
"""Lines of shell blocks that are checked against the command line and not run, each with the reason."""

PYTHON = {"README.md": "tests/test_readme.py", "CONTRIBUTING.md": "tests/test_contributing.py"}
"""Pages whose code is run by tests of their own."""


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def lines(page: Path) -> Iterator[str]:
    """Commands of shell blocks, without comments."""
    for code in blocks(page, "sh"):
        yield from (" ".join(line.partition(" #")[0].split()) for line in code.splitlines() if line.strip())


def spans(page: Path) -> Iterator[str]:
    """Commands named in running text."""
    yield from SPAN.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


def told() -> list[tuple[str, str]]:
    return sorted({(page.name, line) for page in PAGES for line in (*lines(page), *spans(page))})


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for page in PAGES for kind, _ in FENCE.findall(page.read_text(encoding="utf-8"))} <= {
        "sh",
        "python",
        "bibtex",
    }
    shell = {line for page in PAGES for line in lines(page)}
    assert shell == set(NOT_RUN)


def alternatives(text: str) -> list[str]:
    """``a | b STUDY`` is two commands; brackets around what may be left out fall away."""
    text = re.sub(r"[\[\]]", "", text) if "=[" not in text else text
    first, *rest = text.split(" | ")
    if not rest:
        return [text]
    head, _, last = first.rpartition(" ")
    final, _, tail = rest[-1].partition(" ")
    return [" ".join(f"{head} {name} {tail}".split()) for name in (last, *rest[:-1], final)]


def check_verdictscope(words: list[str], whole: bool) -> None:
    """A command line against the real one; a whole one is parsed as it would be before it runs."""
    command: Any = COMMAND
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    options = {name: p for p in command.params for name in p.opts if p.param_type_name == "option"}
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    given = [word for word in words if word.startswith("--")]
    assert not [word for word in given if word not in options], (words, sorted(options))
    if whole:
        command.make_context("verdictscope", list(words))
    takes = sum(not options[word].is_flag for word in given)
    free = [word for word in words if not word.startswith("--")]
    several = any(p.nargs == -1 for p in arguments)
    assert several or len(free) - takes <= len(arguments), words
    study = next((word for word in free[:1] if arguments and arguments[0].name == "study"), "STUDY")
    if study != study.upper():
        keys = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        read_study(study, [key for key in keys if not key.startswith(("model=", "prompts.file="))])
    if command.name == "demo":
        assert set(free) <= set(DEMOS)


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target, *variables = words
    assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    assert not [v for v in variables if "=" in v and f"$({v.partition('=')[0]})" not in makefile]


def check_python(words: list[str]) -> None:
    if words[:2] == ["-m", "benchmarks"]:
        assert words[2] in names(), words
    elif words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None, words
    else:
        assert (ROOT / words[0]).is_file(), words


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in (m.group(1) for word in words if (m := re.search(r"\[(.+)\]", word))):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(("page", "line"), told())
def test_every_command_is_one(page: str, line: str) -> None:
    program, _, rest = line.partition(" ")
    if program == "verdictscope":
        for one in alternatives(rest):
            check_verdictscope(shlex.split(one), whole=line in NOT_RUN)
    else:
        {"make": check_make, "python": check_python, "pip": check_pip}[program](shlex.split(rest))


def test_the_checks_would_notice() -> None:
    for wrong in (["rnu"], ["run", "STUDY", "--nosuch"], ["run", "no_such_study"], ["judge", "metrics", "A", "B"]):
        with pytest.raises((AssertionError, ValueError)):
            check_verdictscope(wrong, whole=False)
    with pytest.raises(AssertionError):
        check_make(["no_such_target"])
    with pytest.raises(AssertionError):
        check_python(["-m", "benchmarks", "no_such"])
    with pytest.raises(AssertionError):
        check_pip(["install", "verdictscope[nosuch]"])


def test_names_in_the_guide_are_there() -> None:
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`vs\.([\w.]+)", text)) | set(
        re.findall(r"`vs\.([\w.]+)", PAGES[0].read_text(encoding="utf-8"))
    )
    assert len(names) > 30
    assert not {name for name in names if not resolves(name)}


def resolves(name: str) -> bool:
    """Whether a dotted name is public, at the top or in a room."""
    *room, last = name.split(".")
    holder = getattr(verdictscope, room[0]) if room else verdictscope
    return last in holder.__all__ or (not room and last in dir(verdictscope))


PROBES = {re.findall(r"import (\w+)", code)[0]: code for code in blocks(ROOT / "docs" / "probes.md", "python")}
"""The blocks of docs/probes.md by the first name that they import."""


@pytest.fixture(scope="module")
def states() -> dict[str, Any]:
    """What the blocks take as given: states with labels in them."""
    rng = np.random.default_rng(0)
    n, d = 100, 6
    part = ("train", "train", "validation", "test", "test")
    refused = rng.random(n) < 0.5
    harm = rng.random(n) < np.where(refused, 0.7, 0.3)
    prompts = [f"p{i}" for i in range(n)]
    hidden = {k: rng.normal(size=(n, d)) + 2 * np.outer(refused, np.eye(d)[k]) for k in (0, 1)}
    texts = [" ".join("".join(rng.choice(list("abcdefghij"), 6)) for _ in range(8)) for _ in range(n)]
    rows = pd.DataFrame(
        {
            "rollout": [f"{p}/0" for p in prompts],
            "prompt": prompts,
            "group": prompts,
            "refused": refused,
            "harm": harm,
            "label": refused.astype(int),
            "part": [part[i % 5] for i in range(n)],
            "position": np.where(np.arange(n) % 2, "early", "late"),
            "category": np.where(np.arange(n) % 4 < 2, "a", "b"),
        }
    )
    return {
        "layers": (0, 1),
        "layer": 1,
        "states": hidden,
        "labels": refused.astype(int),
        "other_states": hidden,
        "other_labels": refused.astype(int),
        "refused": refused,
        "harm": harm,
        "prompts": prompts,
        "rollouts": rows["rollout"].to_list(),
        "texts": texts,
        "X": hidden[1],
        "rows": rows,
        "C": 0.1,
    }


@pytest.mark.parametrize("block", [name for name in PROBES if name != "bias_detector"])
def test_code_about_probes_runs(states: dict[str, Any], block: str) -> None:
    exec(PROBES[block], dict(states))


def test_code_about_probes_of_a_judge_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests" / "probes")
    from verdict_worlds import axis, judge_world

    made, part, named = judge_world(
        {0: lambda facts, _: 2.0 * facts["shown"] * facts["odds"] * axis(1) + 2.0 * facts["flip"] * axis(3)},
        {"plain": 0.0, "control": 0.0, "crowd": 3.0},
        n=48,
    )
    monkeypatch.setattr("verdictscope.probes.verdict_states", lambda model, judged: made)  # reads them from a model
    kept = SimpleNamespace(named=lambda name: name)
    answers = {item: (f"this is {item}", f"that was {item}") for item in made.rows["item"]}
    prompts = {rollout: f"which is best in {rollout}" for rollout in made.rows["rollout"]}
    given = {"plain": kept, "control": kept, "crowd": kept, "model": None, "split": part, "named": named}
    exec(PROBES["bias_detector"], given | {"texts": answers, "prompts": prompts})


def test_every_block_of_code_is_run() -> None:
    """Here, or by the tests of its page, which take the blocks from the page as well."""
    for page in PAGES:
        if blocks(page, "python") and page.name != "probes.md":
            assert page.name in (ROOT / PYTHON[page.name]).read_text(encoding="utf-8")
