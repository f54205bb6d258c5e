"""Effects equal what a person would compute by hand; random sets are what they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from verdictscope.activations import LogOddsReadout, Model
from verdictscope.errors import InputError
from verdictscope.interventions import HeadEdit, edited, effects, sweep_heads
from verdictscope.interventions.head_sets import layer_matched_sets
from verdictscope.rollouts import Rollout

LOG_ODDS = LogOddsReadout("log_odds", positive=((3,), (7,)), negative=((11,), (20,)))


def by_hand(model: Model, rollout: Rollout) -> float:
    """Refusal log-odds at the last token before the answer, from the stock model and one unpadded sequence."""
    stop = rollout.span("answer").start
    with torch.inference_mode():
        last = model.hf(input_ids=torch.tensor([rollout.ids[:stop]]), use_cache=False).logits[0, -1].double()
    return float(last[[3, 7]].logsumexp(0) - last[[11, 20]].logsumexp(0))


def test_effects_equal_single_runs(model: Model, rollouts: list[Rollout]) -> None:
    edits = [HeadEdit(((1, 2),)), [HeadEdit(((0, 0),)), HeadEdit(((2, 3),))]]
    result = effects(model, [r.until_answer() for r in rollouts], LOG_ODDS, edits)
    scale = np.abs(result.base).max()
    assert np.allclose(result.base, [by_hand(model, r) for r in rollouts], atol=1e-4 * scale)
    for row, edit in enumerate(edits):
        with edited(model, (edit if isinstance(edit, list) else [edit])):
            expected = [by_hand(model, r) for r in rollouts]
        assert np.allclose(result.edited[row], expected, atol=1e-4 * scale)
    frame = result.to_frame()
    assert frame["estimate"].abs().is_monotonic_decreasing
    frame = frame.sort_index()
    assert np.allclose(frame["estimate"], result.change.mean(axis=1))
    assert (frame["n"] == 2).all(), "groups, not rollouts, are the independent units"


def test_the_answer_is_not_needed(qwen3: Model, rollouts: list[Rollout]) -> None:
    edit = [HeadEdit(((1, 2),))]
    whole = effects(qwen3, rollouts, LOG_ODDS, edit)
    short = effects(qwen3, [r.until_answer() for r in rollouts], LOG_ODDS, edit)
    assert np.allclose(whole.edited, short.edited, atol=1e-4)


def test_a_rollout_without_the_position_is_an_error(qwen3: Model, rollouts: list[Rollout]) -> None:
    import dataclasses

    truncated = dataclasses.replace(rollouts[0].cut(8), finish="length")
    with pytest.raises(InputError, match="no position in rollout p0/0"):
        effects(qwen3, [truncated], LOG_ODDS, [HeadEdit(((0, 0),))])
    with pytest.raises(InputError, match="no rollouts"):
        effects(qwen3, [], LOG_ODDS, [HeadEdit(((0, 0),))])


def test_the_sweep_covers_every_head(qwen3: Model, rollouts: list[Rollout]) -> None:
    table = sweep_heads(qwen3, rollouts, LOG_ODDS).table()
    assert list(zip(table["layer"], table["head"], strict=True)) == [(layer, h) for layer in range(3) for h in range(4)]
    assert (table["low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["high"]).all()


def test_random_sets_are_layer_matched_distinct_and_leave_the_selected_out() -> None:
    selected = [(3, 1), (4, 4), (5, 6), (5, 0)]
    sets = layer_matched_sets(selected, 8, 99, seed=0)
    assert len(set(sets)) == 99
    for drawn in sets:
        assert [layer for layer, _ in drawn] == [3, 4, 5, 5]
        assert not set(drawn) & set(selected)
        assert len(set(drawn)) == 4
    assert sets == layer_matched_sets(selected, 8, 99, seed=0)
    assert sets != layer_matched_sets(selected, 8, 99, seed=1)


def test_asking_for_more_sets_than_exist_is_an_error() -> None:
    assert len(layer_matched_sets([(0, 0), (1, 1)], 4, 9, seed=0)) == 9
    with pytest.raises(InputError, match="only 9 layer-matched sets"):
        layer_matched_sets([(0, 0), (1, 1)], 4, 10, seed=0)
