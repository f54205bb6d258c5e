"""Effects beyond a rope switch: replay, restart and whole passes give each rollout what it has alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.scaled_models import SWITCH, shared
from verdictscope.activations import LinearReadout, LogOddsReadout, forward, wrap
from verdictscope.interventions import HeadEdit, effects

sys.path.append(str(Path(__file__).parents[1] / "activations"))
from tiny_models import rollout

ROLLOUTS = [rollout(f"r{n}/0", n, seed=n) for n in (20, SWITCH - 1, SWITCH, SWITCH + 30)]
READOUTS = [
    LogOddsReadout("one", [3, 7], [11, 20], positions="think_end"),
    LogOddsReadout("labels", [[3, 5, 8], [7]], [[11, 4], [3, 6]], positions="last"),
    LinearReadout("linear", "resid_post", 1, np.linspace(-1, 1, 32), positions="thinking[-1]"),
]


@pytest.mark.parametrize("name", ["phi3", "llama dynamic", "gemma3 dynamic"])
@pytest.mark.parametrize("readout", READOUTS, ids=lambda r: r.name)
def test_effects_are_those_of_each_rollout_alone(name: str, readout: LogOddsReadout | LinearReadout) -> None:
    """The readout stands before the end of a rollout, so that what is replayed is shorter than what was read."""
    model = wrap(shared(name))
    edits = [HeadEdit(((layer, 1),), positions="think_end,thinking[-3:]") for layer in range(2)]
    replayed = effects(model, ROLLOUTS, readout, edits, method="replay")
    passes = effects(model, ROLLOUTS, readout, edits, method="passes")
    alone = [effects(model, [r], readout, edits, method="passes") for r in ROLLOUTS]
    read = forward(model, ROLLOUTS, score=[readout]).scores
    size = np.abs(passes.edited).max()
    for found in (replayed, passes):
        assert np.abs(found.base - np.concatenate([a.base for a in alone])).max() < 1e-5 * size
        assert np.abs(found.edited - np.concatenate([a.edited for a in alone], axis=1)).max() < 1e-5 * size
    means = read.groupby("rollout", sort=False).score.mean()[[r.id for r in ROLLOUTS]]
    np.testing.assert_allclose(replayed.base, means, atol=1e-5 * size)
