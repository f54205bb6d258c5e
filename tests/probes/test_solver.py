"""The bulk solver: optimal by its own proof, equal to scikit-learn, and unmoved by what must not move it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from verdictscope.errors import InputError
from verdictscope.probes.solver import LogisticFits, solve_layers, solve_logistic

CS = np.logspace(-4, 2, 5)
SHAPES = [(40, 90), (60, 61), (90, 40), (200, 3), (30, 30)]
"""More features than rows, as many, fewer."""


def data(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of very unequal scale and offset, labels that depend on a few, weights with zeros among them."""
    rng = np.random.default_rng([n, d, seed])
    y = rng.permutation(np.arange(n) % 2)
    X = rng.normal(size=(n, d)) * rng.uniform(0.01, 30, d) + rng.normal(size=d) * 20
    X[:, : d // 3 + 1] += 0.7 * y[:, None] * X[:, : d // 3 + 1].std(axis=0)
    return X, y, rng.uniform(0, 2, n) * (rng.random(n) > 0.2)


def exact(X: np.ndarray, y: np.ndarray, C: float, weight: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """scikit-learn's direction and bias in raw space; fitted by its second-order solver."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=500))
    given = {} if weight is None else {f"{s}__sample_weight": weight for s in ("standardscaler", "logisticregression")}
    model.fit(X, y, **given)
    direction = model[1].coef_[0] / model[0].scale_
    return direction, float(model[1].intercept_[0] - model[0].mean_ @ direction)


def folds(n: int, k: int = 3) -> np.ndarray:
    return np.array([np.arange(n) % k != f for f in range(k)])


def close(fits: LogisticFits, direction: np.ndarray, bias: float, at: tuple[int, int, int], rtol: float = 2e-5) -> None:
    own = fits.direction[at]
    assert np.linalg.norm(own - direction) <= rtol * np.linalg.norm(direction)
    assert fits.bias[at] == pytest.approx(bias, rel=50 * rtol, abs=1e-4)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_fold_and_penalty_equals_the_pipeline_fitted_on_the_same_rows(n: int, d: int, weighted: bool) -> None:
    X, y, weight = data(n, d)
    weight = weight if weighted else np.ones(n)
    fits = solve_logistic(X, y, CS, weight=weight, folds=folds(n), tol=1e-6).check()
    for f, train in enumerate(folds(n)):
        for i, C in enumerate(CS):
            close(fits, *exact(X[train], y[train], C, weight[train]), at=(f, i, 0))


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_gradient_at_the_solution_vanishes(n: int, d: int) -> None:
    X, y, weight = data(n, d, seed=1)
    fits = solve_logistic(X, y, CS, weight=weight).check()
    Z = StandardScaler().fit(X, sample_weight=weight)
    for i, C in enumerate(CS):
        w = fits.direction[0, i, 0] * Z.scale_
        p = 1 / (1 + np.exp(-(X @ fits.direction[0, i, 0] + fits.bias[0, i, 0])))
        residual = C * weight * (y - p)
        gradient = w - Z.transform(X).T @ residual
        assert np.linalg.norm(gradient) <= 1.01 * max(fits.error[0, i, 0], 1e-11) * np.linalg.norm(w) + 1e-10
        assert abs(residual.sum()) <= 1e-8 * np.abs(residual).sum()


def test_the_error_bounds_the_distance_from_the_exact_weights() -> None:
    X, y, _ = data(40, 90)
    scale = X.std(axis=0)
    sharp = solve_logistic(X, y, CS, tol=1e-9).check()
    for tol in (1e-1, 1e-2, 1e-3):
        rough = solve_logistic(X, y, CS, tol=tol).check()
        apart = np.linalg.norm((rough.direction - sharp.direction) * scale, axis=-1)
        assert (apart <= rough.error * np.linalg.norm(rough.direction * scale, axis=-1) + 1e-8).all()
        assert (rough.objective - sharp.objective <= rough.error**2 * rough.objective + 1e-12).all()


@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40)])
def test_relabellings_share_a_decomposition_and_equal_single_fits(n: int, d: int) -> None:
    X, y, weight = data(n, d)
    rng = np.random.default_rng(0)
    labels = np.stack([y, *(rng.permutation(y) for _ in range(9))])
    weights = np.stack([weight * np.where(row, 1.0, 2.0) for row in labels])
    scale_weight = np.linspace(1, 2, n)
    both = solve_logistic(X, labels, [0.01, 1, 100], weight=weights, scale_weight=scale_weight, folds=folds(n)).check()
    for r in (0, 4, 9):
        one = solve_logistic(
            X, labels[r], [0.01, 1, 100], weight=weights[r], scale_weight=scale_weight, folds=folds(n)
        ).check()
        np.testing.assert_allclose(both.direction[:, :, r], one.direction[:, :, 0], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(both.objective[:, :, r], one.objective[:, :, 0], rtol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40)])
class TestInvariances:
    def test_label_flip_is_sign_flip(self, n: int, d: int) -> None:
        X, y, weight = data(n, d)
        a, b = (solve_logistic(X, labels, CS, weight=weight, tol=1e-8).check() for labels in (y, 1 - y))
        np.testing.assert_allclose(a.direction, -b.direction, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(a.bias, -b.bias, rtol=1e-5, atol=1e-6)

    def test_the_order_of_rows_does_not_matter(self, n: int, d: int) -> None:
        X, y, weight = data(n, d)
        order = np.random.default_rng(0).permutation(n)
        a = solve_logistic(X, y, CS, weight=weight, folds=folds(n), tol=1e-8)
        b = solve_logistic(X[order], y[order], CS, weight=weight[order], folds=folds(n)[:, order], tol=1e-8)
        np.testing.assert_allclose(a.direction, b.direction, rtol=1e-5, atol=1e-8)

    def test_a_row_twice_is_weight_two_and_weight_zero_is_no_row(self, n: int, d: int) -> None:
        X, y, _ = data(n, d)
        times = np.random.default_rng(0).integers(0, 3, n)
        times[np.flatnonzero(y == 0)[0]] = times[np.flatnonzero(y)[0]] = 1
        weighted = solve_logistic(X, y, CS, weight=times.astype(float), tol=1e-8).check()
        repeated = solve_logistic(np.repeat(X, times, axis=0), np.repeat(y, times), CS, tol=1e-8).check()
        np.testing.assert_allclose(weighted.direction, repeated.direction, rtol=1e-5, atol=1e-8)

    def test_a_change_of_units_changes_no_score(self, n: int, d: int) -> None:
        X, y, _ = data(n, d)
        scale, shift = np.random.default_rng(0).uniform(0.01, 100, d), np.arange(d)
        a, b = solve_logistic(X, y, CS, tol=1e-8), solve_logistic(X * scale + shift, y, CS, tol=1e-8)
        np.testing.assert_allclose(a.scores(X), b.scores(X * scale + shift), rtol=1e-5, atol=1e-7)

    def test_rotating_features_that_are_already_standard_rotates_the_probe(self, n: int, d: int) -> None:
        # centred and white features stay centred and white when turned, so standardising leaves both alone
        rng = np.random.default_rng(0)
        k = min(d, n - 1)
        plain = rng.normal(size=(n, k))
        white = np.linalg.svd(plain - plain.mean(axis=0), full_matrices=False)[0] * np.sqrt(n)
        turn = np.linalg.qr(rng.normal(size=(k, k)))[0]
        y = np.arange(n) % 2
        a, b = solve_logistic(white, y, [0.1, 1], tol=1e-8), solve_logistic(white @ turn, y, [0.1, 1], tol=1e-8)
        np.testing.assert_allclose(a.direction @ turn, b.direction, rtol=1e-5, atol=1e-7)


def test_held_out_rows_change_nothing() -> None:
    X, y, _ = data(40, 90)
    train = np.arange(40) < 30
    moved, flipped = X.copy(), y.copy()
    moved[~train] *= 1e6
    flipped[~train] = 1
    a = solve_logistic(X, y, CS, folds=train[None], tol=1e-7).check()
    b = solve_logistic(moved, flipped, CS, folds=train[None], tol=1e-7).check()
    np.testing.assert_allclose(a.direction, b.direction, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("n", "d"), [(40, 90), (90, 40)])
def test_constant_features_get_no_weight_also_when_constant_in_one_fold_only(n: int, d: int) -> None:
    X, y, _ = data(n, d)
    X[:, 5] = 7.3
    X[folds(n)[0], 6] = -1e4
    fits = solve_logistic(X, y, CS, folds=folds(n)).check()
    assert not fits.direction[..., 5].any()
    assert not fits.direction[0, ..., 6].any()
    assert fits.direction[1, ..., 6].all()
    nothing = solve_logistic(np.ones((n, d)), y, CS).check()
    assert not nothing.direction.any()
    np.testing.assert_allclose(nothing.bias, np.log(y.mean() / (1 - y.mean())), atol=1e-9)


def test_weights_that_are_zero_are_found_to_be_zero() -> None:
    X, _, _ = data(20, 50)
    twice, labels = np.repeat(X, 2, axis=0), np.arange(40) % 2
    assert not solve_logistic(twice, labels, CS).check().direction.any()


def test_too_few_steps_are_reported() -> None:
    X, y, _ = data(40, 90)
    for labels in (y, np.stack([np.roll(y, i) for i in range(8)])):
        fits = solve_logistic(X, labels, [100.0], max_iter=1)
        assert not fits.converged.any()
        with pytest.raises(InputError, match="did not converge"):
            fits.check()


def test_layers_equal_single_layers_and_results_can_be_reduced() -> None:
    X = {layer: data(40, 90, seed=layer)[0] for layer in range(5)}
    y = np.arange(40) % 2
    seen: list[tuple[int, int]] = []
    fits = solve_layers(X.__getitem__, range(5), y, CS, folds=folds(40), progress=lambda *at: seen.append(at))
    assert seen == [(i, 5) for i in range(1, 6)]
    for layer in range(5):
        alone = solve_logistic(X[layer], y, CS, folds=folds(40), threads=1)
        np.testing.assert_array_equal(fits[layer].direction, alone.direction)
    scores = solve_layers(X.__getitem__, [3], y, CS, then=lambda layer, x, f: (layer, f.scores(x).shape))
    assert scores == {3: (3, (1, 5, 1, 40))}
    X[2] = X[2] * np.nan
    with pytest.raises(InputError, match="layer 2: .*NaN"):
        solve_layers(X.__getitem__, range(5), y, CS)


def test_torch_gives_the_same_fits() -> None:
    torch = pytest.importorskip("torch")
    for n, d in ((40, 90), (90, 40)):
        X, y, weight = data(n, d)
        labels = np.stack([y, np.roll(y, 1)])
        given: dict[str, Any] = {"weight": weight, "folds": folds(n), "tol": 1e-7}
        host = solve_logistic(X, labels, CS, **given).check()
        device = solve_logistic(torch.tensor(X), labels, CS, device="cpu", **given).check()
        np.testing.assert_allclose(host.direction, device.direction, rtol=1e-4, atol=1e-7)


def test_order_of_penalties_is_the_callers_and_nothing_is_changed() -> None:
    X, y, _ = data(40, 90)
    before = X.copy()
    fits = solve_logistic(X, y, [1, 0.01, 1])
    assert fits.Cs == (1.0, 0.01, 1.0)
    np.testing.assert_array_equal(fits.direction[:, 0], fits.direction[:, 2])
    assert np.linalg.norm(fits.direction[0, 0]) > np.linalg.norm(fits.direction[0, 1])
    np.testing.assert_array_equal(X, before)
    assert list(fits.to_frame()) == ["fold", "C", "refit", "objective", "error", "converged", "iterations"]
    assert "3 of 3 converged" in repr(fits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full(40, 2)}, "0 or 1"),
        ({"y": np.ones(40)}, "one class"),
        ({"y": np.arange(39) % 2}, "one per row"),
        ({"Cs": [0.0]}, "C must be positive"),
        ({"weight": -np.ones(40)}, "not negative"),
        ({"weight": np.ones(39)}, "weight has shape"),
        ({"folds": np.arange(40)[None] < 1}, "fold 0 trains on one class"),
        ({"X": np.full((40, 9), np.inf)}, "NaN or infinity in 40 of 40 rows"),
    ],
)
def test_wrong_input_is_one_clear_error(change: dict[str, Any], message: str) -> None:
    X, y, _ = data(40, 9)
    given = {"X": X, "y": y, "Cs": [1.0]} | change
    with pytest.raises(InputError, match=message):
        solve_logistic(given.pop("X"), given.pop("y"), given.pop("Cs"), **given)
