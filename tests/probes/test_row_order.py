"""Labels go with their activations whatever order they come in, or they are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.probes import LogisticProbe, check_leakage, fit_probe, split_groups
from verdictscope.probes.erasure import fit_eraser
from verdictscope.probes.rows import check_rows
from verdictscope.probes.selection import select
from verdictscope.stats import auroc, auroc_effect, joined, mean_effect, permutation_of, rate_effect, same_order


def world(n: int = 120) -> tuple[np.ndarray, pd.DataFrame]:
    """Activations that hold the label, and a table by rollout id in the same order."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, n)
    X = rng.normal(size=(n, 4))
    X[:, 0] += 4 * label
    ids = [f"p{i}/0" for i in range(n)]
    return X, pd.DataFrame({"label": label, "prompt": [f"p{i}" for i in range(n)]}, index=ids)


def test_labels_by_id_are_joined_whatever_their_order() -> None:
    X, table = world()
    shuffled = table.sample(frac=1, random_state=1)
    plain = fit_probe(X, table["label"].to_numpy(), groups=table["prompt"].to_numpy(), permutations=0)
    named = pd.DataFrame(X, index=table.index)
    by_id = fit_probe(named, shuffled["label"], groups=shuffled["prompt"], permutations=0)
    mapped = fit_probe({4: named}, dict(shuffled["label"]), permutations=0)  # ids PROMPT/SAMPLE name the prompts
    assert mapped.layer == 4
    assert mapped.test == by_id.test
    assert plain.test.estimate > 0.95
    assert by_id.test.estimate == plain.test.estimate
    more = pd.concat([shuffled, pd.DataFrame({"label": [1], "prompt": ["other"]}, index=["other/0"])])
    assert fit_probe(named, more["label"], groups=more["prompt"], permutations=0).test == plain.test


def test_labels_by_id_beside_activations_without_ids_are_refused() -> None:
    X, table = world()
    shuffled = table.sample(frac=1, random_state=1)
    with pytest.raises(InputError, match="labels is indexed by"):
        fit_probe(X, shuffled["label"], groups=table["prompt"].to_numpy(), permutations=0)
    with pytest.raises(InputError, match="different orders"):
        fit_probe(X, table["label"], groups=shuffled["prompt"], permutations=0)
    numbered = table.reset_index(drop=True).sample(frac=1, random_state=1)  # row numbers, but in another order
    with pytest.raises(InputError, match="labels is indexed by"):
        fit_probe(X, numbered["label"], groups=numbered["prompt"], permutations=0)
    kept = table.reset_index(drop=True)[5:]  # rows left out of both, in order
    assert fit_probe(X[5:], kept["label"], groups=kept["prompt"], permutations=0).test.estimate > 0.95
    for fit in (lambda y: LogisticProbe().fit(X, y), lambda y: fit_eraser(X, y)):
        with pytest.raises(InputError, match="indexed by"):
            fit(shuffled["label"])


def test_ids_that_are_missing_or_twice_are_named() -> None:
    X, table = world()
    named = pd.DataFrame(X, index=table.index)
    with pytest.raises(InputError, match="labels has no line for 'p7/0'"):
        fit_probe(named, table["label"].drop("p7/0"))
    twice = pd.concat([table["label"], table["label"][["p3/0"]]])
    with pytest.raises(InputError, match="labels has two lines for 'p3/0'"):
        fit_probe(named, twice)
    with pytest.raises(InputError, match="groups has 119 rows"):
        fit_probe(X, table["label"].to_numpy(), groups=["g"] * 119)
    tokens = np.repeat(table.index.to_numpy(), 2)  # one line a rollout, several rows
    assert joined(table["label"], pd.Index(tokens), "y").tolist() == np.repeat(table["label"].to_numpy(), 2).tolist()
    numbers = pd.Series([10, 20, 30], index=[3, 1, 2])
    assert joined(numbers, pd.Index(["1", "2", "3"]), "y").tolist() == [20, 30, 10]


def test_statistics_refuse_columns_in_different_orders() -> None:
    _, table = world()
    y, score, group = table["label"], table["label"] + 0.0, table["prompt"]
    other = score.sample(frac=1, random_state=2)
    for call in (
        lambda: auroc(y, other),
        lambda: auroc_effect("a", y, score, group.sample(frac=1, random_state=2)),
        lambda: mean_effect("a", other, group, unit="logit"),
        lambda: rate_effect("a", y, group[::-1]),
        lambda: permutation_of(y, group[::-1]),
        lambda: split_groups(group, y[::-1]),
        lambda: check_leakage(y, group, pd.Series("train", index=group.index), lengths=other),
    ):
        with pytest.raises(InputError, match="different orders"):
            call()
    assert auroc(y, other.loc[y.index]) == 1.0
    same_order(y=y, bare=[1] * len(y), plain=pd.Series([1] * len(y)))


def test_a_table_of_rows_that_was_sorted_is_refused() -> None:
    X, table = world()
    rows = table.reset_index(names="rollout").rename(columns={"prompt": "group"})
    rows["part"] = rows["group"].map(split_groups(rows["group"], rows["label"]))
    assert select(lambda _: X, rows, [0]).validation.tokens.estimate > 0.95
    with pytest.raises(InputError, match="another order"):
        select(lambda _: X, rows.sort_values("label"), [0])
    check_rows(rows[rows["label"] >= 0])
