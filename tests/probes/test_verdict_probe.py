"""Antisymmetric verdict probes on planted worlds: content is found, position is not, noise stays noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from verdictscope.errors import InputError
from verdictscope.probes import verdict_probe
from verdictscope.probes.verdict_probe import VerdictProbe
from verdictscope.probes.verdict_states import VerdictStates

D = 12


def world(
    n: int = 120, content: float = 2.0, position: float = 0.0, seed: int = 0, noise: bool = False
) -> tuple[VerdictStates, dict[str, str], dict[str, tuple[str, str]]]:
    """Items whose states hold a direction for the better-liked side, one for the place, and noise.

    The verdict is what the log-odds say: content towards the side liked plus position towards the one shown first.
    """
    rng = np.random.default_rng(seed)
    toward, place = np.eye(D)[0], np.eye(D)[1]
    rows, states = [], {0: [], 1: []}
    for k in range(n):
        liked = rng.choice([-1.0, 1.0]) * content
        for order in ("AB", "BA"):
            odds = (liked if order == "AB" else -liked) + position
            shown = "first" if odds > 0 else "second"
            said = ("A" if shown == "first" else "B") if order == "AB" else ("B" if shown == "first" else "A")
            if noise:  # a coin that the states know nothing of, the same in both orders
                said = "AB"[np.random.default_rng(1000 + k).integers(2)]
                shown = "first" if said == order[0] else "second"
            rows.append(
                {
                    "rollout": f"plain/i{k}/{order}",
                    "item": f"i{k}",
                    "group": f"g{k // 2}",
                    "condition": "plain",
                    "order": order,
                    "label": "AB"[k % 2],
                    "verdict": said,
                    "shown": shown,
                    "log_odds": odds,
                }
            )
            own = rng.normal(size=D)
            sign = 1.0 if order == "AB" else -1.0
            states[0].append(own)
            states[1].append(own + sign * liked * toward + 3.0 * position * rng.normal() * place)
    part = {f"i{k}": ("train", "validation", "test")[(k // 2) % 3] for k in range(n)}
    answers = {
        f"i{k}": (f"{rng.integers(9)} {rng.integers(9)}", f"{rng.integers(9)} {rng.integers(9)}") for k in range(n)
    }
    held = {layer: np.array(values) for layer, values in states.items()}
    return VerdictStates(pd.DataFrame(rows), (0, 1), held.__getitem__), part, answers


@pytest.fixture(scope="module")
def found() -> tuple[VerdictStates, VerdictProbe]:
    states, part, answers = world()
    return states, verdict_probe(states, part, answers=answers, permutations=19, draws=5)


def row(probe: VerdictProbe, kind: str, name: str = "") -> pd.Series:
    table = probe.to_frame()
    return table[(table["kind"] == kind) & table["name"].str.startswith(name)].iloc[0]


def test_a_planted_direction_is_found_where_it_was_planted(found: tuple) -> None:
    _, probe = found
    assert probe.result.layer == 1
    assert probe.result.test.estimate > 0.9
    assert probe.result.null.p == pytest.approx(0.05)
    assert abs(probe.result.direction[0]) == max(abs(probe.result.direction))
    assert row(probe, "control", "control task").estimate == pytest.approx(0.5, abs=0.15)
    assert row(probe, "baseline", "words").estimate == pytest.approx(0.5, abs=0.2)
    assert probe.counts == {"used": 120, "changed by the order": 0, "tie or unread": 0}
    assert set(probe.to_frame()["kind"]) == {"test", "part", "permuted", "control", "baseline", "layer"}


def test_exchanging_the_sides_negates_every_score_to_the_bit(found: tuple) -> None:
    states, probe = found
    ab, ba = states.pairs().states(probe.result.layer)
    assert np.array_equal(probe.score(ab, ba), -probe.score(ba, ab))
    assert abs(probe.result.probe.bias_) < 1e-6


def test_naming_the_answers_the_other_way_round_changes_nothing() -> None:
    states, part, _ = world(60)
    turned = states.rows.assign(
        order=states.rows["order"].map({"AB": "BA", "BA": "AB"}),
        verdict=states.rows["verdict"].map({"A": "B", "B": "A"}),
        label=states.rows["label"].map({"A": "B", "B": "A"}),
    )
    other = VerdictStates(turned, states.layers, states.read)
    one, two = (verdict_probe(s, part, permutations=19) for s in (states, other))
    assert one.result.layer == two.result.layer
    np.testing.assert_allclose(one.result.direction, two.result.direction, atol=1e-5)
    assert one.result.test.estimate == pytest.approx(two.result.test.estimate, abs=1e-9)


def test_what_the_order_does_not_turn_is_told_apart() -> None:
    """A strong preference for a place, drawn anew for every item, decides many verdicts and is not content."""
    rng = np.random.default_rng(3)
    states, part, _ = world(150, content=1.5)
    ab, ba = (states.rows.index[states.rows["order"] == order].to_numpy() for order in ("AB", "BA"))
    push = rng.choice([-4.0, 0.0, 4.0], size=len(ab))
    rows = states.rows.copy()
    for at in (ab, ba):
        rows.loc[at, "log_odds"] += push
        rows.loc[at, "shown"] = np.where(rows.loc[at, "log_odds"] > 0, "first", "second")
        own = {"AB": {"first": "A", "second": "B"}, "BA": {"first": "B", "second": "A"}}
        rows.loc[at, "verdict"] = [own[o][s] for o, s in zip(rows.loc[at, "order"], rows.loc[at, "shown"], strict=True)]
    X = np.array(states.read(1))
    for at in (ab, ba):
        X[at] += push[:, None] * np.eye(D)[1]
    pushed = VerdictStates(rows, (1,), lambda _: X)
    probe = verdict_probe(pushed, part, permutations=19)
    assert probe.counts["changed by the order"] == int((push != 0).sum())
    assert probe.result.test.estimate > 0.9
    assert abs(probe.result.direction[1]) < 0.2 * abs(probe.result.direction[0])
    assert row(probe, "part", "part that turns").estimate < 0.85
    assert row(probe, "part", "fitted to what stays").estimate > 0.75


def test_a_place_alone_gives_chance() -> None:
    """States that hold nothing but the place: half the difference is noise, whatever the judge says."""
    rng = np.random.default_rng(5)
    states, part, _ = world(150, noise=True)
    ab = (states.rows["order"] == "AB").to_numpy()
    X = rng.normal(size=(len(states.rows), D)) * 0.5
    X[:, 2] += np.repeat(rng.normal(size=ab.sum()), 2) * 5
    X[:, 0] += 4.0
    probe = verdict_probe(VerdictStates(states.rows, (0,), lambda _: X), part, permutations=39)
    assert probe.result.test.low < 0.5 < probe.result.test.high
    assert probe.result.null.p > 0.05


def test_verdicts_that_the_states_know_nothing_of_stay_within_the_null() -> None:
    states, part, answers = world(150, content=0.0, noise=True, seed=7)
    probe = verdict_probe(states, part, answers=answers, permutations=39, draws=5)
    assert probe.result.null.low <= probe.result.test.estimate <= max(probe.result.null.high, 0.65)
    assert "p = " in str(probe)


def test_what_is_missing_is_said() -> None:
    states, part, _ = world(30)
    single = states.rows[states.rows["order"] == "AB"].reset_index(drop=True)
    with pytest.raises(InputError, match="both orders"):
        verdict_probe(VerdictStates(single, (0,), lambda _: np.zeros((len(single), D))), part)
    alike = states.rows.assign(verdict="A", shown=np.where(states.rows["order"] == "AB", "first", "second"))
    with pytest.raises(InputError, match="all are A"):
        verdict_probe(VerdictStates(alike, states.layers, states.read), part, permutations=19)
    with pytest.raises(InputError, match="no split"):
        verdict_probe(states, {"i0": "train"})
    with pytest.raises(InputError, match="condition 'crowd'"):
        verdict_probe(states, part, condition="crowd")
    with pytest.raises(InputError, match="several verdicts"):
        VerdictStates(pd.concat([states.rows, states.rows]), (0,), states.read)
