"""A collect run killed at random moments and resumed loses, doubles and changes no row.

Children are forks of this warmed process. Some are killed from outside at a random time, some kill themselves at a
chosen system call: within a write of values, before or after a flush, between a batch's numbers and its commit. A
resumed run may be killed too.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tiny_models import rollout, wrapped

from tests.evidence import write_evidence
from verdictscope.activations import BatchPlan, LinearReadout, Site, Store, collect
from verdictscope.activations.writing import StoreWriter

KILLS = 200
ROLLOUTS = [rollout(f"p{i}/0", 12 + i % 9, seed=i) for i in range(24)]
PLAN = BatchPlan(tuple((i, i + 1) for i in range(0, 24, 2)), 64)
READS = [Site("resid_post") @ "all", Site("z") @ "thinking:3"]
SCORE = LinearReadout("probe", "resid_post", 1, np.linspace(-1, 1, 32))
HOW = ("time", "value write", "half a value write", "before flush", "after flush", "before commit")


def whole(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def booby_trap(how: str, count: int) -> None:
    """In the child: ends the process at the ``count``-th call of something."""
    left = [count]

    def due() -> bool:
        left[0] -= 1
        return left[0] == 0

    pwrite, flush, commit = os.pwrite, h5py.File.flush, StoreWriter._commit
    if how in ("value write", "half a value write"):

        def write(fd, data, at):
            if due():
                pwrite(fd, data[: len(data) // 2] if how.startswith("half") else data, at)
                die()
            return pwrite(fd, data, at)

        os.pwrite = write
    elif how in ("before flush", "after flush"):

        def flushed(self):
            last = due()
            if last and how == "before flush":
                die()
            flush(self)
            if last:
                die()

        h5py.File.flush = flushed
    elif how == "before commit":

        def committed(self, *args):
            if due():
                die()
            commit(self, *args)

        StoreWriter._commit = committed


def run(path: Path, how: str | None, rng: random.Random, full: float) -> bool:
    """One run in a fork; whether it was killed before it ended."""
    model = wrapped("qwen3")
    calls = {"value write": 90, "half a value write": 90, "before flush": 24, "after flush": 24, "before commit": 12}
    count = rng.randint(1, calls.get(how or "", 1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if how not in (None, "time"):
                booby_trap(how, count)
            collect(model, ROLLOUTS, READS, path=path, plan=PLAN, score=[SCORE]).close()
            code = 0
        finally:
            os._exit(code)
    if how == "time":
        time.sleep(rng.uniform(0, full))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def campaign(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Kills runs until there were enough kills; every file is finished and compared with an uninterrupted one."""
    model, rng, done = wrapped("qwen3"), random.Random(seed), Counter()
    collect(model, ROLLOUTS, READS, path=folder / "whole.h5", plan=PLAN, score=[SCORE]).close()
    begin = time.perf_counter()
    run(folder / "timed.h5", None, rng, 0)
    full = time.perf_counter() - begin
    wanted, rows, files, resumed_kills, changed = whole(folder / "whole.h5"), 0, 0, 0, 0
    with Store.open(folder / "whole.h5") as store:
        per_file = sum(store.n_rows(site) for site in ("resid_post", "z", "scores/0"))
    while sum(done.values()) < kills:
        path, first = folder / f"{files}.h5", True
        while sum(done.values()) < kills and (first or rng.random() < 0.5):
            how = rng.choice(HOW)
            if not run(path, how, rng, full):
                break
            done[how] += 1
            resumed_kills += not first
            first = False
        assert not run(path, None, rng, 0)
        files, rows = files + 1, rows + per_file
        changed += whole(path) != wanted
        path.unlink()
    return {
        "kills": sum(done.values()),
        "kills_by_kind": dict(sorted(done.items())),
        "kills_of_resumed_runs": resumed_kills,
        "files": files,
        "rows_per_file": per_file,
        "rows_compared": rows,
        "files_that_differ": changed,
        "seed": seed,
        "rollouts": len(ROLLOUTS),
        "batches": len(PLAN.batches),
    }


@pytest.fixture(autouse=True)
def _forks_are_safe():
    """A fork of a process with running compute threads may hang."""
    torch.set_num_threads(1)
    return


def test_a_few_kills(tmp_path):
    assert campaign(tmp_path, 6, 1)["files_that_differ"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_kills(tmp_path):
    found = campaign(tmp_path, KILLS, 0)
    write_evidence("collect_kills", found)
    assert found["kills"] >= KILLS
    assert found["files_that_differ"] == 0
