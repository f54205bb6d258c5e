"""Generation killed at any moment and called again equals generation nobody killed.

Children are forks. Some are killed from outside at a random time, some kill themselves at a chosen step: half-way
through a part, before or after it gets its name, before the joined file gets its name, while the parts are taken
away. A resumed call may be killed too.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.evidence import write_evidence
from tests.rollouts.makers import byte_tokenizer, tiny_model
from tests.rollouts.test_generate import prompts
from verdictscope.errors import InputError
from verdictscope.rollouts import LanguageModel, Rollout, Sampling, Span, generate, journal, read_parquet, tables
from verdictscope.rollouts.engines import huggingface

KILLS = 200
HOW = ("time", "half a part", "before naming", "after naming", "before parts go")
SAMPLING = Sampling(temperature=1.0, max_new_tokens=20, seed=2)


@pytest.fixture(autouse=True)
def _commit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "EVERY", 0.0)
    # several waves, so that a killed bfloat16 run has some behind it
    monkeypatch.setattr(huggingface, "_WAVE", 1)


def write(model: PreTrainedModel, path: Path | None, **more: Any) -> list[Rollout]:
    return generate(
        LanguageModel(model, byte_tokenizer()), prompts(14), SAMPLING, samples=2, batch_tokens=400, path=path, **more
    )


def half(dtype: torch.dtype) -> PreTrainedModel:
    model = tiny_model("qwen3", seed=4)
    return model if dtype == torch.float32 else type(model)(model.config).to(dtype).eval()


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def booby_trap(how: str, count: int) -> None:
    """In the child: ends the process at the ``count``-th call of something."""
    left = [count]

    def due() -> bool:
        left[0] -= 1
        return left[0] == 0

    replace, write_table = os.replace, tables.pq.write_table
    if how == "half a part":

        def half_written(table: Any, file: Any) -> None:
            write_table(table, file)
            if due():
                Path(file).write_bytes(Path(file).read_bytes()[:-100])
                die()

        tables.pq.write_table = half_written
    elif how in ("before naming", "after naming"):

        def named(*names: Any) -> None:
            last = due()
            if last and how == "before naming":
                die()
            replace(*names)
            if last:
                die()

        os.replace = named
    elif how == "before parts go":
        shutil.rmtree = die


def child(model: PreTrainedModel, path: Path, how: str | None, rng: random.Random, full: float) -> bool:
    """One call in a fork; whether it was killed before it ended."""
    count = rng.randint(1, 12)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if how not in (None, "time"):
                booby_trap(how, count)
            write(model, path)
            code = 0
        finally:
            os._exit(code)
    if how == "time":
        time.sleep(rng.uniform(0, full))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def campaign(folder: Path, dtype: torch.dtype, kills: int, seed: int) -> dict[str, Any]:
    """Kills calls until there were enough kills; every file is finished and compared with an uninterrupted one."""
    model, rng, done = half(dtype), random.Random(seed), Counter()
    folder.mkdir()
    whole = write(model, folder / "whole.parquet")
    begin = time.perf_counter()
    child(model, folder / "timed.parquet", None, rng, 0)
    full = time.perf_counter() - begin
    files = resumed = unequal = taken_up = 0
    while sum(done.values()) < kills:
        path, first = folder / f"{files}.parquet", True
        while sum(done.values()) < kills and (first or rng.random() < 0.5):
            how = rng.choice(HOW)
            if not child(model, path, how, rng, full):
                break
            done[how] += 1
            resumed += not first
            first = False
        taken_up += len(list((folder / f".{path.name}.parts").glob("[0-9]*")))
        assert not child(model, path, None, rng, 0)
        unequal += path.read_bytes() != (folder / "whole.parquet").read_bytes() or read_parquet(path) != whole
        unequal += (folder / f".{path.name}.parts").exists()
        files += 1
        path.unlink()
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "kills": sum(done.values()),
        "kills_by_kind": dict(sorted(done.items())),
        "kills_of_resumed_calls": resumed,
        "files": files,
        "files_that_differ": unequal,
        "rollouts_per_file": len(whole),
        "parts_taken_up": taken_up,
        "seed": seed,
    }


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_few_kills(tmp_path: Path, dtype: torch.dtype) -> None:
    found = campaign(tmp_path / "runs", dtype, 4, 3)
    assert found["files_that_differ"] == 0
    assert found["parts_taken_up"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills(tmp_path: Path) -> None:
    dtypes = (torch.float32, torch.bfloat16)
    found = [campaign(tmp_path / str(k), dtype, KILLS // 2, k) for k, dtype in enumerate(dtypes)]
    total = {key: sum(f[key] for f in found) for key in ("kills", "files", "files_that_differ")}
    write_evidence("rollouts_killed", total | {"campaigns": found})
    assert total["kills"] >= KILLS
    assert total["files_that_differ"] == 0


def test_a_finished_file_is_read_and_a_strange_one_refused(tmp_path: Path) -> None:
    model, path = tiny_model("llama"), tmp_path / "a" / "rollouts.parquet"
    seen: list[tuple[int, int]] = []
    first = write(model, path, progress=lambda *at: seen.append(at))
    assert seen[-1] == (28, 28)
    assert read_parquet(path) == first == write(model, None)
    assert not list(path.parent.glob(".*"))
    seen.clear()
    assert write(model, path, progress=lambda *at: seen.append(at)) == first
    assert not seen
    with pytest.raises(InputError, match="about"):
        write(model, path, about="head 3 zeroed")
    with pytest.raises(InputError, match="weights"):
        write(tiny_model("llama", seed=1), path)
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="no Parquet file"):
        write(model, path)


def test_parts_of_another_request_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = tiny_model("llama"), tmp_path / "rollouts.parquet"

    def stop(done: int, _: int) -> None:
        if done > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(model, path, progress=stop)
    assert list((tmp_path / ".rollouts.parquet.parts").glob("[0-9]*.parquet"))
    with pytest.raises(InputError, match="was begun with"):
        write(model, path, about="head 3 zeroed")
    seen: list[int] = []
    assert write(model, path, progress=lambda done, _: seen.append(done)) == write(model, None)
    assert seen[0] > 9


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    with (
        journal.Journal(path, {}).held(),
        pytest.raises(InputError, match="another process"),
        journal.Journal(path, {}).held(),
    ):
        pass


def test_commits_grow_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour is committed every half minute, and a day every quarter of an hour: parts stay few."""
    clock = [0.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(journal, "EVERY", 5.0)
    monkeypatch.setattr(journal, "write_parquet", lambda *_, **__: None)
    kept = journal.Journal(tmp_path / "x.parquet", {})
    for clock[0] in range(0, 24 * 3600, 5):
        kept.add([Rollout("a/0", "a", (1,), (Span("user", 0, 1),), 1)])
    assert 400 < kept._number < 700
