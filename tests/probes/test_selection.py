"""The sweep finds what was planted, chooses without the test part, and is not taken in by harm."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from verdictscope.errors import InputError
from verdictscope.probes import fit_probe, permutation_null, split_groups
from verdictscope.probes.nulls import Permutations
from verdictscope.probes.rows import check_rows
from verdictscope.probes.selection import Selection, one_standard_error, select
from verdictscope.probes.states import Layers
from verdictscope.stats import auroc_effect


class Planted:
    """Rows of ``prompts`` prompts x samples x tokens; refusal at some layers, harm at all of them."""

    def __init__(
        self,
        seed: int = 0,
        prompts: int = 90,
        samples: int = 2,
        tokens: int = 5,
        d: int = 12,
        refusal: dict[int, float] | None = None,
        harm: float = 4.0,
    ) -> None:
        rng = np.random.default_rng(seed)
        harmful = np.arange(prompts) % 2 == 0
        rows = []
        for p in range(prompts):
            for s in range(samples):
                refused = rng.random() < (0.8 if harmful[p] else 0.2)
                rows += [(f"p{p}/{s}", f"p{p}", bool(harmful[p]), int(refused), t) for t in range(tokens)]
        self.rows = pd.DataFrame(rows, columns=["rollout", "group", "harm", "label", "token"])
        part = split_groups(self.rows["group"], self.rows[["harm", "label"]], seed=seed)
        self.rows["part"] = self.rows["group"].map(part)
        self.X: dict[int, np.ndarray] = {}
        self.calls: list[int] = []
        prompt = self.rows["group"].factorize()[0]
        for layer, strength in (refusal or {0: 0.0, 1: 0.0, 2: 2.0, 3: 2.0, 4: 0.0}).items():
            x = rng.normal(size=(len(rows), d)) + 0.5 * rng.normal(size=(prompts, d))[prompt]
            x[:, 0] += harm * self.rows["harm"]
            x[:, 1] += strength * self.rows["label"]
            self.X[layer] = x

    def read(self, layer: int) -> np.ndarray:
        self.calls.append(layer)
        return self.X[layer]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def test_it_finds_the_latest_planted_layer_and_the_direction(planted: Planted) -> None:
    result = fit_probe(planted.X, planted.rows, balance_on=["harm"], permutations=0)
    assert result.layer == 3
    assert result.layer == result.by_layer.loc[result.by_layer["chosen"], "layer"].item()
    assert result.by_layer["auroc"].iloc[3] == result.test.estimate
    direction = np.abs(result.probe.direction_)
    assert direction.argmax() == 1
    # harm stands beside refusal in the data (80 to 20) but earns no weight when the cells are balanced
    assert direction[0] < 0.35 * direction[1]
    test = (planted.rows["part"] == "test").to_numpy()
    scores = planted.X[3][test] @ result.probe.direction_ + result.probe.bias_
    assert result.test.estimate == pytest.approx(roc_auc_score(planted.rows["label"][test], scores))
    assert result.test.low < result.test.estimate < result.test.high
    assert result.test.n == planted.rows["group"][test].nunique()
    by_rollout = pd.DataFrame({"r": planted.rows["rollout"][test], "s": scores, "y": planted.rows["label"][test]})
    means = by_rollout.groupby("r").mean()
    assert result.evaluation.rollouts.estimate == pytest.approx(roc_auc_score(means["y"], means["s"]))


def test_a_layer_with_harm_alone_is_at_chance_within_harm() -> None:
    # the published probe: positives harmful and refused, negatives harmless and complied
    only_harm = Planted(refusal={0: 0.0})
    rows, X = only_harm.rows, only_harm.X[0]
    result = fit_probe(X, rows, Cs=[1.0], permutations=0)
    test = (rows["part"] == "test").to_numpy()
    label, group, harm = (rows.loc[test, name].to_numpy() for name in ("label", "group", "harm"))
    within = auroc_effect("within", label, result.scores[test], group, strata=harm)
    assert result.test.estimate > 0.7
    assert within.low < 0.5 < within.high
    assert fit_probe(X, rows, balance_on=["harm"], Cs=[1.0], permutations=0).evaluation.within.low < 0.5
    nulls = [
        permutation_null(only_harm.read, rows, [0], [1.0], permutations=Permutations(within=columns))
        for columns in ((), ("harm",))
    ]
    assert nulls[0].p < 0.05 < nulls[1].p
    assert nulls[0].mean < 0.6 < nulls[1].mean


def test_selection_never_sees_the_test_rows(planted: Planted) -> None:
    test = (planted.rows["part"] == "test").to_numpy()
    poisoned, flipped = Planted(), planted.rows.copy()
    for x in poisoned.X.values():
        x[test] = np.nan
    flipped.loc[test, "label"] = 1 - flipped.loc[test, "label"]
    honest = select(planted.read, planted.rows, range(5), balance_on=["harm"])
    blind = select(poisoned.read, flipped, range(5), balance_on=["harm"])
    pd.testing.assert_frame_equal(honest.table, blind.table)
    assert (honest.layer, honest.C) == (blind.layer, blind.C)


def test_the_test_number_comes_from_a_fixed_selection_alone(planted: Planted) -> None:
    chosen = select(planted.read, planted.rows, range(5), balance_on=["harm"])
    assert "test" in {n for n, _ in inspect.getmembers(Selection, inspect.isfunction)}
    held = {k: v for k, v in vars(chosen).items() if k != "_seen"}
    assert not any("test" in k for k in held)
    with pytest.raises(AttributeError):
        chosen.layer = 0  # type: ignore[misc]
    planted.calls.clear()
    chosen.test(planted.read, planted.rows)
    assert planted.calls == [chosen.layer]
    swapped = planted.rows["part"].map({"train": "test", "test": "train", "validation": "validation"})
    moved = planted.rows.assign(part=swapped)
    with pytest.raises(InputError, match="used to fit or select"):
        chosen.test(planted.read, moved)


def test_the_one_standard_error_rule_takes_the_latest_tie() -> None:
    table = pd.DataFrame(
        {
            "layer": [0, 1, 1, 2, 2, 3],
            "C": [1.0, 0.1, 1.0, 0.1, 1.0, 1.0],
            "auroc_validation": [0.80, 0.95, 0.97, 0.96, 0.96, 0.94],
            "se": 0.02,
        }
    )
    assert one_standard_error(table) == (2, 0.1)
    assert one_standard_error(table.assign(se=0.001)) == (1, 1.0)
    assert one_standard_error(table.assign(se=np.nan)) == (1, 1.0)


def test_a_perfect_validation_layer_still_has_ties() -> None:
    rng = np.random.default_rng(0)
    rows = Planted(refusal={0: 50.0, 1: 50.0}, harm=0.0)
    rows.X[1] += 8 * rng.normal(size=rows.X[1].shape)
    chosen = select(rows.read, rows.rows, [0, 1], [1.0])
    assert chosen.table["se"].iloc[0] > 0
    assert chosen.table["auroc_validation"].iloc[0] == 1.0


def test_every_rollout_counts_once_and_cells_count_equally(planted: Planted) -> None:
    uneven = planted.rows[(planted.rows["token"] == 0) | planted.rows["harm"]].reset_index(drop=True)
    rows = check_rows(uneven, ("harm",))
    train = rows.at("train")
    own = uneven[train]
    single = rows.weights(train, "none")
    assert single.sum() == pytest.approx(own["rollout"].nunique())
    np.testing.assert_allclose(pd.Series(single).groupby(own["rollout"].to_numpy()).sum(), 1.0)
    cells = pd.Series(rows.weights(train)).groupby([own["harm"].to_numpy(), own["label"].to_numpy()]).sum()
    np.testing.assert_allclose(cells, cells.mean())
    classes = pd.Series(check_rows(uneven).weights(train)).groupby(own["label"].to_numpy()).sum()
    np.testing.assert_allclose(classes, classes.mean())


def test_duplicating_the_tokens_of_every_rollout_changes_nothing(planted: Planted) -> None:
    twice = pd.concat([planted.rows, planted.rows], ignore_index=True)
    first = select(planted.read, planted.rows, [3], [0.1])
    second = select(lambda layer: np.tile(planted.X[layer], (2, 1)), twice, [3], [0.1])
    np.testing.assert_allclose(first.probe.direction_, second.probe.direction_, rtol=1e-6)


def test_same_rows_same_numbers_and_tensors_are_taken(planted: Planted) -> None:
    torch = pytest.importorskip("torch")
    tensors = Layers((2, 3), lambda n: torch.tensor(planted.X[n]))
    first, second, again = (
        fit_probe(X, planted.rows, Cs=[0.1], permutations=0)
        for X in ({k: planted.X[k] for k in (2, 3)}, tensors, {k: planted.X[k] for k in (2, 3)})
    )
    assert first.test.low == pytest.approx(second.test.low, abs=1e-3)
    assert first.test == again.test


def test_results_print(planted: Planted) -> None:
    selection = select(planted.read, planted.rows, [2, 3], [0.1, 1], balance_on=["harm"])
    assert "Not yet tested" in repr(selection)
    table = selection.table
    assert list(table.columns) == ["layer", "C", "auroc_validation", "se", "chosen", "n_rows", "n_groups"]
    assert table["chosen"].sum() == 1
    assert set(selection.probes) == set(selection.best) == {2, 3}
    assert selection.cells.shape == (2, 2)


def broken(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    rows = rows.copy()
    if what == "no groups":
        return rows.drop(columns="group")
    if what == "leak":
        rows.loc[rows.index[0], "part"] = "test" if rows["part"].iloc[0] == "train" else "train"
    elif what == "missing label":
        rows["label"] = rows["label"].astype("Int64")
        rows.loc[3, "label"] = pd.NA
    elif what == "string label":
        rows["label"] = rows["label"].map({0: "a", 1: "b"})
    elif what == "one class":
        rows.loc[rows["part"] == "validation", "label"] = 1
    elif what == "empty cell":
        rows = rows[~((rows["part"] == "train") & rows["harm"] & (rows["label"] == 0))]
    elif what == "two labels":
        rows.loc[0, "label"] = 1 - rows.loc[0, "label"]
    elif what == "odd part":
        rows["part"] = rows["part"].replace("validation", "dev")
    return rows.reset_index(drop=True)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no groups", "rows lack group"),
        ("leak", "two splits"),
        ("missing label", "no label"),
        ("string label", "label of row "),
        ("one class", "split validation has only rows labelled 1"),
        ("empty cell", "would predict the label"),
        ("two labels", "two labels"),
        ("odd part", "unknown split"),
    ],
)
def test_rows_that_would_mislead_are_refused(planted: Planted, what: str, message: str) -> None:
    rows = broken(planted.rows, what)
    with pytest.raises(InputError, match=message):
        select(lambda n: planted.X[n][: len(rows)], rows, [3], balance_on=["harm"])


def test_activations_that_do_not_fit_are_refused(planted: Planted) -> None:
    with pytest.raises(InputError, match="layer 3: activations have shape"):
        select(lambda n: planted.X[n][:-1], planted.rows, [3])
    with pytest.raises(InputError, match="layer 3.*NaN"):
        select(lambda n: np.full_like(planted.X[n], np.nan), planted.rows, [3])
    with pytest.raises(InputError, match="at least one layer"):
        select(planted.read, planted.rows, [])
