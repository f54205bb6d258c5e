"""Weights that stopped being numbers after the model was wrapped, states that overflow, configs changed meanwhile."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import hf_model, rollout, wrapped

from verdictscope.activations import LinearReadout, LogOddsReadout, Model, Site, forward, wrap
from verdictscope.errors import InputError
from verdictscope.interventions import HeadEdit, effects
from verdictscope.rollouts.engines.finite import all_finite, strange_weight
from verdictscope.rollouts.engines.huggingface import decode
from verdictscope.rollouts.engines.requests import Request
from verdictscope.rollouts.rollout import Sampling

ROLLOUTS = [rollout("a/0", 14), rollout("b/0", 23, seed=1)]
READ = Site("resid_post") @ "all"
ODDS = LogOddsReadout("d", ((10,),), ((20,),), positions="last")
LONG = LogOddsReadout("l", ((10, 11),), ((20, 21),), positions="last")
WHERE = ("model.norm.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.rotary_emb.inv_freq")


def broken(name: str, number: float = float("nan")) -> Model:
    model = wrap(copy.deepcopy(hf_model("llama")))
    tensor = dict([*model.hf.named_parameters(), *model.hf.named_buffers()])[name]
    with torch.no_grad():
        tensor.view(-1)[1] = number
    return model


@pytest.mark.parametrize("name", WHERE)
def test_results_of_weights_that_are_no_numbers_are_refused(name: str) -> None:
    model = broken(name)
    linear = LinearReadout("p", "final_norm", model.n_layers - 1, torch.ones(model.d_model).numpy(), 0.0)
    asked = [{"score": [ODDS]}, {"score": [LONG]}, {"logits_at": "last"}]
    if name != "lm_head.weight":
        asked += [{"read": [Site("final_norm") @ "last"]}, {"score": [linear]}]
    for what in asked:
        with pytest.raises(InputError, match=name):
            forward(model, ROLLOUTS, **what)
    for method in ("auto", "passes", "replay"):
        with pytest.raises(InputError, match=name):
            effects(model, ROLLOUTS, ODDS, [HeadEdit(((1, 0),))], method=method)
    greedy = Sampling(temperature=0.0, max_new_tokens=4)
    for sampling in (greedy, Sampling(temperature=1.0, top_p=0.9, max_new_tokens=4)):
        with pytest.raises(InputError, match=name):
            list(decode(model.hf, [Request("a", (5, 6, 7))], sampling, frozenset(), 100))


def test_an_infinite_weight_is_named_and_one_that_is_not_used_does_no_harm() -> None:
    with pytest.raises(InputError, match="up_proj"):
        forward(broken("model.layers.1.mlp.up_proj.weight", float("inf")), ROLLOUTS, [READ])
    model = wrap(copy.deepcopy(hf_model("llama")))
    with torch.no_grad():
        model.hf.model.embed_tokens.weight[-1] = float("nan")
    assert strange_weight(model.hf) == "model.embed_tokens.weight"
    known = [r for r in ROLLOUTS if model.hf.config.vocab_size - 1 not in r.ids]
    assert all_finite(forward(model, known, [READ]).values[READ])


def test_a_token_that_the_model_rules_out_is_no_fault() -> None:
    model = wrap(copy.deepcopy(hf_model("llama")))
    head = model.hf.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        head.bias[3] = -torch.inf
    logits = forward(model, ROLLOUTS, logits_at="last").logits
    assert logits is not None
    assert logits[0, 3] == -torch.inf


def test_states_that_overflow_in_float16_are_said_to() -> None:
    hf = copy.deepcopy(hf_model("llama")).half()
    with torch.no_grad():
        hf.model.layers[0].mlp.down_proj.weight.mul_(1e5).clamp_(-6e4, 6e4)
    with pytest.raises(InputError, match="float16"):
        wrap(hf)
    model = wrap(copy.deepcopy(hf_model("llama")).half())
    with torch.no_grad():
        model.hf.model.layers[0].mlp.down_proj.weight.mul_(1e5).clamp_(-6e4, 6e4)
    with pytest.raises(InputError, match="float16"):
        forward(model, ROLLOUTS, [READ])


@pytest.mark.parametrize(
    ("name", "value"), [("return_dict", False), ("output_hidden_states", True), ("use_cache", False)]
)
def test_what_the_config_returns_changes_nothing(name: str, value: bool) -> None:
    model = wrapped("llama")
    before = forward(model, ROLLOUTS, [READ], score=[ODDS])
    own = getattr(model.hf.config, name)
    setattr(model.hf.config, name, value)
    try:
        after = forward(model, ROLLOUTS, [READ], score=[ODDS])
        list(decode(model.hf, [Request("a", (5, 6, 7))], Sampling(max_new_tokens=2), frozenset(), 100))
        assert getattr(model.hf.config, name) is value
    finally:
        setattr(model.hf.config, name, own)
    assert torch.equal(before.values[READ], after.values[READ])
    assert before.scores.equals(after.scores)
