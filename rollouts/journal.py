"""Rollouts kept as they come: whole part files beside the file to be, joined at the end.

A process may be killed at any moment. What it had committed is there for the next call of the same request, and a
part it was writing lies under a temporary name that nobody reads. Generation costs hours, so a request is recognised
by everything that fixes its tokens, and rollouts of another one are refused, not mixed in; the message names what
differs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from verdictscope.errors import InputError, disk_error
from verdictscope.kept import check_same
from verdictscope.provenance import PART
from verdictscope.rollouts.rollout import Rollout
from verdictscope.rollouts.tables import file_request, read_parquet, write_parquet

EVERY = 5.0
"""Seconds between two commits of a short run; a long one commits after a hundredth of the time it has run."""


class Journal:
    """Part files of one request."""

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path, self.request = path, request
        self.folder = parts_folder(path)
        self._begin = self._last = time.monotonic()
        self._waiting: list[Rollout] = []
        self._number = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that writes there. The kernel's lock goes with its process."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise disk_error(error, self.folder) or error from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"{self.path} is being written by another process: wait for it, or choose another path"
            ) from None
        try:
            for leftover in self.folder.glob(f".*{PART}"):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)

    def finished(self) -> list[Rollout] | None:
        """The rollouts of the finished file, if there is one."""
        if not self.path.exists():
            return None
        self._check(self.path)
        shutil.rmtree(self.folder, ignore_errors=True)  # left there by a call that was killed at its very end
        return read_parquet(self.path)

    def committed(self) -> dict[str, Rollout]:
        """Rollouts of earlier calls, by id."""
        found: dict[str, Rollout] = {}
        for part in sorted(self.folder.glob("[0-9]*.parquet")):
            self._check(part)
            found |= {r.id: r for r in read_parquet(part)}
            self._number = max(self._number, int(part.stem) + 1)
        return found

    def _check(self, file: Path) -> None:
        what, where = ("holds", file) if file == self.path else ("was begun with", self.folder)
        repair = f"choose another path, or delete {where}"
        check_same(f"{self.path} {what} rollouts that were", _request_of(file), self.request, repair)

    def add(self, rollouts: Sequence[Rollout], *, now: bool = False) -> None:
        """Take rollouts in, and commit all that wait when it is time."""
        self._waiting += rollouts
        clock = time.monotonic()
        due = clock - self._last >= max(EVERY, 0.01 * (clock - self._begin))
        if self._waiting and (now or due):
            write_parquet(self._waiting, self.folder / f"{self._number:06d}.parquet", request=json.dumps(self.request))
            self._number, self._last, self._waiting = self._number + 1, clock, []

    def finish(self, rollouts: Sequence[Rollout], tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the whole file and take the parts away."""
        write_parquet(rollouts, self.path, tokenizer, request=json.dumps(self.request))
        shutil.rmtree(self.folder, ignore_errors=True)


def parts_folder(path: Path) -> Path:
    """Where the parts of a file to be lie."""
    return path.with_name(f".{path.name}.parts")


def kept_weights(path: Path) -> str | None:
    """The digest of the weights that a file, or its first part, was written with."""
    files = [path] if path.exists() else sorted(parts_folder(path).glob("[0-9]*.parquet"))[:1]
    request = _request_of(files[0]) if files else None
    return None if request is None else request.get("engine", {}).get("weights")


def _request_of(file: Path) -> dict[str, Any] | None:
    """The request kept in a file; ``None`` where an earlier version kept one word of it."""
    text = file_request(file) or ""
    return json.loads(text) if text.startswith("{") else None
