"""Reward models are read as other decoders are, and their scalar head is a linear readout."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
import transformers as hf
from tiny_models import CONFIGS, VOCAB, rollout

from verdictscope.activations import BatchPlan, Model, Site, Store, collect, forward, load_model, reward_readout, wrap
from verdictscope.activations.doctor import check_model
from verdictscope.errors import InputError
from verdictscope.interventions import attribute
from verdictscope.rollouts.rollout import Rollout

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gpt2"]
PAD = 0


@functools.cache
def reward_model(family: str, labels: int = 1) -> Model:
    config = CONFIGS[family]()
    config.num_labels, config.pad_token_id = labels, PAD
    torch.manual_seed(7)
    model = hf.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.score.weight.mul_(5)
    return wrap(model, name=f"{family} reward")


@pytest.fixture
def texts() -> list[Rollout]:
    return [rollout(f"p{i}/0", n, seed=i) for i, n in enumerate((14, 23, 17, 30, 12))]


def own_scores(model: Model, texts: list[Rollout]) -> np.ndarray:
    """The model's own logits, all texts in one batch padded on the right."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*r.ids, *[PAD] * (longest - len(r))] for r in texts])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in texts])
    with torch.no_grad():
        return model.hf(input_ids=ids, attention_mask=mask).logits.double().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readout_is_the_models_own_score(family, texts):
    model = reward_model(family)
    readout = reward_readout(model)
    one_batch = BatchPlan((tuple(range(len(texts))),), 4096)
    for plan in (None, one_batch, BatchPlan(tuple((i,) for i in range(len(texts))), 64)):
        scores = forward(model, texts, score=[readout], plan=plan).scores
        assert list(scores["rollout"]) == [r.id for r in texts]
        assert np.allclose(scores["score"], own_scores(model, texts)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_doctor_passes_reward_models(family):
    found = check_model(reward_model(family))
    assert found.ok, str(found)
    assert found.architecture.endswith("ForSequenceClassification")
    assert found.worst_identity <= 1e-5


def test_two_labels_give_their_difference(texts):
    model = reward_model("qwen2", 2)
    own = own_scores(model, texts)
    both = [reward_readout(model, 1, name="one"), reward_readout(model, 1, 0, name="odds")]
    scores = forward(model, texts, score=both).scores.pivot(index="rollout", columns="readout", values="score")
    scores = scores.loc[[r.id for r in texts]]
    assert np.allclose(scores["one"], own[:, 1], rtol=1e-4, atol=1e-4)
    assert np.allclose(scores["odds"], own[:, 1] - own[:, 0], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="outputs 0 to 1"):
        reward_readout(model, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_sum_of_its_parts(family, texts):
    model = reward_model(family)
    found = attribute(model, texts, reward_readout(model), positions="last")
    assert found.relative_residual < 1e-5
    assert np.allclose(found.logit, own_scores(model, texts)[:, 0], rtol=1e-4, atol=1e-4)


def test_states_and_scores_are_collected(tmp_path, texts):
    model = reward_model("llama")
    reads = [Site("resid_post") @ "all", Site("z") @ "last"]
    with collect(model, texts, reads, path=tmp_path / "r.h5", score=[reward_readout(model, positions="all")]) as store:
        assert store.n_rows("resid_post") == sum(map(len, texts))
        assert store.verify()["ok"].all()
    with Store.open(tmp_path / "r.h5") as store:
        assert store.n_rows("z") == len(texts)


def test_a_reward_model_on_disk(tmp_path, texts, call):
    stock = reward_model("qwen3")
    stock.hf.save_pretrained(tmp_path / "m")
    model = load_model(tmp_path / "m", device="cpu")
    assert type(model.hf).__name__ == "Qwen3ForSequenceClassification"
    scores = forward(model, texts, score=[reward_readout(model)]).scores["score"]
    assert np.allclose(scores, own_scores(stock, texts)[:, 0], rtol=1e-4, atol=1e-4)
    asked = ("doctor", tmp_path / "m", "--json", "--device", "cpu")
    done = call(*asked)
    assert done.code == 0
    assert json.loads(done.out)["architecture"] == "Qwen3ForSequenceClassification"
    assert call(*asked, "--override", "attn=mlp").code == 1


def test_log_odds_and_heads_that_are_not_there_say_so(texts):
    model = reward_model("llama")
    with pytest.raises(InputError, match="no head for tokens"):
        forward(model, texts, logits_at="last")
    config = CONFIGS["llama"]()
    with pytest.raises(InputError, match="no one linear head"):
        reward_readout(wrap(hf.AutoModelForCausalLM.from_config(config).eval()))
    assert max(max(r.ids) for r in texts) < VOCAB
