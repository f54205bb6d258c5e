"""Splits: whole groups, every stratum in every part, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verdictscope.errors import InputError
from verdictscope.probes import LogisticProbe, split_groups
from verdictscope.probes.rows import check_rows
from verdictscope.probes.splits import PARTS, split_rows
from verdictscope.stats import auroc, auroc_clustered, draw_clusters, group_names, permutation_of, sign_flip_test


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 300), st.integers(0, 1000))
def test_every_part_has_groups_and_its_share(groups: int, seed: int) -> None:
    split = split_groups([f"g{i}" for i in range(groups)], seed=seed)
    sizes = split.value_counts().reindex(PARTS)
    assert len(split) == groups
    assert (sizes >= 1).all()
    assert (np.abs(sizes - np.array([0.35, 0.15, 0.5]) * groups) <= 1.01).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_each_label_profile_keeps_the_shares(seed: int) -> None:
    kinds = {"refused": 60, "complied": 100, "mixed": 40}
    groups, labels = [], []
    for kind, n in kinds.items():
        for i in range(n):
            groups += [f"{kind}{i}"] * 2
            labels += ["refused", "complied"] if kind == "mixed" else [kind] * 2
    split = split_groups(pd.Series(groups), labels, seed=seed)
    for kind, n in kinds.items():
        sizes = split[split.index.str.startswith(kind)].value_counts().reindex(PARTS, fill_value=0)
        assert (np.abs(sizes - np.array([0.35, 0.15, 0.5]) * n) <= 2.01).all()


def test_cells_given_as_a_frame_and_missing_labels() -> None:
    groups = np.repeat([f"g{i}" for i in range(40)], 2)
    labels = pd.DataFrame({"harm": np.repeat([True, False], 40), "refused": [None, True] * 40})
    split = split_groups(groups, labels)
    assert split[:10].isin(PARTS).all()
    assert set(split.value_counts()) == {14, 6, 20}


def test_the_seed_and_the_names_decide_not_the_order_of_rows() -> None:
    names = [f"g{i}" for i in range(50)]
    labels = [i % 3 for i in range(50)]
    first = split_groups(names, labels, seed=4)
    shuffled = np.random.default_rng(0).permutation(50)
    second = split_groups([names[i] for i in shuffled], [labels[i] for i in shuffled], seed=4)
    pd.testing.assert_series_equal(first, second)
    assert not first.equals(split_groups(names, labels, seed=5))


def test_near_every_group_reaches_every_part_over_seeds() -> None:
    seen = pd.concat([split_groups(["a", "b", "c", "d"], seed=s) for s in range(60)]).groupby(level=0).nunique()
    assert (seen == 3).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"groups": ["a", "b", "a"]}, "2 prompt groups cannot make 3 splits"),
        ({"groups": ["a", None, "c"]}, "row 2 has no group"),
        ({"groups": [1.0, 2.0, 3.0, float("nan")]}, "row 4 has no group"),
        ({"groups": [1, 2, 2.5, 3]}, "group of row 3 is 2.5"),
        ({"groups": ["a", "b", True]}, "group of row 3 is True"),
        ({"groups": ["a", " ", "c"]}, "row 2 has no group"),
        ({"groups": ["a", "b", "c"], "labels": [1]}, "1 labels for 3 rows"),
        ({"groups": ["a", "b", "c"], "shares": (0.5, 0.5)}, "shares"),
        ({"groups": ["a", "b", "c"], "shares": (0.5, 0.6, -0.1)}, "shares"),
        ({"groups": []}, "0 prompt groups"),
    ],
)
def test_wrong_input(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_groups(**given)


def test_a_random_split_of_activations_reads_prompts_and_the_grouped_one_does_not() -> None:
    # labels say nothing; rows of one prompt are alike (refusal_cliff.md 1.3 split activations at random)
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(60), 10)
    label = (np.arange(60) % 2)[prompt]
    x = rng.normal(size=(60, 30))[prompt] + 0.3 * rng.normal(size=(600, 30))
    groups = np.array([f"p{i}" for i in prompt])
    part = split_groups(groups, label)[groups].to_numpy()
    random = rng.permutation(np.arange(600) % 2 == 0)

    def score(train: np.ndarray, test: np.ndarray) -> float:
        return float(auroc(label[test], LogisticProbe().fit(x[train], label[train]).decision_function(x[test])))

    assert score(random, ~random) > 0.8
    assert 0.2 < score(part == "train", part == "test") < 0.8


def test_whole_numbers_and_their_floats_are_one_group() -> None:
    whole = np.repeat(np.arange(40), 2)
    mixed = np.array([float(g) if i % 2 else int(g) for i, g in enumerate(whole)], dtype=object)
    label = whole % 2
    assert group_names(mixed).tolist() == [str(g) for g in whole]
    assert group_names(pd.Series([7, np.int32(7), np.float32(7), "7", "07"])).tolist() == ["7"] * 4 + ["07"]
    for groups in (mixed, whole.astype(float), pd.Series(whole, dtype="Int64"), whole.astype(str)):
        pd.testing.assert_series_equal(split_groups(groups, label), split_groups(whole, label))
        table = split_rows(label, groups)
        assert (table.groupby("group")["part"].nunique() == 1).all()
        assert table["group"].nunique() == 40
        assert set(check_rows(table.assign(group=groups)).group) == set(map(str, whole))
        assert permutation_of(label, groups).units == 40
        assert draw_clusters(groups, 10, 0).names == draw_clusters(whole, 10, 0).names
        assert auroc_clustered(label, np.arange(80.0), groups).clusters == 40
        assert sign_flip_test(np.arange(80.0)[None], groups).n == 40
    for statistic in (lambda g: draw_clusters(g, 10, 0), lambda g: sign_flip_test(np.ones((1, 3)), g)):
        for bad in ([1, 2, 2.5], [1, 2, True], [1, 2, None], [1, 2, np.inf], [1, 2, (3,)]):
            with pytest.raises(InputError, match="row 3"):
                statistic(pd.Series(bad, dtype=object))
