"""Correctness beside the stated verdict: judges that know better, judges that do not, and labels that mean nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.probes.verdict_worlds import axis, judge_world
from verdictscope.errors import InputError
from verdictscope.probes import correctness
from verdictscope.probes.correctness import Correctness
from verdictscope.probes.verdict_states import VerdictStates

PUSHES = {"plain": 0.0, "control": 0.0, "crowd": 5.0, "expert": 0.0}
CS = (0.01, 0.1)


def right(facts: dict[str, float], _: np.random.Generator) -> np.ndarray:
    """The right answer, whatever is said; beside it the side that a sentence names."""
    return facts["shown"] * (facts["right"] * axis(0) + 2.0 * facts["named"] * axis(2))


def said(facts: dict[str, float], _: np.random.Generator) -> np.ndarray:
    """What is said, and nothing else."""
    return facts["shown"] * facts["odds"] * axis(1)


@pytest.fixture(scope="module")
def knows() -> tuple[VerdictStates, Correctness]:
    states, part, _ = judge_world({0: right, 1: said}, PUSHES, n=72)
    solved = {f"i{k}": k % 3 > 0 for k in range(72)}
    return states, correctness(states, part, Cs=CS, permutations=39, solved=solved)


def row(found: Correctness, condition: str, name: str) -> pd.Series:
    table = found.to_frame()
    at = table[(table["kind"] != "layer") & (table["condition"] == condition) & (table["name"] == name)]
    assert len(at) == 1, (condition, name)
    return at.iloc[0]


def test_a_judge_that_knows_better_is_told_from_its_mirror(knows: tuple) -> None:
    _, found = knows
    assert found.fitted_in == ("plain", "control")
    assert found.result.layer == 0, "the layer that only mirrors reads cued items wrongly"
    wrong = row(found, "crowd", "right where the verdict is wrong")
    assert wrong.estimate > 0.9
    assert wrong.low > 0.5
    assert 0.2 < wrong.null_mean < 0.8
    level = row(found, "crowd", "right, with right and wrong verdicts weighed equally")
    assert level.estimate > 0.9
    assert level.p <= 0.05
    assert level.null_mean == pytest.approx(0.5, abs=0.12)
    assert row(found, "crowd", "right where the verdict is wrong, by a probe of the verdict").estimate < 0.1
    assert row(found, "crowd", "knows better than it says").low > 0.5
    assert row(found, "crowd", "knows better than its uncued view").estimate > 0.5
    assert row(found, "crowd", "right where the cue turned the verdict").estimate > 0.9
    assert row(found, "crowd", "AUROC").estimate > 0.95


def test_the_gap_is_paired_and_adds_up(knows: tuple) -> None:
    _, found = knows
    for condition in PUSHES:
        right_, stated, gap = (row(found, condition, name) for name in ("right", "right as stated", "gap to stated"))
        assert gap.estimate == pytest.approx(right_.estimate - stated.estimate)
        assert gap.low <= gap.estimate <= gap.high
    assert row(found, "crowd", "gap to stated").low > 0.2
    both = row(found, "all cues", "right")
    each = [row(found, cue, "right") for cue in ("crowd", "expert")]
    assert both.estimate == pytest.approx(np.average([e.estimate for e in each], weights=[e.n for e in each]))


def test_solving_stands_beside_judging(knows: tuple) -> None:
    _, found = knows
    stated = row(found, "plain", "wrong though solved, stated, orders averaged")
    probe = row(found, "plain", "wrong though solved, probe")
    assert probe.estimate <= stated.estimate
    assert "crowd, right where the verdict is wrong" in str(found)
    assert set(found.to_frame().query("kind == 'layer'")["layer"]) == {0, 1}


def test_exchanging_the_orders_negates_the_score(knows: tuple) -> None:
    states, found = knows
    ab, ba = states.pairs("crowd").states(0)
    assert np.array_equal(found.score(ab, ba), -found.score(ba, ab))


def test_a_judge_that_only_mirrors_knows_nothing_better() -> None:
    states, part, _ = judge_world({0: said}, PUSHES, n=72, hard=0.25)
    found = correctness(states, part, Cs=CS, permutations=19)
    wrong = row(found, "crowd", "right where the verdict is wrong")
    assert wrong.estimate == 0.0
    assert row(found, "crowd", "knows better than it says").estimate == 0.0
    assert row(found, "crowd", "gap to stated, orders averaged").estimate == pytest.approx(0.0)


def test_the_uncued_view_is_not_taken_for_more() -> None:
    """A judge whose view before the cue stays readable, and which knows no more than that view."""

    def view(facts: dict[str, float], _: np.random.Generator) -> np.ndarray:
        return facts["shown"] * (facts["own"] * axis(0) + 2.0 * facts["named"] * axis(2))

    states, part, _ = judge_world({0: view, 1: said}, PUSHES, n=72, hard=0.1)
    found = correctness(states, part, Cs=CS, permutations=19)
    turned = "right where the cue turned the verdict"
    assert row(found, "crowd", f"{turned}, by a probe of the uncued verdict").estimate > 0.9
    assert row(found, "crowd", turned).estimate > 0.9
    assert row(found, "crowd", "right where the verdict is wrong, by a probe of the verdict").estimate < 0.3
    more = row(found, "crowd", "knows better than its uncued view")
    assert more.low <= 0 <= more.high


def test_labels_that_mean_nothing_stay_within_their_null() -> None:
    states, part, _ = judge_world({0: said}, PUSHES, n=72)
    coin = np.random.default_rng(2).integers(0, 2, 72)
    label = states.rows["item"].str[1:].astype(int).map(lambda k: "AB"[coin[k]])
    found = correctness(
        VerdictStates(states.rows.assign(label=label), states.layers, states.read), part, Cs=CS, permutations=39
    )
    for name in ("right", "AUROC"):
        at = row(found, "plain", name)
        assert at.p > 0.05
        assert at.null_low <= at.estimate <= at.null_high


def test_what_is_missing_is_said() -> None:
    states, part, _ = judge_world({0: said}, {"plain": 0.0}, n=24)
    with pytest.raises(InputError, match="better answer"):
        correctness(VerdictStates(states.rows.assign(label="tie"), (0,), states.read), part)
    with pytest.raises(InputError, match="right answers in split train: all are A"):
        correctness(VerdictStates(states.rows.assign(label="A"), (0,), states.read), part)
    with pytest.raises(InputError, match="condition 'crowd'"):
        correctness(states, part, fitted_in=["crowd"])
