"""The store: bit-exact, resumable, and closed to what does not belong in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import rollout, wrapped

from verdictscope.activations import BatchPlan, Site, Store, collect, forward
from verdictscope.activations.writing import StoreWriter
from verdictscope.errors import InputError

READS = [
    Site("resid_post") @ "thinking:4,think_end",
    Site("z", (0, 2)) @ "before_answer",
    Site("attn_out", 1) @ "verdict",
]
PLAN = BatchPlan(((3, 1), (2, 0), (4,)), 64)


def datasets(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def same(a: Path, b: Path) -> bool:
    x, y = datasets(a), datasets(b)
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_exact(rollouts, tmp_path, dtype):
    model = wrapped("qwen3", dtype)
    seen = []
    store = collect(model, rollouts, READS, path=tmp_path / "s.h5", plan=PLAN, progress=lambda *done: seen.append(done))
    total = sum(map(len, rollouts))
    assert [t for _, t in seen] == [total] * 3
    assert seen[-1][0] == total
    wanted = forward(model, rollouts, READS, plan=PLAN)
    with store:
        assert store.finished
        assert store.sites == ("resid_post", "z", "attn_out")
        assert store.layers("z") == (0, 2)
        assert store.verify()["ok"].all()
        for read in READS:
            pd.testing.assert_frame_equal(store.rows(read.site.name), wanted.rows[read])
            for i, layer in enumerate(store.layers(read.site.name)):
                mine = store.read(read.site.name, layer)
                assert mine.dtype == dtype
                bits = torch.int16 if dtype == torch.bfloat16 else torch.int32
                assert torch.equal(mine.view(bits), wanted.values[read][i].view(bits))
        assert store.plan == PLAN
        assert store.numpy("resid_post", 1).dtype == np.float32


def test_massive_bf16_values_survive(tmp_path):
    values = torch.tensor(
        [[[3e38, -1e30, 1e-38, -0.0], [float("nan"), float("inf"), 70000.0, 0.1]]], dtype=torch.bfloat16
    )
    spec = {"resid_post": {"layers": (4,), "rows": 2, "shape": (4,), "dtype": "bfloat16"}}
    header = {"sites": {"resid_post": {"positions": "all"}}, "plan": BatchPlan(((0,),), 1).to_dict()}
    rows = pd.DataFrame({"rollout": ["a", "a"], "pos": [0, 1], "token_id": [5, 6], "segment": ["user", "answer"]})
    with StoreWriter.create(tmp_path / "s.h5", header=header, rollout_ids=["a"], sites=spec) as store:
        store.append({"resid_post": rows}, {"resid_post": values}, 1)
    with Store.open(tmp_path / "s.h5") as store:
        assert torch.equal(store.read("resid_post", 4).view(torch.int16), values[0].view(torch.int16))
    with StoreWriter.resume(tmp_path / "s.h5") as store, pytest.raises(InputError, match="finished"):
        store.append({"resid_post": rows}, {"resid_post": values}, 1)


def test_reads_of_rows(rollouts, tmp_path, qwen3, monkeypatch):
    monkeypatch.setattr(sys.modules["verdictscope.activations.hdf5"], "CHUNK_ROWS", 8)
    with collect(qwen3, rollouts, [Site("resid_post") @ "all"], path=tmp_path / "s.h5") as store:
        whole, n = store.read("resid_post", 1), store.n_rows("resid_post")
        assert n == sum(map(len, rollouts))
        rng = np.random.default_rng(0)
        some, mask = rng.permutation(n)[:30], rng.random(n) < 0.3
        for rows in (some, mask, [3, -1, 3], slice(2, 40, 3), slice(None, None, -1), np.array([], dtype=int)):
            wanted = whole[torch.from_numpy(np.arange(n)[rows].copy())]
            assert torch.equal(store.read("resid_post", 1, rows), wanted)
        for call in (lambda: store.read("z", 1), lambda: store.read("resid_post", 7)):
            with pytest.raises(InputError, match="it has"):
                call()
        with pytest.raises(IndexError):
            store.read("resid_post", 1, [n])


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_crash_between_batches_leaves_no_trace(rollouts, tmp_path, qwen3, monkeypatch, after):
    collect(qwen3, rollouts, READS, path=tmp_path / "whole.h5", plan=PLAN).close()
    stock, count = StoreWriter._commit, [0]

    def crash(self, *args):
        if count[0] == after:
            raise KeyboardInterrupt
        count[0] += 1
        stock(self, *args)

    monkeypatch.setattr(StoreWriter, "_commit", crash)
    with pytest.raises(KeyboardInterrupt):
        collect(qwen3, rollouts, READS, path=tmp_path / "cut.h5", plan=PLAN)
    monkeypatch.undo()
    with pytest.raises(InputError, match="unfinished"):
        Store.open(tmp_path / "cut.h5")
    with Store.open(tmp_path / "cut.h5", unfinished=True) as store:
        assert store.batches_done == after
        assert store.verify()["ok"].all()
        assert len(store.rows("resid_post")) == store.n_rows("resid_post") == len(store.read("resid_post", 0))
    collect(qwen3, rollouts, READS, path=tmp_path / "cut.h5").close()  # the plan is taken from the file
    assert same(tmp_path / "whole.h5", tmp_path / "cut.h5")
    before = (tmp_path / "cut.h5").read_bytes()
    collect(qwen3, rollouts, READS, path=tmp_path / "cut.h5", plan=PLAN).close()  # finished: nothing to do
    assert (tmp_path / "cut.h5").read_bytes() == before


def test_a_split_is_written_into_the_plan_and_resumed(rollouts, tmp_path, qwen3, monkeypatch):
    room = sys.modules["verdictscope.activations.forward"]
    stock_run, stock_commit, count = room.launch, StoreWriter._commit, [0]

    def run(job, batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stock_run(job, batch)

    def crash(self, *args):
        if count[0] == 1:
            raise KeyboardInterrupt
        count[0] += 1
        stock_commit(self, *args)

    plan = BatchPlan(((3, 1, 2, 0), (4,)), 999)
    monkeypatch.setattr(room, "launch", run)
    collect(qwen3, rollouts, READS, path=tmp_path / "whole.h5", plan=plan).close()
    with Store.open(tmp_path / "whole.h5") as store:
        assert store.plan.batches == ((3, 1), (2, 0), (4,))
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_commit", crash)
        with pytest.raises(KeyboardInterrupt):
            collect(qwen3, rollouts, READS, path=tmp_path / "cut.h5", plan=plan)
    collect(qwen3, rollouts, READS, path=tmp_path / "cut.h5", plan=plan).close()
    assert same(tmp_path / "whole.h5", tmp_path / "cut.h5")


def test_another_run_is_refused(rollouts, tmp_path, qwen3):
    path = tmp_path / "s.h5"
    collect(qwen3, rollouts, READS, path=path, plan=PLAN).close()
    others = [
        (wrapped("llama"), rollouts, READS, PLAN),
        (qwen3, rollouts[:4], READS, None),
        (qwen3, [rollout(r.id, len(r), seed=99) for r in rollouts], READS, PLAN),
        (qwen3, rollouts, READS[:2], PLAN),
        (qwen3, rollouts, [Site("resid_post") @ "thinking:5", *READS[1:]], PLAN),
        (qwen3, rollouts, READS, BatchPlan(((0, 1, 2, 3, 4),), 999)),
    ]
    for model, rs, reads, plan in others:
        with pytest.raises(InputError, match="another") as error:
            collect(model, rs, reads, path=path, plan=plan)
        assert "\n" not in str(error.value)
    with Store.open(path) as store:
        assert store.finished


def test_wrong_files_and_reads_are_one_line(rollouts, tmp_path, qwen3):
    (tmp_path / "text").write_text("no store")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    for path in (tmp_path / "text", tmp_path / "other.h5", tmp_path / "missing"):
        with pytest.raises(InputError):
            Store.open(path)
    two = [Site("resid_post", 0) @ "all", Site("resid_post", 1) @ "last"]
    for reads in ([], two):
        with pytest.raises(InputError, match="read"):
            collect(qwen3, rollouts, reads, path=tmp_path / "n.h5")
    with pytest.raises(InputError, match="cannot write"):
        collect(qwen3, rollouts, READS, path=tmp_path / "text" / "n.h5")
    collect(qwen3, rollouts, READS, path=tmp_path / "s.h5").close()
    code = f"import h5py, sys; f = h5py.File({str(tmp_path / 's.h5')!r}, 'r+'); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(InputError, match="cannot open"):
            Store.open(tmp_path / "s.h5")
        writer.communicate()


def test_a_full_disk_is_one_line_and_costs_nothing(rollouts, tmp_path, qwen3, monkeypatch):
    collect(qwen3, rollouts, READS, path=tmp_path / "whole.h5", plan=PLAN).close()
    stock, count = h5py.Dataset.__setitem__, [0]

    def full(self, *args):
        count[0] += 1
        if count[0] == 25:
            raise OSError(28, "No space left on device")
        stock(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Dataset, "__setitem__", full)
        with pytest.raises(InputError, match=r"cannot write.*No space left.*intact") as error:
            collect(qwen3, rollouts, READS, path=tmp_path / "cut.h5", plan=PLAN)
    assert "\n" not in str(error.value)
    with Store.open(tmp_path / "cut.h5", unfinished=True) as store:
        assert 0 < store.batches_done < 3
    collect(qwen3, rollouts, READS, path=tmp_path / "cut.h5", plan=PLAN).close()
    assert same(tmp_path / "whole.h5", tmp_path / "cut.h5")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
        with pytest.raises(InputError, match="the disk has"):
            collect(qwen3, rollouts, READS, path=tmp_path / "big.h5", plan=PLAN)
    assert not list(tmp_path.glob("big*"))


def test_damage_is_found(rollouts, tmp_path, qwen3):
    collect(qwen3, rollouts, READS, path=tmp_path / "s.h5", plan=PLAN).close()
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["resid_post/values"][1, 3, 7] += 1
        file["z/rows/pos"][4] += 1
    with Store.open(tmp_path / "s.h5") as store:
        report = store.verify()
    assert set(report.loc[~report["ok"], "site"]) == {"resid_post", "z"}
    assert (~report["ok"]).sum() == 2


def test_kill_9_and_resume_equals_uninterrupted(tmp_path):
    """The child is a fork of this warmed process; it is killed while it works on some batch after the seventh."""
    rollouts = [rollout(f"p{i}/0", 12 + i % 9, seed=i) for i in range(60)]
    plan = BatchPlan(tuple((i, i + 1) for i in range(0, 60, 2)), 64)
    reads = [Site("resid_post") @ "all", Site("z") @ "thinking:3"]
    model = wrapped("qwen3")
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            path = tmp_path / "cut.h5"
            collect(model, rollouts, reads, path=path, plan=plan, progress=lambda *_: os.write(theirs, b"x"))
        finally:
            os._exit(0)
    os.close(theirs)
    for _ in range(7):
        assert os.read(ours, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ours)
    with Store.open(tmp_path / "cut.h5", unfinished=True) as store:
        assert 7 <= store.batches_done < 30
        assert store.verify()["ok"].all()
    collect(model, rollouts, reads, path=tmp_path / "cut.h5").close()
    collect(model, rollouts, reads, path=tmp_path / "whole.h5", plan=plan).close()
    assert same(tmp_path / "whole.h5", tmp_path / "cut.h5")
