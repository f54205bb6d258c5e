"""A store is read in the caller's order whatever its batches; tables are found in it by rollout and position."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from verdictscope.activations import LogOddsReadout, Model, Site, Store, collect, forward, reader
from verdictscope.activations.moments import moments_of
from verdictscope.activations.plan import BatchPlan
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout

PLAN = BatchPlan(((3, 1), (0, 4), (2,)), 64)


def test_a_store_is_read_in_the_order_of_the_table(qwen3: Model, rollouts: list[Rollout], tmp_path: Path) -> None:
    with collect(qwen3, rollouts, [Site("resid_post") @ "last"], path=tmp_path / "s.h5", plan=PLAN) as store:
        stored, all_values = store.rows(), store.numpy("resid_post", 1)
        assert list(stored["rollout"]) == [r.id for r in rollouts]
        wanted = pd.DataFrame({"rollout": [r.id for r in rollouts]})
        values = reader(store, "resid_post", wanted)(1)
        for row, name in zip(values, wanted["rollout"], strict=True):
            np.testing.assert_array_equal(row, all_values[int(np.flatnonzero(stored["rollout"] == name)[0])])
        turned = stored[::-1]
        np.testing.assert_array_equal(reader(store, "resid_post", turned)(1), all_values[::-1])
        for rows, says in (
            (pd.concat([wanted, wanted[:1]]), "two rows for p0/0"),
            (pd.DataFrame({"rollout": ["p1/0", "other"]}), "no row for other"),
            (pd.DataFrame({"label": [1]}), "no column rollout"),
        ):
            with pytest.raises(InputError, match=says):
                reader(store, "resid_post", rows)


def test_several_rows_a_rollout_need_their_position(qwen3: Model, rollouts: list[Rollout], tmp_path: Path) -> None:
    with collect(qwen3, rollouts, [Site("resid_post") @ "all"], path=tmp_path / "s.h5", plan=PLAN) as store:
        some = store.rows().sample(20, random_state=0)
        np.testing.assert_array_equal(reader(store, "resid_post", some)(0), store.numpy("resid_post", 0)[some.index])
        with pytest.raises(InputError, match="give the column pos"):
            reader(store, "resid_post", pd.DataFrame({"rollout": ["p0/0"]}))


def test_tags_and_masks_are_joined_or_refused(qwen3: Model, rollouts: list[Rollout], tmp_path: Path) -> None:
    with collect(qwen3, rollouts, [Site("resid_post") @ "last"], path=tmp_path / "s.h5", plan=PLAN) as store:
        labels = pd.Series(range(len(rollouts)), index=[r.id for r in rollouts], name="label")
        rows = store.rows(tags=labels)
        assert rows["label"].tolist() == [labels[name] for name in rows["rollout"]]
        with pytest.raises(InputError, match="no rollout of the store"):
            store.rows(tags=labels.reset_index(drop=True))
        by_label = rows.sort_values("label", ascending=False)["label"] > 2
        with pytest.raises(InputError, match="mask"):
            store.select("resid_post", 0, by_label)
        assert len(store.select("resid_post", 0, rows["label"] > 2)) == 2


@pytest.mark.parametrize("run_bytes", [1, 1 << 30])
@pytest.mark.parametrize("positions", ["last", "all", "thinking:2,think_end"])
def test_every_read_is_in_the_order_of_the_rollouts(
    qwen3: Model, rollouts: list[Rollout], tmp_path: Path, monkeypatch, positions: str, run_bytes: int
) -> None:
    monkeypatch.setattr("verdictscope.activations.hdf5._RUN", run_bytes)  # runs read into place, rows gathered
    monkeypatch.setattr("verdictscope.activations.hdf5.CHUNK_ROWS", 8)
    read = Site("resid_post") @ positions
    readout = LogOddsReadout("odds", ((7,),), ((11,),), positions=positions)
    wanted = forward(qwen3, rollouts, [read], score=[readout], plan=PLAN)
    with collect(qwen3, rollouts, [read], path=tmp_path / "s.h5", plan=PLAN, score=[readout]) as store:
        pd.testing.assert_frame_equal(store.rows(), wanted.rows[read])
        pd.testing.assert_frame_equal(store.scores(), wanted.scores)
        n, rng = store.n_rows("resid_post"), np.random.default_rng(1)
        for layer in store.layers("resid_post"):
            whole = wanted.values[read][layer]
            assert torch.equal(store.read("resid_post", layer), whole)
            some = rng.permutation(n)[: n // 2 + 1]
            several = (some, rng.random(n) < 0.4, [n - 1, 0, n - 1], slice(1, n - 1), slice(None, None, -2), some[:0])
            for rows in several:
                at = torch.from_numpy(np.arange(n)[rows].copy())
                assert torch.equal(store.read("resid_post", layer, rows), whole[at])
        few = store.select("resid_post", 1, {"rollout": ["p4/0", "p1/0"]})
        assert list(dict.fromkeys(few.rows["rollout"])) == ["p1/0", "p4/0"]
        assert torch.equal(few.values, wanted.values[read][1][torch.from_numpy(few.rows.index.to_numpy().copy())])
        classes = {r.id: i % 2 for i, r in enumerate(rollouts)}
        labels = wanted.rows[read]["rollout"].map(classes).to_numpy()
        mean = wanted.values[read][2].double().numpy()[labels == 1].mean(0)
        np.testing.assert_allclose(moments_of(store, "resid_post", classes).mean[2, 1], mean, rtol=1e-9, atol=1e-9)
    with h5py.File(tmp_path / "s.h5") as file:  # the file itself keeps the order of the plan
        assert [name.decode() for name in file["rollouts/id"][:]] == [rollouts[i].id for i in PLAN.order]
        assert (np.diff(file["resid_post/rows/rollout"][:]) >= 0).all()


def test_what_is_committed_of_an_unfinished_store_is_in_the_same_order(
    qwen3: Model, rollouts: list[Rollout], tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    read, plan = Site("resid_post") @ "all", BatchPlan(((3, 1, 2), (0, 4)), 64)
    whole = forward(qwen3, rollouts, [read], plan=plan)
    with pytest.raises(KeyboardInterrupt):
        collect(qwen3, rollouts, [read], path=tmp_path / "s.h5", plan=plan, progress=stop)
    with Store.open(tmp_path / "s.h5", unfinished=True) as store:
        done = [rollouts[i].id for i in sorted(plan.order[: store.rollouts_done])]
        at = np.flatnonzero(whole.rows[read]["rollout"].isin(done))
        assert list(dict.fromkeys(store.rows()["rollout"])) == done
        assert torch.equal(store.read("resid_post", 1), whole.values[read][1][torch.from_numpy(at)])
    with collect(qwen3, rollouts, [read], path=tmp_path / "s.h5") as store:
        pd.testing.assert_frame_equal(store.rows(), whole.rows[read])
        assert torch.equal(store.read("resid_post", 1), whole.values[read][1])
        assert store.verify()["ok"].all()
