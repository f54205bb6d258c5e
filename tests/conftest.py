"""What all tests share: how hypothesis draws its examples, and the command line as a function."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# No test asks a model hub: one that cannot be reached is tried again for minutes. Before anything imports the client.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# The same examples everywhere, so that a change is judged by what it did and not by luck.
# `HYPOTHESIS_PROFILE=explore pytest …` draws new ones: use it when you write a property.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.register_profile("explore")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


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
