"""What counts as a head of the bias, what a mitigation's rates are, and that erasing and steering do what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.interventions.test_span_attribution import ITEMS, TARGETS, world
from tests.judgments.judge_worlds import real, tiny_judge
from verdictscope.interventions import Effects, HeadSweep, effects
from verdictscope.interventions.mitigation import bias_rates, choose_erasure, choose_steering, states_at
from verdictscope.interventions.sweep import ContrastEffects
from verdictscope.judgments import load_format
from verdictscope.judgments.labels import at_first_difference
from verdictscope.stats import mean_effect

GROUPS = tuple(f"g{k}" for k in range(30))
PARTS = (("head", 0, 0), ("head", 0, 1), ("head", 1, 0), ("mlp", 1, -1))


def swept(bias: float, less: list[float], content_less: list[float], delta: float = 0.5) -> HeadSweep:
    """Made-up effects: what position and content lose without each component."""
    rng = np.random.default_rng(0)

    def on(losses: list[float], size: float) -> ContrastEffects:
        base = size + rng.normal(size=30) * 0.05
        change = np.array(losses)[:, None] + rng.normal(size=(len(losses), 30)) * 0.05
        found = Effects(tuple(map(str, PARTS)), GROUPS, GROUPS, base, base + change)
        return ContrastEffects(PARTS, found, delta, mean_effect("size", base, GROUPS, unit="nats"))

    return HeadSweep(PARTS, {"position": on(less, bias), "content": on(content_less, 5.0)}, delta)


def test_a_head_of_the_bias_spares_content() -> None:
    found = swept(2.0, [1.5, 1.0, 0.1, 0.9], [2.0, 0.0, 0.0, 0.0])
    assert found["position"].heads == ((0, 0), (0, 1))
    assert found.heads("position") == ((0, 1),)
    assert found.declared("position") == (("head", 0, 1), ("mlp", 1, -1))
    assert found.strongest(2, "position") == ((0, 1),)
    table = found.table().query("contrast == 'position'")
    assert table["declared"].tolist() == [False, True, False, True]
    assert table["selected"].tolist() == [True, True, False, True]
    assert table["content_loss"].to_numpy() == pytest.approx([2, 0, 0, 0], abs=0.1)


def test_where_there_is_no_bias_nothing_carries_it() -> None:
    found = swept(0.1, [1.5, 1.0, 0.1, 0.9], [0.0] * 4)
    assert found["position"].heads
    assert not found.is_biased("position")
    assert found.declared("position") == ()
    assert found.strongest(2, "position") == ()
    assert swept(-2.0, [1.5] * 4, [0.0] * 4).is_biased("position")


def verdicts(said: dict[tuple[str, str], str | None]) -> pd.DataFrame:
    labels = {"a": "A", "b": "B", "t": "tie"}
    return pd.DataFrame(
        [
            {"item": item, "group": item, "order": order, "run": 0, "verdict": v, "label": labels[item], "judge": "j"}
            for (item, order), v in said.items()
        ]
    )


def test_rates_by_hand() -> None:
    plain = {("a", "AB"): "A", ("a", "BA"): "B", ("b", "AB"): "B", ("b", "BA"): "B", ("t", "AB"): "A", ("t", "BA"): "B"}
    cued = {key: "B" for key in plain}
    targets = {"a": "B", "b": "B", "t": "A"}
    found = bias_rates({"plain": verdicts(plain), "control": verdicts(plain), "crowd": verdicts(cued)}, targets)
    rate = found.set_index("name")["estimate"]
    assert rate["accuracy"] == pytest.approx(3 / 4)
    assert rate["consistency"] == pytest.approx(1 / 3)
    assert rate["first_preference"] == pytest.approx(5 / 6)
    assert rate["follows_crowd"] == pytest.approx(4 / 6)
    assert rate["accuracy_crowd_wrong"] == 0
    n = found.set_index("name")["n"]
    assert (n["accuracy"], n["consistency"], n["follows_crowd"], n["accuracy_crowd_wrong"]) == (2, 3, 6, 2)


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return world(tiny_judge(), real("qwen"), load_format("pair_letter"), ITEMS)


def test_steering_takes_position_away_where_it_was_chosen(tiny: dict[str, Any]) -> None:
    how = (tiny["model"], tiny["rollouts"], at_first_difference(tiny["readout"]), tiny["contrasts"]["content"])
    chosen = choose_steering(*how, tiny["contrasts"]["position"], delta=1e9)
    done = effects(*how[:3], [chosen.edit])
    moved = done.on(tiny["contrasts"]["position"])
    assert abs(moved.edited.mean()) == pytest.approx(chosen.left, abs=1e-4)
    assert chosen.left < abs(moved.base.mean())
    assert "layer" in chosen.about


def test_erasing_leaves_no_linear_trace_of_the_named_side(tiny: dict[str, Any]) -> None:
    how = (tiny["model"], tiny["rollouts"], at_first_difference(tiny["readout"]), tiny["contrasts"]["content"])
    cued = {
        r.id: str(r.tags["order"]).startswith(TARGETS[str(r.tags["item"])])
        for r in tiny["rollouts"]
        if r.id.startswith("cued/")
    }
    chosen = choose_erasure(*how, tiny["contrasts"]["crowd"], cued, delta=1e9)
    edit: Any = chosen.edit
    asked = [r for r in tiny["rollouts"] if r.id in cued]
    states = states_at(tiny["model"], asked)[edit.layer]
    gone = states - (states - edit.mean) @ edit.right.T @ edit.left.T
    first = np.array([cued[r.id] for r in asked])
    assert np.allclose(gone[first].mean(0), gone[~first].mean(0), atol=1e-6)
    assert not np.allclose(states[first].mean(0), states[~first].mean(0), atol=1e-3)
