"""Replay gives what whole passes under hooks give, on every architecture, or says why it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from verdictscope.activations import LinearReadout, LogOddsReadout, Model
from verdictscope.interventions import Effects, HeadEdit, effects

sys.path.append(str(Path(__file__).parents[1] / "activations"))
from tiny_models import CONFIGS, MORE, rollout, wrapped

ROLLOUTS = [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((40, 33, 47))]
LATE = "think_end,thinking[-3:]"
ONE_TOKEN = LogOddsReadout("one", [3, 7], [11, 20])
LABELS = LogOddsReadout("labels", [[3, 5], [7]], [[11, 4, 9], [3, 6]])
ELSEWHERE = {
    "bloom": "takes no position ids",
    "falcon": "attention interface",
    "qwen3_next": "layer 2 has no softmax attention",
}
"""Families that are restarted over all positions, and why."""


def heads(model: Model, positions: str) -> list[HeadEdit]:
    layers = [la for la in range(model.n_layers) if model.sites.blocks[la].o is not None]
    return [HeadEdit(((la, h),), positions=positions) for la in layers for h in range(model.n_heads)]


def apart(a: Effects, b: Effects) -> float:
    """The largest difference of two computations, over the largest number."""
    return float(max(np.abs(a.base - b.base).max(), np.abs(a.edited - b.edited).max()) / np.abs(b.edited).max())


@pytest.mark.parametrize("family", sorted(CONFIGS | MORE))
def test_every_architecture_replays_or_says_why_not(family: str) -> None:
    model = wrapped(family)
    edits = heads(model, LATE)
    replayed = effects(model, ROLLOUTS, ONE_TOKEN, edits)
    passes = effects(model, ROLLOUTS, ONE_TOKEN, edits, method="passes")
    assert apart(replayed, passes) < 5e-6
    assert np.abs(passes.change).max() > 1e-3 * np.abs(passes.base).max()
    assert replayed.computed.method == ("restart" if family in ELSEWHERE else "replay")
    assert ELSEWHERE.get(family, "") in str(replayed.computed)
    assert passes.computed.method == "passes"


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral_windowed", "gpt_oss"])
@pytest.mark.parametrize("positions", [LATE, "all"])
def test_labels_of_several_tokens_and_rows_of_any_layer(family: str, positions: str) -> None:
    model = wrapped(family)
    edits = heads(model, positions)
    weight = np.random.default_rng(0).normal(size=model.d_model)
    readouts = [
        LABELS,
        LinearReadout("mid", "resid_post", 1, weight, positions="think_end"),
        LinearReadout("lens", "resid_pre", 2, weight, 0.3, final_norm=True, positions="before_answer"),
        LinearReadout("last", "final_norm", None, weight, positions="before_answer"),
    ]
    for readout in readouts:
        replayed = effects(model, ROLLOUTS, readout, edits)
        passes = effects(model, ROLLOUTS, readout, edits, method="passes")
        assert apart(replayed, passes) < 1e-5, readout.name
        assert replayed.computed.method == ("replay" if positions == LATE else "restart")
