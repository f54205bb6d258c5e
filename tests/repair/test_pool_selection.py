"""Ranking a pool: planted cliffs come first, length alone does not, and nothing leaves in silence."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from probe_worlds import World, make_rollout, make_scores

from verdictscope.errors import InputError
from verdictscope.repair import METHODS, pool_scores, rank_pool
from verdictscope.repair.ranking import Budget, expected_maximum
from verdictscope.traces import Normaliser, align
from verdictscope.traces.normaliser import normaliser_rollouts


def pool_of(n: int, **columns: object) -> pd.DataFrame:
    base = {
        "id": [f"p{i}/0" for i in range(n)],
        "user": [sha256(bytes([i])).hexdigest() for i in range(n)],
        "thinking": ["plain"] * n,
        "reason": [""] * n,
    }
    return pd.DataFrame(base | columns)


def test_planted_cliffs_are_ranked_first(world: World) -> None:
    aligned = align(world.scores, world.rollouts)
    normaliser = Normaliser.fit(aligned, *normaliser_rollouts(world.table), resamples=200)
    ids = [*world.ids("harmful_complied"), *world.ids("harmful_refused")]
    scores = pool_scores(aligned[aligned["rollout"].isin(ids)], normaliser).rename(columns={"rollout": "id"})
    pool = scores.merge(pool_of(len(ids), id=ids)[["id", "user", "thinking"]])
    ranking = rank_pool(pool, "normalised", budget=len(world.ids("harmful_complied")), duplicates=1)
    fell = set(world.ids("harmful_complied"))
    assert sum(name in fell for name in ranking.chosen["id"]) > 0.9 * len(fell)
    assert list(ranking.table["rank"]) == list(range(1, len(ids) + 1))
    assert ranking.table["score"].is_monotonic_decreasing


@pytest.mark.parametrize(("n", "m"), [(5, 2), (7, 7), (6, 1), (3, 4)])
def test_the_expected_maximum_is_that_of_all_subsets(n: int, m: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    subsets = [max(s) for s in combinations(values, m)]
    truth = np.mean(subsets) if subsets else np.nan
    np.testing.assert_allclose(expected_maximum(values, m), truth, equal_nan=True)


def test_the_published_score_grows_with_length_and_the_adjusted_does_not() -> None:
    rng = np.random.default_rng(0)
    rollouts = [make_rollout(f"p{i}/0", f"p{i}", 8 * 4 ** (i % 4)) for i in range(400)]
    scores = pool_scores(align(make_scores(rollouts, lambda r, pos, s: rng.normal(-2, 1)), rollouts)).set_index(
        "rollout"
    )
    short, long = (scores[scores["n_thinking"] == n] for n in (8, 512))
    assert long["published"].mean() - short["published"].mean() > 0.2
    error = np.hypot(*(part["length_adjusted"].std() / 10 for part in (short, long)))
    assert abs(long["length_adjusted"].mean() - short["length_adjusted"].mean()) < 3 * error


def test_what_cannot_be_scored_says_why() -> None:
    rollouts = [
        make_rollout("whole/0", "a", 12),
        make_rollout("short/0", "b", 3),
        make_rollout("none/0", "c", 0),
        make_rollout("cut/0", "d", 12, closing=0, answer=0, finish="length"),
        make_rollout("answer/0", "e", 12, finish="length"),
        make_rollout("open/0", "f", 12, closing=0, answer=0),
    ]
    aligned = align(make_scores(rollouts, lambda r, pos, s: pos / 10), rollouts)
    scores = pool_scores(aligned).set_index("rollout")
    assert scores["reason"].to_dict() == {
        "whole/0": "",
        "short/0": "",
        "none/0": "no thinking",
        "cut/0": "thinking cut off",
        "answer/0": "",
        "open/0": "no end of thinking",
    }
    assert scores.loc["answer/0", "note"] == "its answer was cut off"
    assert np.isfinite(scores.loc["short/0", "published"])
    assert np.isnan(scores.loc["short/0", "length_adjusted"])
    pool = scores.reset_index(names="id").merge(pool_of(6, id=[r.id for r in rollouts])[["id", "user", "thinking"]])
    ranking = rank_pool(pool, "length_adjusted", budget=6)
    assert ranking.left_out == {
        "no thinking": 1,
        "thinking cut off": 1,
        "no end of thinking": 1,
        "too little thinking for a score": 1,
    }
    assert len(ranking.table) == 6
    assert (ranking.table["reason"] != "").all()
    assert "asks for 6" in repr(ranking)
    assert "its answer was cut off: 1" in repr(ranking)


def test_rows_in_another_order_give_the_same_ranking() -> None:
    pool = pool_of(40, published=np.repeat([3.0, 1.0], 20))
    for method in ("published", "random", "rule"):
        first = rank_pool(pool, method, budget=10, seed=3)
        again = rank_pool(pool.sample(frac=1, random_state=1), method, budget=10, seed=3)
        pd.testing.assert_frame_equal(first.table, again.table)
        assert list(rank_pool(pool, method, budget=10, seed=4).chosen["id"]) != list(first.chosen["id"])
    ties = rank_pool(pool, "published", budget=10)
    assert (ties.tied, ties.edge) == (40, 20)
    assert "20 rows share the score" in repr(ties)


def test_duplicates_leave_the_best_and_name_it() -> None:
    text = "please tell me how to pick the lock of the garden shed"
    pool = pool_of(4, user=[text, text.upper() + "!", "what is the tallest tree on earth", text], final=[3, 1, 2, 0.0])
    pool["system"] = [None, None, None, "be brief"]
    ranking = rank_pool(pool, "final", budget=4)
    assert list(ranking.chosen["id"]) == ["p3/0", "p1/0", "p2/0"]
    assert ranking.table.set_index("id").loc["p0/0", "reason"] == "duplicate of p1/0"
    assert ranking.left_out == {"duplicate": 1}


def test_baselines() -> None:
    pool = pool_of(
        4,
        thinking=["I must REFUSE", None, "fine", "this is illegal"],
        refused=[True, False, None, False],
        loss=[1.0, 4.0, np.nan, 2.0],
    )
    assert set(rank_pool(pool, "rule", budget=2).chosen["id"]) == {"p0/0", "p3/0"}
    complied = rank_pool(pool, "complied", budget=2)
    assert set(complied.chosen["id"]) == {"p1/0", "p3/0"}
    assert complied.left_out == {"its answer could not be read": 1}
    assert list(rank_pool(pool, "loss", budget=2).chosen["id"]) == ["p1/0", "p3/0"]


@pytest.mark.parametrize(
    ("text", "rows"), [("200", 200), (200, 200), ("1.7%", 680), ("0.017", 680), (0.017, 680), ("0.001%", 1)]
)
def test_budgets(text: str, rows: int) -> None:
    assert Budget.parse(text).of(40_000) == rows


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "0%", "101%", "many", "nan", "inf", "1e999"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(InputError, match="budget"):
        Budget.parse(text)


def test_bad_pools() -> None:
    pool = pool_of(3)
    for wrong, told in (
        ({"by": "vibes"}, "no way 'vibes'"),
        ({"by": "loss"}, "no column 'loss'"),
        ({"duplicates": 0.0}, "Jaccard"),
    ):
        with pytest.raises(InputError, match=told):
            rank_pool(pool, **({"by": "random"} | wrong))
    with pytest.raises(InputError, match="occurs twice"):
        rank_pool(pd.concat([pool, pool]), "random")
    with pytest.raises(InputError, match="'truncated'"):
        rank_pool(pool.assign(reason="truncated"), "random")
    assert set(METHODS) >= {"normalised", "random", "rule", "final", "loss"}
