"""A sweep's findings: the test over all heads, what it prints, and how stable its ranking is."""

from __future__ import annotations

import numpy as np
import pytest

from verdictscope.activations import LogOddsReadout, Model
from verdictscope.errors import InputError
from verdictscope.interventions import Effects, HeadSweep, readout_gap, sweep_heads
from verdictscope.rollouts import Rollout

LOG_ODDS = LogOddsReadout("log_odds", positive=((3,), (7,)), negative=((11,), (20,)))


def swept(means: list[float], prompts: int = 40, seed: int = 0, delta: float | None = 0.5) -> HeadSweep:
    """A sweep with known mean effects, two rollouts a prompt."""
    rng = np.random.default_rng(seed)
    prompt = rng.normal(size=(len(means), prompts, 1))
    change = np.array(means)[:, None] + (prompt + rng.normal(size=(len(means), prompts, 2))).reshape(len(means), -1) / 2
    base = rng.normal(size=2 * prompts)
    found = Effects(
        descriptions=tuple(f"head {i}" for i in range(len(means))),
        rollouts=tuple(map(str, range(2 * prompts))),
        groups=tuple(f"g{i // 2}" for i in range(2 * prompts)),
        base=base,
        edited=base + change,
    )
    return HeadSweep.of(tuple(("head", i // 4, i % 4) for i in range(len(means))), found, delta)


def test_heads_above_delta_are_selected_and_others_are_not() -> None:
    sweep = swept([3.0, 0.4, 0.0, -3.0, 1.5, 0.2, 0.3, 0.5])
    assert sweep.heads() == ((0, 0), (1, 0))
    table = sweep.table()
    assert table["selected"].tolist() == [True, False, False, False, True, False, False, False]
    assert (table["delta"] == 0.5).all()
    assert (table["p_adjusted"] >= table["p"]).all()
    assert (table["q"] >= table["p"]).all()
    assert (table["n"] == 40).all()
    assert sweep.to_frame()["estimate"].abs().is_monotonic_decreasing
    # without a smallest effect almost every head has one
    assert len(swept([3.0, 0.4, 0.0, -3.0, 1.5, 0.2, 0.3, 0.5], delta=0.0).heads()) > 2


def test_delta_is_printed_and_without_it_nothing_is_tested() -> None:
    sweep = swept([3.0, 0.0])
    assert "delta = 0.5 nats" in str(sweep)
    assert "1 of 2 components" in str(sweep)
    assert "L0H0" in sweep._repr_html_()
    untested = swept([3.0, 0.0], delta=None)
    assert untested.declared() == ()
    assert "no smallest effect" in str(untested)
    assert untested.to_frame()["p"].isna().all()


def test_a_ranking_is_as_stable_as_its_gaps() -> None:
    sure = swept([3.0, 2.0, 0.0, -1.0])[None].stability(2)
    assert sure.jaccard.estimate == 1.0
    assert sure.share.tolist() == [1, 1, 0, 0]
    tied = swept([0.0] * 12)[None].stability(2)
    assert tied.jaccard.estimate < 0.7
    assert tied.jaccard.low < tied.jaccard.estimate
    assert tied.share.sum() == pytest.approx(2)
    with pytest.raises(InputError, match="strongest 9 of 4"):
        swept([0.0] * 4)[None].stability(9)


def test_a_sweep_plots_and_names_its_parts() -> None:
    sweep = swept([3.0, 0.0, 1.0, 0.1])
    assert sweep.plot().axes
    with pytest.raises(InputError, match="3 components for 4 edits"):
        HeadSweep.of(sweep.components[:3], sweep[None].effects)


def test_a_real_sweep_carries_its_test(qwen3: Model, rollouts: list[Rollout]) -> None:
    sweep = sweep_heads(qwen3, rollouts, LOG_ODDS, delta=0.1)
    tests = sweep[None].tests
    assert tests is not None
    assert tests.exact
    assert tests.n == 2
    assert len(sweep.components) == 12


def test_the_gap_is_the_distance_of_two_kinds_and_has_a_direction(qwen3: Model, rollouts: list[Rollout]) -> None:
    from verdictscope.interventions import effects

    base = effects(qwen3, rollouts, LOG_ODDS, []).base
    order = np.argsort(base)
    low, high = [rollouts[i] for i in order[:2]], [rollouts[i] for i in order[2:]]
    gap = readout_gap(qwen3, high, low, LOG_ODDS)
    assert gap.estimate == pytest.approx(base[order[2:]].mean() - base[order[:2]].mean(), rel=1e-4)
    with pytest.raises(InputError, match="no higher"):
        readout_gap(qwen3, low, high, LOG_ODDS)
    with pytest.raises(InputError, match="empty"):
        readout_gap(qwen3, high, [], LOG_ODDS)
