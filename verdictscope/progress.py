"""Progress of long work on standard error, with rate and time left: a bar in a terminal, a line at times elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

EVERY = 20.0
"""Seconds between two lines where there is no terminal."""

Tick = Callable[[int, int], None]


class Pace:
    """How fast a job goes. What an earlier start had done says nothing, so the first tick is where timing begins."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()
        self._at = self._begin
        self._from = (0, self._begin)
        self._ticks = 0
        self.done, self.total = 0, 0

    def __call__(self, done: int, total: int) -> None:
        """Note where the job stands."""
        if self._ticks == 1:
            self._from = self.done, self._at
        self._ticks, self._at = self._ticks + 1, self._clock()
        self.done, self.total = done, total

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return self._clock() - self._begin

    @property
    def rate(self) -> float | None:
        """Per second, once anything is done; over the time between ticks, so that it stands still between two."""
        gone = self.done - self._from[0]
        return gone / max(self._at - self._from[1], 1e-9) if self._ticks and gone > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds to the end at this rate."""
        if not self.rate or not self.total:
            return None
        return max(0.0, (self.total - self.done) / self.rate - (self._clock() - self._at))

    def text(self) -> str:
        """Rate and time left, or the time taken when all is done."""
        rate = "-/s" if self.rate is None else f"{self.rate:,.1f}/s"
        if self.total and self.done >= self.total:
            return f"{rate}, took {_clock(self.seconds)}"
        return f"{rate}, left {'-:--:--' if self.left is None else _clock(self.left)}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def progress(what: str) -> Iterator[Tick]:
    """Show one job's progress on standard error."""
    pace = Pace()
    shown = _bar(what, pace) if sys.stderr.isatty() else _lines(what, pace)
    with shown as tick:
        yield tick


@contextmanager
def _bar(what: str, pace: Pace) -> Iterator[Tick]:
    """A bar within 80 columns that goes when the job is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(pace.text())

    # The words may hold a user's names: no markup is read from them.
    words = TextColumn("{task.description:<26.26}", markup=False)
    columns = (words, BarColumn(bar_width=10), MofNCompleteColumn(), Rate())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)

        def tick(done: int, total: int) -> None:
            pace(done, total)
            shown.update(task, completed=done, total=total)

        yield tick


@contextmanager
def _lines(what: str, pace: Pace) -> Iterator[Tick]:
    last = 0.0

    def tick(done: int, total: int) -> None:
        nonlocal last
        pace(done, total)
        if pace.seconds - last >= EVERY and done < total:
            last = pace.seconds
            say()

    def say() -> None:
        print(f"{what}: {pace.done:,} of {pace.total:,}, {pace.text()}", file=sys.stderr, flush=True)

    yield tick
    if pace.total:
        say()
