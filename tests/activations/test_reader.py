"""A store has an order of its own; tables of the caller's are found in it by rollout and position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from verdictscope.activations import Model, Site, collect, reader
from verdictscope.activations.plan import BatchPlan
from verdictscope.errors import InputError
from verdictscope.rollouts.rollout import Rollout

PLAN = BatchPlan(((3, 1), (0, 4), (2,)), 64)


def test_a_store_is_read_in_the_order_of_the_table(qwen3: Model, rollouts: list[Rollout], tmp_path: Path) -> None:
    with collect(qwen3, rollouts, [Site("resid_post") @ "last"], tmp_path / "s.h5", PLAN) as store:
        stored, all_values = store.rows(), store.numpy("resid_post", 1)
        assert list(stored["rollout"]) != [r.id for r in rollouts]
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
    with collect(qwen3, rollouts, [Site("resid_post") @ "all"], tmp_path / "s.h5", PLAN) as store:
        some = store.rows().sample(20, random_state=0)
        np.testing.assert_array_equal(reader(store, "resid_post", some)(0), store.numpy("resid_post", 0)[some.index])
        with pytest.raises(InputError, match="give the column pos"):
            reader(store, "resid_post", pd.DataFrame({"rollout": ["p0/0"]}))


def test_tags_and_masks_are_joined_or_refused(qwen3: Model, rollouts: list[Rollout], tmp_path: Path) -> None:
    with collect(qwen3, rollouts, [Site("resid_post") @ "last"], tmp_path / "s.h5", PLAN) as store:
        labels = pd.Series(range(len(rollouts)), index=[r.id for r in rollouts], name="label")
        rows = store.rows(tags=labels)
        assert rows["label"].tolist() == [labels[name] for name in rows["rollout"]]
        with pytest.raises(InputError, match="no rollout of the store"):
            store.rows(tags=labels.reset_index(drop=True))
        by_label = rows.sort_values("label")["label"] > 2
        with pytest.raises(InputError, match="mask"):
            store.select("resid_post", 0, by_label)
        assert len(store.select("resid_post", 0, rows["label"] > 2)) == 2
