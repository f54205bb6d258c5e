"""Change points: the right place, a size, and intervals that hold under correlated noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ruptures

from tests.evidence import write_evidence
from verdictscope.errors import InputError
from verdictscope.traces import change_point, change_points
from verdictscope.traces.changepoint import _beyond, _farthest, _placed, _window
from verdictscope.traces.step_fit import autoregression, coloured, correlation, fit_step, scan, slow_basis, whitened

AIM = (0.93, 0.97)
SIMULATIONS = 250
LENGTHS = (50, 200, 1000, 8000)
RHOS = (0.0, 0.5, 0.9)


def series(rng: np.random.Generator, n: int, rho: float, step: float, drift: float = 0.0) -> tuple[np.ndarray, int]:
    """A step in noise of unit variance on a slow wave of one period, and where the step is."""
    at = int(rng.integers(n // 10, n - n // 10))
    wave = drift * np.sin(2 * np.pi * (np.arange(n) / n + rng.random()))
    return autoregression(rng, 1, n, rho)[0] + wave + step * (np.arange(n) >= at), at


def test_with_independent_tokens_it_is_the_least_squares_location() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        y, _ = series(rng, 120, 0.0, 1.0)
        wanted = ruptures.Binseg(model="l2", jump=1, min_size=2).fit_predict(y, n_bkps=1)[0]
        assert scan(y[None], np.zeros(1), slow_basis(120, 0)).location[0] == wanted


@pytest.mark.parametrize("trend", [0, 2])
def test_running_sums_are_generalised_least_squares(trend: int) -> None:
    rng, n, rho = np.random.default_rng(1), 40, 0.7
    y = rng.normal(size=n)
    half = np.linalg.inv(np.linalg.cholesky(rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))))
    fit = scan(y[None], np.array([rho]), slow_basis(n, trend))
    scale = np.sqrt(1 - rho**2)
    for at in (2, 11, 37):
        design = np.column_stack([*slow_basis(n, trend), np.arange(n) >= at])
        found, rest, *_ = np.linalg.lstsq(half @ design, half @ y, rcond=None)
        assert fit.sizes[0, at] == pytest.approx(found[-1])
        assert fit.rest[0] - fit.gain[0, at] == pytest.approx(rest[0] * scale**2)


def test_a_plain_step_is_found_with_its_size() -> None:
    y, at = series(np.random.default_rng(2), 300, 0.5, -3.0)
    found = change_point(y)
    assert abs(found.location - at) <= 2
    assert found.low <= found.location <= found.high
    assert found.size == pytest.approx(-3, abs=0.5)
    assert found.size_low < found.size < found.size_high < 0  # how often it holds the truth is asked of many series
    assert 0.3 < found.correlation < 0.7
    assert str(found).startswith("change of -")
    moved = change_point(10 + 2 * y)
    assert (moved.location, moved.low, moved.high) == (found.location, found.low, found.high)
    assert moved.size == pytest.approx(2 * found.size)


def test_what_has_no_change_point_says_so() -> None:
    assert change_point([1.0] * 40).reason == "the scores are constant"
    assert change_point([]).reason == "0 tokens, 8 are needed"
    assert "needed" in str(change_point([1.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="NaN"):
        change_point([1.0, float("nan")])
    table = change_points([("a", [0.0] * 5), ("b", series(np.random.default_rng(3), 60, 0.0, 4.0)[0])], seed=1)
    assert table["location"].isna().tolist() == [True, False]
    assert table.loc[0, "reason"] == "5 tokens, 8 are needed"


@pytest.mark.parametrize("trend", [0, 2])
def test_series_drawn_for_a_location_say_the_same_of_their_levels(trend: int) -> None:
    """Levels and noise as fitted at that location are what is held fast; only what they do not tell is new."""
    rng, n, t = np.random.default_rng(4), 60, 23
    y, basis = series(rng, n, 0.6, 1.0)[0][None], slow_basis(60, trend)
    drawn = _placed(y, basis, t, rng.normal(size=(5, n)))
    rho = correlation(y, np.array([t]), basis)
    real, new = scan(y, rho, basis), scan(drawn, np.full(5, rho[0]), basis)
    np.testing.assert_allclose(new.sizes[:, t], real.sizes[0, t])
    np.testing.assert_allclose((new.rest - new.gain[:, t]), real.rest[0] - real.gain[0, t])
    assert np.ptp(new.sizes[:, t + 10]) > 0.01
    np.testing.assert_allclose(coloured(whitened(y, rho[:, None]), float(rho[0])), y)


def test_an_interval_closes_over_its_gaps() -> None:
    lacking = np.array([[np.inf, 4.0, 1.0, 3.0, 0.0, 2.0, 1.5, 3.0, np.inf]])
    peak = np.array([4])
    assert [_beyond(lacking, peak, t)[0] for t in range(1, 8)] == [4.0, 1.0, 1.0, 0.0, 1.5, 1.5, 3.0]
    assert _farthest(lambda d: d <= 2, lacking[0, 4:]) == 2  # distances 2 and 3 can be an end; 1 lies before 2
    assert _farthest(lambda d: True, lacking[0, 4:]) == 3
    assert _farthest(lambda d: False, lacking[0, 4:]) == 0


def test_steps_without_noise_are_exact() -> None:
    found = change_point([0.0] * 20 + [1.0] * 20)
    assert (found.location, found.low, found.high) == (20, 20, 20)
    assert found.size == pytest.approx(1)


def test_a_drift_is_said_and_can_be_fitted() -> None:
    rng = np.random.default_rng(5)
    flat = [change_point(series(rng, 200, 0.3, 2.0)[0], resamples=19).drift for _ in range(20)]
    assert flat.count(0) >= 17
    y, at = series(rng, 400, 0.0, 2.0, drift=2.0)
    found = change_point(y, resamples=19)
    assert found.drift > 0
    assert "levels drift" in str(found)
    fitted = change_point(y, trend=3, resamples=99)
    assert fitted.drift == 0
    assert fitted.low <= at <= fitted.high
    assert abs(fitted.location - at) <= 5


def test_tokens_that_tell_little_are_looked_at_farther() -> None:
    rng, n = np.random.default_rng(6), 4000
    spans = []
    for rho, step in ((0.0, 3.0), (0.9, 1.5)):
        y = autoregression(rng, 1, n, rho)[0] + step * (np.arange(n) >= 2000)
        start, stop = _window(y, 0)
        spans.append(stop - start)
        assert start < 2000 < stop
    assert spans[0] == 512 < spans[1] <= 2048


def located(n: int, rho: float, drift: float, trend: int, sims: int) -> dict[str, Any]:
    """How often a step of 3 SD is met within 2 tokens; no interval is asked for."""
    rng, near = np.random.default_rng([n, round(10 * rho), 3, round(10 * drift)]), 0
    for _ in range(sims):
        y, at = series(rng, n, rho, 3.0, drift)
        start, stop = _window(y, trend)
        near += abs(start + int(fit_step(y[None, start:stop], slow_basis(stop - start, trend)).location[0]) - at) <= 2
    return {
        "tokens": n,
        "rho": rho,
        "step_sd": 3.0,
        "drift_sd": drift,
        "trend": trend,
        "simulations": sims,
        "within_2": near / sims,
    }


def held(n: int, rho: float, drift: float, trend: int, sims: int) -> dict[str, Any]:
    """How often the intervals of a step of 1 SD hold its place and its size."""
    rng = np.random.default_rng([n, round(10 * rho), 1, round(10 * drift)])
    near, place, size, widths, warned = 0, 0, 0, [], 0
    for i in range(sims):
        y, at = series(rng, n, rho, 1.0, drift)
        found = change_point(y, trend=trend, seed=i)
        near += abs(found.location - at) <= 2
        place += found.low <= at <= found.high
        size += found.size_low <= 1.0 <= found.size_high
        widths.append(found.high - found.low + 1)
        warned += found.drift > 0
    return {
        "tokens": n,
        "rho": rho,
        "step_sd": 1.0,
        "drift_sd": drift,
        "trend": trend,
        "simulations": sims,
        "within_2": near / sims,
        "coverage": place / sims,
        "size_coverage": size / sims,
        "median_width": float(np.median(widths)),
        "warned": warned / sims,
    }


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_large_steps_are_met(rho: float) -> None:
    assert located(100, rho, 0.0, 0, 60)["within_2"] >= 0.9


def test_small_steps_are_held() -> None:
    found = held(60, 0.5, 0.0, 0, 40)
    assert found["coverage"] >= 0.85
    assert found["size_coverage"] >= 0.85


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_locations_and_their_intervals() -> None:
    """The aim for 3 SD is .95 within 2 tokens, for 1 SD a coverage of .93 to .97; cells that miss it are told apart.

    A drift of half a standard deviation is left out once and fitted once; fewer simulations tell what that does.
    """
    kinds = ((0.0, 0), (0.5, 0), (0.5, 3))
    cells = [(n, rho, drift, trend) for n in LENGTHS for rho in RHOS for drift, trend in kinds]
    rows = [located(*cell, 2000 if cell[0] <= 200 else 500) for cell in cells]
    rows += [held(*cell, 100 if cell[2] else SIMULATIONS) for cell in cells]
    slack = 2 * np.sqrt(0.95 * 0.05 / SIMULATIONS)
    missed = [
        row
        for row in rows
        if (row["step_sd"] == 3 and row["within_2"] < 0.95)
        or (row["step_sd"] == 1 and not AIM[0] <= row["coverage"] <= AIM[1])
    ]
    write_evidence("changepoint", {"aim": AIM, "binomial_slack": slack, "rows": rows, "missed": missed})
    plain = [row for row in rows if not row["drift_sd"]]
    assert all(r["within_2"] >= 0.94 for r in plain if r["step_sd"] == 3), missed
    # 50 tokens do not tell how alike they are
    assert all(
        AIM[0] - slack <= r["coverage"] <= AIM[1] + slack for r in plain if r["step_sd"] == 1 and r["tokens"] >= 200
    ), missed
