"""Contrast pairs and small designs: every null of the rooms moves its labels, or is an error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.interventions.direct import permuted_directions
from verdictscope.probes import check_leakage, erasure_control, fit_probe, split_groups, transfer_matrix
from verdictscope.probes.nulls import Permutations
from verdictscope.traces.cliff_nulls import turned_drops

N = 60
PAIR = np.repeat(np.arange(N), 2)
TRUE = np.tile([1, 0], N)


def pairs(signal: float = 4.0) -> tuple[np.ndarray, pd.DataFrame]:
    """One true and one false statement of each fact; the two are alike but for the label."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2 * N, 5)) + 2 * rng.normal(size=(N, 5))[PAIR]
    X[:, 0] += signal * TRUE
    group = [f"p{p}" for p in PAIR]
    rows = pd.DataFrame({"rollout": [f"r{i}" for i in range(2 * N)], "prompt": group, "group": group, "label": TRUE})
    rows["part"] = rows["group"].map(split_groups(rows["group"]))
    return X, rows


def test_contrast_pairs_are_permuted_within_the_pair() -> None:
    X, rows = pairs()
    found = fit_probe(X, TRUE, groups=rows["group"], permutations=39)
    assert found.null.scheme == "within"
    assert found.null.name == "labels permuted within prompts"
    assert found.null.high < found.null.observed
    assert found.null.p == pytest.approx(1 / 40)
    # exchanged between pairs, no leak could ever be found
    leaks = check_leakage(TRUE, rows["group"], found.rows["part"], lengths=9 + 3 * TRUE + PAIR % 2)
    assert "length" in set(leaks.findings["check"])


def test_a_pair_without_a_signal_is_not_found() -> None:
    X, rows = pairs(signal=0.0)
    found = fit_probe(X, TRUE, groups=rows["group"], permutations=39)
    assert found.null.p > 0.05
    assert found.null.low < found.null.observed < found.null.high


def test_transfer_of_contrast_pairs() -> None:
    X, rows = pairs()
    both = pd.concat([rows.assign(position="early"), rows.assign(position="late")], ignore_index=True)
    matrix = transfer_matrix(np.concatenate([X, X]), both, 0.1, "position")
    assert (matrix.table["null_high"] < matrix.table["auroc"]).all()
    assert matrix.table["p"].to_numpy() == pytest.approx(1 / 201)
    with pytest.raises(InputError, match="scheme='within'"):
        transfer_matrix(np.concatenate([X, X]), both, 0.1, "position", permutations=Permutations(scheme="between"))


def test_a_concept_that_differs_within_pairs_has_a_null_of_its_own() -> None:
    X, rows = pairs()
    rng = np.random.default_rng(1)
    rows = rows.rename(columns={"label": "true"}).assign(label=rng.integers(0, 2, N)[PAIR])
    rows["part"] = rows["group"].map(split_groups(rows["group"], rows["label"]))
    found = erasure_control(X, rows, "true", 0.1, draws=19).to_frame()
    test = found[(found["part"] == "test") & (found["read"] == "true") & (found["probe"] == "old")]
    kept = test[test["erased"] == "permuted"]["estimate"]
    gone = test[test["erased"] == "concept"]["estimate"].iloc[0]
    assert kept.mean() > gone + 0.2  # erasing a permuted label leaves the concept; exchanged, it was the real erasure


def test_directions_of_permuted_labels_are_not_nothing() -> None:
    X, rows = pairs()
    label = dict(zip(rows["rollout"], TRUE.tolist(), strict=True))
    group = dict(zip(rows["rollout"], rows["group"], strict=True))
    drawn = permuted_directions(X, rows["rollout"].to_numpy(dtype=str), label, group, 50, np.random.default_rng(0))
    real = X[TRUE == 1].mean(0) - X[TRUE == 0].mean(0)
    assert np.linalg.norm(drawn, axis=1).min() > 0.01  # averaged within pairs they were all zero
    assert np.abs(drawn @ real / (real @ real)).max() < 0.6
    with pytest.raises(InputError, match="prompts"):
        permuted_directions(
            X[:4],
            np.array(["a", "b", "c", "d"]),
            {"a": 1, "b": 1, "c": 0, "d": 0},
            {"a": "x", "b": "x", "c": "y", "d": "y"},
            50,
            np.random.default_rng(0),
        )


def test_shortcuts_of_a_design_that_cannot_be_permuted_are_not_tested() -> None:
    given = [1, 1, 0, 0], ["a", "a", "b", "b"], ["train", "train", "test", "test"]
    found = check_leakage(*given, lengths=[3, 4, 8, 9])
    assert "length" not in set(found.checks["check"])
    assert any("2 relabelings" in skipped for skipped in found.skipped)
    with pytest.raises(InputError, match="5 permutations"):
        check_leakage(*given, permutations=5)


def test_short_series_have_few_turns() -> None:
    assert len(turned_drops(np.arange(6.0), 4, 2)) == 1  # one turn: the real one, which is no null
