"""What all tests share: hypothesis, the order of files, a budget for each room, and the command line as a function."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# No test asks a model hub: one that cannot be reached is tried again for minutes. Before anything imports the client.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# The same examples everywhere, so that a change is judged by what it did and not by luck.
# `HYPOTHESIS_PROFILE=explore pytest …` draws new ones: use it when you write a property.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.register_profile("explore")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


BUDGET = 90.0
"""Seconds that the fast tests of a room may take in all, on an idle machine."""
HEAVY = (
    "tests/study/test_judge_demo.py",
    "tests/study/test_verdict_probes.py",
    "tests/study/test_verdict_traces.py",
    "tests/study/test_bias_stages.py",
    "tests/study/test_demo.py",
    "tests/study/test_judge_verdicts.py",
    "tests/notebooks/test_notebooks.py",
    "tests/test_contributing.py",
)
"""Files that run whole studies. They go first: a file is one worker's, and one that starts last is waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Heavy files first, the others in the order in which they were found."""
    order = {name: k for k, name in enumerate(HEAVY)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(HEAVY)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Seconds by room and the slowest tests of those over the budget: printed, since seconds depend on the machine."""
    rooms: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped", "xfailed"):
        for report in terminalreporter.stats.get(outcome, []):
            file = report.nodeid.partition("::")[0]
            rooms.setdefault(file.rpartition("/")[0] or ".", Counter())[file] += getattr(report, "duration", 0.0)
    if sum(sum(files.values()) for files in rooms.values()) < BUDGET:
        return
    terminalreporter.section(f"seconds by room (budget {BUDGET:.0f})")
    for room, files in sorted(rooms.items(), key=lambda pair: -sum(pair[1].values())):
        total = sum(files.values())
        slowest = ", ".join(f"{Path(file).name} {spent:.0f}" for file, spent in files.most_common(4))
        terminalreporter.write_line(f"{room:<22} {total:6.0f}" + (f"  over: {slowest}" if total > BUDGET else ""))


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Done]]:
    """``call("run", "study")``: the entry point itself, its exit code and what it wrote; no fresh start of torch."""
    from verdictscope.commands.main import (
        main,  # here, so that the shape checks are installed before anything is imported
    )

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["verdictscope", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        return Done(code, *capfd.readouterr())

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)
