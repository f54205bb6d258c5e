"""Probes read where they were not fitted: planted directions come out, nulls are nulls, empty cells say why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from verdictscope.errors import InputError
from verdictscope.probes import transfer_matrix
from verdictscope.probes.rows import check_rows
from verdictscope.probes.transfer import COLUMNS, TransferMatrix
from verdictscope.stats import auroc, auroc_many

PLACES = ("early", "late", "other")


def world(seed: int = 0, prompts: int = 240, d: int = 12, strength: float = 2.0) -> tuple[np.ndarray, pd.DataFrame]:
    """Rows of three places: ``early`` and ``late`` hold the label along one direction, ``other`` along another."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(prompts):
        part = ("train", "train", "validation", "test", "test")[i % 5]
        harm, label, of = bool(rng.integers(2)), int(rng.integers(2)), "abc"[i % 3]
        for sample in range(2):
            for pos, place in enumerate(PLACES):
                rows.append(
                    {
                        "rollout": f"p{i}/{sample}",
                        "prompt": f"p{i}",
                        "group": f"g{i}",
                        "part": part,
                        "harm": harm,
                        "label": label,
                        "pos": pos,
                        "position": place,
                        "set": of,
                    }
                )
    table = pd.DataFrame(rows)
    shared = 0.7 * rng.normal(size=(prompts, d))  # of a prompt's rows
    X = rng.normal(size=(len(table), d)) + np.repeat(shared, 2 * len(PLACES), axis=0)
    along = np.where(table["position"] == "other", 1, 0)
    X[np.arange(len(table)), along] += strength * (2 * table["label"].to_numpy() - 1)
    X[:, 2] += 3 * table["harm"].to_numpy()
    return X, table


def cell(matrix, fit: str, read: str) -> pd.Series:
    table = matrix.to_frame().set_index(["fit", "read"])
    return table.loc[(fit, read)]


def positions(X: np.ndarray, rows: pd.DataFrame, **how: Any) -> TransferMatrix:
    return transfer_matrix(X, rows, 0.1, "position", balance_on=["harm"], **how)


def sets(X: np.ndarray, rows: pd.DataFrame, by: str) -> TransferMatrix:
    return transfer_matrix(X, rows, 0.1, by, leave_one_out=True, balance_on=["harm"])


@pytest.fixture(scope="module")
def made():
    X, rows = world()
    return X, rows, positions(X, rows)


def test_a_shared_direction_transfers_and_another_does_not(made) -> None:
    _, _, matrix = made
    assert list(dict.fromkeys(matrix.table["fit"])) == list(PLACES)
    for fit, read in (("early", "late"), ("late", "early"), ("early", "early"), ("other", "other")):
        found = cell(matrix, fit, read)
        assert found["low"] > found["null_high"] > 0.5
        assert found["p"] == pytest.approx(1 / 201)
    for fit, read in (("early", "other"), ("other", "late")):
        found = cell(matrix, fit, read)
        assert found["low"] < max(0.5, found["null_high"])


def test_each_cell_is_the_fit_it_says(made) -> None:
    X, rows, matrix = made
    checked = check_rows(rows, ("harm",))
    for fit, read in (("early", "late"), ("other", "early")):
        train = ((rows["part"] == "train") & (rows["position"] == fit)).to_numpy()
        test = ((rows["part"] == "test") & (rows["position"] == read)).to_numpy()
        scaler = StandardScaler().fit(X[train], sample_weight=checked.weights(train, "none"))
        probe = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(
            scaler.transform(X[train]), rows["label"][train], sample_weight=checked.weights(train)
        )
        scores = probe.decision_function(scaler.transform(X[test]))
        found = cell(matrix, fit, read)
        assert found["auroc"] == pytest.approx(auroc(rows["label"][test], scores), abs=2e-3)
        assert found["n"] == rows.loc[test, "group"].nunique()
        assert found["n_fit"] == rows.loc[train, "rollout"].nunique()


def test_the_null_is_centred_and_its_range_is_the_tables(made) -> None:
    _, _, matrix = made
    table = matrix.table
    assert matrix.nulls.shape == (200, 9)
    assert np.allclose(matrix.nulls.mean(axis=0), table["null_mean"])
    assert np.allclose(matrix.nulls.min(axis=0), table["null_low"])
    assert np.allclose(matrix.nulls.max(axis=0), table["null_high"])
    assert (table["null_mean"] - 0.5).abs().max() < 0.03
    moved = table[table["kind"] != "within"]
    assert (moved["p_adjusted"] >= moved["p"] - 1e-12).all()
    assert table.loc[table["kind"] == "within", "p_adjusted"].isna().all()


def test_without_a_signal_nothing_transfers() -> None:
    X, rows = world(seed=3, strength=0.0)
    table = positions(X, rows).table
    assert table["auroc"].between(0.2, 0.8).all()
    assert table["p_adjusted"].min() > 0.01


def test_a_shuffled_table_gives_the_same_numbers(made) -> None:
    X, rows, matrix = made
    order = np.random.default_rng(1).permutation(len(rows))
    again = positions(X[order], rows.iloc[order].reset_index(drop=True))
    columns = ["auroc", "low", "high", "n", "null_mean", "null_low", "null_high", "p"]
    pd.testing.assert_frame_equal(again.table[columns], matrix.table[columns], rtol=2e-3)


def test_sets_of_prompts_and_one_left_out() -> None:
    X, rows = world()
    matrix = sets(X[rows["position"] == "early"], rows[rows["position"] == "early"], "set")
    kinds = matrix.table["kind"].value_counts()
    assert kinds.to_dict() == {"transfer": 6, "within": 3, "left out": 3}
    left = cell(matrix, "all but a", "a")
    assert left["n_fit"] == rows[(rows["part"] == "train") & (rows["set"] != "a")]["rollout"].nunique()
    assert left["low"] > left["null_high"]
    two = rows["set"] != "c"
    assert set(sets(X[two], rows[two], "set").table["kind"]) == {"within", "transfer"}


def test_a_cell_without_a_class_says_so_and_the_others_stay() -> None:
    X, rows = world()
    keep = (rows["set"] != "a") | (rows["label"] == 1)
    table = sets(X[keep], rows[keep].reset_index(drop=True), "set").table
    fitted = table[table["fit"] == "a"]
    assert (fitted["reason"] == "only rows labelled 1 to fit on").all()
    assert fitted["auroc"].isna().all()
    read = table[(table["read"] == "a") & (table["fit"] != "a")]
    assert (read["reason"] == "only rows labelled 1 to read").all()
    assert table.loc[(table["fit"] == "b") & (table["read"] == "c"), "auroc"].notna().all()


def test_areas_of_many_fits_are_those_of_one() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, (7, 40)), rng.integers(0, 9, (7, 40)).astype(float)
    labels[5], scores[6] = 1, np.nan
    found = auroc_many(labels, scores)
    assert np.allclose(found[:5], [auroc(y, s) for y, s in zip(labels[:5], scores[:5], strict=True)])
    assert np.isnan(found[5:]).all()  # a refit without a class has no number, and .5 would be one


def test_what_is_wrong_is_one_clear_error() -> None:
    X, rows = world(prompts=30)
    with pytest.raises(InputError, match="ask for at least 200"):
        positions(X, rows, permutations=50)
    with pytest.raises(InputError, match="no column 'where'"):
        transfer_matrix(X, rows, 0.1, "where")
    with pytest.raises(InputError, match="no row has position 'never'"):
        positions(X, rows, values=["early", "never"])
    with pytest.raises(InputError, match="one value, '1'"):
        sets(X, rows.assign(one=1), "one")
    with pytest.raises(InputError, match="rows have no set"):
        sets(X, rows.assign(set=rows["set"].where(rows["set"] != "b")), "set")
    X[3, 4] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        positions(X, rows)


def test_the_result_shows_itself(made) -> None:
    _, _, matrix = made
    assert tuple(matrix.to_frame().columns) == COLUMNS
    assert "transfers read above chance" in repr(matrix)
    assert "Not shown" in matrix._repr_html_()
    assert matrix.plot().axes
