"""The bias detector: a direction shared by two cues carries over, one of its own does not, one class is no number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.probes.verdict_worlds import axis, judge_world
from verdictscope.errors import InputError
from verdictscope.probes import bias_detector
from verdictscope.probes.bias_detector import BiasDetector
from verdictscope.probes.verdict_states import VerdictStates

PUSHES = {"plain": 0.0, "control": 0.0, "crowd": 3.0, "expert": 3.0, "weather": 0.0}
CS = (0.01, 0.1)


def shared(facts: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    return 2.0 * facts["flip"] * axis(3) + 2.0 * facts["cued"] * axis(4) + facts["shown"] * facts["odds"] * axis(1)


@pytest.fixture(scope="module")
def found() -> BiasDetector:
    states, part, targets = judge_world({0: shared}, PUSHES, n=90)
    texts = {r: f"which is best {r.split('/')[0]} said so" for r in states.rows["rollout"]}
    return bias_detector(states, targets, part, texts=texts, Cs=CS, permutations=19)


def cell(found: BiasDetector, label: str, fit: str, read: str) -> pd.Series:
    table = found.to_frame()
    at = table[(table["label"] == label) & (table["fit"] == fit) & (table["read"] == read)]
    assert len(at) == 1, (label, fit, read)
    return at.iloc[0]


def test_a_shared_direction_carries_over(found: BiasDetector) -> None:
    for label in ("flip", "yield"):
        for fit, read in (("crowd", "expert"), ("expert", "crowd"), ("crowd", "crowd")):
            at = cell(found, label, fit, read)
            assert at.auroc > 0.9, (label, fit, read)
            assert at.p == pytest.approx(0.05)
            assert at.null_low < 0.5 < at.null_high < at.auroc
            assert at.low <= at.auroc <= at.high
            assert at.words < 0.7, "the words of a cued prompt do not tell whether the judge gave in"
            assert at.kind == ("within" if fit == read else "transfer")


def test_the_words_give_the_cue_away_but_not_the_flip(found: BiasDetector) -> None:
    assert cell(found, "cued", "crowd", "crowd").words == 1.0
    assert cell(found, "cued", "crowd", "crowd").auroc > 0.9


def test_cells_with_one_class_say_so(found: BiasDetector) -> None:
    for read in ("crowd", "weather"):
        at = cell(found, "flip", "weather", read)
        assert np.isnan(at.auroc)
        assert "did not flip" in at.reason
    assert "held to read" in cell(found, "yield", "crowd", "weather").reason
    assert "only verdicts" in cell(found, "flip", "crowd", "position").reason
    assert "every prompt has an order" in cell(found, "cued", "crowd", "position").reason
    assert "every prompt has an order" in cell(found, "cued", "position", "crowd").reason
    assert "every prompt has an order" in str(found)
    assert cell(found, "flip", "all but weather", "weather").reason


def test_one_flip_is_no_number() -> None:
    states, part, targets = judge_world({0: shared}, {"plain": 0.0, "control": 0.0, "crowd": 3.0, "rain": 0.0}, n=60)
    rows = states.rows.copy()
    here = rows[(rows["condition"] == "rain") & (rows["item"].map(part) == "test")]
    away = here[here["verdict"] != here["item"].map(targets)].index[0]
    rows.loc[away, "verdict"] = targets[rows.loc[away, "item"]]
    changed = VerdictStates(rows, states.layers, states.read)
    found = bias_detector(changed, targets, part, labels=("flip",), plain=None, Cs=CS[:1], permutations=19)
    at = cell(found, "flip", "crowd", "rain")
    assert at.positive == 1
    assert np.isnan(at.auroc)
    assert at.reason == "verdicts that flipped in one item group only: too few to read"


def test_directions_of_their_own_do_not_carry_over_and_position_is_a_kind() -> None:
    def own(facts: dict[str, float], rng: np.random.Generator) -> np.ndarray:
        placed = facts["named"] == 0 and facts["shown"] * facts["odds"] < 0  # A place of its own turns these
        kind = 6 if placed else 3
        return 3.0 * (facts["flip"] or float(placed)) * axis(kind)

    states, part, targets = judge_world({0: own}, {"plain": 0.0, "control": 0.0, "crowd": 3.0}, n=90, place=2.5)
    found = bias_detector(states, targets, part, labels=("flip",), Cs=CS, permutations=19)
    assert cell(found, "flip", "position", "position").auroc > 0.9
    assert cell(found, "flip", "crowd", "crowd").auroc > 0.9
    away = cell(found, "flip", "position", "crowd")
    assert away.p > 0.05, "a direction of position reads the crowd no better than one learned from nothing"
    assert away.null_low < 0.3
    assert away.null_high > 0.7
    assert set(found.rows["type"]) == {"crowd", "position"}
    assert (found.rows.loc[found.rows["flip"] == 1, "eligible"]).all()


def test_flips_that_the_states_know_nothing_of_stay_within_the_null() -> None:
    def nothing(facts: dict[str, float], rng: np.random.Generator) -> np.ndarray:
        return np.zeros_like(axis(0))

    states, part, targets = judge_world({0: nothing, 1: nothing}, PUSHES, n=90, seed=4)
    found = bias_detector(
        states, targets, part, cues=["crowd", "expert"], plain=None, labels=("flip",), Cs=CS, permutations=39
    )
    table = found.to_frame()
    assert (table["p"] > 0.025).all()
    assert (table["null_mean"] - 0.5).abs().max() < 0.1


def test_what_is_missing_is_said() -> None:
    states, part, targets = judge_world({0: shared}, {"plain": 0.0, "crowd": 3.0}, n=24)
    with pytest.raises(InputError, match="condition 'control'"):
        bias_detector(states, targets, part)
    with pytest.raises(InputError, match="label 'biased'"):
        bias_detector(states, targets, part, control="plain", plain=None, labels=("biased",))
    with pytest.raises(InputError, match="no named side"):
        bias_detector(states, {}, part, control="plain", plain=None)
