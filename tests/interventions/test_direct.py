"""The direct path of a head against a hand-made pass, self-repair, matched sets and the writers of any direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from verdictscope.activations import LinearReadout, LogOddsReadout, Model, Site, forward
from verdictscope.activations.weights import attention_gain, head_output_weight
from verdictscope.errors import InputError
from verdictscope.interventions import sweep_heads
from verdictscope.interventions.direct import concentration_null, direct_effects, output_norms, self_repair
from verdictscope.interventions.head_sets import norm_matched_sets
from verdictscope.rollouts import Rollout

LOG_ODDS = LogOddsReadout("log_odds", positive=((3,), (7,)), negative=((11,), (20,)))


def by_hand(model: Model, rollouts: list[Rollout], layer: int, head: int) -> np.ndarray:
    """The log-odds with a head's write taken out of the last stream: one stock pass with two write functions."""
    kept = {}

    def keep(z: torch.Tensor, _: object) -> torch.Tensor:
        kept["z"] = z[:, :, head].clone()
        return z

    def take_out(stream: torch.Tensor, _: object) -> torch.Tensor:
        return stream - kept["z"] @ head_output_weight(model, layer)[head] * attention_gain(model, layer)

    write = {Site("z", layer): keep, Site("resid_post", model.n_layers - 1): take_out}
    tables = [forward(model, rollouts, score=[LOG_ODDS], write=w).scores for w in ({}, write)]
    scores = [table.set_index("rollout")["score"] for table in tables]
    return (scores[1] - scores[0]).loc[[r.id for r in rollouts]].to_numpy()


@pytest.mark.parametrize("head", [(0, 1), (2, 3)])
def test_the_direct_path_is_the_stream_without_the_write(qwen3: Model, rollouts: list[Rollout], head: tuple) -> None:
    cut = [r for r in (one.until_answer() for one in rollouts) if r is not None]
    direct = direct_effects(qwen3, cut, LOG_ODDS)
    expected = by_hand(qwen3, cut, *head)
    assert np.allclose(direct[head], expected, atol=1e-4 * max(1.0, np.abs(expected).max()))
    assert len(direct) == 12


def test_compensation_is_direct_minus_total_per_rollout(qwen3: Model, rollouts: list[Rollout]) -> None:
    cut = [r for r in (one.until_answer() for one in rollouts) if r is not None]
    sweep = sweep_heads(qwen3, cut, LOG_ODDS)
    heads = [part[1:] for part in sweep.components]
    found = self_repair(qwen3, cut, LOG_ODDS, sweep[None].effects, heads)
    table = found.to_frame()
    assert np.allclose(table["compensated"], table["direct"] - table["total"])
    assert np.allclose(table["total"], sweep.table()["estimate"])
    assert (table["compensated_low"] <= table["compensated"]).all()
    with pytest.raises(InputError, match="same rollouts"):
        self_repair(qwen3, cut[::-1], LOG_ODDS, sweep[None].effects, heads)


def test_a_linear_readout_sees_no_head_above_it_and_longer_labels_are_refused(
    qwen3: Model, rollouts: list[Rollout]
) -> None:
    readout = LinearReadout("probe", "resid_post", 1, np.random.default_rng(0).normal(size=qwen3.d_model))
    assert {layer for layer, _ in direct_effects(qwen3, rollouts, readout)} == {0, 1}
    with pytest.raises(InputError, match="several tokens"):
        direct_effects(qwen3, rollouts, LogOddsReadout("long", positive=((3, 4),), negative=((11,),)))


def test_matched_sets_write_as_much_as_the_selected() -> None:
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(size=(6, 32)))
    selected = ((1, 3), (1, 7), (4, 0))
    found = norm_matched_sets(selected, norms, 99, seed=0)
    assert len(set(found.sets)) == 99
    assert all(1 / 1.5 <= ratio <= 1.5 for ratio in found.ratio)
    assert all([layer for layer, _ in heads] == [1, 1, 4] for heads in found.sets)
    assert not set(selected) & {head for heads in found.sets for head in heads}
    assert "within a factor 1.5" in found.note
    # a head that writes far more than all others has no equal: the nearest are taken, and it is said
    norms[4, 0] = 50.0
    far = norm_matched_sets(selected, norms, 99, seed=0)
    assert len(far.sets) == 99
    assert "only 0 of" in far.note
    few = norm_matched_sets(((0, 0),), norms[:, :8], 99, seed=0)
    assert len(few.sets) == 7
    assert "no more than these 7 exist" in few.note
    with pytest.raises(InputError, match="no random set"):
        norm_matched_sets(((0, 0), (0, 1)), norms[:, :2], 9, seed=0)


def test_norms_are_those_of_what_heads_write(qwen3: Model, rollouts: list[Rollout]) -> None:
    norms = output_norms(qwen3, rollouts)
    read = Site("z", 1) @ "before_answer"
    z = forward(qwen3, rollouts, read=[read]).values[read][0].float()
    expected = (z[:, 2] @ head_output_weight(qwen3, 1)[2]).norm(dim=-1).mean() * attention_gain(qwen3, 1)
    assert norms[1, 2] == pytest.approx(float(expected), rel=1e-4)


def test_a_planted_writer_stands_out_of_any_direction_and_a_random_one_does_not(
    qwen3: Model, rollouts: list[Rollout]
) -> None:
    read = Site("z", (0, 1, 2)) @ "before_answer"
    z = forward(qwen3, rollouts, read=[read]).values[read].double().mean(1)
    written = [(z[i, h] @ head_output_weight(qwen3, i)[h].double()).numpy() for i in range(3) for h in range(4)]
    others = np.linalg.qr(np.array([w for i, w in enumerate(written) if i != 9]).T)[0]
    alone = written[9] - others @ (others.T @ written[9])  # along it no other head writes
    readout = LinearReadout("planted", "resid_post", 2, alone)
    shifted = [replace(r, ids=tuple((token + 1) % 61 for token in r.ids)) for r in rollouts]
    labelled = [replace(r, id=f"l{i}/0", group=f"l{i}") for i, r in enumerate([*rollouts, *shifted])]  # 70 relabelings
    found = concentration_null(qwen3, rollouts, readout, labelled[:4], labelled[4:], draws=99)
    assert found.head == (2, 1)
    table = found.to_frame().set_index("kind")
    assert (table["n"] == 99).all()
    assert table.loc["random", "p"] <= 0.05
    assert found.top > table.loc["random", "null_mean"]
    noise = LinearReadout("noise", "resid_post", 2, np.random.default_rng(8).normal(size=qwen3.d_model))
    plain = concentration_null(qwen3, rollouts, noise, labelled[:4], labelled[4:], draws=99).to_frame()
    assert plain.set_index("kind").loc["random", "p"] > 0.01
    with pytest.raises(InputError, match="2 relabelings of 2 prompts"):
        concentration_null(qwen3, rollouts, noise, rollouts[:2], rollouts[2:], draws=99)
    with pytest.raises(InputError, match="as above and as below"):
        concentration_null(qwen3, rollouts, noise, rollouts[:2], rollouts[1:], draws=99)
