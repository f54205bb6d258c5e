"""Progress: rate and time left, and what is printed where there is no terminal."""

from __future__ import annotations

import pytest

from verdictscope import progress as module
from verdictscope.progress import Pace, progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.rate is None
    assert "left -:--:--" in pace.text()
    for done in (10, 20, 30):
        clock.now += 5
        pace(done, 100)
    assert pace.rate == pytest.approx(2)
    assert pace.left == pytest.approx(35)
    clock.now += 5  # between two ticks the rate stands and the time left runs down
    assert pace.rate == pytest.approx(2)
    assert pace.left == pytest.approx(30)
    pace(100, 100)
    assert pace.text().endswith("took 0:00:20")


def test_what_an_earlier_start_did_is_not_counted() -> None:
    clock = Clock()
    pace = Pace(clock)
    for done in (900, 901, 902):
        clock.now += 1
        pace(done, 1000)
    assert pace.rate == pytest.approx(1)
    assert pace.left == pytest.approx(98)


def test_without_a_terminal_there_are_few_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    monkeypatch.setattr(module, "Pace", lambda: Pace(clock))
    with progress("trace: [bold]base") as tick:
        for done in range(1, 101):
            clock.now += 1
            tick(done, 100)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert 3 <= len(lines) <= 6
    assert lines[0] == "trace: [bold]base: 20 of 100, 1.0/s, left 0:01:20"
    assert lines[-1] == "trace: [bold]base: 100 of 100, 1.0/s, took 0:01:40"
    assert "\x1b" not in err


def test_a_job_that_never_ticks_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("nothing"):
        pass
    assert capsys.readouterr() == ("", "")
