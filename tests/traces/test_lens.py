"""The lens is the model's own arithmetic, layer by layer, and the layer weights find a planted layer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from verdictscope.activations import LogOddsReadout, forward, load_model
from verdictscope.errors import InputError
from verdictscope.traces import lens_logits, lens_readouts
from verdictscope.traces.lens import LensLogits

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "activations"))
from tiny_models import rollout, wrapped

ROLLOUTS = [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((14, 23, 17))]


def by_hand(model, states: torch.Tensor, tokens: list[int], norm: bool) -> np.ndarray:
    """RMS norm and unembedding written out, in double precision."""
    x = states.double()
    if norm:
        gain, eps = model.hf.model.norm.weight.double(), model.hf.config.rms_norm_eps
        x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain
    return (x @ model.hf.lm_head.weight.double()[tokens].T).detach().numpy()


@pytest.mark.parametrize("norm", [True, False])
def test_each_layer_is_norm_and_unembedding_by_hand(norm: bool) -> None:
    model, tokens = wrapped("qwen3"), [3, 7, 11]
    found = lens_logits(model, ROLLOUTS, tokens, "thinking[-2:]", final_norm=norm)
    assert found.layers == tuple(range(model.n_layers))
    ids = [r.id for r in ROLLOUTS]
    assert found.rows["rollout"].tolist() == [i for i in ids for _ in range(2)]
    for at, one in enumerate(ROLLOUTS):
        hidden = model.hf(input_ids=torch.tensor([one.ids]), output_hidden_states=True).hidden_states
        pos = found.rows.loc[found.rows["rollout"] == one.id, "pos"].to_numpy()
        for layer in range(model.n_layers - 1):  # the last of Hugging Face's has passed the norm
            wanted = by_hand(model, hidden[layer + 1][0, pos], tokens, norm)
            assert np.allclose(found.logits[layer, 2 * at : 2 * at + 2], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "granite"])
def test_the_last_layer_says_what_the_model_says(family: str) -> None:
    model = wrapped(family)
    odds = LogOddsReadout("odds", [3, 5], [7, 9, 11], positions="last")
    scores = forward(model, ROLLOUTS, score=[odds]).scores["score"].to_numpy()
    found = lens_logits(model, ROLLOUTS, [3, 5, 7, 9, 11], "last")
    assert np.allclose(found.log_odds([3, 5], [7, 9, 11])[-1], scores, rtol=1e-3, atol=1e-4)


def test_readouts_of_single_tokens_are_the_lens() -> None:
    model = wrapped("qwen3")
    odds = LogOddsReadout("odds", [3], [7], positions="last")
    found = lens_logits(model, ROLLOUTS, [3, 7], "last").log_odds([3], [7])
    scores = forward(model, ROLLOUTS, score=lens_readouts(model, odds)).scores
    assert set(scores["readout"]) == {"odds_lens"}
    table = scores.pivot(index="layer", columns="rollout", values="score")[[r.id for r in ROLLOUTS]]
    assert np.allclose(table.to_numpy(), found, rtol=1e-4, atol=1e-5)
    assert [r.layer for r in lens_readouts(model, odds, [-1])] == [model.n_layers - 1]


def test_on_the_bundled_model_layers_can_be_chosen() -> None:
    model = load_model("organism:cliff")
    found = lens_logits(model, [rollout("a/0", 12)], [5, 9], "last", layers=[1, 4])
    assert found.layers == (1, 4)
    frame = found.to_frame()
    assert len(frame) == 4
    assert {"rollout", "pos", "layer", "token", "logit"} <= set(frame.columns)
    assert "knows nothing" in repr(found)


def planted(seed: int = 0, rows: int = 400) -> tuple[LensLogits, np.ndarray]:
    """Five score tokens; only layer 2 of six knows the score, the others are noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, rows)
    logits = rng.normal(size=(6, rows, 5))
    logits[2, np.arange(rows), y] += 12
    table = pd.DataFrame({"rollout": [f"r{i}" for i in range(rows)], "pos": 3, "token_id": 1, "segment": "answer"})
    return LensLogits(logits, table, tuple(range(6)), (1, 2, 3, 4, 5), False), y


def test_what_is_wrong_is_one_clear_error() -> None:
    model, (lens, _) = wrapped("qwen3"), planted(rows=10)
    with pytest.raises(InputError, match="at least one"):
        lens_logits(model, ROLLOUTS, [])
    with pytest.raises(InputError, match="token ids from 0"):
        lens_logits(model, ROLLOUTS, [10**6])
    with pytest.raises(InputError, match="token 8 was not read"):
        lens.log_odds([1], [8])
    with pytest.raises(InputError, match="at least one token"):
        lens.log_odds([], [1])
    with pytest.raises(InputError, match="2 values for 5 tokens"):
        lens.expected([1, 2])
