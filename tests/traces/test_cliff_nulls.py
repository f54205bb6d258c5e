"""Nulls of the cliff: they find a planted drop, and in constant scores they call one as often as they should."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from probe_worlds import World, make_rollout, make_scores

from tests.evidence import write_evidence
from verdictscope.errors import InputError
from verdictscope.stats import draw_clusters, percentile_interval, permutation_p
from verdictscope.traces import Normaliser, align, cliff, exchange_null, shift_null
from verdictscope.traces.aggregate import simultaneous_band
from verdictscope.traces.cliff import Cliff, drop_difference, measure
from verdictscope.traces.cliff_nulls import _mean_and_variance, turned, turned_drops
from verdictscope.traces.normaliser import Windows, normaliser_of, normaliser_rollouts
from verdictscope.traces.step_fit import autoregression

M, CLOSING = 8, 4
"""Fixed before anything was simulated: the study's default plateau, and the closing tokens of R1's template."""
SIMULATIONS = 1000
PROMPTS = 40
RHOS = (0.0, 0.5, 0.9)
DRIFTS = (0.0, 0.5)
TESTS = ("normalised_interval", "normalised_difference", "raw_exchange", "normalised_exchange", "raw_shift")


@pytest.fixture(scope="module")
def cells(world: World) -> dict[str, Cliff]:
    aligned = align(world.scores, world.rollouts)
    normaliser = Normaliser.fit(aligned, *normaliser_rollouts(world.table), resamples=200)
    names = ("harmful_complied", "harmless_complied", "harmless_refused")
    return {name: cliff(aligned, normaliser, rollouts=world.ids(name)) for name in names}


@pytest.mark.parametrize("value", ["normalised_drop", "raw_drop"])
def test_exchanging_prompts_finds_the_planted_cliff_and_no_other(cells: dict[str, Cliff], value: str) -> None:
    found = exchange_null(cells["harmful_complied"], cells["harmless_complied"], value=value, draws=199)
    tables = [cells[name].table[value] for name in ("harmful_complied", "harmless_complied")]
    assert found.estimate == pytest.approx(tables[0].mean() - tables[1].mean())
    assert found.n == 120
    if value == "normalised_drop":
        assert found.p == pytest.approx(2 / 200)
        assert found.estimate == pytest.approx(0.6, abs=0.1)
        same = exchange_null(cells["harmless_refused"], cells["harmless_complied"], value=value, draws=199)
        assert same.p > 0.05


def test_cells_that_cannot_be_exchanged(world: World, cells: dict[str, Cliff]) -> None:
    asked, other = cells["harmful_complied"], cells["harmless_complied"]
    with pytest.raises(InputError, match="stands in both cells"):
        exchange_null(asked, asked)
    empty = exchange_null(dataclasses.replace(asked, table=asked.table.iloc[:0]), other)
    assert np.isnan(empty.p)
    assert empty.null.size == 0
    aligned = align(world.scores, world.rollouts)
    elsewhere = Normaliser.fit(aligned, *normaliser_rollouts(world.table), resamples=50)
    with pytest.raises(InputError, match="different normaliser"):
        exchange_null(cliff(aligned, elsewhere, rollouts=world.ids("harmful_complied")), other, value="normalised_drop")


def test_the_spread_over_prompts_is_that_of_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(3)
    values, group = rng.normal(size=60), rng.integers(0, 12, 60)
    total, count = np.bincount(group, values), np.bincount(group).astype(float)
    mean, variance = _mean_and_variance(np.ones((1, 12)), total, count)
    assert mean[0] == pytest.approx(values.mean())
    by_hand = sum((values[group == g] - values.mean()).sum() ** 2 for g in range(12)) / 60**2 * 12 / 11
    assert variance[0] == pytest.approx(by_hand)


def test_turning_rollouts_finds_a_drop_at_the_end(world: World) -> None:
    aligned = align(world.scores, world.rollouts)
    own = aligned[aligned["rollout"].isin(world.ids("harmful_complied"))]
    found = shift_null(own, M, draws=199)
    assert found.p == pytest.approx(2 / 200)
    assert found.to_row()["null_high"] < found.estimate
    rollouts = [make_rollout("a/0", "a", 3), make_rollout("b/0", "b", 9, closing=0, answer=0, finish="length")]
    none = shift_null(align(make_scores(rollouts, lambda *_: 1.0), rollouts), M)
    assert np.isnan(none.p)
    assert none.left_out == {"fewer than 8 thinking tokens": 1, "truncated": 1}
    assert np.isnan(none.to_row()["null_mean"])


def test_every_turn_is_a_drop_somewhere_else() -> None:
    scores = np.arange(12.0) ** 2
    drops = turned_drops(scores, 3, 2)
    by_hand = [np.median(scores[a : a + 3]) - scores[a + 4] for a in range(8)]
    np.testing.assert_allclose(drops, by_hand)
    assert drops[-1] == np.median(scores[7:10]) - scores[11]


def ends(rng: np.random.Generator, n: int, rho: float, drift: float, level: float | int = 0.0) -> np.ndarray:
    """The last plateau and closing tokens of rollouts of 50 to 8,000 tokens, ``[rollout m + closing]``."""
    length = np.exp(rng.uniform(np.log(50), np.log(8000), n))[:, None]
    back = np.arange(M + CLOSING - 1, -1, -1)
    wave = np.sin(2 * np.pi * (back / length + rng.random((n, 1))))
    return level + autoregression(rng, n, M + CLOSING, rho) + drift * wave


def windows_of(scores: np.ndarray, prefix: str) -> Windows:
    names = np.array([f"{prefix}{i:03}" for i in range(len(scores))], dtype=object)
    table = pd.DataFrame({"rollout": names, "group": names, "n_thinking": 50, "reason": ""})
    return Windows(table, scores[:, :M], scores[:, -1], scores[:, :M].max(1), names, names)


def called(rho: float, drift: float, sims: int) -> dict[str, Any]:
    """How often constant readings are called a cliff by intervals, by exchange and by turning."""
    rng = np.random.default_rng([round(10 * rho), round(10 * drift)])
    hits = dict.fromkeys(TESTS, 0)
    for i in range(sims):
        complied, refused, cell, other = (
            windows_of(ends(rng, PROMPTS, rho, drift, 4 * level), name)
            for name, level in (("c", 0), ("r", 1), ("x", 0.5), ("y", 0))
        )
        normaliser = normaliser_of(complied, refused, m=M, resamples=400, seed=i)
        both = measure(cell, normaliser), measure(other, normaliser)  # each rollout is its own prompt here
        for by, effect in (
            ("normalised_interval", both[0]["normalised_drop"]),
            ("normalised_difference", drop_difference(*both)),
        ):
            hits[by] += effect.low > 0 or effect.high < 0
        for value in ("raw", "normalised"):
            p = exchange_null(*both, value=f"{value}_drop", draws=199, seed=i).p
            hits[f"{value}_exchange"] += p <= 0.05
        series = []
        for _ in range(12):
            n = int(np.exp(rng.uniform(np.log(50), np.log(8000)))) + CLOSING
            wave = drift * np.sin(2 * np.pi * (np.arange(n) / n + rng.random()))
            series.append((autoregression(rng, 1, n, rho)[0] + wave, CLOSING))
        observed, null = turned(series, M, 199, rng)
        hits["raw_shift"] += permutation_p(observed, null, "two-sided") <= 0.05
    return {"rho": rho, "drift_sd": drift, "simulations": sims, **{k: v / sims for k, v in hits.items()}}


def flat(rho: float, drift: float, sims: int) -> dict[str, Any]:
    """How often the bands of an aggregate hold the constant, over 300 places that fewer and fewer rollouts reach."""
    rng = np.random.default_rng([7, round(10 * rho), round(10 * drift)])
    point, whole, tilt = 0.0, 0, []
    for i in range(sims):
        length = np.exp(rng.uniform(np.log(50), np.log(8000), PROMPTS))[:, None]
        back = np.arange(300, 0, -1)
        wave = np.sin(2 * np.pi * (back / length + rng.random((PROMPTS, 1))))
        there = back <= length
        y = np.where(there, 0.8 + autoregression(rng, PROMPTS, 300, rho) + drift * wave, 0.0)
        drawn = draw_clusters(np.arange(PROMPTS), 500, i)
        total, count = drawn.sums(y), drawn.sums(there.astype(float))
        n = (count > 0).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = (drawn.counts @ total) / (drawn.counts @ count)
        estimate = total.sum(0) / count.sum(0)
        low, high = percentile_interval(draws, n)
        point += ((low <= 0.8) & (high >= 0.8)).mean() / sims
        low, high = simultaneous_band(estimate, draws, n)
        whole += bool(((low <= 0.8) & (high >= 0.8)).all())
        tilt.append(estimate[-50:].mean() - estimate[:50].mean())
    return {
        "rho": rho,
        "drift_sd": drift,
        "simulations": sims,
        "pointwise": point,
        "simultaneous": whole / sims,
        "mean_tilt": float(np.mean(tilt)),
        "tilt_se": float(np.std(tilt) / np.sqrt(sims)),
    }


@pytest.mark.slow
def test_constant_readings_are_rarely_called_a_cliff() -> None:
    found = called(0.5, 0.5, 25)
    assert all(found[k] <= 0.24 for k in TESTS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cliffs_are_called_in_five_percent_of_nulls() -> None:
    rows = [called(rho, drift, SIMULATIONS) for rho in RHOS for drift in DRIFTS]
    bands = [flat(rho, drift, SIMULATIONS) for rho in RHOS for drift in DRIFTS]
    missed = [
        {"rho": r["rho"], "drift_sd": r["drift_sd"], "by": k, "share": r[k]}
        for r in rows
        for k in TESTS
        if not 0.03 <= r[k] <= 0.07
    ]
    about = {"aim": [0.03, 0.07], "m": M, "closing": CLOSING, "prompts": PROMPTS, "lengths": [50, 8000]}
    write_evidence("cliff_nulls", about | {"rows": rows, "bands": bands, "missed": missed})
    assert all(0.93 <= b[k] <= 0.97 for b in bands for k in ("pointwise", "simultaneous")), bands
    assert not missed, missed
