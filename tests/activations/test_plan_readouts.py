from __future__ import annotations

import json

import numpy as np
import pytest

from verdictscope.activations import BatchPlan, LinearReadout, LogOddsReadout
from verdictscope.activations.readouts import readout_from_dict
from verdictscope.errors import InputError


def test_plan_is_sorted_and_within_budget():
    lengths = [5, 40, 7, 7, 100, 3, 39]
    plan = BatchPlan.make(lengths, 80)
    plan.check(len(lengths))
    assert plan.batches[0] == (4,)  # longer than the budget: alone
    for batch in plan.batches[1:]:
        assert max(lengths[i] for i in batch) * len(batch) <= 80
    assert [lengths[i] for i in plan.order] == sorted(lengths, reverse=True)
    assert BatchPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_split_keeps_the_order_and_ends_at_one():
    plan = BatchPlan.make([4] * 5, 100)
    halves = plan.split(0)
    assert halves.batches == ((0, 1, 2), (3, 4))
    assert halves.order == plan.order
    with pytest.raises(InputError, match="out of memory"):
        BatchPlan(((0,),), 10).split(0)


def test_wrong_plans_are_refused():
    with pytest.raises(InputError):
        BatchPlan(((0, 1), (1,)), 10).check(2)
    with pytest.raises(InputError):
        BatchPlan.make([1], 0)


def test_readouts_survive_json_bit_for_bit():
    weight = np.random.default_rng(0).normal(size=7) / 3
    linear = LinearReadout("p", "resid_post", 2, weight, 1 / 3, positions={"a": [1, 2]})
    back = readout_from_dict(json.loads(json.dumps(linear.to_dict())))
    assert isinstance(back, LinearReadout)
    assert np.array_equal(back.weight, weight)
    assert (back.bias, back.positions, back.layer) == (linear.bias, linear.positions, 2)
    odds = LogOddsReadout("r", [5, (7, 8)], [[9]], positions="last")
    assert readout_from_dict(json.loads(json.dumps(odds.to_dict()))) == odds
    assert odds.positive == ((5,), (7, 8))
    with pytest.raises(InputError):
        readout_from_dict({"kind": "other"})


def test_a_readout_does_not_share_memory_with_the_caller():
    weight = np.ones(3)
    readout = LinearReadout("p", "resid_post", 0, weight)
    weight[:] = 5
    assert readout.weight.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        readout.weight[0] = 2


def test_ambiguous_labels_are_refused():
    for positive, negative in (([], [1]), ([()], [1]), ([1], [1]), ([(1,), (1, 2)], [3]), ([(1, 2)], [(1,)])):
        with pytest.raises(InputError):
            LogOddsReadout("r", positive, negative)


def test_wrong_linear_readouts_are_refused():
    with pytest.raises(InputError):
        LinearReadout("p", "pattern", 0, np.ones(3))
    with pytest.raises(InputError):
        LinearReadout("p", "resid_post", None, np.ones(3))
    with pytest.raises(InputError):
        LinearReadout("p", "z", 0, np.ones(3), final_norm=True)
    with pytest.raises(InputError):
        LinearReadout("p", "resid_post", 0, np.array([np.nan, 1.0]))
