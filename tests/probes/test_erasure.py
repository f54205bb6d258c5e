"""After LEACE no linear probe beats the prior on the rows it was fitted on; the other label and its nulls stay."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from concept_erasure import LeaceFitter

from verdictscope.activations.readouts import LinearReadout
from verdictscope.errors import InputError
from verdictscope.probes import LdaProbe, LogisticProbe, erasure_control
from verdictscope.probes.erasure import EraserFitter, fit_eraser, random_eraser
from verdictscope.stats import auroc


def rows_of(n: int = 400, d: int = 20, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated states whose mean depends on the concept in several directions."""
    rng = np.random.default_rng(seed)
    z = rng.integers(0, classes, n)
    means = rng.normal(size=(classes, d))
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3 * means[z], z


def prior_loss(y: np.ndarray, weight: np.ndarray) -> float:
    p = np.average(y, weights=weight)
    return -float(p * np.log(p) + (1 - p) * np.log(1 - p))


# the weights are zero up to rounding, and no bound relative to them can be met
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("n", "d"), [(400, 20), (60, 200)])
def test_no_linear_probe_beats_the_prior_where_it_was_fitted(n: int, d: int, weighted: bool, shrinkage: bool) -> None:
    X, z = rows_of(n, d)
    weight = np.random.default_rng(1).uniform(0.2, 3, n) if weighted else np.ones(n)
    assert auroc(z, LogisticProbe(1.0).fit(X, z, weight).decision_function(X)) > 0.9
    eraser = fit_eraser(X, z, weight, shrinkage=shrinkage)
    assert eraser.rank == 1
    erased = eraser(X)
    means = [np.average(erased[z == k], axis=0, weights=weight[z == k]) for k in (0, 1)]
    assert np.abs(means[0] - means[1]).max() < 1e-7 * np.abs(X).max()
    for probe in (LogisticProbe(100.0), LdaProbe()):
        scores = probe.fit(erased, z, weight).decision_function(erased)
        loss = float(weight @ (np.logaddexp(0, scores) - z * scores)) / weight.sum()
        assert loss >= prior_loss(z, weight) - 1e-9
        assert np.ptp(scores) < 1e-4


def test_on_new_rows_it_is_measured_and_not_promised() -> None:
    X, z = rows_of(600, 40)
    eraser = fit_eraser(X[:60], z[:60])
    probe = LogisticProbe(1.0).fit(eraser(X[60:300]), z[60:300])
    # 60 rows do not know the direction well enough: on other rows the concept can be read again
    assert auroc(z[300:], probe.decision_function(eraser(X[300:]))) > 0.6


def test_batches_and_weights_are_rows_and_repeats() -> None:
    X, z = rows_of()
    whole = fit_eraser(X, z)
    fitter = EraserFitter(X.shape[1])
    for start in range(0, len(X), 37):
        fitter.update(torch.from_numpy(X[start : start + 37]), z[start : start + 37])
    assert np.allclose(fitter.eraser()(X), whole(X), atol=1e-8)
    twice = np.ones(len(X))
    twice[:100] = 2
    repeated = fit_eraser(np.concatenate([X, X[:100]]), np.concatenate([z, z[:100]]), shrinkage=False)
    assert np.allclose(fit_eraser(X, z, twice, shrinkage=False)(X), repeated(X), atol=1e-8)
    gone = np.r_[np.zeros(50), np.ones(len(X) - 50)]
    assert np.allclose(fit_eraser(X, z, gone)(X), fit_eraser(X[50:], z[50:])(X), atol=1e-8)


@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_the_librarys_eraser(classes: int) -> None:
    X, z = rows_of(classes=classes)
    codes = z[:, None] if classes == 2 else np.eye(classes)[z]
    theirs = LeaceFitter.fit(
        torch.from_numpy(X), torch.from_numpy(codes).double(), svd_tol=1e-8, constrain_cov_trace=False
    ).eraser
    ours = fit_eraser(X, z, classes=classes)
    assert ours.rank == classes - 1
    assert np.allclose(ours(X), theirs(torch.from_numpy(X)).numpy(), atol=1e-7)
    assert np.allclose(ours(torch.from_numpy(X)).numpy(), ours(X))
    assert ours(X.astype(np.float32)).dtype == np.float32


def test_a_readout_of_erased_states_is_a_readout_of_states() -> None:
    X, z = rows_of()
    eraser = fit_eraser(X, z)
    w = np.random.default_rng(2).normal(size=X.shape[1])
    made = eraser.readout(LinearReadout("a", "resid_post", 3, w, 0.7), "b")
    assert (made.name, made.layer) == ("b", 3)
    assert np.allclose(X @ np.asarray(made.weight) + made.bias, eraser(X) @ w + 0.7)
    many = eraser.fold(np.stack([w, 2 * w]), np.array([0.7, 0.0]))
    assert np.allclose(X @ many[0].T + many[1], eraser(X) @ np.stack([w, 2 * w]).T + [0.7, 0.0])
    with pytest.raises(InputError, match="plain linear readouts"):
        eraser.readout(LinearReadout("a", "resid_post", 3, w, final_norm=True))


def world(strength: float = 2.0, prompts: int = 200, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(prompts):
        harm, label = bool(rng.integers(2)), int(rng.integers(2))
        part = ("train", "train", "validation", "test", "test")[i % 5]
        rows += [
            {"rollout": f"p{i}/0", "prompt": f"p{i}", "group": f"g{i}", "part": part, "harm": harm, "label": label}
        ] * 3
    table = pd.DataFrame(rows)
    X = rng.normal(size=(len(table), 16))
    X[:, 0] += strength * (2 * table["harm"].to_numpy() - 1)
    X[:, 1] += strength * (2 * table["label"].to_numpy() - 1)
    X[:, 2] += table["harm"].to_numpy() + table["label"].to_numpy()
    return X, table


@pytest.fixture(scope="module")
def made():
    X, rows = world()
    return X, rows, erasure_control(X, rows, "harm", 0.1, draws=19)


def test_the_concept_goes_and_the_label_stays(made) -> None:
    _, _, found = made
    before, after = found.number("harm", "old", "none"), found.number("harm", "refitted", "concept")
    assert before["low"] > 0.9
    assert found.number("harm", "refitted", "concept", "train")["estimate"] == 0.5
    assert abs(after["estimate"] - 0.5) < 0.1
    assert found.number("label", "refitted", "concept")["low"] > 0.9


def test_what_should_change_nothing_leaves_both(made) -> None:
    _, _, found = made
    nulls = found.table[found.table["erased"].isin(["random", "permuted"])]
    assert nulls.groupby(["erased", "probe", "read", "part"]).size().eq(19).all()
    # one draw may come near either direction by chance, the draws as a whole do not
    medians = nulls[nulls["probe"] == "refitted"].groupby(["erased", "read", "part"])["estimate"].median()
    assert medians.min() > 0.9
    assert random_eraser(np.zeros(16), 2, np.random.default_rng(0)).rank == 2


def test_the_lines_are_the_probes_on_erased_states(made) -> None:
    X, rows, found = made
    test = (rows["part"] == "test").to_numpy()
    for key, eraser in ((("none", "old"), None), (("concept", "old"), found.eraser)):
        scores = found.lines[key].scores(X[test])[0]
        line = found.lines["none", "old"]
        states = X[test] if eraser is None else eraser(X[test])
        assert np.allclose(scores, line.scores(states)[0])
        row = found.number("label", "old", key[0])
        assert row["estimate"] == pytest.approx(auroc(rows["label"][test], scores))
    assert [r.name for r in found.readouts("resid_post", 2)] == ["label", "label_old_erased", "label_refitted_erased"]
    assert found.lines["random", "old"].direction.shape == (19, 16)


def test_the_result_shows_itself(made) -> None:
    found = made[2]
    assert "erased and refitted" in repr(found)
    assert "Not shown" in found._repr_html_()
    assert found.plot().axes


def test_what_is_wrong_is_one_clear_error() -> None:
    X, rows = world(prompts=60)
    with pytest.raises(InputError, match="at least 19"):
        erasure_control(X, rows, "harm", 0.1, draws=5)
    with pytest.raises(InputError, match="rows lack topic"):
        erasure_control(X, rows, "topic", 0.1)
    with pytest.raises(InputError, match="takes 1 values"):
        erasure_control(X, rows.assign(harm=True), "harm", 0.1)
    mixed = rows.assign(harm=np.arange(len(rows)) % 2 == 0)
    with pytest.raises(InputError, match="differs within a rollout"):
        erasure_control(X, mixed, "harm", 0.1)
    with pytest.raises(InputError, match="finite"):
        fit_eraser(np.where(X > 3, np.nan, X), rows["harm"].astype(int))
    with pytest.raises(InputError, match="no row has concept 1"):
        fit_eraser(X, np.zeros(len(X)), classes=2)
    with pytest.raises(InputError, match="0 to 1"):
        EraserFitter(16).update(X, np.full(len(X), 7))
    with pytest.raises(InputError, match="two values or more"):
        EraserFitter(16, 1)
